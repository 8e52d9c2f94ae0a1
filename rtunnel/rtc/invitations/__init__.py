"""Invitations over the signaling server: the host that invites, and the client that has a code (docs/wire.rst)."""
