"""TLS of the link, and who may do what: with real sockets and real certificates."""
