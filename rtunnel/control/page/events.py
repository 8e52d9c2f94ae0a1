"""The status once a second, as server-sent events (docs/control.rst, "The interface")."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

if TYPE_CHECKING:
    # Most processes are never asked.
    from twisted.web.http import Request

#: Streams at once, of the socket and of the port together; so some connections are left for those who only ask once.
MOST_STREAMS = 16
#: Seconds between two events.
INTERVAL = 1.0
#: The part of the process's time that events may take: with thousands of tunnels they come less often.
MOST_TIME = 0.05
#: Seconds that a reader has to take what is sent.
PATIENCE = 10.0
#: Milliseconds after which a browser connects again.
RETRY = 2000


@implementer(IPushProducer)
class _Stream:
    """One reader. It is sent nothing as long as it has not taken what it was sent before.

    :ivar stuck_since: since when it takes nothing; None: it does.
    """

    def __init__(self, request: Request, clock: IReactorTime) -> None:
        self._request = request
        self._clock = clock
        self.stuck_since: float | None = None

    def write(self, data: bytes) -> None:
        self._request.write(data)

    def abort(self) -> None:
        transport: Any = self._request.channel.transport
        transport.abortConnection()

    def pauseProducing(self) -> None:
        if self.stuck_since is None:
            self.stuck_since = self._clock.seconds()

    def resumeProducing(self) -> None:
        self.stuck_since = None

    def stopProducing(self) -> None:
        """The connection is lost, as ``notifyFinish`` says too."""


class Events:
    """Sends the status to all who read it, and computes it once for all of them. Without readers it does nothing.

    :param status: returns what ``GET /v1/status`` answers.
    """

    def __init__(self, clock: IReactorTime, status: Callable[[], dict[str, Any]]) -> None:
        self._clock = clock
        self._status = status
        self._streams: set[_Stream] = set()
        self._next: IDelayedCall | None = None
        self._last = b""

    @property
    def is_full(self) -> bool:
        """Whether there are as many readers as there may be."""
        return len(self._streams) >= MOST_STREAMS

    def open(self, request: Request) -> None:
        """Answer a request by the status, now and from now on."""
        stream = _Stream(request, self._clock)
        self._streams.add(stream)
        request.notifyFinish().addBoth(self._gone, stream)
        request.registerProducer(stream, True)
        stream.write(b"retry: %d\n\n" % RETRY)
        if self._next is None:
            self._tick()
        else:
            stream.write(self._last)

    def _gone(self, _: object, stream: _Stream) -> None:
        self._streams.discard(stream)
        if not self._streams and self._next is not None:
            self._next.cancel()
            self._next = None
            self._last = b""

    def _tick(self) -> None:
        start = self._clock.seconds()
        self._last = b"data: %b\n\n" % json.dumps(self._status(), separators=(",", ":")).encode()
        took = self._clock.seconds() - start
        self._next = self._clock.callLater(max(INTERVAL, took / MOST_TIME), self._tick)
        for stream in list(self._streams):
            if stream.stuck_since is None:
                stream.write(self._last)
            elif start - stream.stuck_since >= PATIENCE:
                stream.abort()
