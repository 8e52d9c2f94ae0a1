"""Each wait is longer than the one before, up to a bound, and no two clients wait for the same time."""

from __future__ import annotations

from rtunnel.upkeep.backoff import FACTOR, Backoff


def test_grows_to_its_bound_and_no_further() -> None:
    for _ in range(50):
        backoff = Backoff(1.0, 30.0)
        upper = 1.0
        for _attempt in range(20):
            lower, upper = max(1.0, upper), min(30.0, upper * FACTOR)
            assert min(lower, upper / FACTOR) <= backoff.next_wait() <= upper
        assert 20.0 <= backoff.next_wait() <= 30.0


def test_has_jitter() -> None:
    assert len({Backoff(1.0, 30.0).next_wait() for _ in range(10)}) > 5


def test_starts_again_after_success() -> None:
    backoff = Backoff(1.0, 30.0)
    for _ in range(20):
        backoff.next_wait()
    backoff.reset()
    assert 1.0 <= backoff.next_wait() <= 1.4


def test_for_ever() -> None:
    backoff = Backoff(1.0, 30.0)
    for _ in range(5000):
        assert backoff.next_wait() <= 30.0


def test_whose_bounds_are_one() -> None:
    assert Backoff(2.0, 2.0).next_wait() == 2.0
