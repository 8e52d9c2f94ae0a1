"""A stream in memory, without a reactor: both ends obey :class:`~rtunnel.relay.interfaces.IStream`."""

from __future__ import annotations

from collections import deque

from zope.interface import implementer

from rtunnel.relay.interfaces import IStream, IStreamUser

#: When this many bytes are queued at an end, its user is told to pause.
HIGH_WATER = 65536


@implementer(IStream)
class MemoryStream:
    """One end of a stream in memory; see :func:`memory_streams`.

    :param window: how many bytes the user of an end takes before it must deliver some.
    :ivar user: the user of this end.
    :ivar queued: bytes that were written at this end and for which the other end has no room.
    :ivar waiting: bytes that the user of this end has received and not yet delivered.
    :ivar delivered_count: bytes that the user of this end has delivered.
    """

    def __init__(self, window: int) -> None:
        self.user: IStreamUser | None = None
        self.other: MemoryStream = self
        self.waiting = 0
        self.delivered_count = 0
        self._window = window
        self.queued = 0
        self._queue: deque[bytes] = deque()
        self._paused = False
        self._finishing = False
        self._finished = False
        self._broken: tuple[str, str] | None = None
        self._over = False
        self._pumping = self._has_news = False

    def write(self, data: bytes) -> None:
        """See :class:`IStream`."""
        if data and not self._over and not self._finishing and self._broken is None:
            self._queue.append(data)
            self.queued += len(data)
            self._pump()

    def finish(self) -> None:
        """See :class:`IStream`."""
        if not self._over and self._broken is None:
            self._finishing = True
            self._pump()

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """See :class:`IStream`."""
        if behind and not self._over:
            self._broken = (code, message)
            self._pump()
        elif not self._over:
            self._end()
            if self.other.user is not None:
                self.other.user.was_reset(code, message)

    def delivered(self, count: int) -> None:
        """See :class:`IStream`."""
        self.waiting -= count
        self.delivered_count += count
        self.other._pump()

    def _end(self) -> None:
        self._over = self.other._over = True
        self._clear()
        self.other._clear()

    def _clear(self) -> None:
        self._queue.clear()
        self.queued = 0

    def _pump(self) -> None:
        # A user may write or read while we call it; finish that call first.
        self._has_news = True
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._has_news:
                self._has_news = False
                self._move()
        finally:
            self._pumping = False

    def _move(self) -> None:
        other, user = self.other, self.user
        if other._broken is not None:
            self._clear()
        while self._queue and other.user is not None and (room := self._window - other.waiting) > 0:
            data = self._queue.popleft()
            if len(data) > room:
                self._queue.appendleft(data[room:])
                data = data[:room]
            self.queued -= len(data)
            other.waiting += len(data)
            other.user.data_received(data)
        if self._finishing and not self._finished and not self._queue and other.user is not None:
            self._finished = True
            other.user.finished()
            if other._finished:
                self._end()
        if self._broken is not None and not self._queue and not self._over:
            self.reset(*self._broken)
        should_pause = self.queued >= HIGH_WATER
        if user is not None and should_pause != self._paused:
            self._paused = should_pause
            (user.pause if should_pause else user.resume)()


def memory_streams(window: int = 65536) -> tuple[MemoryStream, MemoryStream]:
    """Return the two ends of a stream. Set ``user`` of each. Bytes are handed over as they are written.

    :param window: how many bytes the user of an end takes before it must deliver some.
    """
    one, two = MemoryStream(window), MemoryStream(window)
    one.other, two.other = two, one
    return one, two
