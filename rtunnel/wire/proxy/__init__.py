"""What a client says to a proxy, and the proxy's answers, until there is a connection to the server."""
