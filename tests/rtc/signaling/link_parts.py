"""Servers and users for the tests of the signaling link: real sockets, real WebSockets, one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import LogEvent, LogLevel
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from txaio.tx import make_logger
from zope.interface import implementer

from rtunnel.relay.sockets import QuietFactory
from rtunnel.rtc.interfaces import ISignalUser
from rtunnel.rtc.settings import SignalClientSettings, SignalUrl
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.wire.webrtc.signaling import SUBPROTOCOL, Signal, decode_signal, encode_signal
from tests.leftovers import TestLog
from tests.patience import PATIENCE
from tests.rtc.signaling.reference_server import ReferenceSignalServer
from tests.tls.parts import Holder, Lines

TOKEN = "a token that nobody may read"


@implementer(ISignalUser)
class User:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.ups = 0
        self.downs: list[str] = []
        self.signals: list[Signal] = []

    def signaling_up(self) -> None:
        self.ups += 1

    def signaling_down(self, reason: str) -> None:
        self.downs.append(reason)

    def signal_received(self, signal: object) -> None:
        assert isinstance(signal, Signal)
        self.signals.append(signal)


class Peer(WebSocketServerProtocol):
    """One connection at our own server's stand-in."""

    transport: Any
    log = make_logger(level="none")

    def __init__(self, server: OwnServer) -> None:
        super().__init__()
        self.server = server
        self.identity = ""
        self.pinged = b""
        self.close_code: int | None = None
        self.was_clean = False

    def onConnect(self, request: ConnectionRequest) -> str:
        self.server.requests.append(request)
        if self.server.token and request.headers.get("authorization") != f"Bearer {self.server.token}":
            raise ConnectionDeny(401, "Unauthorized")
        assert SUBPROTOCOL in request.protocols
        return SUBPROTOCOL

    def onOpen(self) -> None:
        self.server.peers.append(self)
        self.server.opened(self)

    def onPing(self, payload: bytes) -> None:
        self.server.pings += 1
        self.pinged = payload
        if self.server.answers_pings:
            super().onPing(payload)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        signal = decode_signal(payload)
        self.server.received.append(signal)
        if any(peer.identity == signal.sender_id for peer in self.server.peers if peer is not self):
            self.sendMessage(encode_signal(Signal("error", f"'{signal.sender_id}' is in use", "", signal.sender_id)))
            self.sendClose(1000)
            return
        self.identity = signal.sender_id

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.was_clean, self.close_code = wasClean, code
        if self in self.server.peers:
            self.server.peers.remove(self)
            self.server.gone.append(self)


class _Accept(QuietFactory):
    """Unlike most factories, it does not make itself known to what it builds: Autobahn wants its own there."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build

    def buildProtocol(self, addr: object) -> Any:
        return self._build()


class Listening(Service):
    """A listening socket, and whoever is connected to it.

    :ivar port: where it listens, once it runs; the same again when it is started again.
    """

    def __init__(self, reactor: Any, tls: Holder | None = None) -> None:
        self.port = 0
        self.transports: set[Any] = set()
        self._reactor = reactor
        self.tls: Any = TlsContext(tls) if tls is not None else None
        self._listening: Any = None

    def build(self) -> Any:
        raise NotImplementedError

    def startService(self) -> None:
        super().startService()
        factory = _Accept(self._build)
        if self.tls is None:
            self._listening = self._reactor.listenTCP(self.port, factory, interface="127.0.0.1")
        else:
            secured = TLSMemoryBIOFactory(self.tls, False, factory, self._reactor)
            self._listening = self._reactor.listenTCP(self.port, secured, interface="127.0.0.1")
        self.port = self._listening.getHost().port

    def _build(self) -> Any:
        protocol = self.build()
        made, lost = protocol.connectionMade, protocol.connectionLost

        def connection_made() -> None:
            self.transports.add(protocol.transport)
            made()

        def connection_lost(reason: Failure = connectionDone) -> None:
            self.transports.discard(protocol.transport)
            lost(reason)

        protocol.connectionMade, protocol.connectionLost = connection_made, connection_lost
        return protocol

    def cut_off(self) -> None:
        """End all connections without a word."""
        for transport in list(self.transports):
            transport.abortConnection()

    async def _stop(self) -> None:
        await self._listening.stopListening()
        self.cut_off()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())


@implementer(IOpenSSLServerConnectionCreator)
class TlsContext:
    """What a server has that shows one certificate; any version of TLS."""

    def __init__(self, holder: Holder) -> None:
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.use_certificate_chain_file(str(holder.cert))
        self.context.use_privatekey_file(str(holder.key))
        self.context.check_privatekey()
        self.asked_for: list[bytes | None] = []
        self.context.set_tlsext_servername_callback(lambda link: self.asked_for.append(link.get_servername()))

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class OwnServer(Listening):
    """Speaks as our own signaling server does, to somebody who asks for the subprotocol.

    :ivar peers: who is connected.
    :ivar gone: who was.
    :ivar opened: called with each new connection.
    """

    def __init__(self, reactor: Any, tls: Holder | None = None, token: str = "") -> None:
        super().__init__(reactor, tls)
        self.token = token
        self.answers_pings = True
        self.pings = 0
        self.requests: list[ConnectionRequest] = []
        self.received: list[Signal] = []
        self.peers: list[Any] = []
        self.gone: list[Any] = []
        self.opened: Callable[[Peer], None] = lambda peer: None
        self._websocket = WebSocketServerFactory(protocols=[SUBPROTOCOL], reactor=reactor)
        self._websocket.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)

    def build(self) -> Peer:
        peer = Peer(self)
        peer.factory = self._websocket
        return peer

    @property
    def identities(self) -> list[str]:
        return [peer.identity for peer in self.peers if peer.identity]


class _Raw(Protocol):
    transport: Any

    def __init__(self, server: RawServer) -> None:
        self.server = server

    def connectionMade(self) -> None:
        self.server.connections += 1

    def dataReceived(self, data: bytes) -> None:
        self.server.received += data
        if self.server.answer is not None and (b"\r\n\r\n" in data or self.server.to_anything):
            self.transport.write(self.server.answer)
            self.transport.loseConnection()


class RawServer(Listening):
    """Gives one answer to any request, and hangs up.

    :param answer: None: it is silent, and stays.
    :param to_anything: it does not wait for the end of a request.
    """

    def __init__(self, reactor: Any, answer: bytes | None = None, *, to_anything: bool = False) -> None:
        super().__init__(reactor)
        self.answer = answer
        self.to_anything = to_anything
        self.connections = 0
        self.received = bytearray()

    def build(self) -> _Raw:
        return _Raw(self)


class World:
    """Links and servers of one test; what it starts ends with the test."""

    def __init__(self, reactor: Any, log: TestLog) -> None:
        self.reactor = reactor
        self.lines = Lines(log, reactor)
        self.log = log
        self._running: list[Any] = []

    def start(self, service: Any) -> Any:
        self._running.append(service)
        service.startService()
        return service

    async def stop(self, service: Any) -> None:
        self._running.remove(service)
        await service.stopService().addTimeout(PATIENCE, self.reactor)

    async def stop_all(self) -> None:
        for service in reversed(self._running[:]):
            await self.stop(service)

    async def until(self, true: Callable[[], Any], what: str) -> None:
        await self.lines.until(true, what)

    def link(
        self,
        port: int,
        identity: str = "cottage",
        *,
        is_host: bool = True,
        secure: bool = False,
        host: str = "127.0.0.1",
        path: str = "/signal",
        token: str | None = None,
        ca_file: Path | None = None,
        **times: float,
    ) -> tuple[SignalLink, User]:
        """A link that is not started."""
        url = SignalUrl(f"{'wss' if secure else 'ws'}://{host}:{port}{path}", secure, host, port, path)
        waits = {"reconnect_min": 0.02, "reconnect_max": 0.04, "connect_timeout": 5.0} | times
        user = User()
        settings = SignalClientSettings(url, token, ca_file, **waits)
        return SignalLink(self.reactor, settings, identity, user, is_host=is_host), user

    async def up(self, port: int, identity: str = "cottage", **more: Any) -> tuple[SignalLink, User]:
        """A link that is up."""
        link, user = self.link(port, identity, **more)
        self.start(link)
        await self.until(lambda: user.ups, "the link is up")
        return link, user

    def attempts(self, level: LogLevel | None = None) -> list[LogEvent]:
        """What was logged of attempts that ended, at one level or any."""
        return [
            event
            for event in self.log.events
            if "next attempt in" in (event.get("log_format") or "") and level in (None, event["log_level"])
        ]

    async def cut_off_often(self, server: OwnServer, user: User) -> None:
        """Six times: wait until the link is up, then end it."""
        for number in range(1, 7):
            await self.until(partial(lambda number: user.ups == number, number), "up")
            server.cut_off()
            await self.until(partial(lambda number: len(self.attempts()) == number, number), "lost")

    @property
    def waits(self) -> list[float]:
        return [event["wait"] for event in self.attempts()]

    async def refusal(self) -> str:
        """Why the first attempt failed, once there was a second one with the same end."""
        await self.until(lambda: len(self.attempts()) >= 2, "two attempts")
        first, second = self.attempts()[:2]
        assert first["log_level"] is LogLevel.warn
        assert second["log_level"] is LogLevel.debug
        assert first["why"] == second["why"]
        return str(first["why"])


def own(world: World, **more: Any) -> OwnServer:
    server: OwnServer = world.start(OwnServer(world.reactor, **more))
    return server


def reference(world: World) -> ReferenceSignalServer:
    server: ReferenceSignalServer = world.start(ReferenceSignalServer(world.reactor))
    return server
