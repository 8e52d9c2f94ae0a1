"""How many examples a test of random input tries."""

from __future__ import annotations

from hypothesis import settings

USUAL = 100
"""Of a test that does not say how many."""


def examples(count: int) -> int:
    """So many in ``make stress``; otherwise a part of them, in CI the same each time, elsewhere others."""
    return max(1, count * settings().max_examples // USUAL)
