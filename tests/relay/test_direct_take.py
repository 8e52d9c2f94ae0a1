"""Sockets that are taken from Twisted, and many relays at once."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IListeningPort, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.direct import DirectRelay
from rtunnel.relay.sockets import QuietFactory, take_socket
from tests.needs import need_descriptors
from tests.no_collector import Left, no_collector
from tests.relay.direct_rig import Far, Turns, connected, random_bytes

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
ENDS = pytest.mark.parametrize("end", ["accepted", "made"])
RELAYS = 1000
#: How much memory an idle relay may need, in bytes, including what the reactor keeps for it.
IDLE_MEMORY = 4096


@implementer(IPushProducer)
class Producer:
    """A producer that produces nothing."""

    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def stopProducing(self) -> None:
        raise AssertionError("the producer was told of an end")


class Noted(Protocol):
    """Records what Twisted tells it, and gives its socket away when told to.

    :param take_on: ``made``: as soon as there is a connection; ``data``: with the first bytes.
    """

    transport: Any

    def __init__(self, take_on: str = "") -> None:
        self.take_on = take_on
        self.received: list[bytes] = []
        self.lost: Failure | None = None
        self.far: Far | None = None
        self.unsent = b""

    def take(self) -> Far:
        sock, self.unsent = take_socket(self.transport)
        self.far = Far(sock)
        return self.far

    def connectionMade(self) -> None:
        if self.take_on == "made":
            self.take()

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)
        if self.take_on == "data":
            self.take()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Twisteds:
    """A connection whose ends are both Twisted's. *accepted* and *made* are their protocols."""

    def __init__(self, turns: Turns, kind: str, folder: Path, accepted: Noted, made: Noted) -> None:
        self._turns = turns
        self._where = str(folder / "socket") if kind == "unix" else ""
        self._ports: list[IListeningPort] = []
        self.accepted, self.made = accepted, made

    def end(self, which: str) -> tuple[Noted, Noted]:
        """Return the end called *which*, and the other one."""
        return (self.accepted, self.made) if which == "accepted" else (self.made, self.accepted)

    async def __aenter__(self) -> Twisteds:
        reactor = self._turns.reactor
        listening: Any
        connecting: Any
        if self._where:
            listening = UNIXServerEndpoint(reactor, self._where)
        else:
            listening = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        listening.listen(QuietFactory.forProtocol(lambda: self.accepted)).addCallback(self._ports.append)
        if self._where:
            connecting = UNIXClientEndpoint(reactor, self._where)
        else:
            port: Any = self._ports[0].getHost()
            connecting = TCP4ClientEndpoint(reactor, "127.0.0.1", port.port)
        connecting.connect(QuietFactory.forProtocol(lambda: self.made))
        await self._turns.until(lambda: self.accepted.connected and self.made.connected)
        return self

    async def __aexit__(self, *_: object) -> None:
        for protocol in (self.accepted, self.made):
            if protocol.far is not None:
                protocol.far.socket.close()
            elif protocol.lost is None:
                protocol.transport.abortConnection()
        stopped: list[object] = []
        self._ports[0].stopListening().addBoth(stopped.append)  # type: ignore[union-attr]
        mine = (self.accepted, self.made)
        await self._turns.until(lambda: stopped and all(one.lost is not None or one.far is not None for one in mine))


@KINDS
@ENDS
@pytest.mark.parametrize("moment", ["made", "data", "later"])
@pytest_twisted.ensureDeferred
async def test_twisted_forgets_the_socket(turns: Turns, kind: str, end: str, moment: str, tmp_path: Path) -> None:
    protocols = {"accepted": Noted(), "made": Noted()}
    protocols[end].take_on = moment
    async with Twisteds(turns, kind, tmp_path, protocols["accepted"], protocols["made"]) as both:
        taken, other = both.end(end)
        other.transport.write(b"first")
        if moment == "made":
            await turns.until(lambda: taken.far is not None)
        else:
            await turns.until(lambda: taken.received)
        far = taken.far or taken.take()
        if moment == "made":
            await turns.until(lambda: far.received, far)
        assert not far.socket.get_inheritable()
        # The other end goes on: the connection was neither closed nor shut down.
        far.send(b"x" * 100_000)
        await turns.until(lambda: sum(map(len, other.received)) == 100_000, far)
        before = far.received
        other.transport.write(b"y" * 100_000)
        await turns.until(lambda: far.received == before + 100_000, far)
        assert b"".join(taken.received) == (b"" if moment == "made" else b"first")
        # The transport ignores every later call.
        taken.transport.write(b"lost")
        taken.transport.resumeProducing()
        taken.transport.loseConnection()
        taken.transport.abortConnection()
        await turns.settle(far)
        assert far.received == before + 100_000
        far.socket.close()
        await turns.until(lambda: other.lost is not None)
        await turns.settle()
        assert taken.lost is None


@ENDS
@pytest_twisted.ensureDeferred
async def test_what_twisted_has_not_sent_yet_is_handed_over(turns: Turns, end: str, tmp_path: Path) -> None:
    async with Twisteds(turns, "tcp", tmp_path, Noted(), Noted()) as both:
        taken, other = both.end(end)
        data = random_bytes(12 << 20)
        other.transport.pauseProducing()
        taken.transport.write(data[:-3])
        await turns.settle()
        # There are two pieces, and a part of the first has been sent.
        taken.transport.write(data[-3:])
        far = taken.take()
        assert 3 < len(taken.unsent) < len(data)
        assert data.endswith(taken.unsent)
        other.transport.resumeProducing()
        far.send(taken.unsent)
        await turns.until(lambda: sum(map(len, other.received)) == len(data), far)
        assert b"".join(other.received) == data


@ENDS
@pytest_twisted.ensureDeferred
async def test_event_that_the_reactor_has_already(turns: Turns, end: str, tmp_path: Path) -> None:
    """Bytes and room are ready at once: the first event takes the socket, and the second still comes."""
    async with Twisteds(turns, "tcp", tmp_path, Noted(), Noted()) as both:
        taken, other = both.end(end)
        taken.take_on = "data"
        taken.transport.write(b"answer")
        other.transport.getHandle().send(b"request")
        await turns.until(lambda: taken.far is not None)
        await turns.settle()
        assert taken.lost is None
        assert taken.unsent + b"".join(other.received) == b"answer"


@pytest_twisted.ensureDeferred
async def test_producer_is_not_told_of_an_end(turns: Turns, tmp_path: Path) -> None:
    async with Twisteds(turns, "tcp", tmp_path, Noted(), Noted()) as both:
        both.accepted.transport.registerProducer(Producer(), True)
        both.accepted.take()
        await turns.settle()


@pytest_twisted.ensureDeferred
async def test_connection_that_is_going_is_not_taken(turns: Turns, tmp_path: Path) -> None:
    for going in ("loseConnection", "loseWriteConnection", "abortConnection"):
        async with Twisteds(turns, "tcp", tmp_path, Noted(), Noted()) as both:
            getattr(both.made.transport, going)()
            with pytest.raises(ValueError, match="closed"):
                take_socket(both.made.transport)
            await turns.until(lambda: both.accepted.lost)
            with pytest.raises(ValueError, match="closed"):
                take_socket(both.accepted.transport)
            if both.made.lost is not None and going == "abortConnection":
                assert both.made.lost.check(ConnectionAborted)


@pytest_twisted.ensureDeferred
async def test_socket_under_tls_is_not_taken(turns: Turns, tmp_path: Path) -> None:
    tls = optionsForClientTLS("localhost")
    async with Twisteds(turns, "tcp", tmp_path, Noted(), Noted()) as both:
        over = TLSMemoryBIOFactory(tls, True, QuietFactory.forProtocol(Noted)).buildProtocol(None)
        over.makeConnection(both.accepted.transport)
        both.made.transport.startTLS(tls)
        for transport in (over, both.made.transport, StringTransport()):
            with pytest.raises(ValueError, match="no socket of its own"):
                take_socket(transport)


@pytest_twisted.ensureDeferred
async def test_taken_sockets_are_relayed(turns: Turns, tmp_path: Path) -> None:
    """Do as the server does: accept a visitor and a data connection, and relay both without Twisted."""
    async with (
        Twisteds(turns, "tcp", tmp_path, Noted(), Noted("made")) as visitor,
        Twisteds(turns, "unix", tmp_path, Noted(), Noted("made")) as service,
    ):
        left, right = visitor.made.far, service.made.far
        assert left is not None
        assert right is not None
        left.send(b"request", end=True)
        visitor.accepted.transport.write(b"welcome, ")
        (one, to_left), (other, to_right) = map(take_socket, (visitor.accepted.transport, service.accepted.transport))
        visitor.accepted.lost = service.accepted.lost = Failure(ConnectionAborted())
        ends: list[DirectRelay] = []
        DirectRelay(turns.relays, one, other, ends.append, to_left=to_left, to_right=to_right + b"early ").start()
        await turns.until(lambda: right.ended, left, right)
        assert bytes(right.kept) == b"early request"
        right.send(b"visitor", end=True)
        await turns.until(lambda: ends and left.ended, left, right)
        assert bytes(left.kept) == b"welcome, visitor"


@pytest.fixture
def collected() -> None:
    """What earlier tests have left is collected before ``turns`` counts the descriptors."""
    gc.collect()


@KINDS
@pytest.mark.usefixtures("collected")
@pytest_twisted.ensureDeferred
async def test_thousands_of_relays(turns: Turns, kind: str) -> None:
    """Run many relays, one after the other and at once: they need little memory, and the fixture checks descriptors."""
    need_descriptors(4 * RELAYS + 100)
    pairs = [(connected(kind), connected(kind)) for _ in range(RELAYS)]
    ends: list[DirectRelay] = []
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    relays = [DirectRelay(turns.relays, left[1], right[1], ends.append) for left, right in pairs]
    for relay in relays:
        relay.start()
    each = (tracemalloc.get_traced_memory()[0] - before) / RELAYS
    tracemalloc.stop()
    assert turns.watched() == 2 * RELAYS
    assert each < IDLE_MEMORY
    fars = [(Far(left[0]), Far(right[0])) for left, right in pairs]
    for number, (left, right) in enumerate(fars):
        left.send(b"%d" % number, end=number % 3 == 0)
        right.send(b"-%d" % number, end=number % 3 != 1)
    for far in (far for pair in fars for far in pair):
        far.step()
    everyone = [far for pair in fars for far in pair]
    await turns.until(lambda: all(far.received for far in everyone), *everyone)
    await turns.until(lambda: len(ends) == (RELAYS + 2) // 3, *everyone)
    for number, (left, right) in enumerate(fars):
        assert bytes(right.kept) == b"%d" % number
        assert bytes(left.kept) == b"-%d" % number
    for number, relay in enumerate(relays):
        if number % 3 == 1:
            relay.abort()
    for number, (left, _) in enumerate(fars):
        if number % 3 == 2:
            left.reset()
    await turns.until(lambda: len(ends) == RELAYS)
    assert set(ends) == set(relays)
    for far in everyone:
        far.socket.close()


@KINDS
@ENDS
@pytest_twisted.ensureDeferred
async def test_what_the_socket_was_taken_from_goes_at_once(turns: Turns, kind: str, end: str, tmp_path: Path) -> None:
    with no_collector():
        async with Twisteds(turns, kind, tmp_path, Noted(), Noted()) as both:
            taken, other = both.end(end)
            left = Left([taken, taken.transport])
            taken.take().socket.close()
            setattr(both, end, other)
            del taken
            await turns.until(lambda: other.lost)
            assert not left()
