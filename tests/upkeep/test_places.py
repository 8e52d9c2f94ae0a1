"""Who gives way when all places are taken: as a look at all of them would say, without one."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import given, strategies as st

from rtunnel.upkeep.places import Places


@given(st.lists(st.one_of(st.sampled_from("abcd"), st.integers(0))))
def test_the_heaviest_is_that_of_a_look_at_all(steps: list[str | int]) -> None:
    """One comes, of a holder; or one goes."""
    places: Places[int] = Places()
    there: list[tuple[int, str]] = []
    for number, which in enumerate(steps):
        if isinstance(which, str):
            places.add(number, which)
            there.append((number, which))
        elif there:
            gone = there.pop(which % len(there))[0]
            assert gone in places
            assert places.discard(gone)
        assert not places.discard(-1)
        assert list(places) == [place for place, _ in there]
        assert len(places) == len(there)
        counts: dict[Hashable, list[int]] = {}
        for holder in "abcd":
            counts[holder] = [place for place, of in there if of == holder]
            assert list(places.of(holder)) == counts[holder]
        if there:
            assert len(counts[places.heaviest]) == max(map(len, counts.values()))
            assert places.first_to_go == counts[places.heaviest][0]
        assert len(places._with) == max(map(len, counts.values())) + 1


def test_one_by_one_the_oldest_goes_first() -> None:
    places: Places[int] = Places()
    for number in range(5):
        places.add(number, f"192.0.2.{number}")
    order = []
    while places:
        order.append(places.first_to_go)
        places.discard(order[-1])
    assert order == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        _ = places.first_to_go


def test_a_flood_costs_its_own_places() -> None:
    places: Places[int] = Places()
    places.add(-1, "192.0.2.1")
    for number in range(100):
        if len(places) == 10:
            places.discard(places.first_to_go)
        places.add(number, "192.0.2.2")
    assert list(places) == [-1, *range(91, 100)]
