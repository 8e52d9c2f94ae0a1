"""The streams to one service that carry requests: those in use, and those that wait for the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rtunnel.reverse.web.upstream import IOpener, Upstream

#: Streams to one service that may wait.
MOST_IDLE = 128
#: Seconds after which a stream that waits is closed.
IDLE = 55.0
#: Seconds that a service has to close its connection once it gets no more requests.
LINGER = 5.0
#: Requests that must not be sent twice take only a stream that has waited no longer than this, in seconds: services
#: close theirs after some time, and the news may be on the way.
FRESH = 1.0


class Upstreams:
    """The streams to one service.

    :param open_stream: makes another one.
    :param seconds: returns the time.
    :param on_lost: called with a stream that is over.
    :param may_keep: whether a stream may wait for another request.
    :param soon: see :class:`Upstream`.
    :param on_busy: called with how many streams carry a request now; None: nobody wants to know.
    :param build: makes the objects that stand for streams; see :class:`Upstream`.
    """

    def __init__(
        self,
        open_stream: IOpener,
        seconds: Callable[[], float],
        on_lost: Callable[[Upstream], None],
        may_keep: Callable[[Upstream], bool] = lambda _upstream: True,
        soon: Callable[[Callable[[], None]], None] = lambda call: call(),
        on_busy: Callable[[int], None] | None = None,
        build: Callable[..., Upstream] = Upstream,
    ) -> None:
        self._open = open_stream
        self._seconds = seconds
        self._on_lost = on_lost
        self._may_keep = may_keep
        self._soon = soon
        self._on_busy = on_busy
        self._build = build
        # The one that has waited for longest comes first.
        self._idle: dict[Upstream, None] = {}
        self._leaving: dict[Upstream, None] = {}
        self._all: set[Upstream] = set()
        self._former: set[Upstream] = set()
        self._service = 0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._all)

    @property
    def has_idle(self) -> bool:
        """Whether one waits for a request."""
        return bool(self._idle)

    def find(
        self, visitor: Any, *, prefix: str = "", may_repeat: bool, refused: Sequence[Upstream] = ()
    ) -> Upstream | None:
        """Return a stream for the next request, one that waits or a new one; None: the service cannot be reached now.

        :param visitor: on whose connection it has come.
        :param prefix: the key under which the request is counted.
        :param may_repeat: see :meth:`take`.
        :param refused: those by which it has not reached the service. There is no other service.
        """
        return None if refused else self.take(may_repeat=may_repeat) or self.open(visitor)

    def lead_to(self, service: int) -> None:
        """Send no more requests over the streams that there are, if they lead to another service than new ones do.

        :param service: another number than before, if it may be another service.
        """
        if service != self._service:
            self._service = service
            self._former = set(self._all)
            self._leave_idle()

    def take(self, *, may_repeat: bool) -> Upstream | None:
        """Return a stream that waits; None: there is none that would do.

        :param may_repeat: the request may be sent again over another stream if this one proves to be over.
        """
        if not self._idle:
            return None
        upstream = next(reversed(self._idle))
        if not may_repeat and self._seconds() - upstream.rests_since > FRESH:
            return None
        del self._idle[upstream]
        if self._on_busy is not None:
            self._count()
        return upstream

    def open(self, visitor: Any) -> Upstream | None:
        """Return a new stream, which may not be open yet; None: the service cannot be reached now.

        :param visitor: for whom it is.
        """
        upstream = self._build(self._free, self._lost, self._soon)
        self._all.add(upstream)
        if self._is_closed or not self._open(upstream, visitor) or upstream.is_over:
            self._all.discard(upstream)
            return None
        self._count()
        return upstream

    def _count(self) -> None:
        if self._on_busy is not None:
            self._on_busy(len(self._all) - len(self._idle) - len(self._leaving))

    def make_room(self) -> bool:
        """Close the stream that has waited for longest, at once; return False if none waits."""
        upstream = next(iter(self._idle), None)
        if upstream is not None:
            upstream.drop()
        return upstream is not None

    def _free(self, upstream: Upstream) -> None:
        upstream.rests_since = self._seconds()
        is_wanted = not self._is_closed and len(self._idle) < MOST_IDLE
        is_wanted = is_wanted and upstream not in self._former
        if upstream.is_reusable and is_wanted and self._may_keep(upstream):
            self._idle[upstream] = None
        else:
            self._leave(upstream)
        if self._on_busy is not None:
            self._count()

    def _leave(self, upstream: Upstream) -> None:
        self._leaving[upstream] = None
        upstream.leave(self._seconds())

    def _lost(self, upstream: Upstream) -> None:
        self._idle.pop(upstream, None)
        self._leaving.pop(upstream, None)
        self._all.discard(upstream)
        self._former.discard(upstream)
        self._count()
        self._on_lost(upstream)

    def tick(self) -> None:
        """Close what has waited for too long. Call this about once a second."""
        now = self._seconds()
        for upstream in list(self._idle):
            if now - upstream.rests_since < IDLE:
                break
            del self._idle[upstream]
            self._leave(upstream)
        for upstream in list(self._leaving):
            if upstream.left_at is not None and now - upstream.left_at < LINGER:
                break
            upstream.drop()

    def close(self) -> None:
        """Close those that wait, and the others once their answer is complete."""
        self._is_closed = True
        self._leave_idle()

    def _leave_idle(self) -> None:
        idle, self._idle = self._idle, {}
        for upstream in idle:
            self._leave(upstream)
