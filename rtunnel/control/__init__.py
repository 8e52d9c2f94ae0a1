"""The running process's own interface: what it does now, over a UNIX socket."""
