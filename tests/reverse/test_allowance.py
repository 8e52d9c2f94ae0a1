"""So many a second."""

from __future__ import annotations

from rtunnel.upkeep.token_bucket import Allowance


def test_all_at_once_and_then_at_the_rate() -> None:
    allowance = Allowance(4, 10, 100.0)
    assert allowance.left(100.0) == 10
    allowance.spend(10)
    assert allowance.left(100.0) == 0
    assert allowance.left(100.2) == 0
    assert allowance.left(100.25) == 1
    allowance.spend(1)
    assert allowance.left(101.25) == 4


def test_what_is_kept_is_bounded() -> None:
    allowance = Allowance(4, 10, 0.0)
    allowance.spend(1)
    assert allowance.left(1000.0) == 10


def test_parts_of_one_add_up() -> None:
    """However often it is asked."""
    allowance = Allowance(1, 5, 0.0)
    allowance.spend(5)
    for step in range(1, 31):
        left = allowance.left(step / 8)
    assert left == 3
