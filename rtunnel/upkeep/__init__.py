"""What the services of both tunnels share: listening sockets, draining, back-off, rate limits, and watched files."""
