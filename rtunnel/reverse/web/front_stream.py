"""A visitor's socket as a stream, for what has to read what the visitor says.

LocalSocket <-> FrontStream (IStream) <-> IStreamUser
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.relay.local_socket import LocalSocket
from rtunnel.relay.pipes import PIPES, Pipe

#: Undelivered bytes at which reading pauses, and at which it resumes.
HIGH_WATER = 128 * 1024
LOW_WATER = 32 * 1024
#: What such a stream costs in itself, in bytes, with its user.
COST = 8 * 1024

_BUFFER = memoryview(bytearray(64 * 1024))


class _Far:
    """The stream, as the socket sees it; see :class:`~rtunnel.relay.interfaces.IFar`."""

    payload = _BUFFER
    may_splice = False
    held = COST

    __slots__ = ("_stream",)

    def __init__(self, stream: FrontStream) -> None:
        self._stream = stream

    def send_data(self, count: int) -> bool:
        return self._stream.received(bytes(_BUFFER[:count]))

    def send_pipe(self, pipe: Pipe) -> bool:
        PIPES.give_back(pipe)
        return True

    def finish(self, count: int = 0) -> bool:
        if count:
            self._stream.received(bytes(_BUFFER[:count]))
        if self._stream.user is not None:
            self._stream.user.finished()
        return True

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        user, self._stream.user = self._stream.user, None
        if user is not None:
            user.was_reset(code, message)

    def drop(self) -> None:
        pass

    def stop_reading(self) -> None:
        if self._stream.user is not None:
            self._stream.user.pause()

    def resume_reading(self) -> None:
        if self._stream.user is not None:
            self._stream.user.resume()


@implementer(IStream)
class FrontStream:
    """The stream to a visitor, as its user sees it.

    :param poller: watches the socket; see :func:`~rtunnel.relay.poller.poller_for`.
    :param on_end: called once with this object when the socket is closed.
    :param kept: called with the number of bytes that stay in memory, of both directions.
    :ivar user: the user of the stream; set it before :meth:`start`.
    :ivar local: the socket.
    """

    def __init__(
        self,
        poller: Any,
        sock: socket.socket,
        on_end: Callable[[FrontStream], None],
        kept: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self.user: IStreamUser | None = None
        self._on_end = on_end
        self._waiting = 0
        self._is_stopped = False
        self._kept = kept
        self._poller = poller
        self._out: list[bytes] = []
        self.local = LocalSocket(poller, sock, _Far(self), self._ended, kept)

    def start(self, first: bytes = b"") -> None:
        """Read from now on.

        :param first: what was read already.
        """
        if first:
            self.received(first)
        self.local.start()

    def received(self, data: bytes) -> bool:
        """Pass on what the visitor has sent; return whether more is to be read now."""
        self._waiting += len(data)
        if self.user is not None:
            self.user.data_received(data)
        if self._waiting:
            self._kept(len(data))
        self._is_stopped = self._waiting >= HIGH_WATER
        return not self._is_stopped

    @property
    def held(self) -> int:
        """How many bytes of memory this takes, with its user."""
        return self._waiting + self.local.held

    def _ended(self, local: LocalSocket) -> None:
        self.user = local.far = None  # no circle
        self._on_end(self)

    def write(self, data: bytes) -> None:
        """See :class:`IStream`."""
        self._out.append(data)
        if len(self._out) == 1:
            self._poller.soon(self._flush)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out:
            self.local.deliver(memoryview(out[0] if len(out) == 1 else b"".join(out)))

    def finish(self) -> None:
        """See :class:`IStream`."""
        self._flush()
        self.local.far_ended()

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """See :class:`IStream`."""
        self.user = None
        if behind:
            self._flush()
            self.local.far_reset(code, message)
        else:
            self.local.abort()

    def delivered(self, count: int) -> None:
        """See :class:`IStream`."""
        self._waiting -= count
        if self._is_stopped and self._waiting <= LOW_WATER:
            self._is_stopped = False
            self.local.has_room()
