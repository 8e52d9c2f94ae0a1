"""The search for the path MTU, on paths that drop what is too large."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.sctp.path.mtu import CLOSE_ENOUGH, MAX_PROBE_TIME, RAISE_TIME, PathMtu

BASE, LARGEST, OVERHEAD = 1192, 16_300, 65


class Path:
    """Takes packets up to *mtu* bytes, and answers probes after a round trip."""

    def __init__(self, mtu: int, *, base: int = BASE, largest: int = LARGEST, refuses: bool = False) -> None:
        self.mtu = mtu
        self.refuses = refuses
        self.search = PathMtu(base, largest, OVERHEAD)
        self.now = 100.0
        self.probes: list[tuple[float, int]] = []
        self.heard: Callable[[], float] = lambda: self.now
        self.loses: Callable[[], bool] = lambda: False

    def run(self, seconds: float) -> int:
        """Let time pass; return the size that is proven then."""
        end = self.now + seconds
        while self.search.next_time is not None and self.search.next_time <= end:
            self.now = max(self.now, self.search.next_time)
            size = self.search.probe(self.now, self.heard())
            if size is None:
                continue
            self.probes.append((self.now, size))
            if size > self.mtu and self.refuses:
                self.search.too_big(size, self.now)
            elif size <= self.mtu and not self.loses():
                self.now += 0.05
                self.search.acked(size, self.now)
        self.now = end
        return self.search.size

    def sizes(self) -> list[int]:
        return [size for _, size in self.probes]


def test_common_sizes_are_found_in_one_step_each() -> None:
    path = Path(100_000)
    assert path.run(1.0) == LARGEST
    assert path.sizes() == [1432, 8932, LARGEST]
    assert path.search.next_time is None


def test_ethernet_is_found_at_once_and_kept() -> None:
    path = Path(1500 - OVERHEAD)
    assert path.run(0.1) == 1432
    assert path.run(60.0) == 1432
    assert len(path.probes) < 40


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("mtu", [1192, 1200, 1230, 1300, 1400, 1452, 2000, 4400, 9000, 16_000, 16_299])
def test_any_size_is_found_to_within_some_bytes(mtu: int, refuses: bool) -> None:
    path = Path(mtu, refuses=refuses)
    size = path.run(1.0 if refuses else 60.0)
    assert mtu - CLOSE_ENOUGH - 4 <= size <= mtu
    assert not size % 4
    assert len(path.probes) < 60


@given(st.integers(1192, 20_000), st.integers(1192, 20_000), st.integers(0, 200), st.lists(st.booleans(), max_size=50))
def test_no_size_is_believed_that_was_not_proven(mtu: int, largest: int, overhead: int, losses: list[bool]) -> None:
    path = Path(mtu, largest=largest)
    path.search.overhead = overhead
    path.loses = lambda: bool(losses) and losses.pop()
    size = path.run(300.0)
    assert BASE <= size <= max(BASE, min(mtu, largest))
    assert all(BASE < size <= largest for size in path.sizes())
    # Three losses in a row of a size that fits make the search end early, until it is repeated.
    losses.clear()
    assert path.run(2 * RAISE_TIME) >= min(mtu, largest) - CLOSE_ENOUGH - 4


def test_a_lost_probe_is_sent_again() -> None:
    path = Path(1500)
    lost = [True, True]
    path.loses = lambda: bool(lost) and lost.pop()
    assert path.run(3.0) == 1432
    assert path.sizes()[:3] == [1432] * 3


def test_a_path_that_carries_nothing_rules_no_size_out() -> None:
    path = Path(1500)
    path.heard = lambda: 0.0
    path.loses = lambda: True
    path.run(600.0)
    assert set(path.sizes()) == {1432}
    # Less and less often.
    assert len(path.probes) < 16
    path.loses = lambda: False
    assert path.run(MAX_PROBE_TIME) >= 1432


def test_a_late_acknowledgement_counts() -> None:
    path = Path(BASE)
    path.run(4.0)
    path.search.acked(1432, path.now)
    assert path.search.size == 1432
    assert path.search.probe(path.now) not in (None, 1432)


def test_the_search_is_repeated_because_paths_become_wider() -> None:
    path = Path(1435)
    path.run(60.0)
    path.mtu = 9000
    assert path.run(RAISE_TIME / 2) == 1432
    assert path.run(RAISE_TIME) >= 9000 - CLOSE_ENOUGH - 4


def test_a_black_hole_leads_back_to_the_base_and_to_a_new_search() -> None:
    path = Path(9000)
    path.run(60.0)
    path.mtu = 1400
    assert path.search.timed_out(path.now) is False
    assert path.search.timed_out(path.now) is True
    assert path.search.size == BASE
    assert 1400 - CLOSE_ENOUGH - 4 <= path.run(60.0) <= 1400


def test_time_outs_between_acknowledgements_are_no_black_hole() -> None:
    path = Path(9000)
    before = path.run(60.0)
    for _ in range(5):
        assert path.search.timed_out(path.now) is False
        path.search.timeouts = 0
    assert path.search.size == before
    assert PathMtu(BASE, LARGEST).timed_out(1.0) is PathMtu(BASE, LARGEST).timed_out(1.0) is False


def test_data_that_the_system_refuses_leads_back_to_the_base() -> None:
    path = Path(9000)
    path.run(60.0)
    path.mtu = 1400
    path.search.too_big(path.search.size, path.now)
    assert path.search.size == BASE
    assert 1400 - CLOSE_ENOUGH - 4 <= path.run(60.0) <= 1400
    # Nothing can be done about the base itself.
    path = Path(BASE)
    path.run(60.0)
    due = path.search.next_time
    path.search.too_big(BASE, path.now)
    assert (path.search.size, path.search.next_time) == (BASE, due)


def test_the_largest_size_may_change() -> None:
    path = Path(100_000, largest=1300)
    assert path.run(1.0) == 1300
    path.search.largest = LARGEST
    assert path.run(1.0) == LARGEST
    path.search.largest = 2001
    assert path.search.size == 2000
    path.search.largest = 100
    assert path.search.size == BASE
    assert path.run(1000.0) == BASE
    path.search.largest = LARGEST
    path.search.probe(path.now)
    path.search.largest = 1400
    path.search.acked(1432, path.now)
    assert path.search.size == BASE
    assert path.run(1.0) == 1400


def test_another_path_is_searched_anew() -> None:
    path = Path(100_000)
    path.run(1.0)
    path.mtu = 1300
    path.search.restart()
    assert path.search.size == BASE
    assert 1300 - CLOSE_ENOUGH - 4 <= path.run(60.0) <= 1300


def test_a_path_of_the_base_size_needs_no_search() -> None:
    search = PathMtu(BASE, BASE)
    assert search.next_time is None
    assert search.probe(100.0) is None
