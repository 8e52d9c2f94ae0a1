"""A goodbye as the end of one direction: real sockets, and a protocol above that knows half-close."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import TlsFailed
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.identity import Peer
from rtunnel.tls.policy import Role
from rtunnel.tls.transport import LINGER, Secured, TlsTransport
from tests.patience import PATIENCE
from tests.tls.parts import Authority, Lines, quiet

BULK = bytes(range(256)) * 8000


class Plain(Protocol):
    """As a link: it knows no half-close.

    :ivar lost: fires when the connection is, for :attr:`reason`.
    """

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Deferred[None] = Deferred()
        self.reason: Any = None
        self.events: list[str] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.events.append("lost")
        self.reason = reason
        self.lost.callback(None)


@implementer(IHalfCloseableProtocol)
class End(Plain):
    """One end of a stream's own connection.

    :ivar ended: fires when the other end sends no more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended: Deferred[None] = Deferred()

    def readConnectionLost(self) -> None:
        self.events.append("read ended")
        self.ended.callback(None)

    def writeConnectionLost(self) -> None:
        self.events.append("write ended")


class _User(Secured):
    def __init__(self, build: Callable[[], Plain]) -> None:
        self._build = build
        self.up: Deferred[Any] = Deferred()

    def build_protocol(self, transport: TlsTransport, peer: Peer) -> IProtocol | None:
        protocol = self._build()
        self.up.callback(protocol)
        return protocol

    def failed(self, transport: TlsTransport, why: str) -> None:
        self.up.errback(TlsFailed(why))


class Rig:
    """Makes pairs of ends over TLS.

    :ivar clock: that of both ends; it stands still.
    """

    def __init__(self, reactor: Any, authority: Authority) -> None:
        self.reactor = reactor
        self.clock: Any = Clock()
        self._credentials = {
            Role.SERVER: Credentials(authority.trusts(authority.server()), Role.SERVER),
            Role.CLIENT: Credentials(authority.trusts(authority.client()), Role.CLIENT),
        }
        self._made: list[Any] = []

    async def pair(self, first: Role = Role.CLIENT, build: Callable[[], Any] = End) -> tuple[Any, Any]:
        """Two ends, that with the role *first* first."""
        users = {role: _User(build) for role in Role}

        def transport(role: Role) -> TlsTransport:
            return TlsTransport(TlsEngine(self._credentials[role]), role, users[role], self.clock, 5.0)

        port = self.reactor.listenTCP(0, quiet(lambda: transport(Role.SERVER)), interface="127.0.0.1")
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port.getHost().port)
        await endpoint.connect(quiet(lambda: transport(Role.CLIENT)))
        ends = [await users[role].up.addTimeout(PATIENCE, self.reactor) for role in (first, first.other)]
        await port.stopListening()
        self._made += ends
        return ends[0], ends[1]

    async def wait(self, *things: Deferred[Any]) -> None:
        await gatherResults(things).addTimeout(PATIENCE, self.reactor)

    def close(self) -> None:
        for end in self._made:
            end.transport.tcp.abortConnection()


@pytest_twisted.async_yield_fixture
async def rig(authority: Authority) -> AsyncIterator[Rig]:
    from twisted.internet import reactor

    made = Rig(reactor, authority)
    yield made
    made.close()


def send_all(end: Any, data: bytes = BULK) -> None:
    end.transport.write(data)
    end.transport.loseWriteConnection()


@pytest.mark.parametrize("first", Role)
@pytest_twisted.ensureDeferred
async def test_one_direction_after_the_other(first: Role, rig: Rig) -> None:
    one, other = await rig.pair(first)
    send_all(one)
    await rig.wait(other.ended)
    assert other.received == BULK
    assert one.events == ["write ended"]
    send_all(other, BULK[::-1])
    await rig.wait(one.ended)
    assert one.received == BULK[::-1]
    other.transport.loseConnection()
    one.transport.loseConnection()
    await rig.wait(one.lost, other.lost)
    assert one.events == ["write ended", "read ended", "lost"]
    assert other.events == ["read ended", "write ended", "lost"]
    assert one.reason.check(ConnectionDone)
    assert other.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_both_directions_at_once(rig: Rig) -> None:
    one, other = await rig.pair()
    send_all(one)
    send_all(other, BULK[::-1])
    await rig.wait(one.ended, other.ended)
    assert (one.received, other.received) == (BULK[::-1], BULK)
    # TCP may end now in whichever way: there is nothing left to be lost.
    one.transport.tcp.abortConnection()
    await rig.wait(other.lost)
    assert not other.reason.check(TlsFailed)


@pytest.mark.parametrize("first", Role)
@pytest.mark.parametrize("how", ["loseConnection", "abortConnection"])
@pytest.mark.parametrize("ended", ["neither", "by the one that is cut", "by the other"])
@pytest_twisted.ensureDeferred
async def test_no_goodbye_is_a_reset(ended: str, how: str, first: Role, rig: Rig) -> None:
    """That TCP ends is nothing that the other end has said."""
    one, other = await rig.pair(first)
    one.transport.write(b"not all")
    if ended == "by the one that is cut":
        other.transport.loseWriteConnection()
        await rig.wait(one.ended)
    elif ended == "by the other":
        one.transport.loseWriteConnection()
        await rig.wait(other.ended)
    getattr(one.transport.tcp, how)()
    await rig.wait(other.lost)
    assert other.reason.check(TlsFailed), other.reason
    assert str(other.reason.value) == "the connection was cut"
    assert ("read ended" in other.events) == (ended == "by the other")


@pytest_twisted.ensureDeferred
async def test_abort(rig: Rig) -> None:
    one, other = await rig.pair()
    one.transport.abortConnection()
    await rig.wait(one.lost, other.lost)
    assert one.reason.check(ConnectionAborted)
    assert other.reason.check(TlsFailed)


@pytest_twisted.ensureDeferred
async def test_closing_waits_for_a_slow_reader(rig: Rig, lines: Lines) -> None:
    """A link is given some seconds for its last words; what a stream has sent is all to arrive."""
    one, other = await rig.pair()
    other.transport.pauseProducing()
    data = BULK * 10
    one.transport.write(data)
    one.transport.loseConnection()
    assert one.transport._engine.session is None
    await lines.until(lambda: one.transport._engine.session, "the server's ticket is read")
    rig.clock.advance(100 * LINGER)
    other.transport.resumeProducing()
    await rig.wait(other.ended, one.lost)
    assert other.received == data
    assert one.reason.check(ConnectionDone)
    other.transport.loseConnection()
    await rig.wait(other.lost)


@pytest_twisted.ensureDeferred
async def test_closing_at_once_loses_nothing(rig: Rig) -> None:
    """Although there are tickets that the client has not read: a socket that is closed on them is reset."""
    one, other = await rig.pair()
    one.transport.write(BULK)
    one.transport.loseConnection()
    await rig.wait(other.ended)
    assert other.received == BULK
    other.transport.loseConnection()
    await rig.wait(one.lost, other.lost)
    assert one.reason.check(ConnectionDone)
    assert other.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_closing_while_paused(rig: Rig) -> None:
    """The other end's goodbye is heard all the same, and not only after some time."""
    one, other = await rig.pair()
    one.transport.pauseProducing()
    one.transport.loseConnection()
    await rig.wait(other.ended)
    other.transport.loseWriteConnection()
    await rig.wait(one.lost, other.lost)


@pytest_twisted.ensureDeferred
async def test_nothing_after_a_goodbye(rig: Rig) -> None:
    one, other = await rig.pair()
    one.transport.write(b"last words")
    one.transport.loseWriteConnection()
    one.transport.write(b"too late")
    one.transport.loseWriteConnection()
    # Whoever goes on all the same is not listened to.
    one.transport.tcp.write(bytes(100_000))
    await rig.wait(other.ended)
    send_all(other)
    await rig.wait(one.ended)
    assert one.received == BULK
    assert other.received == b"last words"
    assert one.events.count("write ended") == 1
    assert other.events == ["read ended", "write ended"]


@pytest_twisted.ensureDeferred
async def test_the_end_of_tcp_is_heard_by_who_reads_no_more(rig: Rig) -> None:
    """After the other direction's end nobody above asks for more; a reset must not wait for that."""
    one, other = await rig.pair()
    one.transport.loseWriteConnection()
    await rig.wait(other.ended)
    other.transport.pauseProducing()
    one.transport.tcp.abortConnection()
    await rig.wait(other.lost)
    assert other.reason.check(TlsFailed)


@pytest_twisted.ensureDeferred
async def test_paused_by_the_last_bytes(rig: Rig) -> None:
    """The goodbye came with them, and so is heard; and so is the end of TCP behind it."""
    one, other = await rig.pair()
    other.dataReceived = lambda _: other.transport.pauseProducing()
    one.transport.write(b"x")
    one.transport.loseWriteConnection()
    one.transport.tcp.loseConnection()
    await rig.wait(other.ended, other.lost)


@pytest_twisted.ensureDeferred
async def test_another_protocol_takes_over(rig: Rig) -> None:
    """First frames, as on a link; then a stream's bytes."""
    one, other = await rig.pair(build=Plain)
    streams = End(), End()
    for end, stream in zip((one, other), streams, strict=True):
        end.transport.protocol = stream
        stream.makeConnection(end.transport)
    send_all(streams[0])
    await rig.wait(streams[1].ended)
    assert streams[1].received == BULK
    send_all(streams[1])
    await rig.wait(streams[0].ended)
    for stream in streams:
        stream.transport.loseConnection()
    await rig.wait(*(stream.lost for stream in streams))
    assert not one.events
    assert not other.events


@pytest_twisted.ensureDeferred
async def test_a_goodbye_ends_a_link(rig: Rig) -> None:
    one, other = await rig.pair(build=Plain)
    one.transport.write(BULK)
    one.transport.loseConnection()
    await rig.wait(one.lost, other.lost)
    assert other.received == BULK
    assert one.reason.check(ConnectionDone)
    assert other.reason.check(ConnectionDone)
