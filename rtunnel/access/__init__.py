"""Who may do what: the rights of clients, tokens, and who may open a WebSocket."""
