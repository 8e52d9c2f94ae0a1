"""A visitor's or a service's own socket, relayed to the far side: a stream of a data connection.

    LocalSocket <-> IFar (a connection that carries the stream)

Small reads go through one buffer, which all relays share, straight to the far side. When a read fills the buffer, more
is waiting: then bytes go through a pipe with ``splice``, without a copy, until reads are small again, if the far side
can take them so. What the far side does not accept is kept there, and nothing more is read until it is gone; the same
holds the other way round. So the kernel's flow control works from end to end.

Each direction has its own end, which is passed on as a half-close. When the stream breaks, the socket is reset, so that
its peer does not mistake a part for the whole; but first it gets everything that came before. A socket that cannot be
written to is still read to its end or error.
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

from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay import pipes
from rtunnel.relay.last_bytes import LastBytes, unacknowledged
from rtunnel.relay.pipes import CANNOT_SPLICE, PIPES, SPLICE_FLAGS, Pipe
from rtunnel.relay.sockets import RESET_ON_CLOSE, SEND_ON_CLOSE, close_socket, set_linger

#: The most that is moved through a pipe at a time, in bytes.
SPLICE_SIZE = 1 << 20
#: Reads smaller than this, in bytes, cost no more through the buffer.
BULK = 32 * 1024
#: What a relayed socket costs in itself, in bytes.
COST = 1024
#: Resets that do not wait for what is pending: nobody takes it, or the peer broke the protocol.
AT_ONCE = (Code.STALLED, Code.PROTOCOL, Code.FLOW_CONTROL)

_NOTHING = memoryview(b"")


class IFar(Protocol):
    """The stream on the far side, as a local socket sees it.

    :ivar payload: where bytes are read to that are to be sent.
    :ivar takes_pipes: it can send what is in a pipe.
    """

    payload: memoryview
    takes_pipes: bool

    def send_data(self, count: int) -> bool:
        """Send the first *count* bytes of :attr:`payload`. Return False if no more is to be read for now."""

    def send_pipe(self, pipe: Pipe) -> bool:
        """Send what is in *pipe*, and give the pipe back. Return False if no more is to be read for now."""

    def finish(self) -> None:
        """End the direction to the far side."""

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """Reset the stream, and forget the local socket. *behind*: what was sent before goes first."""

    def stop_reading(self) -> None:
        """Deliver no more for now."""

    def resume_reading(self) -> None:
        """Deliver again."""


def _ignore(_count: int) -> None:
    pass


def send_some(sock: socket.socket, data: memoryview) -> int:
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


@implementer(IReadWriteDescriptor)
class LocalSocket:
    """A connected, non-blocking TCP or UNIX socket, which this owns from now on.

    :param poller: watches the socket; see :func:`~rtunnel.relay.poller.poller_for`.
    :param on_end: called once, with this object, when the socket is closed.
    :param kept: called with the number of bytes that the socket does not take at once, and that stay in memory.
    :ivar far: the stream; None once that is over or broken.
    :ivar touched: set whenever bytes pass; the search for idle connections clears it.
    :ivar may_splice: as far as we know, ``splice`` works with this socket.
    """

    __slots__ = (
        "_bulk",
        "_ended",
        "_ending",
        "_finished",
        "_kept",
        "_last_bytes",
        "_number",
        "_on_end",
        "_pending",
        "_pipe",
        "_poller",
        "_reading",
        "_was_reset",
        "_writing",
        "far",
        "is_broken",
        "may_splice",
        "socket",
        "touched",
    )

    def __init__(
        self,
        poller: Any,
        sock: socket.socket,
        far: IFar,
        on_end: Callable[[LocalSocket], None],
        kept: Callable[[int], None] = _ignore,
    ) -> None:
        self._poller = poller
        self.socket = sock
        self.far: IFar | None = far
        self.touched = True
        self._on_end: Callable[[LocalSocket], None] | None = on_end
        self._kept = kept
        self._number = sock.fileno()
        # From the far side: what this socket has not accepted yet, before what is in the pipe.
        self._pending = _NOTHING
        self._pipe: Pipe | None = None
        self._writing = False
        # The end of that direction is due behind it; it has gone out.
        self._ending = self._finished = False
        # Writes fail. What comes from the far side is dropped.
        self.is_broken = False
        # To the far side.
        self._reading = False
        self._bulk = False
        self._ended = False
        # A failed call has taken the error of this socket, so that the next read returns an end.
        self._was_reset = False
        self.may_splice = pipes.HAVE_SPLICE
        self._last_bytes: LastBytes | None = None
        # If this process is killed, the peer must not take that for the end of a stream.
        set_linger(sock, RESET_ON_CLOSE)

    def start(self, *, is_watched: bool = False) -> None:
        """Read from now on.

        :param is_watched: the poller calls this object already.
        """
        self._reading = is_watched
        try:
            self._watch_bytes(True)
        except OSError as error:
            self._lost(reason_of(error))

    @property
    def held(self) -> int:
        """How many bytes of memory this takes. What is in a pipe is the kernel's."""
        return COST + len(self._pending)

    # From the far side

    def deliver(self, data: memoryview) -> None:
        """Write *data*, which is good only during this call."""
        self.touched = True
        if self.is_broken:
            return
        sent = 0
        if not (self._pending or self._pipe):
            try:
                sent = send_some(self.socket, data)
            except OSError as error:
                self._write_failed(error)
                return
        if sent < len(data):
            self._keep(data[sent:])

    def _keep(self, data: memoryview) -> None:
        self._kept(len(data))
        self._pending = memoryview(bytes(self._pending) + data)
        self._is_full()

    def _is_full(self) -> None:
        self._watch_room(True)
        if self.far is not None:
            self.far.stop_reading()

    def deliver_pipe(self, pipe: Pipe) -> None:
        """Write what is in *pipe*, and give the pipe back. Nothing may be pending."""
        self.touched = True
        self._pipe = pipe
        if self.is_broken:
            self._drop_pipe()
        elif not self._flush():
            self._is_full()

    def far_ended(self) -> None:
        """Half-close the socket behind what is pending."""
        if self._pending or self._pipe:
            self._ending = True
        else:
            self._half_close()

    def far_over(self) -> None:
        """Take note that both ends have come on the far side. What is pending still goes out."""
        self.far = None

    def far_reset(self, code: str, message: str) -> None:
        """Reset the socket behind what is pending: the stream broke."""
        self.far = None
        if self._number < 0:
            return
        if code in AT_ONCE:
            self.close(reset=True)
            return
        # What comes is dropped, so that a peer that sends before it reads gets to read.
        self._bulk = False
        if not self._ended:
            self._watch_bytes(True)
        self._last_bytes = LastBytes(self._poller.reactor, self._undelivered, self._reset)
        self._last_bytes.start()

    def has_room(self) -> None:
        """Read again: the far side takes more."""
        if not self._ended and self._number >= 0:
            self._watch_bytes(True)

    # Ends of our own

    def abort(self) -> None:
        """Reset the connection and the stream at once."""
        self._leave_far(Code.CONNECTION_LOST, "the connection was closed", behind=False)
        self.close(reset=True)

    cut = abort

    def _reset(self) -> None:
        self.close(reset=True)

    def _lost(self, why: str) -> None:
        """The socket is lost: reset the stream behind what came before."""
        self._leave_far(Code.CONNECTION_LOST, why, behind=True)
        self.close(reset=True)

    def _leave_far(self, code: str, message: str, *, behind: bool) -> None:
        far, self.far = self.far, None
        if far is not None:
            far.reset(code, message, behind=behind)

    def close(self, *, reset: bool) -> None:
        """Close the socket, and drop what waits for it.

        :param reset: reset the connection.
        """
        on_end, self._on_end = self._on_end, None
        if on_end is None:
            return
        if self._last_bytes is not None:
            self._last_bytes.cancel()
        self._poller.forget(self)
        self._reading = self._writing = False
        self._number = -1
        self._pending = _NOTHING
        self._drop_pipe()
        close_socket(self.socket, reset=reset)
        on_end(self)

    # Called by the reactor

    def fileno(self) -> int:
        """Return the descriptor, or -1 when the socket is closed."""
        return self._number

    def logPrefix(self) -> str:
        """Return the name under which the reactor logs errors."""
        return "relay"

    def connectionLost(self, reason: Failure) -> None:
        """Abort: the reactor found the connection broken, or is stopping."""
        self.abort()

    def doRead(self) -> None:
        """Read: there are bytes, the end, or an error."""
        if not self._reading:
            return  # the event is older than our decision to stop reading
        far = self.far
        if self._bulk and far is not None and self._splice(far):
            return
        buffer = _DROPPED if far is None else far.payload
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._was_reset = False
            self._lost(reason_of(error))
            return
        if not count:
            self._end()
            return
        self.touched = True
        if far is not None:
            self._bulk = count == len(buffer) and far.takes_pipes and self.may_splice
            if not far.send_data(count):
                self._watch_bytes(False)

    def doWrite(self) -> None:
        """Write what waits, and then deliver more."""
        if not self._writing:
            return
        # There is room, so the peer reads, however slowly.
        self.touched = True
        if not self._flush():
            return
        self._watch_room(False)
        if self._ending:
            self._half_close()
        if self.far is not None:
            self.far.resume_reading()

    # To the far side

    def _splice(self, far: IFar) -> bool:
        """Move bytes through a pipe. Return False if they must go through the buffer."""
        pipe = PIPES.take()
        if pipe is None:
            return False
        try:
            pipe.count = os.splice(self._number, pipe.write_end, SPLICE_SIZE, flags=SPLICE_FLAGS)
        except BlockingIOError:
            PIPES.give_back(pipe)
            self._bulk = False
            return True
        except OSError as error:
            PIPES.give_back(pipe)
            if error.errno in CANNOT_SPLICE:
                self.may_splice = False
            # Another error shows again where the buffer is read, unless this call has taken it.
            else:
                self._lost(reason_of(error))
                return True
            return False
        self._bulk = pipe.count >= BULK
        if not pipe.count:
            # This is the end, which is handled where the buffer is read.
            PIPES.give_back(pipe)
            return False
        self.touched = True
        if not far.send_pipe(pipe):
            self._watch_bytes(False)
        return True

    def _end(self) -> None:
        """Pass on the end of what this socket receives."""
        self._ended = True
        self._watch_bytes(False)
        if self.is_broken or self._was_reset:
            self._lost("the other end closed the connection")
            return
        if self.far is not None:
            self.far.finish()
        elif self._last_bytes is not None:
            return
        if self._finished:
            self.close(reset=False)

    # What waits for this socket

    def _flush(self) -> bool:
        """Write what waits. Return whether nothing waits any more."""
        pipe = self._pipe
        try:
            if self._pending:
                self._pending = self._pending[send_some(self.socket, self._pending) :] or _NOTHING
            if pipe is not None and not self._pending:
                self._flush_pipe(pipe)
        except OSError as error:
            self._write_failed(error)
            return False
        if pipe is not None and not pipe.count:
            self._drop_pipe()
        return self._pipe is None and not self._pending

    def _flush_pipe(self, pipe: Pipe) -> None:
        rest = pipe.send_to(self._number)
        if rest:
            self.may_splice = False
            self._pending = memoryview(rest)

    def _drop_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            PIPES.give_back(pipe)

    def _write_failed(self, error: OSError) -> None:
        """Drop what waits for this socket and what will come for it. What it has received before is still read."""
        self.is_broken = True
        # EPIPE: the peer had ended its direction before, and the system tells that by an end. ENOTCONN takes no error.
        self._was_reset = self._was_reset or error.errno not in (errno.EPIPE, errno.ENOTCONN)
        self._pending, self._ending = _NOTHING, False
        self._drop_pipe()
        self._watch_room(False)
        self._bulk = False
        if self._ended or self.far is None:
            self._lost(reason_of(error))
            return
        self._watch_bytes(True)
        self.far.resume_reading()

    def _half_close(self) -> None:
        """Send the end of this direction, now that all bytes have gone out."""
        self._ending = False
        if not self._ended:
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._write_failed(error)
                return
            # All that we had to say is with the system, which delivers it even if this process is killed.
            set_linger(self.socket, SEND_ON_CLOSE)
        self._finished = True
        if self._ended:
            # Closing sends the end.
            self.close(reset=False)

    def _undelivered(self) -> int:
        """Return how many bytes wait for this socket or, as far as we know, have not arrived at its peer's system."""
        if self._number < 0:
            return 0
        waiting = len(self._pending) + (0 if self._pipe is None else self._pipe.count)
        return waiting + (0 if self.socket.family == socket.AF_UNIX else unacknowledged(self._number))

    # What the reactor watches

    def _watch_bytes(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            (self._poller.addReader if wanted else self._poller.removeReader)(self)

    def _watch_room(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            (self._poller.addWriter if wanted else self._poller.removeWriter)(self)


#: Where bytes are read to that nobody wants.
_DROPPED = memoryview(bytearray(64 * 1024))
