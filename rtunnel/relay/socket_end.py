"""Relay between one TCP or UNIX connection and a stream, with back-pressure and half-close in both directions.

Each direction has its own end. When both ends have come, the connection is closed. When the stream is reset, so is the
connection. When the connection is lost before both ends have come, the stream is reset. In either case, what came
before goes out before.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IPushProducer, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.interfaces import AT_ONCE, CLOSED, GAVE_WAY, RESET, IStream, IStreamUser
from rtunnel.relay.last_bytes import LastBytes, abort_at_once, buffered, connection_of, is_broken, read_on, unsent
from rtunnel.relay.sockets import QuietFactory, SocketTransport, is_closing, take_socket, tune

#: Small pieces that wait are joined up to this many bytes, because each piece has an overhead in memory.
SMALL_CHUNK = 4096


@implementer(IPushProducer)
class _SocketFull:
    """The transport's producer, for the direction from the stream to the socket.

    :class:`SocketEnd` itself has ``pause`` and ``resume`` for the other direction.
    """

    def __init__(self, end: SocketEnd) -> None:
        self._end = end

    def pauseProducing(self) -> None:
        self._end.socket_is_full()

    def resumeProducing(self) -> None:
        self._end.socket_has_room()

    def stopProducing(self) -> None:
        """Do nothing: the connection is lost, and ``connectionLost`` follows."""


@implementer(IStreamUser, IHalfCloseableProtocol)
class SocketEnd(Protocol):
    """One connection and its stream. A visitor's connection exists before its stream, a service's after it.

    :param on_made: called with this object when the connection is made.
    :param on_lost: called with this object when the connection is lost, or could not be made.
    :ivar touched: set whenever bytes pass; the search for idle connections clears it.
    :ivar bytes_received: see :class:`~rtunnel.traffic.accounts.IRelay`, also for *bytes_sent* and *reason*.
    """

    transport: SocketTransport  # type: ignore[assignment]
    #: See :class:`~rtunnel.relay.last_bytes.ReadOn`.
    sends_at_once = False

    def __init__(self, on_made: Callable[[SocketEnd], None], on_lost: Callable[[SocketEnd], None]) -> None:
        self.touched = True
        self.bytes_received = self.bytes_sent = 0
        self.reason = ""
        self._on_made = on_made
        self._on_lost = on_lost
        self._stream: IStream | None = None
        self._connected = False
        self._dialling: Deferred[IProtocol] | None = None
        self._given_up = False
        # From the stream to the socket.
        self._pending: list[bytes] = []
        self._full = True
        self._end_of_stream: Callable[[], None] | None = None
        self._write_open = True
        # The stream broke: the connection is to be reset behind what is pending.
        self._is_breaking = False
        self._last_bytes: LastBytes | None = None
        # From the socket to the stream.
        self._paused = False
        self._read_open = True

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connected

    @property
    def is_at_rest(self) -> bool:
        """Whether both directions are open, and nothing waits for the socket."""
        is_open = self._connected and self._read_open and self._write_open and self._end_of_stream is None
        connection = connection_of(self.transport)
        if not is_open or connection is None or is_closing(connection) or is_broken(connection):
            return False
        return not (self._pending or self._is_breaking or buffered(connection))

    @property
    def is_lost(self) -> bool:
        """Whether the connection is lost, or could not be made."""
        return not self._connected and self._dialling is None

    def take_socket(self) -> socket.socket:
        """Return the socket, for somebody else to relay. This end, which is :attr:`is_at_rest`, is of no more use."""
        sock, _ = take_socket(self.transport)
        self._connected = False
        self._stream = None  # no circle
        return sock

    def call_when_lost(self, call: Callable[[], None]) -> None:
        """Call *call* too when the connection is lost."""
        before = self._on_lost

        def both(end: SocketEnd) -> None:
            before(end)
            call()

        self._on_lost = both

    def attach(self, stream: IStream, first: bytes = b"") -> None:
        """Relay between the connection and *stream* from now on.

        :param first: what was read of the connection before.
        """
        self._stream = stream
        if first:
            self.dataReceived(first)

    def dial(self, endpoint: IStreamClientEndpoint, on_failed: Callable[[Failure], None]) -> None:
        """Connect to *endpoint*. If that fails, reset the stream with the reason.

        :param on_failed: called with the reason, unless :meth:`abort` gave the attempt up.
        """

        factory = QuietFactory.forProtocol(lambda: self)

        def made(_protocol: IProtocol) -> None:
            self._dialling = None
            factory.protocol = None  # no reference cycle

        def failed(failure: Failure) -> None:
            self._dialling = None
            if not self._given_up:
                on_failed(failure)
            if self._stream is not None:
                self.reason = Code.LOCAL_TIMEOUT if failure.check(ConnectTimeout) else Code.LOCAL_UNREACHABLE
                self._stream.reset(self.reason, reason_of(failure))
            self._on_lost(self)

        self._dialling = endpoint.connect(factory)
        self._dialling.addCallbacks(made, failed)

    def abort(self) -> None:
        """Reset the connection, or give up dialling. This resets the stream, unless it is over."""
        self.reason = self.reason or CLOSED
        if self._connected:
            self.transport.abortConnection()
        elif self._dialling is not None:
            self._given_up = True
            self._dialling.cancel()

    def cut(self) -> None:
        """Like :meth:`abort`, but close the socket at once: its descriptor is needed."""
        self.reason = self.reason or GAVE_WAY
        if self._connected:
            abort_at_once(self.transport)
        else:
            self.abort()

    # From the socket

    def connectionMade(self) -> None:
        """Start relaying. What the stream has already sent goes out first."""
        tune(self.transport)
        self._connected = True
        self._full = False
        self.transport.registerProducer(_SocketFull(self), True)
        self._on_made(self)
        connection = connection_of(self.transport)
        # Somebody may have taken its socket.
        if connection is not None and connection.connected:
            read_on(connection).sends_at_once = self.sends_at_once
        if self._paused:
            self.transport.pauseProducing()
        self._drain()

    def dataReceived(self, data: bytes) -> None:
        """Write *data* to the stream."""
        self.touched = True
        self.bytes_received += len(data)
        if self._stream is not None and not self._is_breaking:
            self._stream.write(data)

    def readConnectionLost(self) -> None:
        """Pass on the half-close of the connection's other end to the stream."""
        self._read_open = False
        if self._stream is not None:
            self._stream.finish()
        if not self._write_open:
            self._close()

    def writeConnectionLost(self) -> None:
        """Do nothing: our own half-close has gone out."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Reset the stream behind what it still queues, unless both ends have come or :meth:`abort` was called."""
        self._connected = False
        self._full = True
        self._pending.clear()
        if self._last_bytes is not None:
            self._last_bytes.cancel()
            self._last_bytes = None
        stream, self._stream = self._stream, None
        # When both ends have come, what the stream still queues is on its way to a slow reader.
        if stream is not None and (self._read_open or self._write_open):
            self.reason = self.reason or RESET
            behind = not reason.check(ConnectionAborted)
            stream.reset(Code.CONNECTION_LOST, reason_of(reason), behind=behind)
        self._on_lost(self)

    # From the stream

    def data_received(self, data: bytes) -> None:
        """Write *data* to the socket, or keep it while the socket is full."""
        self.touched = True
        pending = self._pending
        if not (self._full or pending):
            self._write(data)
        elif pending and len(pending[-1]) + len(data) <= SMALL_CHUNK:
            pending[-1] += data
        else:
            pending.append(data)

    def finished(self) -> None:
        """Half-close the connection behind what is pending: the stream sends no more."""
        self._end_of_stream = self._half_close
        self._drain()

    def closed(self) -> None:
        """Close the connection behind what is pending: the stream is over."""
        self._end_of_stream = self._close
        self._drain()

    def was_reset(self, code: str, message: str) -> None:
        """Reset the connection behind what is pending, so that its other end does not mistake a part for the whole."""
        self.reason = self.reason or code
        if not self._connected or code in AT_ONCE:
            self._pending.clear()
            self.abort()
            return
        self._is_breaking = True
        # What comes is dropped, so that an other end that sends before it reads gets to read.
        self.resume()
        connection = connection_of(self.transport)
        if connection is not None:
            self._last_bytes = LastBytes(connection.reactor, self._undelivered, self.abort)
            self._last_bytes.start()
        self._drain()

    def pause(self) -> None:
        """Stop reading from the socket for now."""
        self._paused = True
        if self._connected and self._read_open:
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Read from the socket again."""
        self._paused = False
        if self._connected and self._read_open:
            self.transport.resumeProducing()

    def buffered(self) -> int:
        """Return how many bytes wait in the transport."""
        return buffered(self.transport) if self._connected else 0

    # From the transport's buffer

    def socket_is_full(self) -> None:
        """Keep what the stream sends, undelivered, until the socket has room."""
        self._full = True

    def socket_has_room(self) -> None:
        """Write to the socket again."""
        self._full = False
        self._drain()

    def _drain(self) -> None:
        while self._pending and not self._full:
            self._write(self._pending.pop(0))
        if self._pending or not self._connected:
            return
        if self._end_of_stream is not None:
            end, self._end_of_stream = self._end_of_stream, None
            end()
        if self._is_breaking and self._last_bytes is None:
            self.abort()

    def _undelivered(self) -> int:
        connection = connection_of(self.transport)
        return sum(map(len, self._pending)) + (0 if connection is None else unsent(connection))

    def _write(self, data: bytes) -> None:
        self.bytes_sent += len(data)
        self.transport.write(data)
        if self._stream is not None:
            self._stream.delivered(len(data))

    def _half_close(self) -> None:
        self._write_open = False
        if self._read_open:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()
        else:
            self._close()

    def _close(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()


class PromptEnd(SocketEnd):
    """One whose socket is never taken from Twisted, so that bytes need not wait for the reactor's next turn."""

    sends_at_once = True
