"""Visitors: connections to public ports, until a carrier takes them to a client."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address

from rtunnel.access.public import Public
from rtunnel.relay.bare_port import Accepted
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import address_prefix, close_socket, format_address
from rtunnel.reverse.carriers.sockets import has_socket
from rtunnel.reverse.metering.meter import Budget, Meter
from rtunnel.shaping.ends import limit_end
from rtunnel.traffic.accounts import Account
from rtunnel.upkeep.visitors import IServed, Visitors
from rtunnel.wire.data.frozen import Fields, State, text_of

#: The most that :meth:`Visitor.take_socket` reads, in bytes: the head of a request, or a TLS hello.
MOST_FIRST = 4096
#: The most that was read before of one who waits, in bytes: a TLS hello, and what has come behind it.
MOST_READ = 64 << 10


class Owner(NamedTuple):
    """What a visitor is counted for.

    :ivar public: the place to which he has come.
    :ivar client: who serves him, as it is known when it comes back; None: nobody yet.
    :ivar session: the link of that client.
    :ivar number: the tunnel's, on that link.
    """

    public: Public
    client: Any = None
    session: Any = None
    number: int = 0


class Visitor:
    """One connection to a public port.

    :param address: the visitor's address.
    :param on_lost: passed to the :class:`SocketEnd`, if one is needed.
    :param first: what was read of the connection before; empty: :meth:`take_socket` reads what is there.
    :ivar name: *address* as logs and the wire show it.
    :ivar prefix: the key under which *address* is counted.
    :ivar owner: what it is counted for; None: nothing yet.
    :ivar account: counts what he sends and gets; set together with *owner*, when he is given to a tunnel.
    :ivar who: *name*, for the access log.
    :ivar first: what was read, which comes before all that the connection brings.
    :ivar home: takes the visitor back from a carrier that has told nobody of him; returns False if it cannot.
    :ivar meter: measures his bytes; None: nothing does.
    """

    __slots__ = (
        *("_accepted", "_end", "_on_lost", "account", "address", "first", "home", "meter", "name", "owner", "prefix"),
        "who",
    )

    account: Account

    def __init__(
        self,
        address: Any,
        connection: Accepted | SocketEnd,
        on_lost: Callable[[SocketEnd], None],
        first: bytes = b"",
    ) -> None:
        self.address = address
        self.name = self.who = format_address(address)
        self.prefix = address_prefix(address)
        self.owner: Owner | None = None
        self.first = first
        self.home: Callable[[Visitor], bool] | None = None
        self.meter: Meter | None = None
        self._accepted = connection if isinstance(connection, Accepted) else None
        self._end = connection if isinstance(connection, SocketEnd) else None
        self._on_lost = on_lost

    def take_socket(self) -> socket.socket | None:
        """Return the socket; None if the visitor has only a :meth:`socket_end`. Do not use the visitor afterwards.

        Mostly the visitor's first bytes are there already, and can leave together with the news of him.

        :raises ValueError: the visitor is gone.
        """
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            try:
                self.first = self.first or accepted.socket.recv(MOST_FIRST)
            except BlockingIOError:
                pass
            except OSError as error:
                accepted.socket.close()
                raise ValueError("the visitor is gone") from error
            if self.meter is not None:
                self.meter.up.passed(len(self.first))
            return accepted.socket
        if self._end is None or not self._end.is_connected:
            raise ValueError("the visitor is gone")
        return self._end.take_socket() if has_socket(self._end.transport) else None

    def socket_end(self) -> SocketEnd:
        """Return the visitor as the end of a stream.

        :raises OSError: the visitor is lost; see :meth:`Accepted.give`.
        """
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            self._end = SocketEnd(_nothing, self._on_lost)
            accepted.give(self._end)
        assert self._end is not None
        if self._end.is_lost:
            raise ConnectionResetError("the visitor is gone")
        if self.meter is not None:
            limit_end(self._end, self.meter)
        return self._end

    def limit(self, budget: Budget) -> None:
        """Let what he sends and gets be measured."""
        self.meter = budget.meter()

    def served_by(self, end: IServed, visitors: Visitors, carrier: str) -> None:
        """Count him among *visitors*, now that *end* relays his connection; see :meth:`Visitors.serve`."""
        visitors.serve(end, self.prefix, self.owner, 1, self.account, self.who, carrier)

    # While the visitor waits for a carrier

    def wait(self) -> None:
        """Stop reading from the visitor until a carrier takes it."""
        if self._end is not None:
            self._end.pause()

    def go_on(self) -> None:
        """Undo :meth:`wait`. Nothing is read before this turn of the reactor is over."""
        if self._end is not None:
            self._end.resume()

    def fileno(self) -> int:
        """Return the descriptor of the bare socket, or -1 if the visitor has none."""
        return -1 if self._accepted is None else self._accepted.socket.fileno()

    def is_gone(self) -> bool:
        """Return whether the bare socket was reset, or was closed with nothing left to read."""
        if self._accepted is None:
            return False
        sock = self._accepted.socket
        try:
            return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) or not sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def give_back(self) -> None:
        """Give the visitor back to where he came from, or turn him away: his carrier is over."""
        if self.home is None or not self.home(self):
            self.abort()

    # While he waits, another process may go on with him

    def freeze(self) -> State | None:
        """Return what it must know, as JSON has it, beside his bare socket; None: it cannot go on with him."""
        address = self.address
        if self._accepted is None or not isinstance(address, (IPv4Address, IPv6Address)):
            return None
        return {"address": [address.host, address.port], "first": text_of(self.first)}

    def release(self) -> socket.socket:
        """Return the bare socket, with which it goes on. Do not use the visitor afterwards."""
        accepted, self._accepted = self._accepted, None
        assert accepted is not None
        return accepted.socket

    @classmethod
    def thaw(cls, state: Fields, sock: socket.socket, reactor: Any, on_lost: Callable[[SocketEnd], None]) -> Visitor:
        """Go on with a visitor.

        :param state: from :meth:`freeze`.
        :raises ValueError: it is not.
        :raises OSError: the visitor is gone.
        """
        found = state.all("address")
        if [type(each) for each in found] != [str, int]:
            raise ValueError("no address")
        address = (IPv6Address if ":" in found[0] else IPv4Address)("TCP", *found)
        accepted = Accepted.of(sock, reactor)
        accepted.peer = address
        return cls(address, accepted, on_lost, state.data("first", MOST_READ))

    def abort(self) -> None:
        """Turn the visitor away. A bare socket is closed at once, which frees its descriptor."""
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            close_socket(accepted.socket, reset=True)
        elif self._end is not None:
            self._end.abort()


def _nothing(_end: SocketEnd) -> None:
    pass
