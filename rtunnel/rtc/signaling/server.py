"""``rtc-signal``: the server through which hosts and clients find each other.

    SignalServer
     +-- signaling port   a ServerProtocol for each connection, with TLS below it for WSS
     +-- watch            time-outs, pings, and the certificate's files
     +-- directory        what it has in common with the other nodes of a cluster

The :class:`~rtunnel.rtc.signaling.switchboard.Switchboard` keeps track of who is registered, and routes messages.
In a cluster, :class:`~rtunnel.rtc.signaling.crossing.Crossing` claims IDs, and passes messages on to other nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from rtunnel.cluster.memory import MemoryDirectory
from rtunnel.errors import ConfigError
from rtunnel.relay.sockets import QuietFactory
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.connections import Connections
from rtunnel.rtc.signaling.crossing import Crossing
from rtunnel.rtc.signaling.limits import TIMES, Times
from rtunnel.rtc.signaling.server_protocol import ServerFactory
from rtunnel.tls.web_server import WebCredentials, WebTlsFactory
from rtunnel.upkeep.listening import Listener
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory, default_memory
from rtunnel.upkeep.periodic import PeriodicService, do_all

#: More seconds than this between two looks at all connections, and the process was stopped.
STOPPED = 2.0


class _Door(QuietFactory):
    """Refuses connections beyond the limit for their address before they cost anything."""

    def __init__(self, connections: Connections, inner: IProtocolFactory) -> None:
        self._connections = connections
        self.inner = inner

    def buildProtocol(self, addr: Any) -> Any:
        return self.inner.buildProtocol(addr) if self._connections.has_room_for(addr) else None


class SignalServer(MultiService):
    """The server as a service.

    :param reactor: provides listening sockets and time.
    :param directory: that of the cluster, an :class:`~rtunnel.cluster.interface.IDirectory`; None: there is none. It
        starts and stops with this service.
    :raises ConfigError: the certificate or its key is missing or unusable, or an origin is malformed.
    """

    log = Logger()

    def __init__(self, reactor: Any, settings: SignalSettings, times: Times = TIMES, directory: Any = None) -> None:
        super().__init__()
        self.setName("rtc-signal")
        self.reactor = reactor
        self._times = times
        self._looked_at = reactor.seconds()
        self._log_limiter = LogLimiter(self.log, reactor)
        memory = Memory(settings.memory or default_memory(), reactor, self.log)
        self.factory = ServerFactory(reactor, settings, times, self._log_limiter, memory)
        self.connections = self.factory.connections
        self.switchboard = self.factory.switchboard
        self.directory = MemoryDirectory(reactor) if directory is None else directory
        self.crossing: Crossing | None = None
        if self.directory.is_cluster:
            may_try, limiter = self.factory.may_try, self._log_limiter
            self.crossing = Crossing(reactor, self.directory, self.switchboard, lambda: self.settings, limiter, may_try)
            self.switchboard.others = self.crossing
        self.directory.setServiceParent(self)
        self._credentials: WebCredentials | None = None
        self._door = _Door(self.connections, self.factory)
        self.use_certificate(settings)
        self.listener = Listener(reactor, settings.addr, self._door, "signaling port", "--addr")
        self.listener.setServiceParent(self)
        self.factory.descriptors.service().setServiceParent(self)
        PeriodicService(reactor, "watch", times.look_every, self._look).setServiceParent(self)

    @property
    def settings(self) -> SignalSettings:
        """The settings that new connections look at."""
        return self.factory.settings

    @settings.setter
    def settings(self, settings: SignalSettings) -> None:
        self.factory.settings = settings

    def use_certificate(self, settings: SignalSettings) -> None:
        """Let new connections have TLS with the certificate in *settings*, or no TLS.

        :raises ConfigError: it cannot be used, so nothing changes.
        """
        if (settings.cert is None) != (settings.key is None):
            raise ConfigError("TLS needs a certificate and its key; give both --tls-cert-file and --tls-key-file")
        if settings.cert is not None and settings.key is not None:
            self._credentials = WebCredentials(settings.cert, settings.key)
            self._door.inner = WebTlsFactory(self._credentials, self.factory, self.reactor)
        else:
            self._credentials = None
            self._door.inner = self.factory

    def startService(self) -> None:
        """Start, and warn if anybody can use this server or read its tokens."""
        super().startService()
        self.warn_if_open()

    def warn_if_open(self) -> None:
        """Warn if anybody can use this server or read its tokens."""
        if self._credentials is not None:
            self._credentials.warn_of_expiry(self.log)
        if not self.listener.is_public:
            return
        if not self.factory.tokens:
            self.log.warn(
                "ANYBODY WHO REACHES {address} CAN REGISTER HERE, under any ID that is free: there are no tokens; give "
                "this server --valid-tokens and the others --token, or listen on 127.0.0.1 only",
                address=self.listener.local_address,
            )
        elif self._credentials is None:
            self.log.warn(
                "TOKENS COME TO {address} UNENCRYPTED, readable by all on the way: there is no TLS; give this server "
                "--tls-cert-file and --tls-key-file, or listen on 127.0.0.1 only, behind a proxy that has TLS",
                address=self.listener.local_address,
            )

    def _look(self) -> None:
        now = self.reactor.seconds()
        was_stopped, self._looked_at = now - self._looked_at > STOPPED, now
        ticks: list[Callable[[], object]] = [partial(each.tick, now, was_stopped) for each in self.connections]
        if self.crossing is not None:
            ticks.append(self.crossing.claims.tick)
        do_all([self._log_limiter.tick, self.factory.memory.tick, self.factory.paces.go_on, *ticks, self.look_at_files])

    def look_at_files(self) -> bool:
        """Read the certificate again if it has changed. Return whether new connections use another one."""
        if self._credentials is None:
            return False
        before = self._credentials.now
        self._credentials.look(self.log, "the TLS files")
        return self._credentials.now is not before

    # Stopping

    def stopService(self) -> Deferred[None]:
        """Stop listening, tell all peers, and close their connections."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.listener.stop_listening()
        await self.connections.close(self.reactor, self._times.close)
        if self.crossing is not None:
            await self.crossing.finish(self._times.close)
        await super().stopService()
