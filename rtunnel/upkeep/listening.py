"""Listening sockets as services: bound before privileges are dropped. If one cannot be bound, the start fails."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet import tcp
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.addresses import BACKLOG, ListenAddress
from rtunnel.endpoint_strings import split_description
from rtunnel.errors import ConfigError, StartupError
from rtunnel.reasons import cannot_listen
from rtunnel.relay.bare_port import give_sockets
from rtunnel.relay.inheritance import Handed, adopt, inheritance, may_be_handed
from rtunnel.relay.sockets import format_address, is_local
from rtunnel.upkeep.accepting import (
    accept_connections,
    pause_when_full,
    refuse_connections,
    refuses_already,
    step_aside,
    step_back,
)
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
        self._users_factory = factory
        self._factory = self._factory_for(address)
        self._what = what
        self._option = option
        self._listening: Deferred[IListeningPort] | None = None
        self._port: IListeningPort | None = None
        self._is_open = is_open
        # Clients decide how often a port opens and closes.
        self._log_limiter = LogLimiter(self.log, reactor)
        self.setName(what)

    def _factory_for(self, address: ListenAddress) -> IProtocolFactory:
        return ProxiedFactory(self._reactor, self._users_factory) if address.is_proxied else self._users_factory

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
        inherited = inheritance.take(self._heirloom)
        if inherited is not None:
            port = adopt(self._reactor, inherited, self._factory)
            if not self._address.description.startswith("systemd"):
                # So it may be closed; see refuse_connections().
                port.port, port.backlog = port.getHost().port, BACKLOG
            self._listening = succeed(port)
            self._is_open = not refuses_already(port)
            self._bound(port)
            return
        failures = self._try_to_listen()
        if failures and len(inheritance):
            # What is left for other addresses may be in the way, as 127.0.0.1:7000 is in that of all.
            inheritance.close()
            failures = self._try_to_listen()
        if failures:
            raise StartupError(cannot_listen(self._address, self._what, self._option, failures[0].value))

    def _try_to_listen(self) -> list[Failure]:
        failures: list[Failure] = []
        self._listening = self._address.endpoint(self._reactor).listen(self._factory)
        self._listening.addCallbacks(self._bound, failures.append)
        return failures

    def _bound(self, port: IListeningPort) -> IListeningPort:
        self._port = port
        pause_when_full(port)
        give_sockets(port, self._factory)
        if refuses_already(port):
            port.socket.refuses = True  # type: ignore[attr-defined]
            port.stopReading()  # type: ignore[attr-defined]
            self._say("{what} {address} is closed until somebody serves it", self.log)
        elif self._is_open or not refuse_connections(port):
            self._is_open = True
            self._say("{what} listening on {address}", self.log)
        else:
            self._say("{what} {address} is closed until somebody serves it", self.log)
        return port

    @property
    def is_open(self) -> bool:
        """Whether connections are accepted, as far as that is decided here; see :meth:`refuse`."""
        return self._is_open

    @property
    def _heirloom(self) -> str:
        """The name under which a successor takes the socket, if its settings have it listen there too."""
        return f"{self._what} {self._address.description}"

    def handed(self) -> Iterator[Handed]:
        """Yield what a successor gets.

        :raises ConfigError: this socket cannot be handed over.
        """
        port: Any = self._port
        if port is None:
            return
        if not may_be_handed(port):
            raise ConfigError(f"the {self._what} {self._address} cannot be handed over, as it is not a plain TCP port")
        yield Handed(self._heirloom, port.fileno(), port)

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

    async def move(self, address: ListenAddress) -> None:
        """Listen on another address, and then no more on that of before. Accepted connections continue.

        :raises StartupError: it cannot listen there, so nothing changes.
        """
        if address == self._address:
            return
        before: Any = self._port
        factory = self._factory_for(address)
        if before is not None and _path_of(address) == _path_of(self._address) != "":
            await self._listen_at_own_path(before, address, factory)
            return
        listening = address.endpoint(self._reactor).listen(factory)
        try:
            port = await listening
        except Exception as error:
            listening = self._listen_in_place_of(before, address, factory, error)
            port = await listening
        self._address, self._factory, self._listening = address, factory, listening
        self._bound(port)
        if before is not None:
            if self._is_open and isinstance(before, tcp.Port):
                before.doRead()  # what the system has already accepted
            await _closed(before)

    async def _listen_at_own_path(self, before: tcp.Port, address: ListenAddress, factory: IProtocolFactory) -> None:
        """Make our own UNIX socket anew, with another mode. Two cannot have one path."""
        before.doRead()  # what the system has already accepted
        self._port = None
        await _closed(before)
        wanted, failed = (address, factory), None
        for address, factory in (wanted, (self._address, self._factory)):
            try:
                listening = address.endpoint(self._reactor).listen(factory)
                port = await listening
            except Exception as error:
                failed = failed or StartupError(cannot_listen(address, self._what, self._option, error))
                continue
            self._address, self._factory, self._listening = address, factory, listening
            self._bound(port)
            break
        if failed is not None:
            raise failed

    def _listen_in_place_of(
        self, before: Any, address: ListenAddress, factory: IProtocolFactory, error: Exception
    ) -> Deferred[IListeningPort]:
        """Try again without our own port, which may be in the way, as 127.0.0.1:7000 is that of :7000.

        :param error: what has failed; it is raised as StartupError if this fails too.
        """
        is_in_use = isinstance(error, CannotListenError) and getattr(error.socketError, "errno", 0) == errno.EADDRINUSE
        number = getattr(before.getHost(), "port", None) if before is not None else None
        if is_in_use and number == getattr(error, "port", None) and step_aside(before):
            listening: Deferred[IListeningPort] = address.endpoint(self._reactor).listen(factory)
            failures: list[Failure] = []
            listening.addErrback(failures.append)
            if not failures:
                return listening
            step_back(before, accepts=self._is_open)
        raise StartupError(cannot_listen(address, self._what, self._option, error)) from None

    async def stop_listening(self) -> None:
        """Accept no more connections. Accepted ones continue."""
        port, self._port = self._port, None
        if port is not None:
            await _closed(port)

    def stopService(self) -> Deferred[None]:
        """Stop listening."""
        super().stopService()
        return Deferred.fromCoroutine(self.stop_listening())


def _path_of(address: ListenAddress) -> str:
    """Return the path of a UNIX socket; empty for other addresses."""
    (kind, *rest), _ = split_description(address.description)
    return rest[0] if kind == "unix" else ""


async def _closed(port: IListeningPort) -> None:
    stopped = port.stopListening()
    if stopped is not None:
        await stopped


async def moved(
    listener: Listener | None,
    address: ListenAddress | None,
    build: Callable[[ListenAddress], Listener],
    parent: MultiService,
) -> Listener | None:
    """Let *listener* listen on another address. Return what listens now.

    :param listener: None: there was none.
    :param address: None: there shall be none.
    :param build: makes one.
    :param parent: its parent, which runs.
    :raises StartupError: it cannot listen there, so nothing changes.
    """
    if address is None:
        if listener is not None:
            await maybeDeferred(listener.disownServiceParent)
        return None
    if listener is not None:
        await listener.move(address)
        return listener
    listener = build(address)
    try:
        listener.setServiceParent(parent)
    except StartupError:
        await maybeDeferred(listener.disownServiceParent)
        raise
    return listener
