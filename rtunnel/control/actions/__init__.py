"""What a running process can be asked to do, at its control socket."""
