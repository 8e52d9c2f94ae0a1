"""Visitors: connections to public ports, until a carrier takes them to a client."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from rtunnel.relay.bare_port import Accepted
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import address_prefix, close_socket, format_address
from rtunnel.reverse.carriers.sockets import has_socket
from rtunnel.reverse.metering.meter import Budget, Meter
from rtunnel.reverse.metering.relays import limit_end

#: The most that :meth:`Visitor.take_socket` reads, in bytes: the head of a request, or a TLS hello.
MOST_FIRST = 4096


class Visitor:
    """One connection to a public port.

    :param address: the visitor's address.
    :param on_lost: passed to the :class:`SocketEnd`, if one is needed.
    :param first: what was read of the connection before; empty: :meth:`take_socket` reads what is there.
    :ivar name: *address* as logs and the wire show it.
    :ivar prefix: the key under which *address* is counted.
    :ivar first: what was read, which comes before all that the connection brings.
    :ivar meter: measures his bytes; None: nothing does.
    """

    __slots__ = ("_accepted", "_end", "_on_lost", "address", "first", "meter", "name", "prefix")

    def __init__(
        self,
        address: Any,
        connection: Accepted | SocketEnd,
        on_lost: Callable[[SocketEnd], None],
        first: bytes = b"",
    ) -> None:
        self.address = address
        self.name = format_address(address)
        self.prefix = address_prefix(address)
        self.first = first
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
        if self.meter is not None:
            limit_end(self._end, self.meter)
        return self._end

    def limit(self, budget: Budget) -> None:
        """Let what he sends and gets be measured."""
        self.meter = budget.meter()

    def wait(self) -> None:
        """Stop reading from the visitor until a carrier takes it."""
        if self._end is not None:
            self._end.pause()

    def abort(self) -> None:
        """Turn the visitor away. A bare socket is closed at once, which frees its descriptor."""
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            close_socket(accepted.socket, reset=True)
        elif self._end is not None:
            self._end.abort()


def _nothing(_end: SocketEnd) -> None:
    pass
