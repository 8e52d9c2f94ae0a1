"""Ports that hand out what they accept as bare sockets.

Most connections end up in a :class:`~rtunnel.relay.local_socket.LocalSocket`, so a Twisted transport would be made only
to be taken apart again. On a plain Twisted port, an accepted connection therefore stays a bare socket until something
needs a transport.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol

from rtunnel.relay.sockets import QuietFactory, close_socket, tune_socket


class Accepted:
    """What a port makes instead of Twisted's transport: a bare socket that can still become that transport.

    :ivar peer: whose connection it is, if the one at the other end only passes it on; see
        :mod:`rtunnel.relay.proxy_header`.
    """

    __slots__ = ("_arguments", "peer", "socket")

    def __init__(self, sock: socket.socket, protocol: Protocol, address: Any, port: Any, *more: Any) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.peer: IAddress | None = None
        self._arguments = (address, port, *more)

    @classmethod
    def of(cls, sock: socket.socket, reactor: Any) -> Accepted:
        """Return a connection that another process has accepted.

        :raises OSError: it is lost.
        """
        return cls(sock, Protocol(), sock.getpeername(), tcp.Port(0, QuietFactory(), reactor=reactor), 0, reactor)

    def give(self, protocol: Protocol) -> None:
        """Make the transport, and connect *protocol* to it.

        :raises OSError: the system does not let us watch the socket; the connection is then reset.
        """
        port = self._arguments[1]
        try:
            transport = type(port).transport(self.socket, protocol, *self._arguments)
        except OSError:
            close_socket(self.socket, reset=True)
            raise
        if self.peer is not None:
            transport.getPeer = lambda peer=self.peer: peer
        protocol.makeConnection(transport)


class Landing(Protocol):
    """A stand-in for the protocol of a connection that is handed out as a bare socket."""

    def __init__(self, landed: Callable[[Accepted, Any], None], address: Any) -> None:
        self._landed = landed
        self._address = address

    def makeConnection(self, transport: Any) -> None:
        """Hand out the bare socket."""
        self._landed(transport, self._address)


class LandingFactory(QuietFactory):
    """A factory that takes bare sockets if its port can hand them out.

    :ivar gives_sockets: whether the port hands out bare sockets.
    """

    gives_sockets = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the protocol of a connection."""
        return Landing(self.landed, addr) if self.gives_sockets else self.build(addr)

    def build(self, address: IAddress | None) -> Protocol | None:
        """Make the protocol for a connection whose bare socket is not available, or return None to close it."""
        raise NotImplementedError

    def landed(self, accepted: Accepted, address: Any) -> None:
        """Take a bare socket."""
        raise NotImplementedError


def give_sockets(port: Any, factory: Any) -> None:
    """Let *port* hand its connections to *factory* as bare sockets, if it can."""
    # A factory around ours (TLS, haproxy) reads bytes first, so a bare socket would bypass it.
    if isinstance(port, tcp.Port) and port.factory is factory and isinstance(factory, LandingFactory):
        port.transport = Accepted  # type: ignore[assignment]
        if port.addressFamily != socket.AF_UNIX:
            tune_socket(port.socket)
        factory.gives_sockets = True
