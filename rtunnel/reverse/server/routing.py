"""Routing of a place that several clients serve: choose one for each visitor, at a cost that hardly depends on their
number.

Turns go to clients, known by name or, without one, by address; a client with many links has one client's turns. Its
links then take turns among themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from hashlib import blake2b
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Generic, TypeVar

from rtunnel.reverse.server.interfaces import Backend, ISession

T = TypeVar("T")

#: With least-connections, of so many visitors for each client ...
LAP = 4
#: ... a client gets no more than so many, if others can serve them. One that ends its streams at once has always the
#: fewest, and would get all. But the others must be able to make up for one of three that hangs.
MOST_IN_LAP = 6


class Backends(ABC):
    """The backends of one place, at most one per link.

    :cvar needs_loads: it is told by :meth:`load_changed` how many streams links have.
    """

    needs_loads = False

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

    def load_changed(self, session: ISession) -> None:  # noqa: B027
        """Take note that a link has more streams, or fewer."""

    @abstractmethod
    def candidates(self, prefix: str) -> Iterator[Backend]:
        """Yield every backend once, starting with the one that should serve the next visitor.

        :param prefix: the key under which the visitor's address is counted.
        """


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

    def __init__(self) -> None:
        self._clients: OrderedDict[Hashable, OrderedDict[Backend, None]] = OrderedDict()
        self._client_of: dict[Backend, Hashable] = {}

    def __len__(self) -> int:
        return len(self._client_of)

    def __contains__(self, backend: object) -> bool:
        return backend in self._client_of

    def join(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        client = self._client_of[backend] = backend.session.holder
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
    """The links of one client.

    :ivar load: their streams.
    :ivar given: the visitors that the client was given in this lap.
    :ivar ended: its streams that have ended in this lap. They count as load, or whoever ends them at once has none.
    """

    __slots__ = ("ended", "given", "known_as", "load", "members", "turn")

    def __init__(self, known_as: Hashable) -> None:
        self.known_as = known_as
        self.members: _Least[_Member] = _Least()
        self.load = self.given = self.ended = self.turn = 0


class LeastConnections(Backends):
    """Visitors go to the client whose links have the fewest streams; on a tie, to the one whose turn is longest ago."""

    needs_loads = True

    def __init__(self) -> None:
        self._clients: _Least[_Client] = _Least()
        self._known: dict[Hashable, _Client] = {}
        self._members: dict[Backend, _Member] = {}
        self._of: dict[ISession, _Member] = {}
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
        client = self._known.setdefault(backend.session.holder, _Client(backend.session.holder))
        client.turn = turn if not client.members else client.turn
        member = self._members[backend] = self._of[backend.session] = _Member(backend, client, turn)
        client.load += member.load
        self._put_member(member)
        self._put_client(client)

    def leave(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        member = self._members.pop(backend, None)
        if member is None:
            return
        del self._of[backend.session]
        client = member.client
        client.load -= member.load
        client.members.remove(member)
        if client.members:
            self._put_client(client)
        else:
            self._clients.remove(client)
            self._forget(client)

    def load_changed(self, session: ISession) -> None:
        """See :class:`Backends`."""
        member = self._of.get(session)
        if member is None:
            return
        before, member.load = member.load, member.backend.load
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


class Sticky(RoundRobin):
    """An address keeps its client while that is there (rendezvous hashing, Thaler and Ravishankar 1998).

    When a client goes, only its own visitors are spread over the others; when it is back, they are its again.
    """

    def candidates(self, prefix: str) -> Iterator[Backend]:
        """Yield the backends of the client first that the address belongs to."""
        start = prefix.encode()
        for client in sorted(self._clients, key=lambda client: _weight(start, repr(client)), reverse=True):
            yield from _in_turn(self._clients[client])


def _weight(prefix: bytes, client: str) -> bytes:
    return blake2b(client.encode("utf-8", "replace") + b"\0" + prefix, digest_size=8).digest()


POLICIES: dict[str, type[Backends]] = {
    "round-robin": RoundRobin,
    "least-connections": LeastConnections,
    "sticky": Sticky,
}
