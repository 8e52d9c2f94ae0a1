"""The WebRTC tunnel: signaling, a host beside the service, a client beside the user, and data channels between them."""
