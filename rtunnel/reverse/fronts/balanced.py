"""The streams to the services of a group: each request goes to one of its tunnels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.web.upstream import Upstream
from rtunnel.reverse.web.upstreams import Upstreams
from rtunnel.upkeep.periodic import do_all


class Balanced:
    """See :class:`~rtunnel.reverse.web.interfaces.IUpstreams`.

    :param build: makes the streams to the service of one tunnel.
    """

    def __init__(self, group: Group, build: Callable[[Backend], Upstreams]) -> None:
        self._group = group
        self._build = build
        self._of: dict[Backend, Upstreams] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def find(self, visitor: Any, *, may_repeat: bool) -> Upstream | None:
        """Return a stream to the first of the tunnels that can take a request."""
        for backend in self._group.candidates(visitor.prefix):
            upstreams = self._of.get(backend)
            if upstreams is None:
                upstreams = self._of[backend] = self._build(backend)
            upstream = upstreams.find(visitor, may_repeat=may_repeat)
            if upstream is not None:
                return upstream
        return None

    def make_room(self, holder: object) -> bool:
        """Close a stream to the client *holder* that waits for another request; return False if none does."""
        return any(upstreams.make_room() for backend, upstreams in self._of.items() if backend.session.holder == holder)

    def tick(self) -> None:
        """See :meth:`Upstreams.tick`. Forget tunnels that are gone."""
        for backend, upstreams in list(self._of.items()):
            if backend.group is not self._group:
                upstreams.close()
                if not len(upstreams):
                    del self._of[backend]
        do_all([upstreams.tick for upstreams in self._of.values()])

    def close(self) -> None:
        """See :meth:`Upstreams.close`."""
        for upstreams in self._of.values():
            upstreams.close()
