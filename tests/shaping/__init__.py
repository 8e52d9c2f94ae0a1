"""Bandwidth, of both tunnels."""
