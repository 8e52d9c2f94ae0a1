"""How long a test waits for what must come."""

from __future__ import annotations

PATIENCE = 180.0
"""Seconds, and far more than any machine needs. It bounds only what never comes, so it costs nothing in a test that
passes. A test whose answer depends on how long something took decides by order, by a count, or by its own clock."""
