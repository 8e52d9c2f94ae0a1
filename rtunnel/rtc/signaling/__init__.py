"""Signaling: the server where hosts and clients find each other, and the connection that both hold to it."""
