"""The connections to a signaling server: limits their number, and closes all of them at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime

from rtunnel.relay.sockets import address_prefix, format_address
from rtunnel.upkeep.descriptors import Descriptors, Place
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.places import Places

#: How many connections may be unregistered at once. One more replaces the oldest of the address that has most.
MAX_UNREGISTERED = 1024


class Connection(Protocol):
    """One connection to the server.

    :ivar address_prefix: the key under which its address is counted; empty if it is not counted.
    :ivar touched: see :class:`~rtunnel.upkeep.descriptors.IHolder`.
    """

    address_prefix: str
    touched: bool

    def tick(self, now: float, was_stopped: bool) -> None:
        """Check the time-outs.

        :param was_stopped: whether this process has not run for a while, in which it heard nobody.
        """

    def go_away(self) -> None:
        """Tell the peer that the server is going down, and close."""

    def abort(self) -> None:
        """Drop the connection now. It is removed when it is lost."""

    def cut(self) -> None:
        """See :class:`~rtunnel.upkeep.descriptors.IHolder`."""


class Connections:
    """All connections of the server.

    :param max_per_address: how many may come from one address at once; 0: any number. May be changed.
    :param log_limiter: for log lines that strangers can cause.
    :param descriptors: has a place for each connection that has not registered; the others do not give way.
    """

    def __init__(self, max_per_address: int, log_limiter: LogLimiter, descriptors: Descriptors) -> None:
        self.max_per_address = max_per_address
        self._log_limiter = log_limiter
        self._all: set[Connection] = set()
        self._descriptors = descriptors
        self._unregistered: Places[Connection] = Places()
        self._held: dict[Connection, Place] = {}
        self._per_address: Counter[str] = Counter()
        self._closed: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._all))

    def has_room_for(self, address: IAddress | None) -> bool:
        """Return whether one more connection may come from this address. If not, log that."""
        count = self._per_address[address_prefix(address)] if address is not None else 0
        if not 0 < self.max_per_address <= count:
            return True
        self._log_limiter.warn(
            "a connection from {peer} is closed: there are {count} (--max-per-address)",
            peer=format_address(address) if address is not None else "",
            count=count,
        )
        return False

    def add(self, connection: Connection) -> None:
        """Add a connection that was just made. It counts as unregistered."""
        if len(self._unregistered) >= MAX_UNREGISTERED:
            first = self._unregistered.first_to_go
            self.has_registered(first)
            first.abort()
        self._all.add(connection)
        self._unregistered.add(connection, connection.address_prefix)
        self._held[connection] = self._descriptors.add(connection, connection.address_prefix, "signaling")
        if connection.address_prefix:
            self._per_address[connection.address_prefix] += 1

    def has_registered(self, connection: Connection) -> None:
        """Take note that *connection* has registered, so that others no longer replace it."""
        self._unregistered.discard(connection)
        place = self._held.pop(connection, None)
        if place is not None:
            self._descriptors.remove(place)

    def remove(self, connection: Connection) -> None:
        """Remove a connection that was lost."""
        self._all.discard(connection)
        self.has_registered(connection)
        if connection.address_prefix:
            self._per_address[connection.address_prefix] -= 1
            if not self._per_address[connection.address_prefix]:
                del self._per_address[connection.address_prefix]
        if not self._all and self._closed is not None:
            closed, self._closed = self._closed, None
            closed.callback(None)

    async def close(self, clock: IReactorTime, patience: float) -> None:
        """Tell everybody to go away, and return when all connections are lost.

        :param patience: seconds after which those that are left are aborted.
        """
        for connection in self:
            connection.go_away()
        if not self._all:
            return
        closed = self._closed = Deferred()
        timer = clock.callLater(patience, self._abort)
        await closed
        if timer.active():
            timer.cancel()

    def _abort(self) -> None:
        for connection in self:
            connection.abort()
