"""Handshakes take turns: by address, in half of the time, known addresses and others alternately."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from rtunnel.tls.listener import TlsListener
from rtunnel.tls.turns import BURST, LONGEST, MAX_WAITING, Turn, Turns
from tests.no_collector import Left, no_collector
from tests.relay.fakes import FakeSocket
from tests.tls.parts import Authority


class Transport:
    """What a turn does with its transport."""

    def __init__(self) -> None:
        self.paused = self.aborted = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def abortConnection(self) -> None:
        self.aborted = True


class Crowd:
    """Handshakes whose turns all cost the same.

    :ivar served: whose turns there were, in their order.
    """

    def __init__(self, cost: float = 0.004) -> None:
        self.clock = Clock()
        self.spent = 0.0
        self.cost = cost
        self.served: list[str] = []
        self.turns = Turns(self.clock)

    def turn(self, address: str, *, known: bool = False, says: str = "") -> Turn:
        def take(data: bytes) -> None:
            assert data
            self.spent += self.cost
            self.clock.rightNow += self.cost
            self.served.append(says or address)

        turn = Turn(self.turns, address, known, take)
        turn.transport = Transport()
        return turn

    def come(self, address: str, count: int = 1, *, known: bool = False, says: str = "") -> None:
        for _ in range(count):
            self.turn(address, known=known, says=says).received(b"hello")

    def use_up_the_burst(self) -> None:
        self.turns._budget = 0.0

    def wait_for(self, count: int) -> list[str]:
        while len(self.served) < count:
            self.clock.advance(0.001)
        return self.served[:count]


def test_a_few_handshakes_wait_for_nothing() -> None:
    crowd = Crowd()
    crowd.come("a", 5)
    assert crowd.served == ["a"] * 5
    assert not crowd.clock.getDelayedCalls()


def test_a_flood_has_half_of_the_time() -> None:
    crowd = Crowd()
    crowd.come("a", 1000)
    assert crowd.spent < BURST + crowd.cost
    crowd.wait_for(1000)
    assert crowd.spent / (crowd.clock.seconds() + BURST) == pytest.approx(0.5, rel=0.05)
    assert not crowd.clock.getDelayedCalls(), "nothing goes on when nobody waits"


def test_burst_is_there_again_after_a_pause() -> None:
    crowd = Crowd()
    crowd.use_up_the_burst()
    crowd.clock.advance(3600)
    crowd.come("a", 100)
    assert len(crowd.served) == pytest.approx(BURST / crowd.cost, abs=1), "and no more than once"


def test_turns_go_round_by_address() -> None:
    crowd = Crowd()
    crowd.use_up_the_burst()
    crowd.come("flood", 1000)
    crowd.come("a", 3)
    crowd.come("b")
    assert crowd.wait_for(8) == ["flood", "a", "b", "flood", "a", "flood", "a", "flood"]


def test_within_an_address_the_last_to_come_goes_first() -> None:
    """First come, first served would have all of a crowd wait until they give up."""
    crowd = Crowd()
    crowd.use_up_the_burst()
    for number in range(9):
        crowd.come("a", says=str(number))
    assert crowd.wait_for(9) == list("876543210")


def test_known_addresses_and_others_alternate() -> None:
    """So many strangers hold up no client, and one client holds up no stranger."""
    crowd = Crowd()
    crowd.use_up_the_burst()
    for number in range(100):
        crowd.come(str(number), says="stranger")
    crowd.come("link", 50, known=True)
    found = crowd.wait_for(100)
    assert found.count("link") == 50
    assert crowd.wait_for(150)[100:] == ["stranger"] * 50


def test_what_comes_while_it_waits_is_passed_on_together() -> None:
    crowd = Crowd()
    crowd.use_up_the_burst()
    got: list[bytes] = []
    turn = Turn(crowd.turns, "a", False, got.append)
    turn.transport = transport = Transport()
    reads: list[bool] = []
    for piece in (b"one", b"two", b"three"):
        turn.received(piece)
        reads.append(not transport.paused)
    turn.received(bytes(MAX_WAITING))
    reads.append(not transport.paused)
    crowd.clock.advance(1)
    assert got == [b"onetwothree" + bytes(MAX_WAITING)]
    reads.append(not transport.paused)
    assert reads == [True, True, True, False, True]


def test_who_leaves_has_no_turn() -> None:
    crowd = Crowd()
    crowd.use_up_the_burst()
    leaves, stays = crowd.turn("a", says="leaves"), crowd.turn("a", says="stays")
    leaves.received(b"hello")
    stays.received(b"hello")
    leaves.leave()
    leaves.leave()
    crowd.wait_for(1)
    assert crowd.served == ["stays"]
    leaves.received(b"hello")
    leaves.leave()
    assert not crowd.clock.getDelayedCalls()


def test_an_error_ends_only_its_own_connection(flush_logged_errors: Callable[..., list[Failure]]) -> None:
    crowd = Crowd()
    crowd.use_up_the_burst()

    def fail(_data: bytes) -> None:
        raise ValueError("no")

    bad: Any = Turn(crowd.turns, "a", False, fail)
    bad.transport = Transport()
    bad.received(b"hello")
    crowd.come("b")
    assert crowd.wait_for(1) == ["b"]
    assert bad.transport.aborted
    assert len(flush_logged_errors(ValueError)) == 1


def test_a_process_that_was_stopped_in_a_turn_does_not_wait_as_long_again() -> None:
    crowd = Crowd(cost=3600.0)
    crowd.come("a", 2)
    assert len(crowd.served) == 1
    crowd.clock.advance(LONGEST)
    assert len(crowd.served) == 2


def test_a_connection_that_the_system_does_not_let_us_watch_takes_no_place(authority: Authority) -> None:
    settings = authority.trusts(authority.server())
    listener = TlsListener(Clock(), settings, patience=10.0, most=2, build=lambda _peer: None)
    address = IPv4Address("TCP", "192.0.2.1", 1234)
    for _ in range(3):
        listener.buildProtocol(address)
        assert not len(listener)
    there: list[Any] = [StringTransport(peerAddress=address) for _ in range(3)]
    for number, transport in enumerate(there):
        listener.buildProtocol(address).makeConnection(transport)
        assert len(listener) == min(number + 1, 2)
    assert [transport.disconnected for transport in there] == [True, False, False]


@pytest.mark.parametrize("how", ["lost", "refused"])
def test_a_connection_in_its_handshake_goes_at_once(how: str, authority: Authority) -> None:
    settings = authority.trusts(authority.server())
    with no_collector():
        listener = TlsListener(Clock(), settings, patience=10.0, most=2, build=lambda _peer: None)
        address = IPv4Address("TCP", "192.0.2.1", 1234)
        transport = listener.buildProtocol(address)
        transport.makeConnection(FakeSocket())
        left = Left([transport, transport._engine.connection])
        if how == "refused":
            transport.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        transport.connectionLost(Failure(ConnectionDone()))
        del transport
        assert not left()
