"""What is answered over HTTP, at the control socket and at the status port (docs/control.rst)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web import server
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from rtunnel.control.actions.perform import MOST_BODY, Actions, failed, perform
from rtunnel.control.channels import TIMEOUT, Channel, Channels
from rtunnel.control.guard import CHALLENGE, Guard
from rtunnel.control.page.content import load
from rtunnel.control.page.events import Events

JSON, TEXT = "application/json", "text/plain; charset=utf-8"
HTML, EVENTS = "text/html; charset=utf-8", "text/event-stream"
#: Of Prometheus' text format.
METRICS = "text/plain; version=0.0.4; charset=utf-8"
_NOTHING = "there is nothing here; see /, /v1/status, /v1/events, /v1/health, /metrics, /healthz, /readyz"

#: Status code, type, body.
Answer = tuple[int, str, bytes]
View = Callable[[], Answer]


def _json(status: int, value: object) -> Answer:
    return status, JSON, json.dumps(value).encode() + b"\n"


def _error(status: int, why: str) -> Answer:
    return _json(status, {"error": why})


class _Request(server.Request):
    """A request whose body, which nobody asked for, is dropped and does not fill the disk."""

    #: The longest body that is kept, in bytes.
    most = 0
    #: The length of the body.
    length = 0

    content: io.BytesIO

    def gotLength(self, length: int | None) -> None:
        self.content = io.BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, or drop it."""
        self.length += len(data)
        if self.length <= self.most:
            self.content.write(data)


class _ActionRequest(_Request):
    """A request that may ask for an action."""

    most = MOST_BODY


class _Root(Resource):
    """Answers everything, by the whole path."""

    isLeaf = True

    def __init__(
        self,
        views: Mapping[bytes, View],
        events: Events,
        policy: str,
        guard: Guard | None,
        actions: Actions | None,
    ) -> None:
        super().__init__()
        self._views = views
        self._actions = actions
        self._events = events
        self._policy = policy
        self._guard = guard

    def render(self, request: Any) -> bytes | int:
        if request.method == b"POST" and self._actions is not None:
            Deferred.fromCoroutine(self._act(request, self._actions))
            return NOT_DONE_YET
        code, kind, body = self._answer(request)
        self._head(request, code, kind)
        if kind == EVENTS and request.method == b"GET":
            self._events.open(request)
            return NOT_DONE_YET
        return body

    def _head(self, request: Request, code: int, kind: str) -> None:
        request.setResponseCode(code)
        for name, value in (
            ("Content-Type", kind),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", self._policy),
            ("Server", "rtunnel"),
        ):
            request.setHeader(name, value)

    async def _act(self, request: Any, actions: Actions) -> None:
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        code, kind, body = await self._done(request, actions)
        if not gone:
            self._head(request, code, kind)
            request.setHeader("Content-Length", str(len(body)))
            request.write(body)
            request.finish()

    async def _done(self, request: Any, actions: Actions) -> Answer:
        path = request.uri.partition(b"?")[0]
        action = actions.get(path.removeprefix(b"/v1/").decode("latin-1")) if path.startswith(b"/v1/") else None
        if action is None:
            known = ", ".join(f"/v1/{name}" for name in actions) or "nothing"
            return _json(405 if path in self._views else 404, failed(f"this process takes POST at {known}"))
        if (request.getHeader(b"content-type") or b"").partition(b";")[0].strip().lower() != JSON.encode():
            return _json(400, failed(f"the body must be JSON, with Content-Type: {JSON}"))
        if request.length > request.most:
            return _json(
                413,
                failed(f"this is too long: the body has {request.length:,} bytes, and {request.most:,} is the most"),
            )
        return _json(*await perform(action, request.content.getvalue()))

    def _answer(self, request: Request) -> Answer:
        if self._guard is not None:
            code, why = self._guard.why_not(request.getHeader(b"host"), request.getHeader(b"authorization"))
            if code:
                if code == 401:
                    request.setHeader("WWW-Authenticate", CHALLENGE)
                return _error(code, why)
            channel: Any = request.channel
            channel.let_in()
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            return _error(405, "GET and HEAD are all that is done here")
        view = self._views.get(request.uri.partition(b"?")[0])
        return view() if view is not None else _error(404, _NOTHING)


class StatusSite(Site):
    """A site with a bound on its connections, and without a log of its own.

    :ivar channels: the connections.
    """

    noisy = False
    displayTracebacks = False
    protocol: Any = Channel

    def __init__(self, root: Resource, channels: Channels, request: type[_Request]) -> None:
        super().__init__(root, requestFactory=request, timeout=TIMEOUT)
        self.channels = channels

    def log(self, request: Request) -> None:
        """Log nothing: whoever watches asks once a second."""

    def stopFactory(self) -> None:
        """Close what is open."""
        super().stopFactory()
        self.channels.abort()


def build_site(
    status: Callable[[], dict[str, Any]],
    events: Events,
    most: int,
    guard: Guard | None = None,
    actions: Actions | None = None,
) -> StatusSite:
    """Return the site.

    :param status: returns what ``/v1/status`` answers.
    :param events: sends the same for ``/v1/events``.
    :param most: connections at once.
    :param guard: who may ask; None: whoever can connect.
    :param actions: what the process can be asked to do; None: nothing can be asked for here.
    """

    def health() -> Answer:
        found = status()
        return _json(200 if found["ok"] else 503, {"ok": found["ok"], "problems": found["problems"]})

    def ready() -> Answer:
        is_ready = status()["ready"]
        return (200, TEXT, b"ready\n") if is_ready else (503, TEXT, b"not ready\n")

    def metrics() -> Answer:
        # Most processes are never asked.
        from rtunnel.control.metrics import render

        return 200, METRICS, render(status())

    def stream() -> Answer:
        if events.is_full:
            return _error(503, "as many as may are reading already; ask /v1/status")
        return 200, EVENTS, b""

    page, policy = load()
    views: dict[bytes, View] = {
        b"/": lambda: (200, HTML, page),
        b"/v1/events": stream,
        b"/v1/status": lambda: _json(200, status()),
        b"/v1/health": health,
        b"/healthz": lambda: (200, TEXT, b"ok\n"),
        b"/readyz": ready,
        b"/metrics": metrics,
    }
    root = _Root(views, events, policy, guard, actions)
    channels = Channels(most, has_strangers=guard is not None)
    return StatusSite(root, channels, _Request if actions is None else _ActionRequest)
