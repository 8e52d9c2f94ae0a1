"""The messages of the WebRTC tunnel: signaling, and what goes over data channels."""
