"""UDP flows at the client, at the host, and between the two."""
