"""The connections that a service relays: counted, reset when idle, and waited for when the service stops."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred

from rtunnel.traffic.accounts import Account, Accounts, IRelay
from rtunnel.upkeep.descriptors import Descriptors, IHolder, Part, Place


class IVisitor(IHolder, Protocol):
    """Somebody who waits or is served. Hashed by identity."""

    def abort(self) -> None:
        """Reset the connection."""


class IServed(IVisitor, IRelay, Protocol):
    """Relays one connection, as :class:`~rtunnel.relay.socket_end.SocketEnd` and
    :class:`~rtunnel.relay.local_socket.LocalSocket` do.
    """


@dataclass(frozen=True, slots=True)
class Counted:
    """How a visitor is counted who is served; see :meth:`Visitors.serve` and :class:`~rtunnel.traffic.accounts.Visit`.

    :ivar client: of the account, as *tunnel*.
    """

    address: str
    owner: Hashable
    count: int
    client: str
    tunnel: str
    who: str
    carrier: str
    began: float


class Visitors:
    """The set of visitors that a service relays.

    :param accounts: count what they send and get.
    :ivar descriptors: has a place for each of them.
    :ivar on_change: called with an owner, and how many descriptors its connections have now.
    """

    def __init__(self, descriptors: Descriptors, accounts: Accounts) -> None:
        self.descriptors = descriptors
        self.accounts = accounts
        self.on_change: Callable[[Hashable, int], None] | None = None
        self._ends: dict[IVisitor, Place] = {}
        # Of those who are served, if that is for an account.
        self._accounts: dict[IVisitor, Account] = {}
        self._drained: Deferred[None] | None = None
        self._empty: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def __contains__(self, end: object) -> bool:
        return end in self._ends

    def add(self, end: IVisitor, address: str, owner: Hashable, count: int = 1) -> None:
        """Count a connection that is now relayed. Another one may have to make room for it.

        The parameters are those of :meth:`~rtunnel.upkeep.descriptors.Descriptors.add`.
        """
        self._ends[end] = place = self.descriptors.add(end, address, owner, count)
        self._changed(place.part)
        # Its first byte may take a while. Until then it is not the longest idle one, even if all others are busy.
        end.touched = True

    def serve(
        self, end: IServed, address: str, owner: Hashable, count: int, account: Account, who: str, carrier: str
    ) -> None:
        """Do the same, and count what passes for *account*; see :meth:`~rtunnel.traffic.accounts.Account.begin`."""
        self._accounts[end] = account
        account.begin(end, who, carrier)
        self.add(end, address, owner, count)

    def replace(self, end: IServed, other: IServed) -> None:
        """Count *other* instead of *end*, whose descriptors it has now."""
        account = self._accounts.pop(end, None)
        if account is not None:
            self._accounts[other] = account
            account.replace(end, other)
        place = self._ends[other] = self._ends.pop(end)
        place.holder = other
        other.touched = end.touched

    def moved(self, end: IVisitor) -> None:
        """Take note that a stream has left the link, for a data connection of its own."""
        account = self._accounts.get(end)
        if account is not None:
            account.moved(end)  # type: ignore[arg-type]

    def counted(self, end: IServed) -> Counted | None:
        """Return how *end* is counted; None: it was told to give way."""
        place, account = self._ends.get(end), self._accounts.get(end)
        visit = None if account is None else account.live.get(end)
        if place is None or place.part is None or account is None or visit is None:
            return None
        part = place.part
        address, owner = str(part.address.key), part.owner.key
        more = (account.client, account.tunnel, visit.who, visit.carrier, visit.began)
        return Counted(address, owner, place.count, *more)

    def release(self, end: IServed) -> None:
        """Forget a connection with which another process goes on."""
        account = self._accounts.pop(end, None)
        if account is not None:
            account.release(end)
        self.discard(end)

    def resume(self, end: IServed, counted: Counted) -> None:
        """Count a connection again with which this process goes on, in the place of another one."""
        account = self._accounts[end] = self.accounts.of(counted.client, counted.tunnel)
        account.resume(end, counted.who, counted.carrier, counted.began)
        self.add(end, counted.address, counted.owner, counted.count)

    def __iter__(self) -> Iterator[IVisitor]:
        return iter(list(self._ends))

    def discard(self, end: IVisitor) -> None:
        """Forget a connection that is over."""
        place = self._ends.pop(end, None)
        if place is not None:
            account = self._accounts.pop(end, None)
            if account is not None:
                account.over(end)  # type: ignore[arg-type]
            part = place.part
            self.descriptors.remove(place)
            self._changed(part)
        if not self._ends:
            self.stop_draining()
            empty, self._empty = self._empty, None
            if empty is not None:
                empty.callback(None)

    def _changed(self, part: Part | None) -> None:
        if self.on_change is not None and part is not None:
            self.on_change(part.owner.key, part.owner.held)

    def abort_all(self) -> None:
        """Reset every connection."""
        for end in list(self._ends):
            end.abort()

    def abort_idle(self) -> int:
        """Reset every connection on which nothing has passed since the last call; return how many."""
        self.descriptors.look()
        idle = [end for end, place in self._ends.items() if not place.is_active]
        for place in self._ends.values():
            place.is_active = False
        for end in idle:
            end.abort()
        return len(idle)

    async def drain(self) -> int:
        """Wait until no connection is left, or until :meth:`stop_draining`.

        :returns: how many connections are left.
        """
        if self._ends:
            self._drained = Deferred()
            await self._drained
        return len(self._ends)

    def stop_draining(self) -> None:
        """Let :meth:`drain` return now."""
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.callback(None)

    async def all_gone(self) -> None:
        """Wait until no connection is left."""
        while self._ends:
            self._empty = self._empty or Deferred()
            await self._empty
