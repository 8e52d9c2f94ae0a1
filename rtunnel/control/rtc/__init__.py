"""What the programs of the WebRTC tunnel do now."""
