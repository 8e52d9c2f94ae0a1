"""One socket of a relay: it reads for the other socket, and writes what that has read.

Small reads go through one buffer, which all relays share, straight to the other socket. When a read fills the buffer,
more is waiting: then bytes go through a pipe with ``splice``, without a copy, until reads are small again. What the
other socket does not accept is kept, and nothing more is read until it is gone. So the kernel's flow control works from
end to end.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay import pipes
from rtunnel.relay.last_bytes import unacknowledged
from rtunnel.relay.pipes import PIPES, Pipe
from rtunnel.relay.sockets import RESET_ON_CLOSE, SEND_ON_CLOSE, StreamSocket, close_socket, set_linger

#: The size of a read through the buffer, in bytes, and so the most that waits in memory for a socket. Each event causes
#: one read only, so that no relay holds up the others.
BUFFER_SIZE = 64 * 1024
#: The size of a read through a pipe, in bytes.
SPLICE_SIZE = 1 << 20
#: Reads smaller than this, in bytes, cost no more through the buffer.
BULK = 32 * 1024

#: Errors of ``splice`` for a socket, or a system, on which it does not work.
CANNOT_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if pipes.HAVE_SPLICE else 0

#: One buffer serves all relays: the reactor runs one read at a time, and what stays in the buffer is copied out.
_BUFFER = memoryview(bytearray(BUFFER_SIZE))
_NOTHING = memoryview(b"")


def _send(sock: StreamSocket, data: memoryview) -> int:
    """Send what the socket accepts of *data*. Return how many bytes that is.

    :raises OSError: the connection is lost.
    """
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            return 0
        raise


class Relay(Protocol):
    """The relay, as its sockets see it; see :class:`~rtunnel.relay.direct.DirectRelay`."""

    reactor: Any
    touched: bool
    kept: Callable[[int], None]

    def abort(self) -> None: ...
    def close(self, reset: bool) -> None: ...
    def lost(self, side: Side) -> None: ...


@implementer(IReadWriteDescriptor)
class Side:
    """One socket of a relay. It reads for the other side, and writes what the other side has read.

    :ivar pending: bytes that this socket has not accepted yet. They go before what is in the pipe.
    :ivar pipe: a pipe with bytes for this socket, or None.
    :ivar bulk: reads from this socket go through a pipe.
    :ivar may_splice: as far as we know, ``splice`` can read from this socket.
    :ivar reading: the reactor watches for bytes.
    :ivar writing: the reactor watches for room.
    :ivar ended: the end of what this socket receives has come.
    :ivar ending: the end of what this socket sends is due, but there was no room for it yet.
    :ivar finished: the end of what this socket sends has gone out.
    :ivar broken: writes to this socket fail, or it is closed. What the other socket receives is dropped.
    :ivar was_reset: a failed call has taken the error of this socket, so that the next read returns an end.
    :ivar is_plain: this is a socket of the kernel, not one under TLS.
    """

    __slots__ = (
        "broken",
        "bulk",
        "ended",
        "ending",
        "finished",
        "is_plain",
        "may_splice",
        "number",
        "other",
        "pending",
        "pipe",
        "reading",
        "relay",
        "socket",
        "was_reset",
        "writing",
    )

    other: Side

    def __init__(self, relay: Relay, sock: StreamSocket, pending: bytes) -> None:
        self.relay = relay
        self.socket = sock
        self.number = sock.fileno()
        self.pending = memoryview(pending) if pending else _NOTHING
        self.pipe: Pipe | None = None
        self.bulk = False
        self.is_plain = isinstance(sock, socket.socket)
        self.may_splice = False
        self.reading = self.writing = self.ended = self.ending = self.finished = False
        self.broken = self.was_reset = False
        if self.is_plain:
            # If this process is killed, the peer must not take that for the end of a stream. (Under TLS it cannot.)
            set_linger(sock, RESET_ON_CLOSE)

    def start(self) -> None:
        """Write what is already pending, and then read."""
        if self.pending:
            self._gather()
        source = self.other
        if not self.pending or self._flush():
            if not source.reading:
                source._watch_bytes(True)
            if not source.is_plain and getattr(source.socket, "is_over", False) and not source.ended:
                source._copy()
        else:
            source._watch_bytes(False)
            self._watch_room(True)

    def _gather(self) -> None:
        """Append what has come in the meantime to what is pending, which saves a packet and a wake-up."""
        try:
            data = self.other.socket.recv(BUFFER_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.other.was_reset = True
            return
        # If this was the end, a later read sees it again.
        self.pending = memoryview(bytes(self.pending) + data)

    # Called by the reactor

    def fileno(self) -> int:
        """Return the descriptor, or -1 when the socket is closed."""
        return self.number

    def logPrefix(self) -> str:
        """Return the name under which the reactor logs errors."""
        return "relay"

    def connectionLost(self, reason: Failure) -> None:
        """Abort the relay: the reactor found the connection broken."""
        self.relay.abort()

    def doRead(self) -> None:
        """Read: there are bytes, the end, or an error."""
        if not self.reading:
            return  # the event is older than our decision to stop reading
        try:
            self._move()
        except OSError:
            self.relay.lost(self)

    def doWrite(self) -> None:
        """Write what waits, and then read more for this socket."""
        if not self.writing:
            return
        # There is room, so the peer reads, however slowly.
        self.relay.touched = True
        source = self.other
        try:
            if self.ending:
                self._half_close()
            elif self._flush() and not source.ended:
                source._move()
        except OSError:
            self.relay.lost(source)
        if self.writing and self.pipe is None and not self.pending and not self.ending:
            self._watch_room(False)
            if not source.ended:
                source._watch_bytes(True)

    # The direction from this socket to the other

    def _move(self) -> None:
        """Move the bytes of one read to the other side, which has nothing pending."""
        if not (self.bulk and self._splice()):
            self._copy()
        other = self.other
        if other.pipe is not None or other.pending:
            self._watch_bytes(False)
            other._watch_room(True)
        elif not self.is_plain and self.number >= 0 and getattr(self.socket, "is_over", False) and not self.ended:
            # TLS has read the end already, so no event will announce it.
            self._copy()

    def _copy(self) -> None:
        """Move bytes through the buffer."""
        try:
            count = self.socket.recv_into(_BUFFER)
        except BlockingIOError:
            return
        if not count:
            self._end()
            return
        self.relay.touched = True
        other = self.other
        if other.broken:
            return
        try:
            sent = _send(other.socket, _BUFFER[:count])
        except OSError as error:
            other._write_failed(error)
            return
        self.bulk = count == BUFFER_SIZE and self.may_splice
        if sent < count:
            other.pending = memoryview(bytes(_BUFFER[sent:count]))
            self.relay.kept(count - sent)

    def _splice(self) -> bool:
        """Move bytes through a pipe. Return False if they must go through the buffer."""
        pipe = PIPES.take()
        if pipe is None:
            return False
        try:
            pipe.count = os.splice(self.number, pipe.write_end, SPLICE_SIZE, flags=SPLICE_FLAGS)
        except BlockingIOError:
            PIPES.give_back(pipe)
            self.bulk = False
            return True
        except OSError as error:
            PIPES.give_back(pipe)
            if error.errno not in CANNOT_SPLICE:
                raise
            self.may_splice = False
            return False
        self.bulk = pipe.count >= BULK
        if not pipe.count:
            # This is the end, which is handled where the buffer is read.
            PIPES.give_back(pipe)
            return False
        self.relay.touched = True
        self.other.pipe = pipe
        self.other._flush()
        return True

    def _end(self) -> None:
        """Pass on the end of this socket. Nothing waits for the other socket, or this one would not have been read."""
        self.ended = True
        if not self.was_reset and not self.other.broken:
            self.other._half_close()
        if self.number < 0:
            return
        self._watch_bytes(False)
        if self.broken or self.was_reset:
            self.relay.lost(self)

    # What waits for this socket

    def _flush(self) -> bool:
        """Write what waits. Return whether nothing waits any more."""
        pipe = self.pipe
        try:
            if self.pending:
                self.pending = self.pending[_send(self.socket, self.pending) :] or _NOTHING
            if pipe is not None and not self.pending:
                self._flush_pipe(pipe)
        except OSError as error:
            self._write_failed(error)
            return True
        if pipe is not None and not pipe.count:
            self._drop_pipe()
        return self.pipe is None and not self.pending

    def _drop_pipe(self) -> None:
        pipe, self.pipe = self.pipe, None
        if pipe is not None:
            PIPES.give_back(pipe)

    def _write_failed(self, error: OSError) -> None:
        """Drop what waits for this socket and what will come for it. What it has received before is still read."""
        self.broken = True
        # EPIPE: the peer had ended its direction before, and the system tells that by an end. ENOTCONN takes no error.
        self.was_reset = self.was_reset or (self.is_plain and error.errno not in (errno.EPIPE, errno.ENOTCONN))
        self.pending, self.ending = _NOTHING, False
        self._drop_pipe()
        self._watch_room(False)
        self.other.bulk = self.other.may_splice = False
        if self.ended:
            self.relay.lost(self)
        elif not self.other.ended:
            self.other._watch_bytes(True)

    def _flush_pipe(self, pipe: Pipe) -> None:
        try:
            while pipe.count:
                # Ask for exactly what the pipe holds: asked for more, the kernel would hold back the last packet and
                # wait.
                pipe.count -= os.splice(pipe.read_end, self.number, pipe.count, flags=SPLICE_FLAGS)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in CANNOT_SPLICE:
                raise
            self.other.may_splice = self.other.bulk = False
            self.pending = memoryview(os.read(pipe.read_end, pipe.count))
            pipe.count -= len(self.pending)

    def _half_close(self) -> None:
        """Send the end of this direction, now that all bytes have gone out."""
        # If the other direction is over too, closing a plain socket sends the end.
        if not (self.is_plain and self.other.finished):
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                self.ending = True
                self._watch_room(True)
                return
            except OSError as error:
                self._write_failed(error)
                return
            if self.is_plain:
                # All that we had to say is with the system, which delivers it even if this process is killed.
                set_linger(self.socket, SEND_ON_CLOSE)
        self.ending, self.finished = False, True
        if self.other.finished:
            self.relay.close(reset=False)

    # What the reactor watches

    def _watch_bytes(self, wanted: bool) -> None:
        if wanted != self.reading:
            self.reading = wanted
            (self.relay.reactor.addReader if wanted else self.relay.reactor.removeReader)(self)

    def _watch_room(self, wanted: bool) -> None:
        if wanted != self.writing:
            self.writing = wanted
            (self.relay.reactor.addWriter if wanted else self.relay.reactor.removeWriter)(self)

    def close(self, reset: bool) -> None:
        """Leave the reactor and close the socket."""
        if self.number < 0:
            return
        self.relay.reactor.forget(self)
        self.reading = self.writing = False
        self.number = -1
        self.pending = _NOTHING
        self._drop_pipe()
        close_socket(self.socket, reset=reset)

    def undelivered(self) -> int:
        """Return how many bytes wait for this socket or, as far as we know, have not arrived at its peer's system."""
        if self.number < 0:
            return 0
        waiting = len(self.pending) + (0 if self.pipe is None else self.pipe.count)
        is_unix = isinstance(self.socket, socket.socket) and self.socket.family == socket.AF_UNIX
        return waiting + (0 if is_unix else unacknowledged(self.number))
