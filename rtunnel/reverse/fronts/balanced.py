"""The streams to the services of a group: each request goes to one of its tunnels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.web.upstream import Upstream
from rtunnel.reverse.web.upstreams import Upstreams
from rtunnel.upkeep.periodic import do_all


class Balanced:
    """See :class:`~rtunnel.reverse.web.interfaces.IUpstreams`.

    :ivar group: the group.
    :param build: makes the streams to the service of one tunnel.
    """

    def __init__(self, group: Group, build: Callable[[Backend], Upstreams]) -> None:
        self.group = group
        self._build = build
        self._of: dict[Backend, Upstreams] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def find(self, visitor: Any, *, prefix: str, may_repeat: bool, refused: Sequence[Upstream]) -> Upstream | None:
        """Return a stream to the first of the tunnels that can take a request. See :meth:`Upstreams.find`.

        :param refused: streams by which it has not reached a service. Those tunnels do not get it again, and the last
            of them is avoided for a moment.
        """
        only = self.group.only
        if only is not None and not refused:
            return self._find_at(only, visitor, may_repeat=may_repeat)
        if refused:
            self.group.avoid(refused[-1].member)
        tried = {upstream.member for upstream in refused}
        for backend in self.group.candidates(prefix):
            if backend not in tried:
                upstream = self._find_at(backend, visitor, may_repeat=may_repeat)
                if upstream is not None:
                    return upstream
        return None

    def _find_at(self, backend: Backend, visitor: Any, *, may_repeat: bool) -> Upstream | None:
        upstreams = self._of.get(backend)
        if upstreams is None:
            upstreams = self._of[backend] = self._build(backend)
        upstreams.lead_to(backend.services)
        upstream = upstreams.take(may_repeat=may_repeat) or upstreams.open(visitor)
        if upstream is not None:
            upstream.member = backend
        return upstream

    def has_room(self) -> bool:
        """Return whether :meth:`find` would find a stream."""
        return any(upstreams.has_idle for upstreams in self._of.values()) or any(
            backend.session.has_room(backend.number) for backend in self.group
        )

    def make_room(self, holder: object) -> bool:
        """Close a stream to the client *holder* that waits for another request; return False if none does."""
        return any(upstreams.make_room() for backend, upstreams in self._of.items() if backend.session.holder == holder)

    def tick(self) -> None:
        """See :meth:`Upstreams.tick`. Forget tunnels that are gone."""
        for backend, upstreams in list(self._of.items()):
            if backend.group is not self.group:
                upstreams.close()
                if not len(upstreams):
                    del self._of[backend]
        do_all([upstreams.tick for upstreams in self._of.values()])

    def close(self) -> None:
        """See :meth:`Upstreams.close`."""
        for upstreams in self._of.values():
            upstreams.close()
