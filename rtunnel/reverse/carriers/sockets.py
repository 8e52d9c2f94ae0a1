"""Sockets of data connections: which can be taken from Twisted, and a protocol that takes one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.protocol import Protocol

from rtunnel.relay.sockets import take_socket, tune

#: Seconds that connections in use get to deliver their last bytes, once the other end has left in good order.
TAIL = 60.0


def has_socket(transport: Any) -> bool:
    """Return whether the socket of this connection can be taken: only the kernel is between us and its bytes."""
    return isinstance(transport, tcp.Connection) and not transport.TLS


class Taker(Protocol):
    """The protocol of a connection that an endpoint makes, until the socket is taken from it.

    :param made: called with the socket.
    :param failed: called with the reason if there is none.
    """

    def __init__(self, made: Callable[[socket.socket], None], failed: Callable[[str], None]) -> None:
        self._made = made
        self._failed = failed

    def connectionMade(self) -> None:
        """Take the socket."""
        transport: Any = self.transport
        tune(transport)
        try:
            sock, _ = take_socket(transport)
        except ValueError as error:
            transport.abortConnection()
            self._failed(str(error))
        else:
            self._made(sock)
