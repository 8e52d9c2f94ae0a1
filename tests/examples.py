"""How many examples a test of random input tries."""

from __future__ import annotations

from hypothesis import settings

USUAL = 100
"""Of a test that does not say how many."""


def examples(count: int) -> int:
    """So many in CI and in ``make stress``; of those a developer's run tries a part, other ones each time."""
    return max(1, count * settings().max_examples // USUAL)
