"""The connections of a signaling server: how many there may be, and how they end."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger

from rtunnel.rtc.signaling import connections as connections_module
from rtunnel.rtc.signaling.connections import Connections
from rtunnel.upkeep.descriptors import LEAST_RESERVE, Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter


class Fake:
    """A connection that is lost when the test says so, or at once when it is aborted."""

    touched = False

    def __init__(self, connections: Connections, address_prefix: str = "192.0.2.1") -> None:
        self.address_prefix = address_prefix
        self.told = ""
        self._connections = connections
        connections.add(self)

    def tick(self, now: float, was_stopped: bool) -> None:
        pass

    def go_away(self) -> None:
        self.told += "go away"

    def abort(self) -> None:
        self.told += "abort"
        self._connections.remove(self)

    def cut(self) -> None:
        self.told += "cut"
        self._connections.remove(self)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def connections(clock: Clock) -> Connections:
    return Connections(2, LogLimiter(Logger(), clock), Descriptors(clock))


def test_so_many_of_one_address(connections: Connections) -> None:
    here, elsewhere = IPv4Address("TCP", "192.0.2.1", 1), IPv4Address("TCP", "192.0.2.2", 1)
    first = Fake(connections)
    assert connections.has_room_for(here)
    Fake(connections)
    assert not connections.has_room_for(here)
    assert connections.has_room_for(elsewhere)
    connections.remove(first)
    assert connections.has_room_for(here)


def test_what_has_no_address_is_not_counted(connections: Connections) -> None:
    for _ in range(3):
        Fake(connections, "")
    assert connections.has_room_for(None)


def test_the_oldest_that_has_not_registered_gives_way(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "MAX_UNREGISTERED", 2)
    known, oldest, other = Fake(connections), Fake(connections), Fake(connections)
    assert known.told == "abort"
    connections.has_registered(oldest)
    Fake(connections)
    assert (oldest.told, other.told) == ("", "")
    Fake(connections)
    assert (oldest.told, other.told) == ("", "abort")


def test_descriptors_are_taken_from_those_that_have_not_registered(clock: Clock) -> None:
    descriptors = Descriptors(clock, lambda: LEAST_RESERVE + 2, lambda: len(server), lambda: 0.0)
    server = Connections(0, LogLimiter(Logger(), clock), descriptors)
    host, stranger, other = (Fake(server, f"192.0.2.{number}") for number in range(3))
    assert [each.told for each in (host, stranger, other)] == ["cut", "", ""]
    server.has_registered(stranger)
    newcomers = [Fake(server) for _ in range(3)]
    assert [each.told for each in (stranger, other, *newcomers)] == ["", "cut", "cut", "cut", ""]
    for each in list(server):
        server.remove(each)
    assert not descriptors.held


def test_whoever_has_most_gives_way(connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood from one address costs that address its own connections."""
    monkeypatch.setattr(connections_module, "MAX_UNREGISTERED", 4)
    honest = Fake(connections, "198.51.100.1")
    flood = [Fake(connections) for _ in range(20)]
    assert honest.told == ""
    assert [one.told for one in flood] == ["abort"] * 17 + [""] * 3
    other = Fake(connections, "203.0.113.1")
    assert (honest.told, other.told, flood[17].told) == ("", "", "abort")


def test_nobody_is_waited_for_where_nobody_is(connections: Connections, clock: Clock) -> None:
    assert Deferred.fromCoroutine(connections.close(clock, 2.0)).called


def test_closed_when_the_last_is_lost(connections: Connections, clock: Clock) -> None:
    first, last = Fake(connections), Fake(connections)
    closed = Deferred.fromCoroutine(connections.close(clock, 2.0))
    assert (first.told, last.told) == ("go away", "go away")
    connections.remove(first)
    before = closed.called
    connections.remove(last)
    assert (before, closed.called) == (False, True)
    assert not clock.getDelayedCalls()


def test_who_does_not_go_is_aborted(connections: Connections, clock: Clock) -> None:
    Fake(connections)
    stays = Fake(connections)
    closed = Deferred.fromCoroutine(connections.close(clock, 2.0))
    clock.advance(1.9)
    before = closed.called
    clock.advance(0.2)
    assert (before, closed.called) == (False, True)
    assert stays.told == "go awayabort"
