"""The socket, bare or under TLS, of a data connection that waits.

It is taken from Twisted as soon as the connection is known to be a data connection. It waits in the epoll of the relays
(:mod:`rtunnel.relay.poller`), where it costs little, and is ready to be relayed.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol as TypingProtocol

from twisted.internet import tcp
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.reasons import reason_of
from rtunnel.relay.sockets import (
    RESET_ON_CLOSE,
    SEND_ON_CLOSE,
    QuietFactory,
    StreamSocket,
    close_socket,
    keep_alive,
    set_linger,
    take_socket,
    tune,
)
from rtunnel.tls.identity import Peer
from rtunnel.tls.socket import TlsSocket
from rtunnel.tls.transport import Secured, TlsTransport

#: The size of a read, in bytes. Frames ahead of the stream's bytes are short; more can wait in the kernel.
READ_SIZE = 8192
#: Seconds that connections in use get to deliver their last bytes, once the other end has left in good order.
TAIL = 60.0
_log = Logger()


class WireUser(TypingProtocol):
    """The user of a data connection that waits."""

    def connected(self, wire: SocketWire) -> None:
        """Take note that the connection is up."""

    def received(self, data: bytes) -> None:
        """Take bytes from the connection."""

    def lost(self, why: str) -> None:
        """Take note that the connection is lost, or could not be made. Not called after :meth:`SocketWire.cut`."""


def has_socket(transport: Any) -> bool:
    """Return whether the socket of this connection can be taken: only the kernel is between us and its bytes."""
    return isinstance(transport, tcp.Connection) and not transport.TLS


@implementer(IReadDescriptor)
class SocketWire:
    """The socket of a data connection that waits, and its user.

    :param poller: watches the socket; see :func:`~rtunnel.relay.poller.poller_for`.
    :raises OSError: the system does not let us watch the socket.
    """

    __slots__ = ("_number", "_poller", "_socket", "_user")

    def __init__(self, poller: Any, sock: StreamSocket, user: WireUser) -> None:
        self._poller = poller
        self._socket = sock
        self._user = user
        self._number = sock.fileno()
        poller.addReader(self)
        if isinstance(sock, socket.socket):
            # If this process is killed, the peer must not take that for the end of a stream. (Under TLS it cannot.)
            set_linger(sock, RESET_ON_CLOSE)

    def send(self, data: bytes) -> None:
        """Send a frame or two. There is always room for them."""
        if self._number < 0:
            return
        try:
            sent = self._socket.send(data)
        except OSError as error:
            self._lost(reason_of(error))
            return
        if sent < len(data):
            self._lost("the connection is full")

    def keep_alive(self, probe_after: float, give_up_after: float) -> None:
        """See :func:`rtunnel.relay.sockets.keep_alive`."""
        keep_alive(self._socket, probe_after, give_up_after)

    def take(self) -> StreamSocket:
        """Stop watching the socket, and return it."""
        self._leave()
        return self._socket

    def take_watched(self) -> StreamSocket:
        """Return the socket, still watched, to a caller that will replace us in the poller (``replace``)."""
        self._number = -1
        return self._socket

    def cut(self) -> None:
        """Reset the connection."""
        if self._number >= 0:
            self._leave()
            close_socket(self._socket, reset=True)

    def _leave(self) -> None:
        if self._number >= 0:
            self._poller.removeReader(self)
            self._number = -1

    def _lost(self, why: str) -> None:
        if self._number >= 0:
            self._leave()
            self._socket.close()
            self._user.lost(why)

    # Called by the reactor

    def fileno(self) -> int:
        """Return the descriptor; -1 once the socket is given away or closed."""
        return self._number

    def logPrefix(self) -> str:
        """Return the name under which the reactor logs errors."""
        return "data connection"

    def doRead(self) -> None:
        """Read bytes, the end, or an error."""
        if self._number < 0:
            return
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(reason_of(error))
            return
        if data:
            self._user.received(data)
        else:
            self._lost("it was closed")

    def doWrite(self) -> None:
        """Do nothing: writing is not watched."""

    def connectionLost(self, reason: Failure) -> None:
        """Take note that the reactor found the socket broken, or is stopping."""
        self._lost(reason_of(reason))


class Taker(Protocol):
    """The protocol of a connection that Twisted makes or accepts, until the socket is taken from it.

    :param poller: watches the socket once it is taken.
    :ivar identity: the other end as authenticated by TLS, if it was.
    """

    def __init__(self, poller: Any, user: WireUser) -> None:
        self.identity: Peer | None = None
        self._poller = poller
        self._user = user

    def connectionMade(self) -> None:
        """Take the socket."""
        transport: Any = self.transport
        sock: StreamSocket
        try:
            if isinstance(transport, TlsTransport):
                sock = transport.take_socket()
            else:
                tune(transport)
                sock, _ = take_socket(transport)
        except ValueError:
            transport.abortConnection()
            self._user.lost("its transport does not support half-close")
        else:
            give_socket(sock, self._poller, self._user)


def give_socket(sock: StreamSocket, poller: Any, user: WireUser) -> None:
    """Give a connection to *user*. If the system does not let us watch it, it is closed."""
    try:
        wire = SocketWire(poller, sock, user)
    except OSError as error:
        _log.debug("a data connection is closed: {why}", why=error)
        sock.close()
        user.lost(reason_of(error))
    else:
        user.connected(wire)


def adopt(reactor: Any, sock: StreamSocket, protocol: Protocol, first: bytes = b"") -> bool:
    """Give a socket back to Twisted, for *protocol*.

    Return False if that fails, because no descriptor is left or the connection is lost. The connection is then reset,
    and *protocol* is told that it is lost.

    :param first: bytes that were already read.
    """
    tls = None
    if isinstance(sock, TlsSocket):
        sock, engine = sock.leave()
        tls = TlsTransport.above(engine, Secured(), reactor, protocol)
    below = tls or protocol
    assert isinstance(sock, socket.socket)
    sock.setblocking(False)
    set_linger(sock, SEND_ON_CLOSE)
    try:
        reactor.adoptStreamConnection(sock.fileno(), sock.family, QuietFactory.forProtocol(lambda: below))
    except OSError as error:
        _log.debug("a connection is reset: {why}", why=error)
        close_socket(sock, reset=True)
        protocol.connectionLost(Failure(error))
        return False
    # Twisted has duplicated the descriptor.
    sock.close()
    if first:
        protocol.dataReceived(first)
    if tls is not None:
        tls.look()
    return True
