"""The search for the largest packets (RFC 8899): up in steps, checked now and then, down when they vanish."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.datagrams.path_mtu import BASE, CONFIRM_EVERY, RAISE_EVERY, STEPS, TRIES, TRY_EVERY, PathMtu

LARGEST = STEPS[-1][-1]
SIZES = [BASE, *(size for step in STEPS for size in step)]


class Way:
    """A path that carries packets up to a size, and an interface that refuses larger ones."""

    def __init__(self, largest: int, interface: int = 65507) -> None:
        self.largest = largest
        self.interface = interface
        self.now = 0.0
        self.mtu = PathMtu(0.0)
        self.tried: list[tuple[float, int]] = []

    def run(self, seconds: float, step: float = 0.25) -> None:
        end = self.now + seconds
        while self.now < end:
            for size in self.mtu.due(self.now):
                self.tried.append((self.now, size))
                if size > self.interface:
                    self.mtu.refused(size, self.now)
                elif size <= self.largest:
                    self.mtu.got_through(size, self.now)
            self.now += step

    def sizes(self) -> list[int]:
        """Return the sizes that were tried since the last call."""
        tried, self.tried = self.tried, []
        return [size for _, size in tried]


def fitting(largest: int) -> int:
    """Return the largest size of the search that fits."""
    return max(size for size in SIZES if size <= largest)


@pytest.mark.parametrize("largest", [1200, 1279, 1280, 1372, 1452, 1471, 1472, 8971, 8972, 65507])
def test_search(largest: int) -> None:
    way = Way(largest)
    assert way.mtu.size == BASE
    way.run(5.0)
    # Steps above one of which nothing got through are not tried.
    assert way.mtu.size == fitting(largest)


def test_each_size_has_three_tries() -> None:
    way = Way(1400)
    way.run(30.0)
    sizes = way.sizes()
    # 1280 and 1372 got through at once; 1372 is looked at again after 15 s.
    assert {size: sizes.count(size) for size in sorted(set(sizes))} == {
        1280: 1, 1372: 2, 1412: TRIES, 1432: TRIES, 1452: TRIES, 1472: TRIES
    }  # fmt: skip


def test_a_lost_probe_is_tried_again() -> None:
    mtu = PathMtu(0.0)
    assert mtu.due(0.0) == list(STEPS[0])
    assert mtu.due(TRY_EVERY / 2) == []
    assert mtu.due(TRY_EVERY) == list(STEPS[0])
    mtu.got_through(1472, TRY_EVERY)
    assert mtu.size == 1472
    # Larger ones come next, and those that are smaller are not tried any more.
    assert mtu.due(TRY_EVERY) == list(STEPS[1])


def test_answers_in_any_order() -> None:
    mtu = PathMtu(0.0)
    mtu.due(0.0)
    for size in (1452, 1280, 1432):
        mtu.got_through(size, 0.1)
        assert mtu.size == 1452


def test_a_path_that_carries_more_some_day() -> None:
    way = Way(1300)
    way.run(10.0)
    way.largest = 1472
    way.run(RAISE_EVERY - 12.0)
    assert way.mtu.size == 1280
    way.run(20.0)
    assert way.mtu.size == 1472


def test_nothing_is_tried_in_between() -> None:
    way = Way(1200)
    way.run(10.0)
    assert way.sizes() == list(STEPS[0]) * TRIES
    way.run(RAISE_EVERY - 12.0)
    assert way.sizes() == []


def test_black_hole() -> None:
    way = Way(1472)
    way.run(5.0)
    way.largest = 1300
    way.run(CONFIRM_EVERY + TRIES * TRY_EVERY + 2.0)
    assert way.mtu.size == 1280


def test_a_size_that_gets_through_stays() -> None:
    """One lost look is no black hole."""
    way = Way(1472)
    way.run(5.0)
    for _ in range(20):
        way.largest = 1300
        way.run(CONFIRM_EVERY / 2)
        way.largest = 1472
        way.run(CONFIRM_EVERY / 2 + TRIES * TRY_EVERY - 0.5)
        assert way.mtu.size == 1472


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_three_looks(answered: int) -> None:
    """Of three looks, one answer is enough, even a late one."""
    mtu = PathMtu(0.0)
    mtu.got_through(1452, 0.0)
    looks = []
    now = CONFIRM_EVERY
    for number in range(TRIES):
        looks.append([size for size in mtu.due(now) if size == 1452])
        assert mtu.size == 1452
        if number == answered:
            mtu.got_through(1452, now)
            break
        now += TRY_EVERY
    assert looks == [[1452]] * (answered + 1)
    mtu.due(now + TRY_EVERY)
    assert mtu.size == 1452


def test_the_answer_to_a_smaller_probe_is_no_look() -> None:
    mtu = PathMtu(0.0)
    mtu.got_through(1452, 0.0)
    now = CONFIRM_EVERY
    for _ in range(TRIES + 1):
        mtu.due(now)
        mtu.got_through(1280, now)
        now += TRY_EVERY
    assert mtu.size == 1280


def test_a_small_interface() -> None:
    way = Way(65507, interface=1452)
    way.run(5.0)
    assert way.mtu.size == 1452
    assert way.sizes().count(1472) == 1


@pytest.mark.parametrize("refused", [1, 2])
def test_an_interface_that_becomes_smaller(refused: int) -> None:
    way = Way(65507, interface=1472)
    way.run(5.0)
    assert way.mtu.size == 1472
    way.interface = 1400
    for _ in range(refused):
        way.mtu.refused(1472, way.now)
        assert way.mtu.size == BASE
    way.sizes()
    way.run(5.0)
    assert way.mtu.size == 1372
    assert 1472 not in way.sizes()


def test_a_size_that_is_doubted_is_looked_at_now() -> None:
    mtu = PathMtu(0.0)
    mtu.got_through(1472, 0.0)
    mtu.due(5.0)
    mtu.doubt(5.0)
    assert 1472 in mtu.due(5.0)
    mtu.doubt(5.5)  # it is looked at already
    assert 1472 not in mtu.due(5.5)
    for now in (6.0, 7.0):
        assert 1472 in mtu.due(now)
    mtu.due(8.0)
    assert mtu.size == BASE


def test_an_interface_that_becomes_larger() -> None:
    way = Way(65507, interface=1400)
    way.run(5.0)
    way.interface = 1472
    way.run(RAISE_EVERY + 10.0)
    assert way.mtu.size == 1472


@given(
    st.lists(
        st.tuples(st.sampled_from(["due", "got", "refused"]), st.sampled_from(SIZES), st.integers(0, 40)), max_size=60
    )
)
def test_any_history(history: list[tuple[str, int, int]]) -> None:
    """The size is one of the search, and 1,200 or what got through; what is tried is larger or the size in use."""
    mtu = PathMtu(0.0)
    now = 0.0
    through = {BASE}
    for what, size, wait in history:
        now += wait / 4
        if what == "due":
            before = mtu.size
            assert all(tried >= min(before, mtu.size) for tried in mtu.due(now))
        elif what == "got":
            through.add(size)
            mtu.got_through(size, now)
            assert mtu.size >= size
        else:
            mtu.refused(size, now)
            assert mtu.size < max(size, BASE + 1)
        assert mtu.size in through
