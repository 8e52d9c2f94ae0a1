"""Invitations: two people share a short code, and their machines know each other from then on (docs/wire.rst)."""
