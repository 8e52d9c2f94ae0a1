"""What the services of both tunnels share."""
