"""UDP tunnels: flows of datagrams between visitors and services, and what carries them from one end to the other."""
