"""``rtc-signal``: where hosts and clients find each other.

    SignalServer
     +-- signaling port   a SignalProtocol for each connection, with TLS before it for WSS
     +-- watch            all time-outs, pings, and the certificate's files

The :class:`~rtunnel.rtc.signaling.switchboard.Switchboard` knows who is registered, and passes messages on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from twisted.application.internet import TimerService
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from rtunnel.access.tokens import BearerTokens
from rtunnel.access.web_admission import Origins, neighbourhood
from rtunnel.errors import ConfigError
from rtunnel.relay.sockets import QuietFactory, show_address
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.protocol import SignalFactory, SignalProtocol
from rtunnel.rtc.signaling.switchboard import Switchboard
from rtunnel.tls.web_server import WebCredentials
from rtunnel.upkeep.few_lines import FewLines
from rtunnel.upkeep.listening import Listener

#: Connections that are not registered yet, at once; of more, the oldest gives way.
MAX_STRANGERS = 1024


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds.

    :ivar upgrade: from a connection to its WebSocket, TLS handshake included.
    :ivar first_message: from the WebSocket to the message that registers it.
    :ivar ping_every: between two pings.
    :ivar silent: without a byte, after which a peer is dropped.
    :ivar answer: that the holder of an ID has to answer when another wants it.
    :ivar close: that a peer has to end its connection.
    :ivar look_every: how exactly all this is kept.
    """

    upgrade: float = 10.0
    first_message: float = 10.0
    ping_every: float = 54.0
    silent: float = 60.0
    answer: float = 3.0
    close: float = 2.0
    look_every: float = 0.25


#: What is right outside tests.
TIMES = Times()


class _Door(QuietFactory):
    """Lets connections in, before anything is spent on them."""

    def __init__(self, server: SignalServer, inner: IProtocolFactory) -> None:
        self._server = server
        self._inner = inner

    def buildProtocol(self, addr: Any) -> Any:
        return self._inner.buildProtocol(addr) if self._server.has_room_for(addr) else None


class SignalServer(MultiService):
    """The server as a service.

    :param reactor: provides listening sockets and time.
    :raises ConfigError: the certificate or its key is missing or cannot be used, or an origin is none.
    """

    log = Logger()

    def __init__(self, reactor: Any, settings: SignalSettings, times: Times = TIMES) -> None:
        super().__init__()
        self.setName("rtc-signal")
        self.reactor = reactor
        self.settings = settings
        self.times = times
        self.tokens = BearerTokens(settings.valid_tokens)
        self.origins = Origins(settings.allowed_origins)
        self.lines = FewLines(self.log, reactor)
        self.switchboard = Switchboard(settings.max_hosts, settings.max_clients, settings.max_message, self.lines)
        self._connections: set[SignalProtocol] = set()
        self._strangers: dict[SignalProtocol, None] = {}
        self._per_address: Counter[str] = Counter()
        self.factory = SignalFactory(self)
        factory: IProtocolFactory = self.factory
        self._credentials: WebCredentials | None = None
        if (settings.cert is None) != (settings.key is None):
            raise ConfigError("TLS needs a certificate and its key; give both --tls-cert-file and --tls-key-file")
        if settings.cert is not None and settings.key is not None:
            self._credentials = WebCredentials(settings.cert, settings.key)
            factory = TLSMemoryBIOFactory(self._credentials, False, factory, reactor)
        self.listener = Listener(reactor, settings.addr, _Door(self, factory), "signaling port", "--addr")
        self.listener.setServiceParent(self)
        watch = TimerService(times.look_every, self._look)
        watch.clock = reactor
        watch.setName("watch")
        watch.setServiceParent(self)

    def startService(self) -> None:
        """Start, and say so where anybody may use this server, or see its tokens."""
        super().startService()
        self._warn_of_expiry()
        if not self.listener.is_public:
            return
        if not self.tokens:
            self.log.warn(
                "ANYBODY WHO REACHES {address} CAN REGISTER HERE, under any ID that is free: there are no tokens; give "
                "this server --valid-tokens and the others --token, or listen on 127.0.0.1 only",
                address=self.listener.local_address,
            )
        elif self._credentials is None:
            self.log.warn(
                "TOKENS COME TO {address} UNENCRYPTED, for all to read on the way: there is no TLS; give this server "
                "--tls-cert-file and --tls-key-file, or listen on 127.0.0.1 only, behind a proxy that has TLS",
                address=self.listener.local_address,
            )

    # Connections

    def has_room_for(self, address: IAddress | None) -> bool:
        """Whether one more connection may come from there."""
        count = self._per_address[neighbourhood(address)] if address is not None else 0
        if not 0 < self.settings.max_per_address <= count:
            return True
        self.lines.warn(
            "a connection from {peer} is closed: there are {count} (--max-per-address)",
            peer=show_address(address) if address is not None else "",
            count=count,
        )
        return False

    def connection_made(self, protocol: SignalProtocol) -> None:
        """There is one more."""
        if len(self._strangers) >= MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abort()
        self._connections.add(protocol)
        self._strangers[protocol] = None
        if protocol.neighbourhood:
            self._per_address[protocol.neighbourhood] += 1

    def connection_known(self, protocol: SignalProtocol) -> None:
        """It has said who it is."""
        self._strangers.pop(protocol, None)

    def connection_lost(self, protocol: SignalProtocol) -> None:
        """It is closed."""
        self.switchboard.left(protocol.party)
        self._connections.discard(protocol)
        self._strangers.pop(protocol, None)
        if protocol.neighbourhood:
            self._per_address[protocol.neighbourhood] -= 1
            if not self._per_address[protocol.neighbourhood]:
                del self._per_address[protocol.neighbourhood]

    def _look(self) -> None:
        self.lines.tick()
        now = self.reactor.seconds()
        for protocol in list(self._connections):
            protocol.look(now)
        if self._credentials is None:
            return
        try:
            if self._credentials.refresh():
                self.log.info("the TLS files have changed; new connections use them")
                self._warn_of_expiry()
        except ConfigError as error:
            self.log.warn("the TLS files cannot be used, and those from before stay in use: {why}", why=error)

    def _warn_of_expiry(self) -> None:
        if self._credentials is not None and self._credentials.expiry:
            self.log.warn("{warning}", warning=self._credentials.expiry)

    # The end

    def stopService(self) -> Deferred[None]:
        """Listen no more, tell everybody, and close."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.listener.stop_listening()
        for protocol in list(self._connections):
            protocol.go_away()
        patience = self.reactor.seconds() + self.times.close
        while self._connections and self.reactor.seconds() < patience:
            await deferLater(self.reactor, 0.01)
        for protocol in list(self._connections):
            protocol.abort()
        while self._connections:
            await deferLater(self.reactor, 0.01)
        await super().stopService()
