"""The window of an association that carries datagrams stays near what its path holds."""

from __future__ import annotations

import pytest

from rtunnel.wire.sctp.path.delay_limit import LEAST_WINDOW, LINGER, QUEUE_DELAY, REMEMBER, DelayLimit


class Path:
    """A path of a fixed rate and length: what is in flight beyond what it holds waits."""

    def __init__(self, rate: float, round_trip: float) -> None:
        self.rate = rate
        self.round_trip = round_trip
        self.now = 100.0
        self.limit = DelayLimit(self.now)
        self._threshold = 0

    @property
    def holds(self) -> float:
        return self.rate * self.round_trip

    def run(self, window: int, rounds: int, *, datagrams: bool) -> int:
        """So many round trips, in each of which the window grows by a packet, or doubles; the window then."""
        for _ in range(rounds):
            if datagrams:
                self.limit.datagram(self.now)
            took = max(self.round_trip, window / self.rate)
            self.now += took
            before = min(2 * window, self._threshold) if window < self._threshold else window + 1160
            window = self.limit.window(before, took, self.now)
            if window < before:
                self._threshold = before if self.limit.is_probing else window
        return window


@pytest.mark.parametrize(("rate", "round_trip"), [(20e6, 0.001), (5e6, 0.02), (1e6, 0.1), (20e6, 0.1)])
def test_the_queue_stays_short_beside_datagrams(rate: float, round_trip: float) -> None:
    path = Path(rate, round_trip)
    path.run(8 * 1024, 1, datagrams=True)
    window = path.run(1024 * 1024, 60, datagrams=True)
    # However long it lasts: a queue that is always there is not taken for the length of the path.
    ended = path.now + 10 * REMEMBER
    while path.now < ended:
        window = path.run(window, 1, datagrams=True)
        assert window - path.holds <= max(LEAST_WINDOW, 4 * QUEUE_DELAY * rate + 20 * 1160)
    # It is not kept so small that the path runs dry.
    assert path.run(window, 10, datagrams=True) >= min(LEAST_WINDOW, path.holds)


def test_without_datagrams_nothing_is_held_back() -> None:
    path = Path(5e6, 0.01)
    path.run(8 * 1024, 1, datagrams=False)
    assert path.run(512 * 1024, 1000, datagrams=False) == 512 * 1024 + 1000 * 1160


def test_some_time_after_the_last_datagram_nothing_is_held_back_any_more() -> None:
    path = Path(5e6, 0.01)
    path.run(8 * 1024, 1, datagrams=True)
    small = path.run(512 * 1024, 200, datagrams=True)
    path.now += LINGER + 0.1
    assert path.run(small, 50, datagrams=False) >= small + 50 * 1160


def test_a_path_that_became_longer_is_learnt() -> None:
    path = Path(5e6, 0.01)
    path.run(8 * 1024, 10, datagrams=True)
    path.round_trip = 0.1
    ended = path.now + 6 * REMEMBER
    window = largest = LEAST_WINDOW
    while path.now < ended:
        window = path.run(window, 1, datagrams=True)
        largest = max(largest, window)
    assert 0.9 * path.holds <= largest <= 1.3 * path.holds
