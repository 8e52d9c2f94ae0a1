"""What is below a data connection that waits: a bare socket, or TLS.

Without TLS the socket is taken away from Twisted as soon as it is known to be a data connection's: it waits in the
epoll of the relays (:mod:`rtunnel.relay.watch`), where it costs little, and is ready to be relayed.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Any, Protocol as TypingProtocol

from twisted.internet import tcp
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.direct import take_socket
from rtunnel.relay.sockets import QuietFactory, SocketTransport
from rtunnel.security.peers import Peer
from rtunnel.security.tls_transport import TlsTransport

#: Bytes of one read. Frames ahead of the stream's bytes are short, and more can wait in the kernel.
READ_SIZE = 8192
#: Seconds that connections in use are given to bring their last bytes, once their other end has left in good order.
TAIL = 60.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_log = Logger()


class WireUser(TypingProtocol):
    """Whose connection it is."""

    def connected(self, wire: Wire) -> None:
        """It is there."""

    def received(self, data: bytes) -> None:
        """Bytes came."""

    def lost(self, why: str) -> None:
        """It is gone, or never was there. After :meth:`Wire.cut` it may not be told."""


def reset_socket(sock: socket.socket) -> None:
    """Close, and say to the other end that this was not the end."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    with suppress(OSError):
        sock.close()


def probe_socket(sock: socket.socket) -> None:
    """Ask for keepalive probes, as :func:`rtunnel.relay.sockets.tune` does."""
    with suppress(OSError):  # it is lost already, which its first use shows
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def has_socket(transport: Any) -> bool:
    """Whether the kernel sees the very bytes of this connection, so that its socket can be taken."""
    return isinstance(transport, tcp.Connection) and not transport.TLS


@implementer(IReadDescriptor)
class SocketWire:
    """A bare socket, which does not block.

    :param watch: watches it; see :func:`~rtunnel.relay.watch.relay_reactor`.
    :raises OSError: the system does not let it be watched.
    """

    __slots__ = ("_number", "_socket", "_user", "_watch")

    def __init__(self, watch: Any, sock: socket.socket, user: WireUser) -> None:
        probe_socket(sock)
        self._watch = watch
        self._socket = sock
        self._user = user
        self._number = sock.fileno()
        watch.addReader(self)

    def send(self, data: bytes) -> None:
        """Send a frame or two, for which there always is room."""
        if self._number < 0:
            return
        try:
            sent = self._socket.send(data)
        except OSError as error:
            self._lost(str(error))
            return
        if sent < len(data):
            self._lost("the connection is full")

    def take(self) -> socket.socket:
        """The socket, for somebody else; nothing more comes from here."""
        self._leave()
        return self._socket

    def cut(self) -> None:
        """End it at once."""
        if self._number >= 0:
            self._leave()
            reset_socket(self._socket)

    def _leave(self) -> None:
        if self._number >= 0:
            self._watch.removeReader(self)
            self._number = -1

    def _lost(self, why: str) -> None:
        if self._number >= 0:
            self._leave()
            self._socket.close()
            self._user.lost(why)

    # What the reactor asks

    def fileno(self) -> int:
        """The descriptor; -1 when it is given away or closed."""
        return self._number

    def logPrefix(self) -> str:
        """What the log says of an error here."""
        return "data connection"

    def doRead(self) -> None:
        """There are bytes, or the end, or an error."""
        if self._number < 0:
            return
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(str(error))
            return
        if data:
            self._user.received(data)
        else:
            self._lost("it was closed")

    def doWrite(self) -> None:
        """Nobody asks for it."""

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found it broken, or stops."""
        self._lost(reason.getErrorMessage())


class TlsWire(Protocol):
    """A TLS connection.

    :ivar identity: see :class:`~rtunnel.reverse.tls_links.Identified`.
    """

    transport: SocketTransport  # type: ignore[assignment]

    def __init__(self, user: WireUser) -> None:
        self.identity: Peer | None = None
        self._user = user

    def connectionMade(self) -> None:
        """TLS is up."""
        self._user.connected(self)

    def dataReceived(self, data: bytes) -> None:
        """Bytes of it."""
        self._user.received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone."""
        self._user.lost(reason.getErrorMessage())

    def send(self, data: bytes) -> None:
        """Send a frame or two."""
        self.transport.write(data)

    def cut(self) -> None:
        """End it at once."""
        self.transport.abortConnection()


Wire = SocketWire | TlsWire


class Taker(Protocol):
    """A connection that is made or accepted by Twisted's means, until the socket is taken from it.

    :param watch: for the wire.
    """

    def __init__(self, watch: Any, user: WireUser) -> None:
        self._watch = watch
        self._user = user

    def connectionMade(self) -> None:
        """Take it."""
        if not settle(self.transport, self._watch, self._user):
            transport: Any = self.transport
            transport.abortConnection()
            self._user.lost("the way there knows no half-close")


def give_socket(sock: socket.socket, watch: Any, user: WireUser) -> None:
    """Give a bare connection to *user*. What the system does not let us watch is lost."""
    try:
        wire = SocketWire(watch, sock, user)
    except OSError as error:
        _log.debug("a data connection is closed: {why}", why=error)
        sock.close()
        user.lost(str(error))
    else:
        user.connected(wire)


def settle(transport: Any, watch: Any, user: WireUser) -> bool:
    """Give the connection to *user*; False where it cannot end one direction and go on with the other."""
    if has_socket(transport):
        try:
            sock, _ = take_socket(transport)
        except ValueError:
            return False
        give_socket(sock, watch, user)
    elif isinstance(transport, TlsTransport):
        hand_over(transport, TlsWire(user))
    else:
        return False
    return True


def hand_over(transport: Any, protocol: Protocol) -> None:
    """From now on *protocol* is what *transport*, of a kind that can do this, talks to."""
    transport.protocol = protocol
    protocol.makeConnection(transport)


def adopt(reactor: Any, sock: socket.socket, protocol: Protocol) -> bool:
    """Give a socket back to Twisted, for *protocol*. False where that fails: there is no descriptor left, or the
    connection is lost already. It is reset then, and *protocol* told that it is lost.
    """
    sock.setblocking(False)
    try:
        reactor.adoptStreamConnection(sock.fileno(), sock.family, QuietFactory.forProtocol(lambda: protocol))
    except OSError as error:
        _log.debug("a connection is reset: {why}", why=error)
        reset_socket(sock)
        protocol.connectionLost(Failure(error))
        return False
    # Twisted has made a descriptor of its own.
    sock.close()
    return True
