"""Data connections whose link is lost: their streams go on until the same peer has a link again, or for a while.

This is for links that were lost, fell silent, or were taken over by the same client. An end that leaves in good order,
or may not stay, takes its streams with it (docs/wire.rst, "Streams outlive their link").
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from rtunnel.upkeep.periodic import Repeated

#: Seconds between two looks.
LOOK_EVERY = 1.0


class IConnections(Protocol):
    """The data connections of one link, as they are kept.

    :ivar stream_count: how many streams they carry.
    :ivar is_over: none is in use; the other end may have to read the last bytes of a stream that counts no more.
    """

    @property
    def stream_count(self) -> int: ...
    @property
    def is_over(self) -> bool: ...
    def holdings(self) -> Iterator[tuple[int, Any]]: ...
    def tick(self, now: float) -> None: ...
    def close(self, *, cut: bool) -> None: ...


C = TypeVar("C", bound=IConnections)


@dataclass(slots=True, eq=False)
class _Kept(Generic[C]):
    """What one link has left, and a party to the budget of memory (see :class:`~rtunnel.upkeep.memory.IParty`)."""

    session: Any
    payer: str
    connections: list[C]
    until: float

    def holdings(self) -> Iterator[tuple[int, Any]]:
        for each in self.connections:
            yield from each.holdings()

    def free(self, holding: Any) -> None:
        holding.abort()

    def set_short(self, is_short: bool, is_full: bool) -> None: ...

    def measure_growth(self) -> int:
        return 0


class KeptConnections(Generic[C]):
    """What is left of links that are lost.

    :param patience: seconds for which it is kept; may be changed.
    :param may_stay: tells whether the peer of a lost link would still be let in.
    :param is_elsewhere: tells whether the peer has a link to another node of the cluster: then it is kept on.
    """

    def __init__(
        self,
        clock: Any,
        patience: float,
        may_stay: Callable[[Any], bool],
        is_elsewhere: Callable[[Any], bool] = lambda _session: False,
    ) -> None:
        self._clock = clock
        self.patience = patience
        self._may_stay = may_stay
        self._is_elsewhere = is_elsewhere
        self._kept: dict[Hashable, _Kept[C]] = {}
        self._looks = Repeated(clock, "the look after lost links", self._look)

    def __len__(self) -> int:
        return sum(each.stream_count for kept in self._kept.values() for each in kept.connections)

    def __iter__(self) -> Iterator[tuple[Hashable, Any, C]]:
        """Yield by what each peer is known, its session, and each of its connections."""
        for peer, kept in list(self._kept.items()):
            for each in kept.connections:
                yield peer, kept.session, each

    def keep(self, peer: Hashable, session: Any, connections: list[C]) -> None:
        """Keep what *session*, which is lost, has left.

        :param peer: by which the same peer is known when it is back.
        """
        connections = [*self.take(peer), *connections]
        for each in connections:
            each.close(cut=False)
        connections = [each for each in connections if not each.is_over]
        if connections and not self._kept:
            self._looks.start(LOOK_EVERY)
        if connections:
            kept = _Kept(session, session.payer, connections, self._clock.seconds() + self.patience)
            self._kept[peer] = kept
            session.memory.join(kept)

    def take(self, peer: Hashable) -> list[C]:
        """Return what was kept of *peer*, which has a link again."""
        kept = self._kept.pop(peer, None)
        if not self._kept:
            self._looks.stop()
        if kept is None:
            return []
        kept.session.memory.leave(kept)
        return kept.connections

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
            is_late = now >= kept.until and not self._is_elsewhere(kept.session)
            if is_late or all(each.is_over for each in kept.connections) or not self._may_stay(kept.session):
                self._cut(peer)
