"""Rights, tokens, and who may open a WebSocket."""
