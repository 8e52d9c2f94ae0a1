"""Server and client in one process, over real sockets of the loopback interface."""
