"""Routing of a place that several clients serve: choose one for each visitor, at a cost that hardly depends on their
number.

At the shared port turns go to clients, known by name or, without one, by address, as nobody there knows the others: a
client with many links has one client's turns, and its links take turns among themselves. In a group each link is a
machine that the operator has added, and has turns of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Iterator
from hashlib import blake2b
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Generic, TypeVar

from rtunnel.reverse.server.interfaces import Backend

T = TypeVar("T")
#: Whose turn it is: a client, or of a group one of its links.
Unit = tuple[Hashable, int]

#: With least-connections, of so many visitors for each client ...
LAP = 4
#: ... a client gets no more than so many, if others can serve them. One that ends its streams at once has always the
#: fewest, and would get all. But the others must be able to make up for one of three that hangs.
MOST_IN_LAP = 6
#: Addresses of which it is remembered to whom they belong.
MOST_HOMES = 4096


class Backends(ABC):
    """The backends of one place, at most one per link.

    :param by_link: each link has turns of its own, instead of each client.
    :cvar needs_loads: it is told by :meth:`load_changed` how many visitors backends have.
    """

    needs_loads = False

    def __init__(self, *, by_link: bool = False) -> None:
        self._by_link = by_link

    def _unit_of(self, backend: Backend, taken: Container[Unit]) -> Unit:
        """Return whose turns *backend* gets. A link that comes back has those that it had, unless somebody took them.

        :param taken: those that have a backend.
        """
        holder = backend.session.holder
        if not self._by_link:
            return holder, 0
        return next((holder, number) for number in count() if (holder, number) not in taken)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, backend: object) -> bool: ...

    @abstractmethod
    def join(self, backend: Backend) -> None:
        """Add *backend*, which takes visitors from now on."""

    @abstractmethod
    def leave(self, backend: Backend) -> None:
        """Remove *backend*, if present."""

    def load_changed(self, backend: Backend) -> None:  # noqa: B027
        """Take note that *backend* has more visitors, or fewer."""

    @abstractmethod
    def candidates(self, prefix: str) -> Iterator[Backend]:
        """Yield every backend once, starting with the one that should serve the next visitor.

        :param prefix: the key under which the visitor's address is counted.
        """

    @abstractmethod
    def had_turn(self, backend: Backend) -> None:
        """Let *backend* come behind the others again, as it is tried only now although it was yielded before."""


def _in_turn(line: OrderedDict[T, Any]) -> Iterator[T]:
    """Yield every member once, the one whose last turn is longest ago first. Being yielded counts as a turn."""
    first = None
    for _ in range(len(line)):
        member = next(iter(line), None)
        if member is None or member is first:
            return
        first = first or member
        line.move_to_end(member)
        yield member


class RoundRobin(Backends):
    """Visitors go to one client after the other."""

    def __init__(self, *, by_link: bool = False) -> None:
        super().__init__(by_link=by_link)
        self._clients: OrderedDict[Unit, OrderedDict[Backend, None]] = OrderedDict()
        self._client_of: dict[Backend, Unit] = {}

    def __len__(self) -> int:
        return len(self._client_of)

    def __contains__(self, backend: object) -> bool:
        return backend in self._client_of

    def join(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        client = self._client_of[backend] = self._unit_of(backend, self._clients)
        self._clients.setdefault(client, OrderedDict())[backend] = None

    def leave(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        client = self._client_of.pop(backend, None)
        if client is not None:
            del self._clients[client][backend]
            if not self._clients[client]:
                del self._clients[client]

    def candidates(self, prefix: str) -> Iterator[Backend]:
        """Yield the backends of the client whose last turn is longest ago first. Being tried counts as a turn."""
        for client in _in_turn(self._clients):
            yield from _in_turn(self._clients[client])

    def had_turn(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        client = self._client_of.get(backend)
        if client is not None:
            self._clients.move_to_end(client)
            self._clients[client].move_to_end(backend)


_Entry = tuple[tuple[int, ...], int, T]


class _Least(Generic[T]):
    """Members in the order of their ranks, the lowest first.

    They are in a heap, where only the newest entry of each counts: when a rank changes, an entry is added, and the old
    one need not be found.
    """

    def __init__(self) -> None:
        self._last: dict[T, _Entry[T]] = {}
        self._heap: list[_Entry[T]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._last)

    def put(self, member: T, *rank: int) -> None:
        """Add *member*, or change its rank."""
        entry = self._last[member] = (rank, next(self._numbers), member)
        if len(self._heap) < 2 * len(self._last) + 8:
            heappush(self._heap, entry)
        else:
            self._heap = list(self._last.values())
            heapify(self._heap)

    def remove(self, member: T) -> None:
        """Remove *member*."""
        del self._last[member]

    def in_turn(self, had_turn: Callable[[T], None]) -> Iterator[T]:
        """Yield every member once.

        :param had_turn: called before a member is yielded, to :meth:`put` it again.
        """
        tried: set[T] = set()
        aside: list[_Entry[T]] = []
        try:
            while self._heap:
                entry = heappop(self._heap)
                member = entry[2]
                if self._last.get(member) is not entry:
                    continue
                if member in tried:
                    aside.append(entry)
                    continue
                tried.add(member)
                had_turn(member)
                yield member
        finally:
            for entry in aside:
                heappush(self._heap, entry)


class _Member:
    """A backend, as least-connections sees it."""

    __slots__ = ("backend", "client", "load", "turn")

    def __init__(self, backend: Backend, client: _Client, turn: int) -> None:
        self.backend = backend
        self.client = client
        self.load = backend.load
        self.turn = turn


class _Client:
    """The links that have turns together.

    :ivar load: their visitors.
    :ivar given: the visitors that the client was given in this lap.
    :ivar ended: those that have gone in this lap. They count as load, or whoever ends them at once has none.
    """

    __slots__ = ("ended", "given", "known_as", "load", "members", "turn")

    def __init__(self, known_as: Unit) -> None:
        self.known_as = known_as
        self.members: _Least[_Member] = _Least()
        self.load = self.given = self.ended = self.turn = 0


class LeastConnections(Backends):
    """Visitors go to the client that has the fewest at this place; on a tie, to the one whose turn is longest ago.

    Those of its other tunnels do not count: idle ones, of SSH for example, would keep it without visitors here, and
    each one that comes there would count as one that it was given here. Of HTTP, requests count, as streams that wait
    for the next one are no work.
    """

    needs_loads = True

    def __init__(self, *, by_link: bool = False) -> None:
        super().__init__(by_link=by_link)
        self._clients: _Least[_Client] = _Least()
        self._known: dict[Unit, _Client] = {}
        self._taken: set[Unit] = set()
        self._members: dict[Backend, _Member] = {}
        self._turns = count()
        # Of this lap: its visitors, and the clients for which it makes a difference.
        self._given = 0
        self._changed: dict[_Client, None] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, backend: object) -> bool:
        return backend in self._members

    def join(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        turn = next(self._turns)
        unit = self._unit_of(backend, self._taken)
        self._taken.add(unit)
        client = self._known.setdefault(unit, _Client(unit))
        client.turn = turn if not client.members else client.turn
        member = self._members[backend] = _Member(backend, client, turn)
        client.load += member.load
        self._put_member(member)
        self._put_client(client)

    def leave(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        member = self._members.pop(backend, None)
        if member is None:
            return
        client = member.client
        client.load -= member.load
        client.members.remove(member)
        if client.members:
            self._put_client(client)
        else:
            self._taken.remove(client.known_as)
            self._clients.remove(client)
            self._forget(client)

    def load_changed(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        member = self._members[backend]
        before, member.load = member.load, backend.load
        change = member.load - before
        if not change:
            return
        client = member.client
        client.load += change
        if change > 0:
            client.given += change
            self._given += change
        else:
            client.ended -= change
        self._changed[client] = None
        self._put_member(member)
        self._put_client(client)
        if self._given >= LAP * len(self._clients):
            self._given = 0
            changed, self._changed = self._changed, {}
            for each in changed:
                each.given = each.ended = 0
                if each.members:
                    self._put_client(each)
                else:
                    self._forget(each)

    def _forget(self, client: _Client) -> None:
        # Who comes back in the same lap is no newcomer.
        if client not in self._changed:
            del self._known[client.known_as]

    def _put_member(self, member: _Member) -> None:
        member.client.members.put(member, member.load, member.turn)

    def _put_client(self, client: _Client) -> None:
        self._clients.put(client, client.given >= MOST_IN_LAP, client.load + client.ended, client.turn)

    def _client_had_turn(self, client: _Client) -> None:
        client.turn = next(self._turns)
        self._put_client(client)

    def _member_had_turn(self, member: _Member) -> None:
        member.turn = next(self._turns)
        self._put_member(member)

    def candidates(self, prefix: str) -> Iterator[Backend]:
        """Yield backends by the load of their clients, then by their own; on a tie, by turn."""
        for client in self._clients.in_turn(self._client_had_turn):
            for member in client.members.in_turn(self._member_had_turn):
                yield member.backend

    def had_turn(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        member = self._members.get(backend)
        if member is not None:
            self._client_had_turn(member.client)
            self._member_had_turn(member)


class Sticky(RoundRobin):
    """An address keeps its client while that is there (rendezvous hashing, Thaler and Ravishankar 1998).

    When a client goes, only its own visitors are spread over the others; when it is back, they are its again.
    """

    def __init__(self, *, by_link: bool = False) -> None:
        super().__init__(by_link=by_link)
        self._hashes: dict[Unit, Any] = {}
        self._numbers: dict[Backend, int] = {}
        # To whom addresses belong that have come since somebody joined or left. To find that out costs 0.8 us a client.
        self._homes: dict[str, Unit] = {}

    def join(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        super().join(backend)
        client = self._client_of[backend]
        self._hashes[client] = blake2b(repr(client).encode("utf-8", "replace"), digest_size=8)
        taken = {self._numbers.get(each) for each in self._clients[client]}
        self._numbers[backend] = next(number for number in count() if number not in taken)
        self._homes.clear()

    def leave(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        client = self._client_of.get(backend)
        super().leave(backend)
        self._numbers.pop(backend, None)
        if client is not None and client not in self._clients:
            del self._hashes[client]
        self._homes.clear()

    def candidates(self, prefix: str) -> Iterator[Backend]:
        """Yield the backends of the client first that the address belongs to."""
        if not self._clients:
            return
        address = prefix.encode()

        def weight(client: Unit, number: bytes = b"") -> bytes:
            found = self._hashes[client].copy()
            found.update(address + number)
            return bytes(found.digest())

        def links(client: Unit) -> list[Backend]:
            found = list(self._clients.get(client, ()))
            if len(found) > 1:
                found.sort(key=lambda each: weight(client, b"/%d" % self._numbers[each]), reverse=True)
            return found

        home = self._homes.get(prefix)
        if home is None:
            if len(self._homes) >= MOST_HOMES:
                self._homes.clear()
            home = self._homes[prefix] = max(self._clients, key=weight)
        yield from links(home)
        others = sorted((client for client in self._clients if client != home), key=weight, reverse=True)
        for client in others:
            yield from links(client)


POLICIES: dict[str, type[Backends]] = {
    "round-robin": RoundRobin,
    "least-connections": LeastConnections,
    "sticky": Sticky,
}
