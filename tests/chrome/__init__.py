"""Chrome's own WebRTC at the other end of our tunnel, speaking only the reference protocol."""
