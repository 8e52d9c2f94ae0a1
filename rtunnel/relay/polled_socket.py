"""A socket that a poller watches, and what waits for it: the common part of both ends of a relay.

What the socket does not accept at once waits in this order: bytes in memory, what is in a pipe, bytes behind that.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import Any

from rtunnel.relay import pipes
from rtunnel.relay.last_bytes import unacknowledged
from rtunnel.relay.pipes import CANNOT_SPLICE, PIPES, SPLICE_FLAGS, Pipe
from rtunnel.relay.sockets import RESET_ON_CLOSE, SEND_ON_CLOSE, set_linger

#: The most that is moved through a pipe at a time, in bytes; and while others have little to say, who wait meanwhile.
SPLICE_SIZE, SHORT_SPLICE = 1 << 20, 1 << 18
#: So many times it is the shorter one after a small read of a local socket, or after datagrams.
SHORT_TURNS = 32
#: Reads smaller than this, in bytes, cost no more through a buffer.
BULK = 32 * 1024

_NOTHING = memoryview(b"")


def is_full(error: OSError) -> bool:
    """Return whether a write has failed only because there was no room."""
    return isinstance(error, BlockingIOError) or error.errno == errno.ENOBUFS


class PolledSocket:
    """A connected, non-blocking socket, which this owns from now on.

    :param poller: watches the socket; see :func:`~rtunnel.relay.poller.poller_for`.
    :ivar may_splice: as far as we know, ``splice`` works with this socket.
    :ivar bytes_received: see :class:`~rtunnel.traffic.accounts.IRelay`, also for *bytes_sent* and *reason*.
    """

    __slots__ = (
        "_behind",
        "_linger",
        "_number",
        "_pending",
        "_pipe",
        "_poller",
        "_reading",
        "_writing",
        "bytes_received",
        "bytes_sent",
        "may_splice",
        "reason",
        "socket",
    )

    def __init__(self, poller: Any, sock: socket.socket) -> None:
        self._poller = poller
        self.socket = sock
        self._number = sock.fileno()
        self.may_splice = pipes.HAVE_SPLICE
        self._pending = _NOTHING
        self._pipe: Pipe | None = None
        self._behind = b""
        # What the poller watches. It watches for room exactly while something waits.
        self._reading = self._writing = False
        self._linger = b""
        self.bytes_received = self.bytes_sent = 0
        self.reason = ""

    def fileno(self) -> int:
        """Return the descriptor, or -1 when the socket is closed."""
        return self._number

    @property
    def waiting(self) -> int:
        """How many bytes wait for this socket."""
        return len(self._pending) + len(self._behind) + (0 if self._pipe is None else self._pipe.count)

    def undelivered(self) -> int:
        """Return how many bytes wait here or, as far as we know, have not arrived at the peer's system."""
        if self._number < 0:
            return 0
        return self.waiting + (0 if self.socket.family == socket.AF_UNIX else unacknowledged(self.socket))

    def _write_failed(self, error: OSError) -> None:
        """Take note that the connection is broken."""
        raise NotImplementedError

    def _append(self, data: bytes | memoryview) -> None:
        """Let *data* wait, behind what waits already."""
        if self._pipe is None:
            self._pending = memoryview(b"".join((self._pending, data)))
        else:
            self._behind += data
        self._watch_room(True)

    def _flush(self) -> bool:
        """Write what waits. Return whether nothing waits any more, which is so too if the connection breaks."""
        pipe = self._pipe
        try:
            if self._pending:
                try:
                    self._pending = self._pending[self.socket.send(self._pending) :] or _NOTHING
                except OSError as error:
                    if not is_full(error):
                        raise
            if pipe is not None and not self._pending:
                rest = pipe.send_to(self._number)
                if rest:
                    self.may_splice = False
                if not pipe.count:
                    self._drop_pipe()
                    self._pending = memoryview(rest + self._behind)
                    self._behind = b""
        except OSError as error:
            self._write_failed(error)
            return True
        return self._pipe is None and not self._pending

    def _fill_pipe(self, most: int) -> Pipe | None:
        """Read into a pipe. Return None if there is none, or nothing to read: then the buffer is to be read.

        :param most: how many bytes to read.
        :raises OSError: there is nothing to read for now, or the connection is lost.
        """
        pipe = PIPES.take()
        if pipe is None:
            return None
        if self._poller.short_turns:
            self._poller.short_turns -= 1
            most = min(most, SHORT_SPLICE)
        try:
            pipe.count = os.splice(self._number, pipe.write_end, most, flags=SPLICE_FLAGS)
        except OSError as error:
            PIPES.give_back(pipe)
            if error.errno not in CANNOT_SPLICE:
                raise
            self.may_splice = False
            return None
        if pipe.count:
            return pipe
        PIPES.give_back(pipe)
        return None

    def _drop_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            PIPES.give_back(pipe)

    def _drop(self) -> None:
        """Drop what waits."""
        self._pending, self._behind = _NOTHING, b""
        self._drop_pipe()
        self._watch_room(False)

    def detach(self) -> bytes:
        """Leave the poller, as another process goes on with the socket. Return what waits, also in a pipe.

        Nothing is read or written here any more. It is for the caller to close the socket.
        """
        pieces = [bytes(self._pending)]
        pipe = self._pipe
        while pipe is not None and pipe.count:
            piece = os.read(pipe.read_end, pipe.count)
            pipe.count -= len(piece)
            pieces.append(piece)
        pieces.append(self._behind)
        self._drop()
        # As another process has the socket too, closing it does not take it out of the epoll.
        self._poller.removeReader(self)
        self._reading = False
        self._poller.forget(self)
        self._number = -1
        return b"".join(pieces)

    def _close(self, *, reset: bool) -> None:
        """Leave the poller, and close the socket.

        :param reset: reset the connection.
        """
        self._poller.forget(self)
        self._reading = self._writing = False
        self._drop()
        self._number = -1
        self._set_linger(RESET_ON_CLOSE if reset else SEND_ON_CLOSE)
        with suppress(OSError):
            self.socket.close()

    def _set_linger(self, value: bytes) -> None:
        if value is not self._linger:
            self._linger = value
            set_linger(self.socket, value)

    def _watch_bytes(self, wanted: bool) -> None:
        if wanted != self._reading and self._number >= 0:
            self._reading = wanted
            (self._poller.addReader if wanted else self._poller.removeReader)(self)

    def _watch_room(self, wanted: bool) -> None:
        if wanted != self._writing and self._number >= 0:
            self._writing = wanted
            (self._poller.addWriter if wanted else self._poller.removeWriter)(self)
