"""Connect a socket without an endpoint, to an address that needs no look-up.

The client dials a connection for each visitor, and often two. Twisted's endpoints make a timer, a Deferred and a
transport for each, which cost more than everything that is done with the connection afterwards.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.sockets import tune_socket

#: Errors of ``connect`` which mean that it is still in progress.
IN_PROGRESS = (errno.EINPROGRESS, errno.EWOULDBLOCK)
#: Where a socket can be made so that it does not block, that saves a call.
_NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0)


def begin(family: int, address: Any) -> tuple[socket.socket, bool]:
    """Begin to connect. Return the socket, which does not block, and whether it is connected already.

    :param family: ``AF_INET``, ``AF_INET6`` or ``AF_UNIX``.
    :param address: an IP address and a port, or a path.
    :raises OSError: it has failed at once.
    """
    sock = socket.socket(family, socket.SOCK_STREAM | _NONBLOCK)
    try:
        if not _NONBLOCK:
            sock.setblocking(False)
        error = sock.connect_ex(address)
        if family == socket.AF_UNIX:
            is_made = not error
        else:
            tune_socket(sock)
            is_made = not error or (error in IN_PROGRESS and _is_connected(sock))
        if not (is_made or (error in IN_PROGRESS and family != socket.AF_UNIX)):
            raise OSError(error, os.strerror(error))
    except OSError:
        sock.close()
        raise
    except ValueError as failure:  # not a valid address
        sock.close()
        raise OSError(errno.EINVAL, str(failure)) from failure
    return sock, is_made


def _is_connected(sock: socket.socket) -> bool:
    """Return whether a socket is connected. One to this machine is at once, although its ``connect`` says no."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


@implementer(IReadWriteDescriptor)
class Dial:
    """One attempt to connect. It has no time-out of its own: call :meth:`cancel`.

    :param poller: the reactor, or a :class:`~rtunnel.relay.poller.Poller`.
    :param on_made: called with the connected, non-blocking socket, maybe within :meth:`start`.
    :param on_failed: called with the reason, maybe within :meth:`start`.
    """

    __slots__ = ("_number", "_on_failed", "_on_made", "_poller", "_socket")

    def __init__(
        self, poller: Any, on_made: Callable[[socket.socket], None], on_failed: Callable[[OSError], None]
    ) -> None:
        self._poller = poller
        self._on_made = on_made
        self._on_failed = on_failed
        self._socket: socket.socket | None = None
        self._number = -1

    def start(self, family: int, address: Any) -> None:
        """Connect.

        The parameters are those of :func:`begin`.
        """
        try:
            sock, is_made = begin(family, address)
        except OSError as failure:
            self._failed(failure)
            return
        if is_made:
            self._made(sock)
        else:
            self.wait(sock)

    def wait(self, sock: socket.socket) -> None:
        """Wait until *sock*, which :func:`begin` has returned, is connected."""
        self._socket, self._number = sock, sock.fileno()
        try:
            self._poller.addWriter(self)
        except OSError as failure:  # epoll accepts no more descriptors
            sock.close()
            self._failed(failure)

    def cancel(self) -> None:
        """Give up. No callback is called."""
        sock = self._leave()
        if sock is not None:
            sock.close()

    def _made(self, sock: socket.socket) -> None:
        on_made = self._on_made
        self._over()
        on_made(sock)

    def _failed(self, failure: OSError) -> None:
        on_failed = self._on_failed
        self._over()
        on_failed(failure)

    def _over(self) -> None:
        self._socket, self._number = None, -1
        del self._on_made, self._on_failed  # no cycle with whoever dials, who has this object

    def _leave(self) -> socket.socket | None:
        if self._socket is not None:
            self._poller.removeWriter(self)
        sock, self._socket, self._number = self._socket, None, -1
        return sock

    # Called by the reactor

    def fileno(self) -> int:
        """Return the descriptor, or -1 when the socket is handed over or closed."""
        return self._number

    def logPrefix(self) -> str:
        """Return the name under which the reactor logs errors."""
        return "dial"

    def doRead(self) -> None:
        """Do nothing: a dial is never read."""

    def doWrite(self) -> None:
        """Find out whether the socket is connected or has failed."""
        sock = self._socket
        if sock is None:
            return
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not (error or _is_connected(sock)):
            return  # the event was for a socket that had this descriptor before
        self._poller.removeWriter(self)
        if error:
            sock.close()
            self._failed(OSError(error, os.strerror(error)))
        else:
            self._made(sock)

    def connectionLost(self, reason: Failure) -> None:
        """Fail: the reactor found the socket broken, or is stopping."""
        sock = self._leave()
        if sock is not None:
            sock.close()
            self._on_failed(OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED)))
