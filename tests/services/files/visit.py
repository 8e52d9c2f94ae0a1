"""A connection to a directory that is served, in memory."""

from __future__ import annotations

import io
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from rtunnel.services.files.site import FileSite


class _File(io.BytesIO):
    def close(self) -> None:
        """Do nothing: there may be more behind a response."""


class _Socket:
    def __init__(self, data: bytes) -> None:
        self.file = _File(data)

    def makefile(self, _mode: str) -> io.BytesIO:
        return self.file


class _Transport(StringTransport):
    def unregisterProducer(self) -> None:
        """Like Twisted's own, which let others do so twice."""
        self.producer = None


class Got:
    """A response.

    :ivar rest: what came behind it.
    """

    def __init__(self, data: bytes, method: str = "GET") -> None:
        sock: Any = _Socket(data)
        response = HTTPResponse(sock, method=method)
        response.begin()
        self.status = response.status
        self.fields = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()
        self.rest = sock.file.read()


class Visit:
    """One connection.

    :ivar clock: provides the time.
    """

    def __init__(self, root: Path, prefix: tuple[bytes, ...] = (), site: FileSite | None = None) -> None:
        self.site = site or FileSite(Clock(), root, prefix)
        self.clock: Clock = self.site.reactor
        self.channel = self.site.buildProtocol(None)
        self.transport: Any = _Transport()
        self.is_open = True
        self.channel.makeConnection(self.transport)

    def vanish(self) -> None:
        """Lose the connection."""
        self.is_open = False
        self.channel.connectionLost(Failure(ConnectionDone()))

    def send(self, data: bytes) -> None:
        """Send bytes, and let nothing happen yet."""
        self.channel.dataReceived(data)

    def take(self) -> bytes:
        """Let all happen that can, and return what has come since the last time."""
        self.clock.advance(0)
        data: bytes = self.transport.value()
        self.transport.clear()
        if self.is_open and self.transport.disconnecting:
            self.vanish()
        return data

    def step(self) -> None:
        """Let happen what is due, and nothing that comes of it."""
        due: list[Any] = [call for call in self.clock.getDelayedCalls() if call.getTime() <= self.clock.seconds()]
        for call in due:
            func, args = call.func, call.args
            call.cancel()
            func(*args)

    def ask(self, path: str, *fields: str, method: str = "GET", body: bytes = b"") -> Got:
        """Send a request, and return what comes back."""
        head = "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: x", *fields, ""))
        self.send(head.encode("latin-1") + body)
        return Got(self.take(), method)


def ask(root: Path, path: str, *fields: str, method: str = "GET", body: bytes = b"") -> Got:
    """Send one request over a connection of its own."""
    return Visit(root).ask(path, *fields, method=method, body=body)
