"""A stream on a data connection, relayed in user space.

This is for visitors and services whose own socket cannot be taken, because Twisted's TLS or a PROXY header is above it.

    SocketEnd <-> RawStream (IStream) <-> Twisted's TCP transport, or TlsTransport

Where both sockets can be taken, :class:`~rtunnel.relay.direct.DirectRelay` relays them instead.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.relay.last_bytes import LastBytes, buffered, connection_of, read_on, unsent
from rtunnel.relay.sockets import SocketTransport

#: Undelivered bytes at which reading pauses, and at which it resumes.
HIGH_WATER = 128 * 1024
LOW_WATER = 32 * 1024
#: What a stream costs in itself, in bytes, with the two TLS connections below it.
COST = 128 * 1024


@implementer(IStream, IHalfCloseableProtocol, IPushProducer)
class RawStream(Protocol):
    """One stream on its own connection.

    :param user: the user of the stream.
    :param on_lost: called with this object once the connection is lost and everything that it held is released.
    """

    transport: SocketTransport  # type: ignore[assignment]

    def __init__(self, user: IStreamUser, on_lost: Callable[[RawStream], None]) -> None:
        # None once the user has been told of the end, or has caused it.
        self._user: IStreamUser | None = user
        self._on_lost = on_lost
        self._waiting = 0
        self._reading = True
        self._read_ended = False
        self._write_ended = False
        self._last_bytes: LastBytes | None = None

    # From the connection

    def connectionMade(self) -> None:
        """Register with the transport as its producer."""
        self.transport.registerProducer(self, True)
        connection = connection_of(self.transport)
        if connection is not None:
            read_on(connection)

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes of the stream to the user."""
        if self._user is None:
            return
        self._waiting += len(data)
        self._user.data_received(data)
        if self._reading and self._waiting >= HIGH_WATER:
            self._reading = False
            self.transport.pauseProducing()

    def readConnectionLost(self) -> None:
        """Tell the user that the other end sends no more."""
        self._read_ended = True
        if self._user is not None:
            self._user.finished()
            self._close_if_over()

    def writeConnectionLost(self) -> None:
        """Do nothing: our half-close has gone out."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the user that the stream is lost, unless both its ends have come."""
        user, self._user = self._user, None
        if self._last_bytes is not None:
            self._last_bytes.cancel()
        if user is not None and not (self._read_ended and self._write_ended):
            user.was_reset(Code.CONNECTION_LOST, reason_of(reason))
        self._on_lost(self)

    def pauseProducing(self) -> None:
        """Pause the user: the connection takes no more."""
        if self._user is not None:
            self._user.pause()

    def resumeProducing(self) -> None:
        """Resume the user: the connection takes bytes again."""
        if self._user is not None:
            self._user.resume()

    def stopProducing(self) -> None:
        """Do nothing: the connection is lost, and ``connectionLost`` follows."""

    # From the user

    def write(self, data: bytes) -> None:
        """See :class:`IStream`."""
        if self._user is not None and not self._write_ended:
            self.transport.write(data)

    def finish(self) -> None:
        """See :class:`IStream`."""
        if self._user is not None and not self._write_ended:
            self._write_ended = True
            self.transport.unregisterProducer()
            if self._read_ended:
                self._close_if_over()
            else:
                self.transport.loseWriteConnection()

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """See :class:`IStream`. The other end learns only that the connection was cut."""
        if self._user is None:
            return
        self._user = None
        connection = connection_of(self.transport)
        if behind and connection is not None:
            # What comes is dropped.
            self.transport.resumeProducing()
            self._last_bytes = LastBytes(connection.reactor, lambda: unsent(connection), self.abort)
            self._last_bytes.start()
        else:
            self.transport.abortConnection()

    def delivered(self, count: int) -> None:
        """See :class:`IStream`."""
        self._waiting -= count
        if not self._reading and self._waiting <= LOW_WATER and self._user is not None:
            self._reading = True
            self.transport.resumeProducing()

    @property
    def held(self) -> int:
        """How many bytes of memory this takes, with what its user has delivered and not sent yet."""
        theirs = 0 if self._user is None else self._user.buffered()
        return COST + self._waiting + theirs + buffered(self.transport)

    def abort(self) -> None:
        """Cut the connection, and tell the user."""
        self.transport.abortConnection()

    def _close_if_over(self) -> None:
        if self._read_ended and self._write_ended:
            self.transport.loseConnection()
