"""A stream of a data connection as an :class:`~rtunnel.relay.interfaces.IStream`.

This is for visitors and services whose own socket cannot be taken, because Twisted's TLS or a PROXY header is above it,
and for streams that have moved from the link.

    SocketEnd <-> RecordStream <-> RecordSocket

Where the socket can be taken, a :class:`~rtunnel.relay.local_socket.LocalSocket` relays instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.relay.pipes import PIPES, Pipe
from rtunnel.reverse.carriers.record_socket import RecordSocket

#: Undelivered bytes at which reading pauses, and at which it resumes.
HIGH_WATER = 128 * 1024
LOW_WATER = 32 * 1024
#: What such a stream costs in itself, in bytes, with Twisted's TLS at its end.
COST = 64 * 1024


@implementer(IStream)
class RecordStream:
    """The local side of a stream, and the stream to its user.

    :param far: the data connection, whose stream is open.
    :param user: the user of the stream.
    :param on_end: called once, with this object, when the stream is over.
    :ivar may_splice: see :class:`~rtunnel.reverse.carriers.record_interfaces.ILocal`.
    """

    may_splice = False

    def __init__(self, far: RecordSocket, user: IStreamUser, on_end: Callable[[RecordStream], None]) -> None:
        self._far: RecordSocket | None = far
        self._user: IStreamUser | None = user
        self._on_end: Callable[[RecordStream], None] | None = on_end
        self._waiting = 0
        self._is_paused = self._is_stopped = False
        self._finished = False

    # From the data connection, see ILocal

    def deliver(self, data: memoryview, flags: int = 0) -> None:
        """Pass bytes to the user."""
        if self._user is not None:
            self._waiting += len(data)
            self._user.data_received(bytes(data))
        if self._waiting >= HIGH_WATER and self._far is not None:
            self._is_stopped = True
            self._far.stop_reading()

    def deliver_pipe(self, pipe: Pipe) -> None:
        """Pass what is in *pipe* to the user."""
        data = os.read(pipe.read_end, pipe.count)
        pipe.count -= len(data)
        PIPES.give_back(pipe)
        self.deliver(memoryview(data))

    def far_ended(self) -> None:
        """Tell the user that the other end sends no more."""
        if self._user is not None:
            self._user.finished()

    def far_over(self) -> None:
        """Take note that both ends have come."""
        self._user = None
        self._end()

    def far_reset(self, code: str, message: str) -> None:
        """Tell the user that the stream broke."""
        user, self._user = self._user, None
        if user is not None:
            user.was_reset(code, message)
        self._end()

    def has_room(self) -> None:
        """Tell the user that it may write again."""
        if self._is_paused and self._user is not None:
            self._is_paused = False
            self._user.resume()

    # From the user

    def write(self, data: bytes) -> None:
        """See :class:`IStream`."""
        if self._far is None or self._user is None or self._finished or self._far.write(data):
            return
        if not self._is_paused and self._user is not None:
            self._is_paused = True
            self._user.pause()

    def finish(self) -> None:
        """See :class:`IStream`."""
        if self._far is not None and not self._finished:
            self._finished = True
            self._far.finish()

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """See :class:`IStream`."""
        self._user = None
        if self._far is not None:
            self._far.reset(code, message, behind=behind)
        self._end()

    def delivered(self, count: int) -> None:
        """See :class:`IStream`."""
        self._waiting -= count
        if self._is_stopped and self._waiting <= LOW_WATER and self._far is not None:
            self._is_stopped = False
            self._far.resume_reading()

    @property
    def held(self) -> int:
        """How many bytes of memory this and the far side take, with what its user has delivered and not sent yet."""
        theirs = 0 if self._user is None else self._user.buffered()
        return COST + self._waiting + theirs + (0 if self._far is None else self._far.held)

    def abort(self) -> None:
        """Cut the stream, and tell the user."""
        far, user = self._far, self._user
        self.reset(Code.CONNECTION_LOST, "the connection was closed")
        if far is not None and user is not None:
            user.was_reset(Code.CONNECTION_LOST, "the connection was closed")

    def _end(self) -> None:
        self._far = None
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)
