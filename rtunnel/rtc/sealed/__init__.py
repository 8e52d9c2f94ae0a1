"""Peer connections whose channels are sealed between the two ends (docs/wire.rst, "Sealed peer connections")."""
