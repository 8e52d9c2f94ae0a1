"""The WebRTC tunnel in one process, over real sockets of the loopback interface."""
