"""What the tunnels cost; `make bench` runs :mod:`benchmarks.run`."""
