"""What tunnels and services have carried: how many visitors and bytes, and a line about each in the access log."""
