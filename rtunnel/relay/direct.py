"""The relay between two connected sockets, at the kernel's speed: nothing is framed, queued or looked at.

Small reads go through one buffer that all relays share straight to the other socket. Once a read fills the buffer
there is more behind it, and it goes through a pipe with ``splice``, without a copy, until reads are small again. What
the other socket does not take is kept, and nothing is read until it has: the kernel's own flow control does the rest.

Each direction has its own end, which goes on as a half-close. The relay is over when both have come, or when one
socket fails: then the other is reset, that nobody takes what came for the whole.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import IReadDescriptor, IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay import pipes
from rtunnel.relay.pipes import PIPES, Pipe
from rtunnel.relay.sockets import StreamSocket, close_socket

#: Bytes of one read through the buffer, and so the most that waits in memory for a socket. There is one read for each
#: event, so that no relay keeps the others waiting.
BUFFER_SIZE = 64 * 1024
#: Bytes of one read through a pipe.
SPLICE_SIZE = 1 << 20
#: A read through a pipe that brings less would have been as cheap through the buffer.
BULK = 32 * 1024

#: What ``splice`` says about a socket that it cannot serve, here or at all.
CANNOT_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if pipes.HAVE_SPLICE else 0

#: The reactor runs one read at a time, and what a read leaves is copied out: one buffer is enough for all.
_BUFFER = memoryview(bytearray(BUFFER_SIZE))
_NOTHING = memoryview(b"")


def take_socket(transport: Any) -> tuple[socket.socket, bytes]:
    """Take the socket of a connection away from Twisted, which forgets it: its protocol is called no more.

    :param transport: a TCP or UNIX connection, accepted or made, that is not under TLS.
    :return: the socket, and bytes that were written to the transport but are not sent yet.
    :raises ValueError: the transport has no connected socket, or somebody has asked for it to be closed.
    """
    # A TLS transport would hand out what is below it.
    if not isinstance(transport, tcp.Connection) or transport.TLS:
        raise ValueError(f"{type(transport).__name__} has no socket of its own")
    # The transport says nowhere else that it was aborted, or half-closed.
    if not transport.connected or transport.disconnecting or transport._aborting or transport._writeDisconnecting:
        raise ValueError("the connection is closed, or about to be")
    transport.stopReading()
    transport.stopWriting()
    # An event that the reactor has already been told of may still be on its way.
    transport.doRead = transport.doWrite = _do_nothing  # type: ignore[method-assign]
    unsent = bytes(transport.dataBuffer[transport.offset :]) + b"".join(transport._tempDataBuffer)
    # From now on it ignores what it is asked.
    transport.connected = 0
    transport.disconnected = 1
    handle = transport.getHandle()
    family, kind, proto = handle.family, handle.type, handle.proto
    sock = socket.socket(family, kind, proto, handle.detach())
    sock.setblocking(False)
    return sock, unsent


def _do_nothing() -> None:
    pass


def _send(sock: StreamSocket, data: memoryview) -> int:
    """Send what the socket takes of *data*; how many bytes.

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


@implementer(IReadWriteDescriptor)
class _Side:
    """One socket of a relay, as the reactor knows it: read for the other side, and written with what that has read.

    :ivar pending: bytes for this socket that it did not take yet; they go before what is in the pipe.
    :ivar pipe: a pipe with bytes for this socket; None: there are none.
    :ivar bulk: reads go through a pipe.
    :ivar may_splice: a pipe can be read into from this socket, as far as is known.
    :ivar reading: the reactor watches for bytes.
    :ivar writing: the reactor watches for room.
    :ivar ended: this socket's other end sends no more.
    :ivar ending: this end sends no more, and there was no room yet to say so.
    :ivar finished: it has said so.
    :ivar is_plain: the kernel sees the very bytes, and the end is its own.
    """

    __slots__ = (
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
        "writing",
    )

    other: _Side

    def __init__(self, relay: DirectRelay, sock: StreamSocket, pending: bytes) -> None:
        self.relay = relay
        self.socket = sock
        self.number = sock.fileno()
        self.pending = memoryview(pending) if pending else _NOTHING
        self.pipe: Pipe | None = None
        self.bulk = False
        self.is_plain = isinstance(sock, socket.socket)
        self.may_splice = False
        self.reading = self.writing = self.ended = self.ending = self.finished = False

    def start(self) -> None:
        """Write what is there already, and read once it has gone."""
        if self.pending:
            self._gather()
        source = self.other
        if self._flush():
            source._watch_bytes(True)
            if source._is_over():
                source._copy()
        else:
            source._watch_bytes(False)
            self._watch_room(True)

    def _gather(self) -> None:
        """Let what has come meanwhile go out with what is there already: it saves a packet, and a wake-up."""
        try:
            data = self.other.socket.recv(BUFFER_SIZE)
        except BlockingIOError:
            return
        # The end, if this is it, is read again.
        self.pending = memoryview(bytes(self.pending) + data)

    # What the reactor asks

    def fileno(self) -> int:
        """The descriptor; -1 when it is closed."""
        return self.number

    def logPrefix(self) -> str:
        """What the log says of an error here."""
        return "relay"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found the connection broken."""
        self.relay.abort()

    def doRead(self) -> None:
        """There are bytes, or the end, or an error."""
        if not self.reading:
            return  # the reactor was told of it before we had enough
        try:
            self._move()
        except OSError:
            self.relay.abort()

    def doWrite(self) -> None:
        """There is room for what waits, and then for more."""
        if not self.writing:
            return
        # There is room because somebody reads, however slowly.
        self.relay.touched = True
        source = self.other
        try:
            if self.ending:
                self._half_close()
            elif self._flush():
                source._move()
            if not self._is_full() and not self.ending and self.number >= 0:
                self._watch_room(False)
                if not source.ended:
                    source._watch_bytes(True)
        except OSError:
            self.relay.abort()

    # The direction from this socket to the other

    def _move(self) -> None:
        """Move one read's worth of bytes to the other side, for which nothing waits."""
        if not (self.bulk and self._splice()):
            self._copy()
        if self.other._is_full():
            self._watch_bytes(False)
            self.other._watch_room(True)
        elif self._is_over():
            self._copy()

    def _is_over(self) -> bool:
        """The end is the next that a read brings, and TLS has it already: no event tells of it."""
        return not self.is_plain and not self.ended and getattr(self.socket, "is_over", False)

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
        sent = _send(other.socket, _BUFFER[:count])
        if sent < count:
            other.pending = memoryview(bytes(_BUFFER[sent:count]))
        self.bulk = count == BUFFER_SIZE and self.may_splice

    def _splice(self) -> bool:
        """Move bytes through a pipe; whether that is of use just now."""
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
            # It is the end, which the buffer's way is there to see.
            PIPES.give_back(pipe)
            return False
        self.relay.touched = True
        self.other.pipe = pipe
        self.other._flush()
        return True

    def _end(self) -> None:
        """No more comes from this socket, and for the other nothing waits: else it would not have been read."""
        self.ended = True
        self.other._half_close()
        if self.number >= 0:
            self._watch_bytes(False)

    # What waits for this socket

    def _is_full(self) -> bool:
        return self.pipe is not None or len(self.pending) > 0

    def _flush(self) -> bool:
        """Write what waits; whether that is all gone."""
        pipe = self.pipe
        if self.pending:
            self.pending = self.pending[_send(self.socket, self.pending) :] or _NOTHING
        if pipe is not None and not self.pending:
            self._flush_pipe(pipe)
            if not pipe.count:
                self.pipe = None
                PIPES.give_back(pipe)
        return not self._is_full()

    def _flush_pipe(self, pipe: Pipe) -> None:
        try:
            while pipe.count:
                # No more than there is: asked for more, the kernel would hold back the last packet to wait for it.
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
        """All that came for this socket has gone out, and its end follows."""
        # To close a plain socket says as much.
        if not (self.is_plain and self.other.finished):
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                self.ending = True
                self._watch_room(True)
                return
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
        self.relay.reactor.forget(self)
        self.reading = self.writing = False
        self.number = -1
        self.pending = _NOTHING
        pipe, self.pipe = self.pipe, None
        if pipe is not None:
            PIPES.give_back(pipe)
        close_socket(self.socket, reset=reset)


class DirectRelay:
    """Two connected stream sockets, TCP or UNIX, that do not block; this owns them from now on.

    One that is under TLS has its own way to end a direction, and no pipe can serve it.

    :param on_end: called with this once, when both sockets are closed; it may be within :meth:`start` or :meth:`abort`.
    :param to_left: what was read from the right socket already; *to_right* likewise.
    :ivar touched: set whenever a byte passes; for whoever looks after idle connections to clear.
    """

    __slots__ = ("_left", "_on_end", "_right", "reactor", "touched")

    def __init__(
        self,
        reactor: Any,
        left: StreamSocket,
        right: StreamSocket,
        on_end: Callable[[DirectRelay], None],
        *,
        to_left: bytes = b"",
        to_right: bytes = b"",
    ) -> None:
        self.reactor = reactor
        self.touched = True
        self._on_end: Callable[[DirectRelay], None] | None = on_end
        self._left = _Side(self, left, to_left)
        self._right = _Side(self, right, to_right)
        self._left.other, self._right.other = self._right, self._left
        # A pipe would lead round TLS.
        self._left.may_splice = self._right.may_splice = (
            pipes.HAVE_SPLICE and self._left.is_plain and self._right.is_plain
        )

    def start(self, instead_of: IReadDescriptor | None = None) -> None:
        """Relay from now on.

        :param instead_of: who is told of the bytes of the left socket until now.
        """
        if self._on_end is None:
            return
        if instead_of is not None:
            self.reactor.replace(instead_of, self._left)
            self._left.reading = True
        try:
            self._left.start()
            self._right.start()
        except OSError:
            self.abort()

    def abort(self) -> None:
        """Reset both connections at once."""
        self.close(reset=True)

    def close(self, reset: bool) -> None:
        """Close both sockets, which drops what waits for them.

        :param reset: say so to their other ends, as far as the kind of socket can.
        """
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            self._left.close(reset)
            self._right.close(reset)
            on_end(self)
