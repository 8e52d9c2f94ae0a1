"""Sockets that are taken from Twisted."""

from __future__ import annotations

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

from rtunnel.relay.sockets import QuietFactory, take_socket
from tests.relay.turns import Far, Turns, random_bytes

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
ENDS = pytest.mark.parametrize("end", ["accepted", "made"])


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
