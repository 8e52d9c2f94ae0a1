"""UDP sockets that survive errors.

Twisted's own UDP port closes its socket after an ICMP error other than "connection refused", and logs two lines for
each socket, which is too much where every flow has one. So :class:`UdpSocket` reads and writes itself.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

#: The address of a datagram, as the socket module has it: host, port, and for IPv6 flow label and scope. On a socket
#: that is bound to all addresses, the one that the datagram was sent to is behind these, as a :data:`_Local`.
Address = tuple[Any, ...]
#: The control message that makes a datagram leave from a certain local address: level, type, data. See RFC 3542, 6.
_Local = tuple[int, int, bytes]

# Not every Python names this option. Its structure is in_pktinfo: interface, local address, address in the header.
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8 if sys.platform == "linux" else None)
_IN_PKTINFO = struct.Struct("@I4s4s")
# in6_pktinfo: address, interface.
_IN6_PKTINFO = struct.Struct("@16sI")
_CONTROL_SIZE = 128

#: Larger than any datagram, so that none is cut.
READ_SIZE = 65536
#: Datagrams that are read from one socket before others get their turn.
READS_IN_A_ROW = 64
#: The receive buffer, in bytes, that the kernel is asked for; it grants what its own limit allows.
RECEIVE_BUFFER = 1 << 20
# SO_RCVBUFFORCE of Linux: a process with the privilege may go beyond the limit.
_BEYOND_THE_LIMIT = (33,) if sys.platform == "linux" else ()
#: Errors which say that a connected socket should have another address, if there is one.
UNREACHABLE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)


@implementer(IReadDescriptor)
class UdpSocket:
    """One UDP socket. No error closes it; a datagram that cannot be sent is lost, as UDP allows.

    :param received: called with each datagram, which may be empty, and its source.
    :param lost: called with the reason when a datagram was not sent, or is known not to have arrived.
    :param refused: called instead if the reason is that the other end is not there (:data:`UNREACHABLE`).
    :param done: called after some datagrams, when others get their turn.
    """

    def __init__(
        self,
        reactor: Any,
        received: Callable[[bytes, Address], None],
        lost: Callable[[str], None],
        refused: Callable[[str], None] | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._received = received
        self._lost = lost
        self._refused = refused or lost
        self._done = done
        self._socket: socket.socket | None = None
        self._tells_local = False
        # The last control messages that have come, and what answers have to leave with.
        self._control: list[tuple[int, int, bytes]] = []
        self._answer_from: tuple[_Local, ...] = ()

    def bind(self, host: str, port: int) -> None:
        """Receive from anybody. A name is resolved at once; IPv4 is preferred.

        A socket for all addresses answers from the one that was asked, where the system can tell which (Linux).
        Otherwise the system chooses one, and a program that asked another takes no notice of the answer.

        :param host: empty: every IPv4 address.
        :raises OSError: the address cannot be bound.
        """
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        self._open(family, lambda handle: handle.bind(address))
        if self._socket is not None and address[0] in ("0.0.0.0", "::"):
            self._tells_local = _tell_local(self._socket)

    def adopt(self, handle: socket.socket) -> None:
        """Receive from anybody by a socket that is bound, and is this one's from now on."""
        self._use(handle)
        self._tells_local = handle.getsockname()[0] in ("0.0.0.0", "::") and _tell_local(handle)

    def connect(self, host: str, port: int) -> None:
        """Send to this address, and receive from nobody else.

        :param host: an IP address.
        :raises OSError: there is no route to it, or no descriptor left.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._open(family, lambda handle: handle.connect((host, port)))

    def _open(self, family: int, attach: Callable[[socket.socket], None]) -> None:
        handle = socket.socket(family, socket.SOCK_DGRAM)
        try:
            handle.setblocking(False)
            attach(handle)
        except BaseException:
            handle.close()
            raise
        self._use(handle)

    def _use(self, handle: socket.socket) -> None:
        for option in (socket.SO_RCVBUF, *_BEYOND_THE_LIMIT):
            with suppress(OSError):  # the size that there is will do
                handle.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
        self._socket = handle
        self._reactor.addReader(self)

    @property
    def address(self) -> IAddress | None:
        """The local address; None while the socket is not open."""
        if self._socket is None:
            return None
        host, port, *_ = self._socket.getsockname()
        return IPv6Address("UDP", host, port) if ":" in host else IPv4Address("UDP", host, port)

    def send(self, data: bytes, address: Address | None = None) -> None:
        """Send a datagram; *address* is for a socket that is not connected. Do nothing on a closed socket."""
        try:
            self._send(data, address)
        except BlockingIOError:
            self._lost("the socket is busy")
        except OSError as error:
            # This may be the ICMP error for an earlier datagram, in which case this one was not sent.
            try:
                self._send(data, address)
            except OSError:
                pass  # count one loss, not two
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        tell = self._refused if error.errno in UNREACHABLE else self._lost
        tell(error.strerror or str(error))

    def _send(self, data: bytes, address: Address | None) -> None:
        if self._socket is None:
            return
        if address is None:
            self._socket.send(data)
        elif isinstance(address[-1], tuple):
            self._socket.sendmsg([data], [address[-1]], 0, address[:-1])
        else:
            self._socket.sendto(data, address)

    def close(self) -> None:
        """Close the socket. May be called again."""
        handle = self._socket
        if handle is not None:
            self._reactor.removeReader(self)
            self._socket = None
            handle.close()

    # Called by the reactor

    def fileno(self) -> int:
        """See ``IFileDescriptor``."""
        return self._socket.fileno() if self._socket is not None else -1

    def logPrefix(self) -> str:
        """See ``ILoggingContext``."""
        return "UDP"

    def doRead(self) -> Failure | None:
        """Read up to :data:`READS_IN_A_ROW` datagrams."""
        for _ in range(READS_IN_A_ROW):
            if self._socket is None:
                break
            try:
                if self._tells_local:
                    data, control, _, source = self._socket.recvmsg(READ_SIZE, _CONTROL_SIZE)
                    source += self._from(control)
                else:
                    data, source = self._socket.recvfrom(READ_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                self._failed(error)
            else:
                self._received(data, source)
        if self._done is not None:
            self._done()
        return None

    def _from(self, control: list[tuple[int, int, bytes]]) -> tuple[_Local, ...]:
        if control != self._control:
            self._control, self._answer_from = control, _answer_from(control)
        return self._answer_from

    def connectionLost(self, reason: Failure) -> None:
        """See ``IReadDescriptor``.

        The epoll reactor calls this when there is an error and nothing to read. It has removed the socket before.
        """
        if not reason.check(ConnectionDone):  # the reactor stops
            self.close()
            return
        self.doRead()
        if self._socket is not None:
            self._reactor.addReader(self)


def _tell_local(handle: socket.socket) -> bool:
    """Ask for the address that each datagram was sent to. Return False if the system does not have the option."""
    try:
        if handle.family == socket.AF_INET6:
            handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif _IP_PKTINFO is None:
            return False
        else:
            handle.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    except (AttributeError, OSError):
        return False
    return True


def _answer_from(control: list[tuple[int, int, bytes]]) -> tuple[_Local, ...]:
    """Return how to answer a datagram that came with *control*. The system chooses the interface, as for any answer."""
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(value) >= _IN_PKTINFO.size:
            _, local, _ = _IN_PKTINFO.unpack_from(value)
            return ((level, kind, _IN_PKTINFO.pack(0, local, bytes(4))),)
        if (level, kind) == (socket.IPPROTO_IPV6, getattr(socket, "IPV6_PKTINFO", None)) and len(value) >= 20:
            asked, _ = _IN6_PKTINFO.unpack_from(value)
            if asked[0] != 0xFF:  # nothing can be sent from a multicast address
                return ((level, kind, _IN6_PKTINFO.pack(asked, 0)),)
    return ()
