"""Bytes that came before a connection broke, and bytes that must go out before we break one.

The system still has both, and three habits would throw them away:

- When a write fails, because the other end has reset the connection, Twisted closes the socket. What the other end
  sent before may be in it, unread. The epoll reactor does so even without a write, if the transport is paused.
- A failed write takes the error with it: the next read returns an end, as if the other end had closed in good order.
- To close a socket with a reset drops what the system has not delivered yet.

A fourth matters when this process is killed: the system then closes its sockets in good order, and a part looks like
the whole. So sockets are set to reset (``SO_LINGER``) until all bytes and our end have gone out.

Behind an end nothing can be read, so a reactor watches such a connection only while there is something to write. It
would serve somebody who has ended his direction and then gone. An epoll of ours tells that he has reset the connection.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, cast
from weakref import WeakKeyDictionary

from twisted.internet import tcp
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure

from rtunnel import delayed_calls
from rtunnel.relay.poller import poller_for
from rtunnel.relay.sockets import RESET_ON_CLOSE, SEND_ON_CLOSE, break_cycles, set_linger

try:
    import fcntl
    import termios
except ImportError:  # not a Unix
    fcntl = termios = None  # type: ignore[assignment]

#: The state of a TCP connection that is lost (``tcpi_state`` of Linux).
TCP_CLOSE = 7
#: Seconds after which bytes that the other end does not take are given up.
STALLED = 30.0
#: What each piece that was written costs besides its bytes.
PIECE = 48
#: Seconds between two looks at them: at first, and at most.
FIRST_LOOK, LAST_LOOK = 0.005, 0.5

_resets: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def connection_of(transport: Any) -> tcp.Connection | None:
    """Return Twisted's transport that has the socket, below any TLS or PROXY header; None if there is none."""
    while transport is not None and not isinstance(transport, tcp.Connection):
        transport = getattr(transport, "tcp", None) or getattr(transport, "transport", None)
    return transport


def abort_at_once(transport: Any) -> None:
    """Reset a connection and close its socket now, where Twisted would wait for the reactor's next turn."""
    transport.abortConnection()
    connection = connection_of(transport)
    if connection is not None:
        connection.connectionLost(Failure(ConnectionAborted()))


def unacknowledged(sock: socket.socket) -> int:
    """Return how many bytes the system has taken for a TCP socket and the other end's has not acknowledged.

    It is 0 once the connection is lost, where Linux goes on counting what it has dropped. (For a UNIX socket the number
    would be what the other end has not read, which no reset drops.)
    """
    if not hasattr(termios, "TIOCOUTQ") or sock.fileno() < 0:
        return 0
    try:
        count = int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
        return 0 if count and _is_lost(sock) else count
    except OSError:
        return 0


def _is_lost(sock: socket.socket) -> bool:
    return sys.platform == "linux" and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE


def buffered(transport: Any) -> int:
    """Return how many bytes Twisted's transport below *transport* holds, as they were written and not sent yet."""
    connection = transport if isinstance(transport, tcp.Connection) else connection_of(transport)
    if connection is None:
        return 0
    pieces = len(connection._tempDataBuffer) * PIECE
    return len(connection.dataBuffer) - connection.offset + connection._tempDataLen + pieces


def unsent(connection: tcp.Connection) -> int:
    """Return how many bytes that were written to *connection* have not arrived at the other end's system."""
    if not connection.connected:
        return 0
    buffered = len(connection.dataBuffer) - connection.offset + connection._tempDataLen
    is_unix = connection.getHandle().family == socket.AF_UNIX
    return int(buffered) + (0 if is_unix else unacknowledged(connection.getHandle()))


class LastBytes:
    """Waits until the other end has everything, or takes no more of it.

    :param waiting: returns how many bytes the other end does not have yet.
    :param then: called once, maybe within :meth:`start`: nothing waits any more, or nothing has moved for
        *patience*.
    :param patience: in seconds.
    """

    __slots__ = ("_before", "_call", "_clock", "_delay", "_patience", "_since", "_then", "_waiting")

    def __init__(
        self, clock: Any, waiting: Callable[[], int], then: Callable[[], None], patience: float = STALLED
    ) -> None:
        self._clock = clock
        self._waiting = waiting
        self._then = then
        self._patience = patience
        self._before = -1
        self._since = 0.0
        self._delay = FIRST_LOOK
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Look for the first time."""
        self._look()

    def cancel(self) -> None:
        """Stop waiting; *then* is not called any more."""
        delayed_calls.cancel(self._call)
        # No reference cycle with whoever waits, who has this object.
        self._waiting, self._then = int, _do_nothing

    def _look(self) -> None:
        waiting, now = self._waiting(), self._clock.seconds()
        if waiting != self._before:
            self._before, self._since = waiting, now
        if waiting and now - self._since < self._patience:
            self._call = self._clock.callLater(self._delay, self._look)
            self._delay = min(2 * self._delay, LAST_LOOK)
        else:
            then = self._then
            self.cancel()
            then()


class ReadOn(tcp.Connection):
    """A transport that reads to the end or error of its connection, although writes to it fail.

    What is written after the first failure is dropped. Then the end of reading ends the connection. It also makes the
    system reset the connection if this process is killed.
    """

    #: The end of reading has come.
    _read_ended = False
    #: Writes fail.
    _is_broken = False
    #: They do because of a reset, not because the other end had closed before.
    _was_reset = False
    #: Bytes are sent when they are written, as far as the system takes them. Twisted sends them in the reactor's next
    #: turn. Not for a socket that may be taken from Twisted: whoever takes it waits for that turn.
    sends_at_once = False

    def write(self, data: bytes) -> None:
        """See :class:`twisted.internet.tcp.Connection`."""
        if self._is_broken:
            return
        if not self.sends_at_once:
            super().write(data)
            return
        waits = self.dataBuffer or self._tempDataBuffer or self.disconnecting or self._writeDisconnecting
        if data and self.connected and not (waits or self._writeDisconnected or self.TLS):
            sent = self.writeSomeData(data)
            # What fails does so again in the next turn, where Twisted expects it.
            if isinstance(sent, int) and sent > 0:
                data = data[sent:]
        if data:
            super().write(data)

    def writeSomeData(self, data: bytes) -> int | ConnectionLost:
        """See :class:`twisted.internet.tcp.Connection`."""
        if self._is_broken:
            return len(data)
        try:
            return int(self.socket.send(memoryview(data)[: self.SEND_LIMIT]))
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return 0
            if self._read_ended or self.disconnecting:
                return CONNECTION_LOST
            # EPIPE: the other end had ended its direction, and the system tells that by an end.
            self._was_reset = error.errno != errno.EPIPE
            self._break()
            return len(data)

    def _break(self) -> None:
        self._is_broken = True
        self.writeSequence = _drop  # type: ignore[method-assign]

    def _closeWriteConnection(self) -> None:
        super()._closeWriteConnection()
        # All that we had to say is with the system, which delivers it even if this process is killed.
        set_linger(self.socket, SEND_ON_CLOSE)

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.tcp.Connection`."""
        is_abort = reason.check(ConnectionAborted)
        if reason.check(ConnectionLost) and not is_abort and not self._read_ended and self._has_unread():
            # The transport is paused. It reads the rest when it is resumed.
            self._break()
            self.dataBuffer, self.offset = b"", 0
            self._tempDataBuffer, self._tempDataLen = [], 0
            if self.producer is not None and self.producerPaused:
                self.producerPaused = False
                self.producer.resumeProducing()  # type: ignore[attr-defined]
            return
        if reason.check(ConnectionDone):
            set_linger(self.socket, SEND_ON_CLOSE)
        if self._read_ended:
            _resets_of(self.reactor).forget(self)
        super().connectionLost(reason)
        break_cycles(self)

    def readConnectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.tcp.Connection`."""
        self._read_ended = True
        if not self._was_reset:
            super().readConnectionLost(reason)
        if self._is_broken and self.connected:
            self.doReset()
        elif self.connected:
            _resets_of(self.reactor).watch_reset(self)

    def doReset(self) -> None:
        """The connection is broken, behind the end of reading."""
        self.stopWriting()
        self.connectionLost(Failure(CONNECTION_LOST))

    def _has_unread(self) -> bool:
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False


def is_broken(connection: tcp.Connection) -> bool:
    """Return whether writes to a transport fail. The failed one has taken the error, so reading may end without."""
    return isinstance(connection, ReadOn) and connection._is_broken


def _resets_of(reactor: Any) -> Any:
    """What tells of resets behind an end, one for each reactor."""
    poller = _resets.get(reactor)
    if poller is None:
        poller = _resets[reactor] = poller_for(reactor)
    return poller


@cache
def _reading_on(kind: Any) -> Any:
    return type(f"ReadOn{kind.__name__}", (ReadOn, kind), {})


def read_on(transport: tcp.Connection) -> ReadOn:
    """Make a transport of Twisted a :class:`ReadOn`, if it is none yet, and return it.

    :param transport: connected; its protocol supports half-close, or takes an end for the end of both directions.
    """
    if not isinstance(transport, ReadOn):
        kind: Any = type(transport)  # to mypy, a transport's type cannot be hashed
        transport.__class__ = _reading_on(kind)
    set_linger(transport.socket, RESET_ON_CLOSE)
    return cast(ReadOn, transport)


def _drop(_data: object) -> None:
    pass


def _do_nothing() -> None:
    pass
