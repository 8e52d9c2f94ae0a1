"""Data connections whose link is lost: their streams go on until the same peer has a link again, or for a while.

This is for links that were lost, fell silent, or were taken over by the same client. An end that leaves in good order,
or may not stay, takes its streams with it (docs/wire.rst, "Streams outlive their link").
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from rtunnel.upkeep.periodic import Repeated

#: Seconds between two looks.
LOOK_EVERY = 1.0


class IConnections(Protocol):
    """The data connections of one link, as they are kept.

    :ivar stream_count: how many streams they carry.
    """

    @property
    def stream_count(self) -> int: ...
    def tick(self, now: float) -> None: ...
    def close(self, *, cut: bool) -> None: ...


C = TypeVar("C", bound=IConnections)


@dataclass(slots=True)
class _Kept(Generic[C]):
    session: Any
    connections: list[C]
    until: float


class KeptConnections(Generic[C]):
    """What is left of links that are lost.

    :param patience: seconds for which it is kept.
    :param may_stay: tells whether the peer of a lost link would still be let in.
    """

    def __init__(self, clock: Any, patience: float, may_stay: Callable[[Any], bool]) -> None:
        self._clock = clock
        self._patience = patience
        self._may_stay = may_stay
        self._kept: dict[Hashable, _Kept[C]] = {}
        self._looks = Repeated(clock, "the look after lost links", self._look)

    def __len__(self) -> int:
        return sum(each.stream_count for kept in self._kept.values() for each in kept.connections)

    def keep(self, peer: Hashable, session: Any, connections: list[C]) -> None:
        """Keep what *session*, which is lost, has left.

        :param peer: by which the same peer is known when it is back.
        """
        connections = [*self.take(peer), *connections]
        for each in connections:
            each.close(cut=False)
            if not each.stream_count:
                each.close(cut=True)
        connections = [each for each in connections if each.stream_count]
        if connections and not self._kept:
            self._looks.start(LOOK_EVERY)
        if connections:
            self._kept[peer] = _Kept(session, connections, self._clock.seconds() + self._patience)

    def take(self, peer: Hashable) -> list[C]:
        """Return what was kept of *peer*, which has a link again."""
        kept = self._kept.pop(peer, None)
        if not self._kept:
            self._looks.stop()
        return [] if kept is None else kept.connections

    def close(self) -> None:
        """Cut everything."""
        for peer in list(self._kept):
            self._cut(peer)

    def _cut(self, peer: Hashable) -> None:
        for each in self.take(peer):
            each.close(cut=True)

    def _look(self) -> None:
        now = self._clock.seconds()
        for peer, kept in list(self._kept.items()):
            for each in kept.connections:
                each.tick(now)
            if (
                now >= kept.until
                or not any(each.stream_count for each in kept.connections)
                or not self._may_stay(kept.session)
            ):
                self._cut(peer)
