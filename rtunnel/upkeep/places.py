"""A table of what takes places, in which whoever has most of them gives way.

What strangers can use up needs a bound. A bound alone lets whoever comes first keep everybody else out. So when all
places are taken, one of whoever has most gives way: a flood from one address then costs that address its own places.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, KeysView
from typing import Generic, TypeVar

PlaceT = TypeVar("PlaceT")


class Places(Generic[PlaceT]):
    """What takes places, in order, and whose each is. Every call takes the same time, however many there are."""

    def __init__(self) -> None:
        self._holders: dict[PlaceT, Hashable] = {}
        self._of: dict[Hashable, dict[PlaceT, None]] = {}
        # The holders that have so many places, those that have had so many for longest first.
        self._with: list[dict[Hashable, None]] = [{}]

    def __len__(self) -> int:
        return len(self._holders)

    def __iter__(self) -> Iterator[PlaceT]:
        return iter(self._holders)

    def __contains__(self, place: object) -> bool:
        return place in self._holders

    def add(self, place: PlaceT, holder: Hashable) -> None:
        """Give *holder* one more place.

        :param holder: whose it is, such as :func:`~rtunnel.relay.sockets.address_prefix` or a client's name.
        """
        self._holders[place] = holder
        places = self._of.setdefault(holder, {})
        self._move(holder, len(places), len(places) + 1)
        places[place] = None

    def discard(self, place: PlaceT) -> bool:
        """Free a place. Return whether it was taken."""
        holder = self._holders.pop(place, None)
        if holder is None:
            return False
        places = self._of[holder]
        del places[place]
        if not places:
            del self._of[holder]
        self._move(holder, len(places) + 1, len(places))
        return True

    def _move(self, holder: Hashable, before: int, after: int) -> None:
        self._with[before].pop(holder, None)
        if after == len(self._with):
            self._with.append({})
        if after:
            self._with[after][holder] = None
        while len(self._with) > 1 and not self._with[-1]:
            self._with.pop()

    def of(self, holder: Hashable) -> KeysView[PlaceT]:
        """Return the places of *holder*, the oldest first."""
        return self._of.get(holder, {}).keys()

    @property
    def heaviest(self) -> Hashable:
        """Who has most places; of several, who was the first to have so many. Only where there are any."""
        return next(iter(self._with[-1]))

    @property
    def first_to_go(self) -> PlaceT:
        """The oldest place of the heaviest holder. Only where there are any."""
        return next(iter(self._of[self.heaviest]))
