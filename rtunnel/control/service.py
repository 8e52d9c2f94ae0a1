"""The services that answer at the control socket, and at the status port."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorUNIX
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel import __version__
from rtunnel.control.actions.perform import Actions
from rtunnel.control.guard import Guard
from rtunnel.control.page.events import Events
from rtunnel.control.recent import Recent
from rtunnel.control.settings import StatusSettings
from rtunnel.control.sockets import control_directory, prepare
from rtunnel.errors import ConfigError, RtunnelError, StartupError
from rtunnel.relay.inheritance import Handed
from rtunnel.upkeep.listening import Listener

#: The version of what is answered; see docs/control.rst.
VERSION = 1
#: Connections at once, at the socket and at the port.
MOST_CONNECTIONS = 32

#: Returns what the service does now, with all that is wrong under ``problems``.
Look = Callable[[], dict[str, Any]]


class _Factory(Factory):
    """Makes the site once somebody asks: most processes are never asked, and its modules take memory."""

    noisy = False

    def __init__(
        self, status: Look, events: Events, guard: Guard | None = None, actions: Actions | None = None
    ) -> None:
        self._status = status
        self._events = events
        self._guard = guard
        self._actions = actions
        self._site: Any = None

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        if self._site is None:
            from rtunnel.control.site import build_site

            self._site = build_site(self._status, self._events, MOST_CONNECTIONS, self._guard, self._actions)
            self._site.doStart()
        protocol: Protocol | None = self._site.buildProtocol(addr)
        return protocol

    def abort_all(self) -> None:
        """End all connections."""
        if self._site is not None:
            self._site.channels.abort()

    def stopFactory(self) -> None:
        site, self._site = self._site, None
        if site is not None:
            site.doStop()


class ControlService(MultiService):
    """Listens on the control socket of this process, and on the status port if there is one.

    Without the socket, everything else runs on.

    :param service: the name of the service, such as ``rtunnel-server``.
    :param look: see :data:`Look`.
    :param actions: what the process can be asked to do, at the socket and nowhere else.
    :param environ: the environment, which says where the socket is.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        service: str,
        look: Look,
        settings: StatusSettings,
        actions: Actions,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        super().__init__()
        self.setName("control")
        self._reactor = reactor
        self._service = service
        self._look = look
        self._actions = actions
        self._environ = environ
        self._recent = Recent()
        self._started_at = 0.0
        self._port: IListeningPort | None = None
        self._events = Events(reactor, self.status)
        #: Whether the process is about to end, though its service does not know of it yet.
        self.is_leaving: Callable[[], bool] = lambda: False
        # The process id of the one that has taken the place of this one.
        self._successor: int | None = None
        self._status = settings
        self._status_port = self._build_port(settings)

    def _build_port(self, settings: StatusSettings) -> IService | None:
        """Make the status port, if there is to be one, and listen if this service runs.

        :raises StartupError: it cannot listen.
        """
        if settings.listen is None:
            return None
        guard = Guard(settings.token, is_secure=settings.cert is not None)
        factory = _Factory(self.status, self._events, guard)
        port: IService
        if settings.cert is None:
            port = Listener(self._reactor, settings.listen, factory, "status port", "--status-listen")
        else:
            # What it imports takes memory.
            from rtunnel.control.port import HttpsPort

            port = HttpsPort(self._reactor, settings, factory)
        port.name = None  # for a while there may be two
        try:
            port.setServiceParent(self)
        except StartupError:
            port.disownServiceParent()
            raise
        return port

    async def use(self, settings: StatusSettings) -> None:
        """Let the status be read elsewhere, or by others. Whoever reads it has to connect again.

        :raises RtunnelError: that cannot be done, so nothing changes.
        """
        if settings == self._status:
            return
        before = self._status_port
        if settings.listen == self._status.listen:
            new = await self._build_in_place_of(before, settings)
        else:
            try:
                new = self._build_port(settings)
            except StartupError:
                if not _may_be_in_the_way(self._status, settings):
                    raise
                new = await self._build_in_place_of(before, settings)
            else:
                await _closed(before)
        self._status_port, self._status = new, settings

    async def _build_in_place_of(self, before: Any, settings: StatusSettings) -> IService | None:
        """Close our own port, which is in the way, and make another. If that fails, make the one of before again."""
        await _closed(before)
        try:
            return self._build_port(settings)
        except RtunnelError:
            self._status_port = self._build_port(self._status)
            raise

    def handed(self) -> Iterator[Handed]:
        """Yield the sockets that a successor gets.

        :raises ConfigError: one of them cannot be handed over.
        """
        listener = self._listener
        if listener is not None:
            yield from listener.handed()

    def leave(self, successor: int) -> None:
        """Say from now on that another process has taken the place of this one, and leave it the status port.

        :param successor: its process id.
        """
        self._successor = successor
        listener = self._listener
        if listener is not None:
            Deferred.fromCoroutine(listener.stop_listening())

    @property
    def _listener(self) -> Listener | None:
        port: Any = self._status_port
        listener: Listener | None = getattr(port, "listener", port)
        return listener

    def startService(self) -> None:
        """Listen, now that privileges are given up."""
        super().startService()
        self._started_at = self._reactor.seconds()
        self._recent.start()
        if not IReactorUNIX.providedBy(self._reactor):
            self._failed("this system has no UNIX sockets")
            return
        try:
            path = prepare(control_directory(self._environ), self._service)
        except ConfigError as error:
            self._failed(str(error))
            return
        endpoint = UNIXServerEndpoint(self._reactor, str(path), mode=0o600)
        factory = _Factory(self.status, self._events, actions=self._actions)
        endpoint.listen(factory).addCallbacks(self._listening, self._cannot_listen)

    def _listening(self, port: IListeningPort) -> None:
        self._port = port

    def _cannot_listen(self, failure: Failure) -> None:
        self._failed(str(failure.value))

    def _failed(self, why: str) -> None:
        self.log.info("'rtunnel status' cannot ask this process, as it has no control socket: {why}", why=why)

    def status(self) -> dict[str, Any]:
        """Return the answer to ``GET /v1/status``."""
        found = self._look()
        # One that only lets its visitors finish has no link any more, and that is as it should be.
        problems = found.pop("problems") if self._successor is None else []
        return {
            "version": VERSION,
            "service": self._service,
            "release": __version__,
            "pid": os.getpid(),
            "up_seconds": round(self._reactor.seconds() - self._started_at, 3),
            "successor": self._successor,
            "ok": not problems,
            "ready": found.pop("ready") and not self.is_leaving(),
            "problems": problems,
            **found,
            "warnings_total": dict(self._recent.counts),
            "warnings": [
                {"at": round(each.at, 3), "level": each.level, "text": each.text} for each in self._recent.lines
            ],
        }

    def stopService(self) -> Deferred[None]:
        """Listen no more."""
        with suppress(ValueError):
            self._recent.stop()
        port, self._port = self._port, None
        stopping: Deferred[Any] = maybeDeferred(super().stopService)
        if port is not None:
            stopping.addCallback(lambda _: port.stopListening())
        return stopping


def _may_be_in_the_way(before: StatusSettings, settings: StatusSettings) -> bool:
    """Return whether the port of before may be why another cannot listen, as 127.0.0.1:7070 is in the way of :7070."""
    listens = before.listen.number if before.listen is not None else None
    return listens is not None and settings.listen is not None and settings.listen.number == listens


async def _closed(port: Any) -> None:
    if port is not None:
        await maybeDeferred(port.disownServiceParent)
