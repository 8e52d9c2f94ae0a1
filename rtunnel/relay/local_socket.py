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
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.interfaces import AT_ONCE, CLOSED, GAVE_WAY, RESET, IFar
from rtunnel.relay.last_bytes import LastBytes
from rtunnel.relay.pipes import Pipe
from rtunnel.relay.polled_socket import BULK, SHORT_TURNS, SPLICE_SIZE, PolledSocket, is_full
from rtunnel.relay.sockets import RESET_ON_CLOSE, SEND_ON_CLOSE

#: What a relayed socket costs in itself, in bytes.
COST = 1024


def _ignore(_count: int) -> None: ...


@implementer(IReadWriteDescriptor)
class LocalSocket(PolledSocket):
    """A connected, non-blocking TCP or UNIX socket, which this owns from now on.

    :param poller: watches the socket; see :func:`~rtunnel.relay.poller.poller_for`.
    :param on_end: called once, with this object, when the socket is closed.
    :param kept: called with the number of bytes that the socket does not take at once, and that stay in memory.
    :ivar far: the stream; None once that is over or broken.
    :ivar touched: set whenever bytes pass; the search for idle connections clears it.
    """

    __slots__ = (
        *("_bulk", "_ended", "_ending", "_finished", "_kept", "_last_bytes", "_on_end", "_was_reset"),
        *("far", "is_broken", "touched"),
    )

    def __init__(
        self,
        poller: Any,
        sock: socket.socket,
        far: IFar,
        on_end: Callable[[LocalSocket], None],
        kept: Callable[[int], None] = _ignore,
    ) -> None:
        super().__init__(poller, sock)
        self.far: IFar | None = far
        self.touched = True
        self._on_end: Callable[[LocalSocket], None] | None = on_end
        self._kept = kept
        # The end of what comes from the far side is due behind what waits; it has gone out.
        self._ending = self._finished = False
        # Writes fail. What comes from the far side is dropped.
        self.is_broken = False
        # To the far side: reads go through a pipe; the end has come.
        self._bulk = self._ended = False
        # A failed call has taken the error of this socket, so that the next read returns an end.
        self._was_reset = False
        self._last_bytes: LastBytes | None = None
        # If this process is killed, the peer must not take that for the end of a stream.
        self._set_linger(RESET_ON_CLOSE)

    def start(self) -> None:
        """Read from now on."""
        try:
            self._watch_bytes(True)
        except OSError as error:
            self._lost(reason_of(error))

    @property
    def held(self) -> int:
        """How many bytes of memory this and the far side take. What is in a pipe is the kernel's."""
        return COST + len(self._pending) + len(self._behind) + (0 if self.far is None else self.far.held)

    # From the far side

    def deliver(self, data: memoryview, flags: int = 0) -> None:
        """Write *data*, which is good only during this call. *flags* are for ``send``."""
        self.touched = True
        if self.is_broken:
            return
        self.bytes_sent += len(data)
        sent = 0
        if not self._writing:
            try:
                sent = self.socket.send(data, flags)
            except OSError as error:
                if not is_full(error):
                    self._write_failed(error)
                    return
        if sent < len(data):
            self._append(data[sent:])
            self._hold_far(len(data) - sent)

    def _hold_far(self, kept: int) -> None:
        """Let nothing more be delivered until there is room."""
        if self.far is not None:
            self.far.stop_reading()
        # Last, because this may close the socket.
        self._kept(kept)

    def deliver_pipe(self, pipe: Pipe) -> None:
        """Write what is in *pipe*, and give the pipe back. Nothing may be pending."""
        self.touched = True
        self._pipe = pipe
        self.bytes_sent += pipe.count
        if self.is_broken:
            self._drop_pipe()
        elif not self._flush():
            self._watch_room(True)
            self._hold_far(len(self._pending))

    def far_ended(self) -> None:
        """Half-close the socket behind what is pending."""
        if self._writing:
            self._ending = True
        else:
            self._half_close()

    def far_over(self) -> None:
        """Take note that both ends have come on the far side. What is pending still goes out."""
        self.far = None

    def far_reset(self, code: str, message: str) -> None:
        """Reset the socket behind what is pending: the stream broke."""
        self.far = None
        self.reason = self.reason or code
        if self._number < 0:
            return
        if code in AT_ONCE:
            self.close(reset=True)
            return
        # What comes is dropped, so that a peer that sends before it reads gets to read.
        self._bulk = False
        if not self._ended:
            self._watch_bytes(True)
        self._last_bytes = LastBytes(self._poller.reactor, self.undelivered, lambda: self.close(reset=True))
        self._last_bytes.start()

    def has_room(self) -> None:
        """Read again: the far side takes more."""
        if not self._ended:
            self._watch_bytes(True)

    # Ends of our own

    def abort(self) -> None:
        """Reset the connection and the stream at once."""
        self.reason = self.reason or CLOSED
        self._leave_far(Code.CONNECTION_LOST, "the connection was closed", behind=False)
        self.close(reset=True)

    def cut(self) -> None:
        """Reset the connection and the stream at once, because descriptors are needed."""
        self.reason = self.reason or GAVE_WAY
        if self.far is not None:
            # Not behind a reset, or the next visitor could get that connection before its end has come.
            self.far.drop()
        self.abort()

    def _lost(self, why: str) -> None:
        """The socket is lost: reset the stream behind what came before."""
        self.reason = self.reason or RESET
        self._leave_far(Code.CONNECTION_LOST, why, behind=True)
        self.close(reset=True)

    def _leave_far(self, code: str, message: str, *, behind: bool) -> None:
        far, self.far = self.far, None
        # Of a socket that has closed, both ends have come, and only the far side does not know it yet.
        if far is not None and self._number >= 0:
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
        self._close(reset=reset)
        on_end(self)

    @property
    def is_sound(self) -> bool:
        """Whether the socket works, and the stream has not broken."""
        return self._number >= 0 and not (self.is_broken or self._was_reset or self._last_bytes is not None)

    def freeze(self) -> dict[str, Any]:
        """Return all that is to be known beside the socket. This is out of use afterwards."""
        ends = {"ending": self._ending, "finished": self._finished, "ended": self._ended}
        counts = {"received": self.bytes_received, "sent": self.bytes_sent}
        self.far = None
        return {**ends, **counts, "waiting": self.detach()}

    def thaw(self, waiting: bytes, ending: bool, finished: bool, ended: bool, received: int, sent: int) -> None:
        """Be what another one was at :meth:`freeze`. Nothing is read before :meth:`go_on`."""
        self.bytes_received, self.bytes_sent = received, sent
        self._ending, self._finished, self._ended = ending, finished, ended
        if finished:
            self._set_linger(SEND_ON_CLOSE)
        if waiting:
            self._append(waiting)
            if self.far is not None:
                self.far.stop_reading()

    def go_on(self, *, has_room: bool) -> None:
        """Go on behind :meth:`thaw`. With *has_room*, the far side takes bytes now."""
        if self._ended:
            self._poller.watch_reset(self)
        elif has_room:
            self.start()
        if self._ending and not self._writing:
            self._half_close()

    # Called by the reactor

    def logPrefix(self) -> str:
        """Return the name under which the reactor logs errors."""
        return "relay"

    def connectionLost(self, reason: Failure) -> None:
        """Abort: the reactor found the connection broken, or is stopping."""
        self.abort()

    def doLastRead(self) -> None:
        """Read, and then the end, which is there already. So they leave together."""
        self.doRead(is_last=True)

    def doRead(self, *, is_last: bool = False) -> None:
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
        self.bytes_received += count
        if count < BULK:
            self._poller.short_turns = SHORT_TURNS
        if far is not None:
            if is_last and count < len(buffer) and not self.is_broken:
                self._read_last(far, count)
                return
            self._bulk = count == len(buffer) and far.may_splice and self.may_splice
            if not far.send_data(count):
                self._watch_bytes(False)
                self._kept(far.held)

    def _read_last(self, far: IFar, count: int) -> None:
        """Read what is behind the *count* bytes that were read: mostly the end. Send both."""
        try:
            more = self.socket.recv_into(far.payload[count:])
        except BlockingIOError:
            more = -1
        except OSError as error:
            far.send_data(count)
            self._lost(reason_of(error))
            return
        self.bytes_received += max(more, 0)
        if not more:
            self._end(count)
        elif not far.send_data(count + max(more, 0)):
            self._watch_bytes(False)
            self._kept(far.held)

    def doReset(self) -> None:
        """Behind its end, the peer has reset the connection: it wants nothing of what is still to come."""
        self._lost(reason_of(OSError(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.EPIPE, "")))

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
        try:
            pipe = self._fill_pipe(SPLICE_SIZE)
        except BlockingIOError:
            self._bulk = False
            return True
        except OSError as error:
            self._lost(reason_of(error))
            return True
        if pipe is None:
            self._bulk = False
            return False
        self.touched = True
        self.bytes_received += pipe.count
        is_bulk = pipe.count >= BULK
        if not far.send_pipe(pipe):
            self._watch_bytes(False)
        self._bulk = is_bulk and far.may_splice
        return True

    def _end(self, count: int = 0) -> None:
        """Pass on the end of what this socket receives, behind the first *count* bytes of the far side's buffer."""
        if getattr(self.socket, "is_broken_off", False):
            # An end of a pair, whose other end was reset.
            if count and self.far is not None:
                self.far.send_data(count)
            self._lost("the other end was reset")
            return
        self._ended = True
        # Closing takes it out of the poller too.
        is_over = self._finished and self._last_bytes is None and not self.is_broken
        if not is_over:
            self._reading = False
            self._poller.watch_reset(self)
        far = self.far
        if far is not None and not self._was_reset and not far.finish(count) and count:
            self._kept(far.held)
        if self.is_broken:
            self._lost("the other end closed the connection")
        elif is_over:
            self.close(reset=False)

    def _watch_bytes(self, wanted: bool) -> None:
        if wanted != self._reading and self._number >= 0:
            self._reading = wanted
            (self._poller.add_stream if wanted else self._poller.removeReader)(self)

    # What waits for this socket

    def _write_failed(self, error: OSError) -> None:
        """Drop what waits for this socket and what will come for it. What it has received before is still read."""
        self.is_broken = True
        # EPIPE: the peer had ended its direction before, and the system tells that by an end. ENOTCONN takes no error.
        self._was_reset = self._was_reset or error.errno not in (errno.EPIPE, errno.ENOTCONN)
        self._ending = self._bulk = self.may_splice = False
        self._drop()
        if self._ended or self.far is None:
            self._lost(reason_of(error))
        else:
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
            self._set_linger(SEND_ON_CLOSE)
        self._finished = True
        if self._ended:
            # Closing sends the end.
            self.close(reset=False)


#: Where bytes are read to that nobody wants.
_DROPPED = memoryview(bytearray(64 * 1024))
