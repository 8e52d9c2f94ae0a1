"""A health check by hand: its clock, and a service that answers what a test says."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import Logger

from rtunnel.addresses import DialAddress
from rtunnel.services.health import HealthWatch
from rtunnel.services.health_settings import HealthSettings
from rtunnel.services.watch import MOST_AT_ONCE
from rtunnel.upkeep.log_limiter import LogLimiter
from tests.services.test_service_watch import Endpoint

HTTP = HealthSettings("/healthz")


class HttpEndpoint(Endpoint):
    """Connects what asks by HTTP, and answers."""

    def connect(self, factory: Any) -> Any:
        self.factory = factory
        return super().connect(factory)

    def answer(self, *pieces: bytes) -> Any:
        protocol = self.factory.buildProtocol(None)
        transport: Any = StringTransport()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        self.attempts[-1].callback(protocol)
        for piece in pieces:
            protocol.dataReceived(piece)
        return transport


class Checked:
    """A health check, its clock and its service."""

    log = Logger()

    def __init__(
        self,
        settings: HealthSettings | None = None,
        turns: Any = None,
        address: str = "127.0.0.1:80",
        header: bytes = b"",
    ) -> None:
        self.clock = Clock()
        self.endpoint = HttpEndpoint()
        turns = turns or DeferredSemaphore(MOST_AT_ONCE)
        self.watch = HealthWatch(self.clock, DialAddress.parse(address), settings or HealthSettings(), turns, header)
        self.watch._endpoint = self.endpoint  # type: ignore[assignment]
        self.changes: list[bool] = []
        self.watch.on_change = lambda: self.changes.append(self.watch.is_ready)

    def start(self) -> None:
        limiter = LogLimiter(self.log, self.clock)
        self.watch.start(self.log, limiter, "published; the service", "out until it passes", tunnel="web", local="here")

    def wait(self) -> float:
        """Let the time pass until the next check begins; return how long that was."""
        before, began = len(self.endpoint.attempts), self.clock.seconds()
        while len(self.endpoint.attempts) == before:
            call = min(self.clock.getDelayedCalls(), key=lambda call: call.getTime())
            self.clock.advance(call.getTime() - self.clock.seconds())
        seconds: float = self.clock.seconds() - began
        return seconds

    def next(self, what: str) -> None:
        """Let the next check have a result: ``accept`` or ``refuse``, or a status."""
        self.wait()
        self.result(what)

    def result(self, what: str) -> None:
        if what.isdecimal():
            self.endpoint.answer(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % int(what))
        else:
            getattr(self.endpoint, what)()

    def stop(self) -> None:
        self.watch.stop()
        assert not self.clock.getDelayedCalls()
