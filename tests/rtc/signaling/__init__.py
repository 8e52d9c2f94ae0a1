"""The signaling server, the link to it, and both together over real sockets."""
