"""Tickets: by what the server knows whose a data connection is (docs/wire.rst, "Data connections").

A ticket is 128 random bits. It is good once, for some seconds, and for the link over which it was sent. Who has drawn
one still has to show the certificate of that link; that is for whoever takes it.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from typing import Generic, TypeVar

OwnerT = TypeVar("OwnerT", bound=Hashable)

#: Seconds that a ticket is good.
LIFETIME = 30.0
#: Tickets of one owner that may be out at once ...
MAX_PER_OWNER = 256
#: ... and of all owners together.
MAX_TICKETS = 65536


class Tickets(Generic[OwnerT]):
    """The tickets of one server that are out.

    Times are seconds on any clock that does not run backwards.

    :param lifetime: seconds that each is good.
    """

    def __init__(
        self, lifetime: float = LIFETIME, max_per_owner: int = MAX_PER_OWNER, max_tickets: int = MAX_TICKETS
    ) -> None:
        self.lifetime = lifetime
        self._max_per_owner = max_per_owner
        self._max_tickets = max_tickets
        # All live equally long, so the oldest is the first and the next to go.
        self._issued: dict[str, tuple[OwnerT, float]] = {}
        self._by_owner: dict[OwnerT, set[str]] = {}

    def __len__(self) -> int:
        return len(self._issued)

    def outstanding(self, owner: OwnerT, now: float) -> int:
        """How many of this owner's are out and good."""
        self._expire(now)
        return len(self._by_owner.get(owner, ()))

    def issue(self, owner: OwnerT, count: int, now: float) -> list[str]:
        """*count* new tickets for *owner*, or as many as the bounds leave."""
        self._expire(now)
        held = self._by_owner.get(owner, ())
        count = min(count, self._max_per_owner - len(held), self._max_tickets - len(self._issued))
        if count <= 0:
            return []
        tickets = [secrets.token_hex(16) for _ in range(count)]
        self._by_owner.setdefault(owner, set()).update(tickets)
        entry = (owner, now + self.lifetime)
        for ticket in tickets:
            self._issued[ticket] = entry
        return tickets

    def take(self, ticket: str, now: float) -> OwnerT | None:
        """Whose this ticket is; None where there is none, or none any more. It is used up by that."""
        self._expire(now)
        entry = self._issued.pop(ticket, None)
        if entry is None:
            return None
        owner = entry[0]
        self._forget(owner, ticket)
        return owner

    def revoke(self, owner: OwnerT) -> None:
        """None of this owner's is good any more: its link is gone."""
        for ticket in self._by_owner.pop(owner, ()):
            del self._issued[ticket]

    def _expire(self, now: float) -> None:
        over = []
        for ticket, (owner, until) in self._issued.items():
            if until > now:
                break
            over.append((ticket, owner))
        for ticket, owner in over:
            del self._issued[ticket]
            self._forget(owner, ticket)

    def _forget(self, owner: OwnerT, ticket: str) -> None:
        held = self._by_owner[owner]
        held.discard(ticket)
        if not held:
            del self._by_owner[owner]
