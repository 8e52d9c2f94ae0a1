"""UDP tunnels, both ends in one process."""
