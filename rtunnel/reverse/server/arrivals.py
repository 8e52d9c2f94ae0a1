"""Connections that were accepted, before it is settled who gets them.

Most of them are relayed by the kernel in the end, and then Twisted's transport would be made only to be taken apart. So
where the port is a plain one of Twisted's, what it has accepted stays a bare socket until somebody needs more.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.protocol import Protocol

from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import QuietFactory, close_socket, take_socket, tune_socket
from rtunnel.reverse.carriers.sockets import has_socket


class Accepted:
    """What a port makes in place of Twisted's transport: a bare socket, and how to make that after all."""

    __slots__ = ("_arguments", "socket")

    def __init__(self, sock: socket.socket, protocol: Protocol, address: Any, port: Any, *more: Any) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._arguments = (address, port, *more)

    def give(self, protocol: Protocol) -> None:
        """Make the transport, for *protocol*.

        :raises OSError: the system does not let it be watched; the connection is reset then.
        """
        port = self._arguments[1]
        try:
            transport = type(port).transport(self.socket, protocol, *self._arguments)
        except OSError:
            close_socket(self.socket, reset=True)
            raise
        protocol.makeConnection(transport)


class _Landing(Protocol):
    """What a port takes for the protocol."""

    def __init__(self, landed: Callable[[Accepted, Any], None], address: Any) -> None:
        self._landed = landed
        self._address = address

    def makeConnection(self, transport: Any) -> None:
        self._landed(transport, self._address)


class LandingFactory(QuietFactory):
    """A factory that takes bare sockets where the port can give them.

    :ivar gives_sockets: the port does.
    """

    gives_sockets = False

    def landing(self, address: Any) -> Protocol:
        """The protocol for such a connection."""
        return _Landing(self.landed, address)

    def landed(self, accepted: Accepted, address: Any) -> None:
        """A connection has come."""
        raise NotImplementedError


def give_sockets(port: Any, factory: Any) -> None:
    """Let *port* hand its connections to *factory* as bare sockets, if it can."""
    # A factory around ours (TLS, haproxy) sees to bytes that we must not miss.
    if isinstance(port, tcp.Port) and port.factory is factory and isinstance(factory, LandingFactory):
        port.transport = Accepted  # type: ignore[assignment]
        if port.addressFamily != socket.AF_UNIX:
            tune_socket(port.socket)
        factory.gives_sockets = True


class Arrival:
    """A visitor.

    :param name: its address, as logs and the wire show it.
    :param on_lost: for the :class:`SocketEnd`, if one is needed.
    :ivar touched: see :class:`~rtunnel.upkeep.visitors.Visitors`.
    """

    __slots__ = ("_accepted", "_end", "_on_lost", "name", "touched")

    def __init__(self, name: str, came: Accepted | SocketEnd, on_lost: Callable[[SocketEnd], None]) -> None:
        self.name = name
        self.touched = True
        self._accepted = came if isinstance(came, Accepted) else None
        self._end = came if isinstance(came, SocketEnd) else None
        self._on_lost = on_lost

    @property
    def has_socket(self) -> bool:
        """Whether :meth:`take_socket` may succeed."""
        return self._accepted is not None or (self._end is not None and has_socket(self._end.transport))

    def take_socket(self) -> socket.socket:
        """The socket; nothing else is left of the visitor.

        :raises ValueError: it is gone.
        """
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            if accepted.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                accepted.socket.close()
                raise ValueError("the visitor is gone")
            return accepted.socket
        if self._end is None:
            raise ValueError("the visitor is gone")
        return take_socket(self._end.transport)[0]

    def socket_end(self) -> SocketEnd:
        """The visitor as the end of a stream.

        :raises OSError: there is nothing left of it, see :meth:`Accepted.give`.
        """
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            self._end = SocketEnd(_nothing, self._on_lost)
            accepted.give(self._end)
        assert self._end is not None
        return self._end

    def wait(self) -> None:
        """Read nothing yet."""
        if self._end is not None:
            self._end.pause()

    def abort(self) -> None:
        """Turn it away. Its descriptor is free again at once, where there are many of its kind."""
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            close_socket(accepted.socket, reset=True)
        elif self._end is not None:
            self._end.abort()


def _nothing(_end: SocketEnd) -> None:
    pass
