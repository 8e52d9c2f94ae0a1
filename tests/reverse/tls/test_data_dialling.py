"""Data connections over TLS, as the client dials and the server accepts them: real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rtunnel.errors import ConfigError, TlsFailed
from rtunnel.reverse.client.tls_dialler import TlsDialler
from rtunnel.tls.identity import Peer
from rtunnel.tls.listener import TlsListener
from rtunnel.tls.policy import TlsSettings
from tests.patience import PATIENCE
from tests.tls.parts import Authority, Holder, Lines, wait_for_second


class Held(Protocol):
    """A connection that is up; the server's end greets.

    :ivar heard: fires at the first bytes.
    :ivar lost: fires when the connection is, for :attr:`reason`.
    """

    transport: Any

    def __init__(self, greeting: bytes = b"") -> None:
        self.identity: Peer | None = None
        self.heard: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self.reason: Any = None
        self._greeting = greeting

    def connectionMade(self) -> None:
        if self._greeting:
            self.transport.write(self._greeting)

    def dataReceived(self, data: bytes) -> None:
        if not self.heard.called:
            self.heard.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason
        self.lost.callback(None)


class Rig:
    """A server's listener and a client's dialler.

    :ivar accepted: the server's ends of the connections.
    """

    def __init__(self, reactor: Any, authority: Authority, lines: Lines) -> None:
        self.reactor = reactor
        self.lines = lines
        self.authority = authority
        self.holder: Holder = authority.client()
        self.server: Holder = authority.server()
        self.server_tls = authority.trusts(self.server)
        self.dialler = self.new_dialler()
        self.accepted: list[Held] = []
        self.listener: TlsListener
        self._dialled: list[Held] = []
        self._port: Any = None

    def new_dialler(self) -> TlsDialler:
        tls: TlsSettings = self.authority.trusts(self.holder, server_name="127.0.0.1")
        return TlsDialler(self.reactor, tls, 5.0)

    async def listen(self) -> None:
        """Start the server, in place of one that runs."""
        await self.stop()
        build: Any = self._build
        self.listener = TlsListener(self.reactor, self.server_tls, 10.0, 256, build)
        self._port = self.reactor.listenTCP(0, self.listener, interface="127.0.0.1")

    def _build(self, identity: Peer) -> Held:
        held = Held(b"hello")
        held.identity = identity
        self.accepted.append(held)
        return held

    async def stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()

    def dial(self, data: bool = True) -> Deferred[Held]:
        # As the link does once a second.
        self.dialler.look_at_files()
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self._port.getHost().port)
        connect = self.dialler.connect_data if data else self.dialler.connect
        return Deferred.fromCoroutine(connect(endpoint, Held)).addCallback(self._keep)

    def _keep(self, held: Held) -> Held:
        self._dialled.append(held)
        return held

    async def up(self, data: bool = True) -> Held:
        """A connection over which the server has greeted."""
        held = await self.dial(data)
        await held.heard.addTimeout(PATIENCE, self.reactor)
        return held

    async def link(self) -> Held:
        return await self.up(data=False)

    def close(self) -> None:
        for held in (*self._dialled, *self.accepted):
            held.transport.abortConnection()


@pytest_twisted.async_yield_fixture
async def rig(authority: Authority, lines: Lines) -> AsyncIterator[Rig]:
    from twisted.internet import reactor

    made = Rig(reactor, authority, lines)
    await made.listen()
    yield made
    made.close()
    await made.stop()


def resumed(*connections: Held) -> list[bool]:
    return [connection.transport.is_resumed for connection in connections]


@pytest_twisted.ensureDeferred
async def test_resumed_and_known(rig: Rig) -> None:
    link = await rig.link()
    data = [await rig.up() for _ in range(3)]
    assert resumed(link, *data) == resumed(*rig.accepted) == [False, True, True, True]
    assert link.identity is not None
    assert link.identity.name == "server"
    assert [connection.identity for connection in data] == [link.identity] * 3
    at_server = rig.accepted[0].identity
    assert at_server is not None
    assert at_server.name == "laptop"
    assert [connection.identity for connection in rig.accepted] == [at_server] * 4


@pytest_twisted.ensureDeferred
async def test_many_at_once(rig: Rig) -> None:
    await rig.link()
    data = await gatherResults([rig.dial() for _ in range(30)])
    await gatherResults([connection.heard for connection in data]).addTimeout(PATIENCE, rig.reactor)
    assert all(resumed(*data))
    assert resumed(*rig.accepted) == [False] + [True] * 30


@pytest_twisted.ensureDeferred
async def test_one_line_for_each_link(rig: Rig) -> None:
    await rig.link()
    for _ in range(5):
        await rig.up()
    assert rig.lines.text.count("link 127.0.0.1:") == 1
    assert rig.lines.text.count("data connection 127.0.0.1:") == 5
    levels = {event["log_level"].name for event in rig.lines.events if "data connection" in event.get("log_format", "")}
    assert levels == {"debug"}


@pytest_twisted.ensureDeferred
async def test_a_link_is_a_whole_handshake(rig: Rig) -> None:
    await rig.link()
    await rig.up()
    assert resumed(await rig.link()) == [False]


@pytest_twisted.ensureDeferred
async def test_without_a_link(rig: Rig) -> None:
    """Nobody does so; it would be a whole handshake, and its session would do for the next."""
    assert resumed(await rig.up(), await rig.up()) == [False, True]


@pytest_twisted.ensureDeferred
async def test_the_session_outlives_its_link(rig: Rig) -> None:
    link = await rig.link()
    await rig.up()
    link.transport.loseConnection()
    await link.lost.addTimeout(PATIENCE, rig.reactor)
    assert resumed(await rig.up()) == [True]


@pytest_twisted.ensureDeferred
async def test_the_server_was_started_again(rig: Rig) -> None:
    """The first one is a whole handshake, as if nothing had happened; from its session the next go on."""
    await rig.link()
    await rig.up()
    await rig.listen()
    assert resumed(await rig.up(), await rig.up(), await rig.up()) == [False, True, True]


@pytest_twisted.ensureDeferred
async def test_the_client_was_revoked(rig: Rig) -> None:
    await rig.link()
    rig.authority.revoke(rig.holder)
    assert rig.listener.credentials.refresh()
    data = await rig.dial()
    # In TLS 1.3 the client is through before the server has seen its certificate.
    await data.lost.addTimeout(PATIENCE, rig.reactor)
    assert data.reason.check(TlsFailed)
    assert str(data.reason.value).startswith("the server refuses our certificate: it is revoked")
    assert len(rig.accepted) == 1
    await rig.lines.wait_for("closed: the client's certificate is refused: the certificate of 'laptop' is revoked")


@pytest_twisted.ensureDeferred
async def test_a_refused_session_is_forgotten(rig: Rig) -> None:
    await rig.link()
    await rig.up()
    judge, rig.dialler._judge = rig.dialler._judge, lambda _: "it rains"
    with pytest.raises(TlsFailed, match="the server's certificate is refused: it rains"):
        await rig.dial()
    rig.dialler._judge = judge
    assert resumed(await rig.up(), await rig.up()) == [False, True]


def names(rig: Rig) -> list[str]:
    """Whom the server has seen."""
    return [connection.identity.name if connection.identity is not None else "" for connection in rig.accepted]


@pytest_twisted.ensureDeferred
async def test_the_clients_certificate_is_another(rig: Rig) -> None:
    """Until there is another link it is shown to nobody: to the server it would be another client."""
    await rig.link()
    rig.authority.client("renewed", file="laptop")
    await rig.up()
    await rig.up()
    assert names(rig) == ["laptop"] * 3
    assert resumed(*rig.accepted) == [False, False, True]
    await rig.link()
    await rig.up()
    assert names(rig)[3:] == ["renewed"] * 2
    assert resumed(*rig.accepted[3:]) == [False, True]


@pytest_twisted.ensureDeferred
async def test_files_that_change_again_and_back(rig: Rig) -> None:
    await rig.link()
    rig.authority.client("renewed", file="laptop")
    await rig.up()
    rig.authority.client("renewed again", file="laptop")
    await rig.up()
    rig.holder.write()
    await rig.up()
    assert names(rig) == ["laptop"] * 4


@pytest_twisted.ensureDeferred
async def test_whom_we_trust_counts_at_once_whatever_we_show(rig: Rig) -> None:
    """The link's certificate is kept, and the list of the revoked is the newest."""
    await rig.link()
    rig.authority.client("renewed", file="laptop")
    await rig.up()
    rig.authority.revoke(rig.server)
    with pytest.raises(TlsFailed, match="the server's certificate is refused: the certificate of 'server' is revoked"):
        await rig.dial()
    rig.authority.revoke()
    await rig.up()
    assert names(rig) == ["laptop"] * 3


@pytest_twisted.ensureDeferred
async def test_other_files_that_cannot_be_used_any_more(rig: Rig) -> None:
    await rig.link()
    rig.authority.client("renewed", file="laptop")
    rig.dialler.look_at_files()
    rig.authority.cert.write_text("x")
    for _ in range(2):
        with pytest.raises(ConfigError, match="is not a certificate in PEM"):
            await rig.dial()
    rig.authority.write()
    await rig.up()
    assert names(rig) == ["laptop"] * 2


@pytest.mark.parametrize("renewed", [True, False])
@pytest_twisted.ensureDeferred
async def test_when_it_is_time_for_another_link(rig: Rig, renewed: bool) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    rig.holder = rig.authority.client(end=end - datetime.now(UTC))
    rig.dialler = rig.new_dialler()

    def is_outdated() -> bool:
        rig.dialler.look_at_files()
        return rig.dialler.is_outdated

    assert not is_outdated()
    await rig.link()
    assert not is_outdated()
    if renewed:
        rig.authority.client("renewed", file="laptop")
    assert not is_outdated()
    wait_for_second(end.timestamp() + 1)
    assert is_outdated() is renewed
    if renewed:
        await rig.link()
        assert names(rig) == ["laptop", "renewed"]
        assert not is_outdated()
