"""Goodbyes (close_notify), and connections that end without one: real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rtunnel.errors import TlsFailed
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.identity import Peer
from rtunnel.tls.policy import Role
from rtunnel.tls.transport import LINGER, Secured, TlsTransport
from tests.patience import PATIENCE
from tests.tls.parts import Authority, quiet

BULK = bytes(range(256)) * 8000


class Plain(Protocol):
    """What is above.

    :ivar lost: fires when the connection is, for :attr:`reason`.
    """

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Deferred[None] = Deferred()
        self.reason: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason
        self.lost.callback(None)


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

    async def pair(self, first: Role = Role.CLIENT, build: Callable[[], Any] = Plain) -> tuple[Any, Any]:
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


@pytest.mark.parametrize("first", Role)
@pytest.mark.parametrize("how", ["loseConnection", "abortConnection"])
@pytest_twisted.ensureDeferred
async def test_no_goodbye_is_a_cut(how: str, first: Role, rig: Rig) -> None:
    """That TCP ends is nothing that the other end has said."""
    one, other = await rig.pair(first)
    one.transport.write(b"not all")
    getattr(one.transport.tcp, how)()
    await rig.wait(other.lost)
    assert other.reason.check(TlsFailed), other.reason
    assert str(other.reason.value) == "the connection was cut"


@pytest_twisted.ensureDeferred
async def test_abort(rig: Rig) -> None:
    one, other = await rig.pair()
    one.transport.abortConnection()
    await rig.wait(one.lost, other.lost)
    assert one.reason.check(ConnectionAborted)
    assert other.reason.check(TlsFailed)


@pytest.mark.parametrize("first", Role)
@pytest_twisted.ensureDeferred
async def test_a_goodbye_ends_both_directions(first: Role, rig: Rig) -> None:
    """All that was written arrives, although there are tickets that the client has not read."""
    one, other = await rig.pair(first)
    one.transport.write(BULK)
    one.transport.loseConnection()
    one.transport.write(b"too late")
    await rig.wait(one.lost, other.lost)
    assert other.received == BULK
    assert one.reason.check(ConnectionDone)
    assert other.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_closing_while_paused(rig: Rig) -> None:
    """The other end's goodbye is heard all the same, and not only after some time."""
    one, other = await rig.pair()
    one.transport.pauseProducing()
    one.transport.loseConnection()
    await rig.wait(one.lost, other.lost)


@pytest_twisted.ensureDeferred
async def test_closing_does_not_wait_for_ever(rig: Rig) -> None:
    one, other = await rig.pair()
    other.transport.pauseProducing()
    one.transport.write(BULK * 10)
    one.transport.loseConnection()
    rig.clock.advance(LINGER)
    await rig.wait(one.lost)
    other.transport.resumeProducing()
    await rig.wait(other.lost)
    assert other.reason.check(TlsFailed)
