"""A token bucket: so many a second, and bursts."""

from __future__ import annotations

from rtunnel.upkeep.token_bucket import TokenBucket


def test_all_at_once_and_then_at_the_rate() -> None:
    bucket = TokenBucket(4, 10, 100.0)
    assert bucket.left(100.0) == 10
    bucket.spend(10)
    assert bucket.left(100.0) == 0
    assert bucket.left(100.2) == 0
    assert bucket.left(100.25) == 1
    bucket.spend(1)
    assert bucket.left(101.25) == 4


def test_what_is_kept_is_bounded() -> None:
    bucket = TokenBucket(4, 10, 0.0)
    bucket.spend(1)
    assert bucket.left(1000.0) == 10


def test_parts_of_one_add_up() -> None:
    """However often it is asked."""
    bucket = TokenBucket(1, 5, 0.0)
    bucket.spend(5)
    for step in range(1, 31):
        left = bucket.left(step / 8)
    assert left == 3


def test_one_at_a_time() -> None:
    bucket = TokenBucket(2, 3, 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(now) for now in (100.25, 100.5, 100.75, 101.0)] == [False, True, False, True]


def test_what_was_refused_is_not_owed() -> None:
    bucket = TokenBucket(1, 1, 0.0)
    assert [bucket.take(0.0) for _ in range(100)] == [True] + [False] * 99
    assert bucket.take(1.0)
