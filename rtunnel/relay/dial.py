"""Connecting a socket without an endpoint: for an address that needs no look-up, at the price of three system calls.

A connection for each visitor is dialled, and often two. Twisted's way to one has a timer, a Deferred and a transport,
which cost more than all that is done with the connection afterwards.
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

#: What ``connect`` says while it goes on.
GOES_ON = (errno.EINPROGRESS, errno.EWOULDBLOCK)


@implementer(IReadWriteDescriptor)
class Dial:
    """One attempt to connect. How long it may take is for whoever cancels it.

    :param watch: the reactor, or a :class:`~rtunnel.relay.watch.Watch`.
    :param on_made: called with the socket, connected and non-blocking; it may be within :meth:`start`.
    :param on_failed: called with the reason, likewise.
    """

    __slots__ = ("_number", "_on_failed", "_on_made", "_socket", "_watch")

    def __init__(
        self, watch: Any, on_made: Callable[[socket.socket], None], on_failed: Callable[[OSError], None]
    ) -> None:
        self._watch = watch
        self._on_made = on_made
        self._on_failed = on_failed
        self._socket: socket.socket | None = None
        self._number = -1

    def start(self, family: int, address: Any) -> None:
        """Connect to *address*, an IP address and port or a UNIX path."""
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as failure:
            self._on_failed(failure)
            return
        sock.setblocking(False)
        try:
            error = sock.connect_ex(address)
        except (OSError, ValueError) as failure:  # it is no address
            sock.close()
            self._on_failed(failure if isinstance(failure, OSError) else OSError(errno.EINVAL, str(failure)))
            return
        if family != socket.AF_UNIX:
            tune_socket(sock)
        self._socket, self._number = sock, sock.fileno()
        if error in GOES_ON and family != socket.AF_UNIX:
            try:
                # On the way to this machine itself it is there already.
                sock.getpeername()
            except OSError:
                try:
                    self._watch.addWriter(self)
                except OSError as failure:  # the system lets nothing more be watched
                    self._over(failure.errno or errno.ENOSPC)
                return
            error = 0
        self._over(error)

    def cancel(self) -> None:
        """Give up; nobody is told."""
        sock = self._leave()
        if sock is not None:
            sock.close()

    def _over(self, error: int) -> None:
        sock = self._socket
        self._socket, self._number = None, -1
        if sock is None:
            return
        if error:
            sock.close()
            self._on_failed(OSError(error, os.strerror(error)))
        else:
            self._on_made(sock)

    def _leave(self) -> socket.socket | None:
        if self._socket is not None:
            self._watch.removeWriter(self)
        sock, self._socket, self._number = self._socket, None, -1
        return sock

    # What the reactor asks

    def fileno(self) -> int:
        """The descriptor; -1 when it is given away or closed."""
        return self._number

    def logPrefix(self) -> str:
        """What the log says of an error here."""
        return "dial"

    def doRead(self) -> None:
        """Nobody asks for it."""

    def doWrite(self) -> None:
        """It is connected, or has failed."""
        if self._socket is None:
            return
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not error:
            try:
                self._socket.getpeername()
            except OSError:
                return  # it was the event of one that had this descriptor before
        self._watch.removeWriter(self)
        self._over(error)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found it broken, or stops."""
        sock = self._leave()
        if sock is not None:
            sock.close()
            self._on_failed(OSError(errno.ECONNABORTED, reason.getErrorMessage()))
