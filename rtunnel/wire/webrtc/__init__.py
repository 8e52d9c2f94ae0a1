"""The messages of the WebRTC tunnel: those of signaling, and those on data channels."""
