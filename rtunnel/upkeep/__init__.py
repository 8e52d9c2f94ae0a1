"""What the services of both tunnels share: listening, draining, back-off, and log lines that stay few."""
