"""The running process's own interface."""
