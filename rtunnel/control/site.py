"""The control socket's HTTP: JSON, and nothing that a browser would run (docs/control.rst)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

#: Seconds without a byte after which a connection is closed.
TIMEOUT = 60.0


def _answer(request: Any, status: int, value: object) -> bytes:
    request.setResponseCode(status)
    for name, text in (
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Server", "rtunnel"),
    ):
        request.setHeader(name, text)
    return json.dumps(value, ensure_ascii=True).encode() + b"\n"


class _View(Resource):
    """What GET returns."""

    isLeaf = True

    def __init__(self, view: Callable[[], tuple[int, object]]) -> None:
        super().__init__()
        self._view = view

    def render_GET(self, request: Request) -> bytes:
        if request.postpath not in ([], [b""]):  # type: ignore[attr-defined]
            return _answer(request, 404, {"error": "there is nothing here; see /v1/status"})
        return _answer(request, *self._view())

    def render(self, request: Request) -> bytes:
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            return _answer(request, 405, {"error": "GET and HEAD are all that is done here"})
        return self.render_GET(request)


class _Nothing(Resource):
    """All other paths."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        return _View(lambda: (404, {"error": "there is nothing here; see /v1/status"}))

    def render(self, request: Request) -> bytes:
        return _answer(request, 404, {"error": "there is nothing here; see /v1/status"})


class _Site(Site):
    """A site with a bound on its connections, and without a log of its own."""

    noisy = False
    displayTracebacks = False

    def __init__(self, root: Resource, most: int) -> None:
        super().__init__(root, timeout=TIMEOUT)
        self._most = most
        self._connections: set[Any] = set()

    def log(self, request: Request) -> None:
        """Log nothing: whoever watches asks once a second."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self._connections) >= self._most:
            return None
        protocol: Any = super().buildProtocol(addr)
        self._connections.add(protocol)
        lost = protocol.connectionLost

        def connection_lost(*arguments: Any) -> None:
            self._connections.discard(protocol)
            lost(*arguments)

        protocol.connectionLost = connection_lost
        return protocol

    def stopFactory(self) -> None:
        """Close what is open."""
        super().stopFactory()
        for protocol in list(self._connections):
            protocol.transport.abortConnection()


def build_site(status: Callable[[], dict[str, Any]], most: int) -> Site:
    """Return the site.

    :param status: returns what ``/v1/status`` answers.
    :param most: connections at once.
    """

    def health() -> tuple[int, object]:
        found = status()
        return (200 if found["ok"] else 503), {"ok": found["ok"], "problems": found["problems"]}

    root, first = _Nothing(), _Nothing()
    root.putChild(b"v1", first)
    first.putChild(b"status", _View(lambda: (200, status())))
    first.putChild(b"health", _View(health))
    return _Site(root, most)
