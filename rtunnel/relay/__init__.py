"""Move bytes between a local socket and a stream, or between two sockets."""
