"""The service that answers at the control socket."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorUNIX
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel import __version__
from rtunnel.control.recent import Recent
from rtunnel.control.sockets import control_directory, prepare
from rtunnel.errors import ConfigError

#: The version of what is answered; see docs/control.rst.
VERSION = 1
#: Connections at once.
MOST_CONNECTIONS = 32

#: Returns what the service does now, with all that is wrong under ``problems``.
Look = Callable[[], dict[str, Any]]


class _Factory(Factory):
    """Makes the site once somebody asks: most processes are never asked, and its modules take memory."""

    noisy = False

    def __init__(self, control: ControlService) -> None:
        self._control = control
        self._site: Any = None

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        if self._site is None:
            from rtunnel.control.site import build_site

            self._site = build_site(self._control.status, MOST_CONNECTIONS)
            self._site.doStart()
        protocol: Protocol | None = self._site.buildProtocol(addr)
        return protocol

    def stopFactory(self) -> None:
        site, self._site = self._site, None
        if site is not None:
            site.doStop()


class ControlService(Service):
    """Listens on the control socket of this process. If it cannot, everything else runs without it.

    :param service: the name of the service, such as ``rtunnel-server``.
    :param look: see :data:`Look`.
    :param environ: the environment, which says where the socket is.
    """

    log = Logger()

    def __init__(self, reactor: Any, service: str, look: Look, environ: Mapping[str, str] = os.environ) -> None:
        self.setName("control")
        self._reactor = reactor
        self._service = service
        self._look = look
        self._environ = environ
        self._recent = Recent()
        self._started_at = 0.0
        self._port: IListeningPort | None = None

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
        endpoint.listen(_Factory(self)).addCallbacks(self._listening, self._cannot_listen)

    def _listening(self, port: IListeningPort) -> None:
        self._port = port

    def _cannot_listen(self, failure: Failure) -> None:
        self._failed(str(failure.value))

    def _failed(self, why: str) -> None:
        self.log.info("'rtunnel status' cannot ask this process, as it has no control socket: {why}", why=why)

    def status(self) -> dict[str, Any]:
        """Return the answer to ``GET /v1/status``."""
        found = self._look()
        problems = found.pop("problems", [])
        return {
            "version": VERSION,
            "service": self._service,
            "release": __version__,
            "pid": os.getpid(),
            "up_seconds": round(self._reactor.seconds() - self._started_at, 3),
            "ok": not problems,
            "problems": problems,
            **found,
            "warnings": [
                {"at": round(each.at, 3), "level": each.level, "text": each.text} for each in self._recent.lines
            ],
        }

    def stopService(self) -> Deferred[None] | None:
        """Listen no more."""
        super().stopService()
        with suppress(ValueError):
            self._recent.stop()
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None
