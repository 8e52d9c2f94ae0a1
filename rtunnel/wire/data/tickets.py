"""The tickets of data connections: those that a server has issued, and those that a client may use.

The rules are in docs/wire.rst, "Tickets".
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from rtunnel.wire.data.keys import Ratchet, Ticket

OwnerT = TypeVar("OwnerT", bound=Hashable)

#: Seconds for which a ticket is good.
TICKET_LIFETIME = 30.0
#: How many tickets of one owner may be out at once ...
MAX_TICKETS_PER_OWNER = 256
#: ... and of all owners together.
MAX_TICKETS = 65536
#: How many connections may try one ticket. Under TLS an ATTACH alone does not spend it: anybody on the path can see it.
MAX_ATTEMPTS = 4


@dataclass(slots=True)
class _Issued(Generic[OwnerT]):
    owner: OwnerT
    ticket: Ticket
    until: float
    attempts: int = 0


class Tickets(Generic[OwnerT]):
    """The outstanding tickets of one server. A ticket tells which link a data connection belongs to.

    A ticket is good for one connection, for :attr:`lifetime`, and for the owner (the link) to which it was issued.
    Times are seconds on any clock that does not run backwards.

    :param lifetime: seconds for which a ticket is good.
    :param max_per_owner: how many tickets of one owner may be out at once.
    :param max_tickets: how many tickets of all owners may be out at once.
    """

    def __init__(
        self,
        lifetime: float = TICKET_LIFETIME,
        max_per_owner: int = MAX_TICKETS_PER_OWNER,
        max_tickets: int = MAX_TICKETS,
    ) -> None:
        self.lifetime = lifetime
        self._max_per_owner = max_per_owner
        self._max_tickets = max_tickets
        self._ratchets: dict[OwnerT, Ratchet] = {}
        # All tickets have the same lifetime, so the first one is the oldest and expires next.
        self._issued: dict[bytes, _Issued[OwnerT]] = {}
        self._by_owner: dict[OwnerT, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._issued)

    def join(self, owner: OwnerT, ratchet: Ratchet) -> None:
        """Let *owner* have tickets.

        :param ratchet: where its tickets come from; nobody else may use it.
        """
        self._ratchets[owner] = ratchet

    def leave(self, owner: OwnerT) -> None:
        """Invalidate all tickets of *owner*, and forget its keys."""
        self.revoke(owner)
        self._ratchets.pop(owner, None)

    def outstanding(self, owner: OwnerT, now: float) -> int:
        """Return how many valid tickets of *owner* are out."""
        self._expire(now)
        return len(self._by_owner.get(owner, ()))

    def issue(self, owner: OwnerT, count: int, now: float) -> tuple[int, int]:
        """Issue *count* new tickets for *owner*, or as many as the bounds allow; none before it has joined.

        :return: the index of the first, and how many there are.
        """
        if (ratchet := self._ratchets.get(owner)) is None:
            return 0, 0
        self._expire(now)
        first = ratchet.index
        held = self._by_owner.get(owner, set())
        count = min(count, self._max_per_owner - len(held), self._max_tickets - len(self._issued))
        if count <= 0:
            return first, 0
        self._by_owner[owner] = held
        for _ in range(count):
            ticket = ratchet.next()
            self._issued[ticket.id] = _Issued(owner, ticket, now + self.lifetime)
            held.add(ticket.id)
        return first, count

    def find(self, id: bytes, now: float) -> tuple[OwnerT, Ticket] | None:
        """Let one more connection try a ticket. Return its owner and the ticket, or None if it is not valid.

        A ticket that was tried :data:`MAX_ATTEMPTS` times is not found again. One of those connections can still
        :meth:`spend` it.

        :param id: the id in ATTACH.
        """
        self._expire(now)
        issued = self._issued.get(id)
        if issued is None or issued.attempts >= MAX_ATTEMPTS:
            return None
        issued.attempts += 1
        return issued.owner, issued.ticket

    def spend(self, id: bytes) -> bool:
        """Use up a ticket that was found. Return whether it was still valid; if not, close the connection.

        :param id: its id.
        """
        issued = self._issued.pop(id, None)
        if issued is None:
            return False
        self._forget(issued.owner, id)
        return True

    def revoke(self, owner: OwnerT) -> None:
        """Invalidate all tickets of *owner* that are out. It may get further ones."""
        for id in self._by_owner.pop(owner, ()):
            del self._issued[id]

    def _expire(self, now: float) -> None:
        expired = []
        for id, issued in self._issued.items():
            if issued.until > now:
                break
            expired.append((id, issued.owner))
        for id, owner in expired:
            del self._issued[id]
            self._forget(owner, id)

    def _forget(self, owner: OwnerT, id: bytes) -> None:
        held = self._by_owner[owner]
        held.discard(id)
        if not held:
            del self._by_owner[owner]


class ClientTickets:
    """The client's side of one link's tickets.

    :param ratchet: where they come from; nobody else may use it.
    """

    __slots__ = ("_ratchet",)

    def __init__(self, ratchet: Ratchet) -> None:
        self._ratchet = ratchet

    def take(self, first: int, count: int) -> list[Ticket]:
        """Return the tickets that TICKETS announces.

        :param first: the index of the first.
        :param count: how many there are.
        :raises ValueError: they do not follow the last ones, so both ends no longer agree, and the link is over.
        """
        if first != self._ratchet.index:
            raise ValueError(f"tickets from {first} where {self._ratchet.index} is next")
        return [self._ratchet.next() for _ in range(count)]
