"""Benchmarks of the tunnels. ``make bench`` runs :mod:`benchmarks.run`."""
