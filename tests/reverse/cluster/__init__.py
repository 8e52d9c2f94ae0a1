"""Servers of a cluster, all in one process: their directory is in memory, and each has an address of its own."""
