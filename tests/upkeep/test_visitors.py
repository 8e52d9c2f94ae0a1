"""The visitors of a service: counted, reset when idle, and waited for at the end."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rtunnel.traffic.accounts import Accounts
from rtunnel.upkeep.descriptors import LEAST_RESERVE, Descriptors
from rtunnel.upkeep.visitors import Visitors


class Visitor:
    """Ends when it is told to."""

    touched = False

    def __init__(self, visitors: Visitors, lingers: bool = False) -> None:
        self.visitors = visitors
        self.aborted = 0
        self.lingers = lingers
        visitors.add(self, "192.0.2.1", "tunnel")

    def abort(self) -> None:
        self.aborted += 1
        if not self.lingers:
            self.visitors.discard(self)

    cut = abort


@pytest.fixture
def visitors() -> Visitors:
    return Visitors(Descriptors(Clock()), Accounts(Clock()))


def results(coroutine: Any) -> list[Any]:
    """What a coroutine returns, once it has."""
    found: list[Any] = []
    Deferred.fromCoroutine(coroutine).addCallback(found.append)
    return found


def test_they_are_counted(visitors: Visitors) -> None:
    assert not visitors
    one, other = Visitor(visitors), Visitor(visitors)
    assert len(visitors) == 2
    visitors.discard(one)
    visitors.discard(one)
    assert len(visitors) == 1
    assert other in visitors
    assert one not in visitors


def test_somebody_is_told_how_many_an_owner_has(visitors: Visitors) -> None:
    told: list[tuple[object, int]] = []
    visitors.on_change = lambda owner, count: told.append((owner, count))
    one, other = Visitor(visitors), Visitor(visitors)
    for each in (one, one, other):
        visitors.discard(each)
    assert told == [("tunnel", 1), ("tunnel", 2), ("tunnel", 1), ("tunnel", 0)]


def test_all_are_reset(visitors: Visitors) -> None:
    all_of_them = [Visitor(visitors) for _ in range(5)]
    visitors.abort_all()
    assert [each.aborted for each in all_of_them] == [1] * 5
    assert not visitors


def test_those_on_which_nothing_passes_are_reset(visitors: Visitors) -> None:
    busy, idle, late = Visitor(visitors), Visitor(visitors), Visitor(visitors)
    # They have only just come.
    assert visitors.abort_idle() == 0
    busy.touched = late.touched = True
    assert visitors.abort_idle() == 1
    assert (busy.aborted, idle.aborted) == (0, 1)
    busy.touched = True
    assert visitors.abort_idle() == 1
    assert (busy.aborted, late.aborted) == (0, 1)
    assert len(visitors) == 1


def test_drain_waits_for_the_last(visitors: Visitors) -> None:
    one, other = Visitor(visitors), Visitor(visitors)
    drained = results(visitors.drain())
    visitors.discard(one)
    assert drained == []
    visitors.discard(other)
    assert drained == [0]


def test_drain_is_stopped(visitors: Visitors) -> None:
    Visitor(visitors)
    drained = results(visitors.drain())
    visitors.stop_draining()
    assert drained == [1]
    visitors.stop_draining()


def test_drain_of_nobody(visitors: Visitors) -> None:
    assert results(visitors.drain()) == [0]


def test_all_gone(visitors: Visitors) -> None:
    assert results(visitors.all_gone()) == [None]
    one, other = Visitor(visitors, lingers=True), Visitor(visitors, lingers=True)
    gone, again = results(visitors.all_gone()), results(visitors.all_gone())
    visitors.abort_all()
    visitors.discard(one)
    assert gone == again == []
    visitors.discard(other)
    assert gone == again == [None]
    Visitor(visitors)
    assert results(visitors.all_gone()) == []


def test_one_that_waits_for_its_first_byte_is_not_the_longest_idle() -> None:
    """Even if bytes have passed for all the older ones."""
    crowd: Visitors
    crowd = Visitors(
        Descriptors(Clock(), lambda: LEAST_RESERVE + 20, lambda: len(crowd), lambda: 0.0), Accounts(Clock())
    )
    old = [Visitor(crowd) for _ in range(19)]
    new = Visitor(crowd)
    for each in old:
        each.touched = True
    Visitor(crowd)
    assert not new.aborted
    assert sum(each.aborted for each in old) == 1
