"""Listening sockets as services: bound before privileges are dropped. If one cannot be bound, the start fails."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.addresses import ListenAddress
from rtunnel.errors import StartupError
from rtunnel.reasons import cannot_listen
from rtunnel.relay.bare_port import give_sockets
from rtunnel.relay.sockets import format_address, is_local
from rtunnel.upkeep.accepting import accept_connections, pause_when_full, refuse_connections
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.proxied import ProxiedFactory


class Listener(Service):
    """One listening socket for the life of the process.

    :param what: its name in logs and errors, such as ``control port``.
    :param option: the option that errors suggest to change, such as ``--control-listen``.
    :param is_open: whether to accept connections from the beginning; see :meth:`refuse`.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: ListenAddress,
        factory: IProtocolFactory,
        what: str,
        option: str,
        *,
        is_open: bool = True,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._factory: IProtocolFactory = ProxiedFactory(reactor, factory) if address.is_proxied else factory
        self._what = what
        self._option = option
        self._listening: Deferred[IListeningPort] | None = None
        self._port: IListeningPort | None = None
        self._is_open = is_open
        # Clients decide how often a port opens and closes.
        self._log_limiter = LogLimiter(self.log, reactor)
        self.setName(what)

    @property
    def local_address(self) -> str:
        """The address that it listens on, with the real port if 0 was requested; before it listens, the setting."""
        return format_address(self._port.getHost()) if self._port is not None else str(self._address)

    @property
    def host(self) -> IAddress | None:
        """The address that it listens on; None before it does."""
        return self._port.getHost() if self._port is not None else None

    @property
    def is_public(self) -> bool:
        """Whether it can be reached from other machines."""
        return self._port is not None and not is_local(self._port.getHost())

    def privilegedStartService(self) -> None:
        """Bind the socket.

        :raises StartupError: it cannot.
        """
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """Bind the socket, unless :meth:`privilegedStartService` has done so.

        :raises StartupError: it cannot.
        """
        super().startService()
        self._listen()

    def _listen(self) -> None:
        if self._listening is not None:
            return
        failures: list[Failure] = []
        self._listening = self._address.endpoint(self._reactor).listen(self._factory)
        self._listening.addCallbacks(self._bound, failures.append)
        if failures:
            raise StartupError(cannot_listen(self._address, self._what, self._option, failures[0].value))

    def _bound(self, port: IListeningPort) -> IListeningPort:
        self._port = port
        pause_when_full(port)
        give_sockets(port, self._factory)
        if self._is_open or not refuse_connections(port):
            self._is_open = True
            self._say("{what} listening on {address}", self.log)
        else:
            self._say("{what} {address} is closed until somebody serves it", self.log)
        return port

    def _say(self, text: str, log: Logger | LogLimiter) -> None:
        log.info(text, what=self._what, address=self.local_address)

    def refuse(self) -> None:
        """Refuse connections until :meth:`accept`, where the system can, and keep the port. Accepted ones continue.

        A load balancer sees in this way that it should send nobody. Where it cannot be done (see
        :func:`~rtunnel.upkeep.accepting.refuse_connections`) the port stays open.
        """
        if self._port is not None and self._is_open and refuse_connections(self._port):
            self._is_open = False
            self._say("{what} {address} is closed: nobody serves it", self._log_limiter)

    def accept(self) -> None:
        """Accept connections, if they are refused now.

        :raises OSError: the system does not let us listen again.
        """
        if self._port is not None and not self._is_open:
            accept_connections(self._port)
            self._is_open = True
            self._say("{what} listening on {address}", self._log_limiter)

    async def stop_listening(self) -> None:
        """Accept no more connections. Accepted ones continue."""
        port, self._port = self._port, None
        if port is not None:
            stopped = port.stopListening()
            if stopped is not None:
                await stopped

    def stopService(self) -> Deferred[None]:
        """Stop listening."""
        super().stopService()
        return Deferred.fromCoroutine(self.stop_listening())
