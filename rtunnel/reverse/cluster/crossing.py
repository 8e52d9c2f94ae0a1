"""A visitor who crosses from one node to another, at the node where his client has its link.

    the other node -- data connection -- LocalSocket == pair of UNIX sockets == Visitor -- the client's link

The other node has routed him, so he goes straight to his client. An end of the pair that is reset lets the other one
see a reset too, behind all that was sent before: UNIX sockets by themselves have only ends.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.unix import Server
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.bare_port import Accepted
from rtunnel.relay.sockets import text_prefix
from rtunnel.reverse.public import Visitor
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.upkeep.visitors import Visitors

#: What takes a visitor to his client, by his address as the other node has it; None: his client is not there.
Cross = Callable[[str], socket.socket | None]


class PairedSocket(socket.socket):
    """One end of a pair.

    :ivar is_broken_off: the other end was reset, so the end that is read here is none.
    """

    other: PairedSocket | None = None
    is_broken_off = False
    _resets = False

    def setsockopt(self, level: int, option: int, value: Any, *more: Any) -> None:
        """Take note of whether closing means a reset, as for TCP."""
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self._resets = struct.unpack("ii", value) == (1, 0)
        super().setsockopt(level, option, value, *more)

    def moved(self) -> PairedSocket:
        """Return another object in the place of this one, which has no socket afterwards."""
        other, self.other = self.other, None
        new = PairedSocket(fileno=self.detach())
        new.other, new.is_broken_off = other, self.is_broken_off
        if other is not None:
            other.other = new
        return new

    def close(self) -> None:
        """Close it; if that means a reset, tell the other end."""
        other, self.other = self.other, None
        if other is not None:
            other.is_broken_off = self._resets
            other.other = None
        super().close()


def pair() -> tuple[PairedSocket, PairedSocket]:
    """Return two sockets that are connected to each other, and do not block."""
    near, far = (PairedSocket(fileno=each.detach()) for each in socket.socketpair())
    near.other, far.other = far, near
    near.setblocking(False)
    far.setblocking(False)
    return near, far


class _Place:
    """What Twisted's transports ask their port for."""

    _realPortNumber = 0
    interface = ""


class _Transport(Server):
    """Twisted's transport of an end of a pair."""

    def __init__(self, sock: socket.socket, protocol: Protocol, reactor: Any) -> None:
        super().__init__(sock, protocol, None, _Place(), 0, reactor)

    def readConnectionLost(self, reason: Failure) -> None:
        """Tell the end of what is read; if the other end was reset, that the connection is lost."""
        if getattr(self.socket, "is_broken_off", False):
            self.connectionLost(Failure(ConnectionLost()))
        else:
            super().readConnectionLost(reason)


class _Crossed(Accepted):
    """The visitor's end, as a port would hand it out."""

    def __init__(self, sock: socket.socket, reactor: Any) -> None:
        super().__init__(sock, Protocol(), None, None)
        self._reactor = reactor

    def give(self, protocol: Protocol) -> None:
        """See :class:`Accepted`."""
        protocol.makeConnection(_Transport(self.socket, protocol, self._reactor))


@implementer(IStreamClientEndpoint)
class CrossingEndpoint:
    """Leads one visitor to his client, as if that were a local service. For visitors who come by the link."""

    def __init__(self, cross: Cross, visitor: str, reactor: Any) -> None:
        self._cross = cross
        self._visitor = visitor
        self._reactor = reactor

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """See :class:`IStreamClientEndpoint`."""
        sock = self._cross(self._visitor)
        protocol: Any = factory.buildProtocol(IPv4Address("TCP", "", 0)) if sock is not None else None
        if sock is None or protocol is None:
            return fail(ConnectionRefusedError())
        protocol.makeConnection(_Transport(sock, protocol, self._reactor))
        return succeed(protocol)


def address_of(name: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a visitor, as another node writes it."""
    host, colon, port = name.partition(" ")[0].rpartition(":")
    if not colon or not port.isdecimal():
        return None
    host = host.strip("[]")
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, int(port))


def cross(backend: Backend, visitors: Visitors, reactor: Any, name: str) -> socket.socket | None:
    """Give a visitor who has come to another node to his client.

    :param name: his address, as that node says.
    :returns: the other end of his connection; None if the client cannot take him.
    """
    try:
        near, far = pair()
    except OSError:
        return None
    visitor = Visitor(address_of(name), _Crossed(far, reactor), visitors.discard)
    visitor.name = visitor.who = name
    visitor.prefix = text_prefix(name)
    is_used_up = backend.budget is not None and backend.budget.used_up is not None
    if backend.public is not None and not is_used_up:
        visitor.owner, visitor.account = backend.owner, backend.account
        if backend.session.open_visitor(backend.number, visitor):
            return near
    visitor.abort()
    near.close()
    return None
