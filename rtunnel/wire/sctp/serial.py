"""Numbers that wrap on the wire, and do not here (RFC 1982)."""

from __future__ import annotations


def unwrap(value: int, near: int, bits: int = 32) -> int:
    """Return the number closest to *near* whose lowest *bits* bits are *value*."""
    half = 1 << (bits - 1)
    return near + ((value - near + half) & ((1 << bits) - 1)) - half
