"""Tests of settings and their sources, addresses, logs, and how the plugins start and end."""
