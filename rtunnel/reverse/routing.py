"""Who serves the next visitor of a shared public port."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtunnel.reverse.public_ports import Backend


class Pool(ABC):
    """The backends of a shared port."""

    def __init__(self) -> None:
        self._members: dict[Backend, None] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, backend: object) -> bool:
        return backend in self._members

    def join(self, backend: Backend) -> None:
        """*backend* takes visitors."""
        self._members[backend] = None

    def leave(self, backend: Backend) -> None:
        """*backend* takes no more visitors."""
        self._members.pop(backend, None)

    @abstractmethod
    def candidates(self) -> Iterator[Backend]:
        """Every backend once, the one that should serve the next visitor first."""


class RoundRobin(Pool):
    """One after the other."""

    def candidates(self) -> Iterator[Backend]:
        """The one whose turn is longest ago first; trying one is its turn."""
        for _ in range(len(self._members)):
            backend = next(iter(self._members), None)
            if backend is None:
                return
            self._members[backend] = self._members.pop(backend)
            yield backend


class LeastConnections(Pool):
    """The one whose link carries the fewest streams."""

    def candidates(self) -> Iterator[Backend]:
        """By load; of equals, the one whose turn is longest ago."""
        for backend in sorted(self._members, key=lambda backend: backend.load):
            if backend in self._members:
                self._members[backend] = self._members.pop(backend)
                yield backend


POLICIES: dict[str, type[Pool]] = {"round-robin": RoundRobin, "least-connections": LeastConnections}
