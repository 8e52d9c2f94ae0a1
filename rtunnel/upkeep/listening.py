"""Listening sockets as services: bound before privileges are dropped, and fatal at start if they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.addresses import ListenAddress
from rtunnel.errors import StartupError
from rtunnel.relay.sockets import is_local, show_address
from rtunnel.upkeep.accepting import rest_when_full


def why_not_listening(error: BaseException | None) -> str:
    """The system's own words for a failed ``listen``."""
    if isinstance(error, CannotListenError) and isinstance(error.socketError, OSError):
        return error.socketError.strerror or str(error.socketError)
    return str(error)


class Listener(Service):
    """One listening socket for the life of the process.

    :param what: as logs and errors call it, such as ``control port``.
    :param option: the option to change where it cannot listen.
    :param on_listening: called with the port.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: ListenAddress,
        factory: IProtocolFactory,
        what: str,
        option: str,
        on_listening: Callable[[IListeningPort], None] = lambda _port: None,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._factory = factory
        self._what = what
        self._option = option
        self._on_listening = on_listening
        self._listening: Deferred[IListeningPort] | None = None
        self._port: IListeningPort | None = None
        self.setName(what)

    @property
    def local_address(self) -> str:
        """``host:port`` that it listens on, with the real port where 0 was asked for; the setting until it listens."""
        return show_address(self._port.getHost()) if self._port is not None else str(self._address)

    @property
    def is_public(self) -> bool:
        """It can be reached from other machines."""
        return self._port is not None and not is_local(self._port.getHost())

    def privilegedStartService(self) -> None:
        """Bind. See :exc:`StartupError`."""
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """Bind, unless that is done."""
        super().startService()
        self._listen()

    def _listen(self) -> None:
        if self._listening is not None:
            return
        failures: list[Failure] = []
        self._listening = self._address.endpoint(self._reactor).listen(self._factory)
        self._listening.addCallbacks(self._bound, failures.append)
        if failures:
            raise StartupError(
                f"cannot listen on {self._address} ({self._what}): {why_not_listening(failures[0].value)}; "
                f"end what holds it, or choose another address with {self._option}"
            )

    def _bound(self, port: IListeningPort) -> IListeningPort:
        self._port = port
        rest_when_full(port)
        self._on_listening(port)
        self.log.info("{what} listening on {address}", what=self._what, address=show_address(port.getHost()))
        return port

    async def stop_listening(self) -> None:
        """Accept no more; what was accepted goes on."""
        port, self._port = self._port, None
        if port is not None:
            stopped = port.stopListening()
            if stopped is not None:
                await stopped

    def stopService(self) -> Deferred[None]:
        """Accept no more."""
        super().stopService()
        return Deferred.fromCoroutine(self.stop_listening())
