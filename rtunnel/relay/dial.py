"""Connect a socket without an endpoint, to an address that needs no look-up. This takes three system calls.

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

        :param family: ``AF_INET``, ``AF_INET6`` or ``AF_UNIX``.
        :param address: an IP address and a port, or a path.
        """
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as failure:
            self._on_failed(failure)
            return
        sock.setblocking(False)
        try:
            error = sock.connect_ex(address)
        except (OSError, ValueError) as failure:  # not a valid address
            sock.close()
            self._on_failed(failure if isinstance(failure, OSError) else OSError(errno.EINVAL, str(failure)))
            return
        if family != socket.AF_UNIX:
            tune_socket(sock)
        self._socket, self._number = sock, sock.fileno()
        if error in IN_PROGRESS and family != socket.AF_UNIX:
            try:
                # A connection to this machine completes at once.
                sock.getpeername()
            except OSError:
                try:
                    self._poller.addWriter(self)
                except OSError as failure:  # epoll accepts no more descriptors
                    self._over(failure.errno or errno.ENOSPC)
                return
            error = 0
        self._over(error)

    def cancel(self) -> None:
        """Give up. No callback is called."""
        sock = self._leave()
        if sock is not None:
            sock.close()

    def _over(self, error: int) -> None:
        sock = self._socket
        self._socket, self._number = None, -1
        if sock is None:
            return
        on_made, on_failed = self._on_made, self._on_failed
        del self._on_made, self._on_failed  # no cycle with whoever dials, who has this object
        if error:
            sock.close()
            on_failed(OSError(error, os.strerror(error)))
        else:
            on_made(sock)

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
        if self._socket is None:
            return
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not error:
            try:
                self._socket.getpeername()
            except OSError:
                return  # the event was for a socket that had this descriptor before
        self._poller.removeWriter(self)
        self._over(error)

    def connectionLost(self, reason: Failure) -> None:
        """Fail: the reactor found the socket broken, or is stopping."""
        sock = self._leave()
        if sock is not None:
            sock.close()
            self._on_failed(OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED)))
