"""Routing of a shared public port: choose a client for each visitor, at a cost that hardly depends on their number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from rtunnel.reverse.server.interfaces import Backend, ISession


class Backends(ABC):
    """The backends of a shared port, at most one per link."""

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

    @abstractmethod
    def load_changed(self, session: ISession) -> None:
        """Take note that a link has more streams, or fewer."""

    @abstractmethod
    def candidates(self) -> Iterator[Backend]:
        """Yield every backend once, starting with the one that should serve the next visitor."""


class RoundRobin(Backends):
    """Visitors go to one backend after the other."""

    def __init__(self) -> None:
        self._members: OrderedDict[Backend, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, backend: object) -> bool:
        return backend in self._members

    def join(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        self._members[backend] = None

    def leave(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        self._members.pop(backend, None)

    def load_changed(self, session: ISession) -> None:
        """See :class:`Backends`."""

    def candidates(self) -> Iterator[Backend]:
        """Yield the backend whose last turn is longest ago first. Being tried counts as a turn."""
        first = None
        for _ in range(len(self._members)):
            backend = next(iter(self._members), None)
            if backend is None or backend is first:
                return
            first = first or backend
            self._members.move_to_end(backend)
            yield backend


#: Load, the number of the last turn, a number unique to the entry, and the backend.
_Entry = tuple[int, int, int, Backend]


class LeastConnections(Backends):
    """Visitors go to the backend whose link has the fewest streams; on a tie, to the one whose turn is longest ago.

    Backends are in a heap, where only the newest entry of each counts: when a load changes, an entry is added, and the
    old one need not be found.
    """

    def __init__(self) -> None:
        self._last: dict[Backend, _Entry] = {}
        self._of: dict[ISession, Backend] = {}
        self._heap: list[_Entry] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._last)

    def __contains__(self, backend: object) -> bool:
        return backend in self._last

    def join(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        self._of[backend.session] = backend
        self._put(backend, next(self._numbers))

    def leave(self, backend: Backend) -> None:
        """See :class:`Backends`."""
        if self._last.pop(backend, None) is not None:
            del self._of[backend.session]

    def load_changed(self, session: ISession) -> None:
        """See :class:`Backends`."""
        backend = self._of.get(session)
        if backend is not None:
            self._put(backend, self._last[backend][1])

    def _put(self, backend: Backend, turn: int) -> None:
        entry = self._last[backend] = (backend.load, turn, next(self._numbers), backend)
        if len(self._heap) < 2 * len(self._last) + 8:
            heappush(self._heap, entry)
        else:
            self._heap = list(self._last.values())
            heapify(self._heap)

    def candidates(self) -> Iterator[Backend]:
        """Yield backends by load; on a tie, the one whose turn is longest ago first."""
        tried: set[Backend] = set()
        aside: list[_Entry] = []
        try:
            while self._heap:
                entry = heappop(self._heap)
                backend = entry[3]
                if self._last.get(backend) is not entry:
                    continue
                if backend in tried:
                    aside.append(entry)
                    continue
                tried.add(backend)
                self._put(backend, next(self._numbers))
                yield backend
        finally:
            for entry in aside:
                heappush(self._heap, entry)


POLICIES: dict[str, type[Backends]] = {"round-robin": RoundRobin, "least-connections": LeastConnections}
