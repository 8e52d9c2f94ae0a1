"""The links of a server, with the totals of streams and tunnels of each client.

The totals are kept up to date with each change, so that a visitor does not cost a look at all links.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

from rtunnel.reverse.server.interfaces import ISession

SessionT = TypeVar("SessionT", bound=ISession)


class _Client(Generic[SessionT]):
    """The links and totals of one client name."""

    __slots__ = ("sessions", "streams")

    def __init__(self) -> None:
        self.sessions: set[SessionT] = set()
        self.streams = 0


class Roster(Generic[SessionT]):
    """The links that have one of the places of ``--max-links``."""

    def __init__(self) -> None:
        self._sessions: set[SessionT] = set()
        self._names: dict[ISession, str] = {}
        self._clients: dict[str, _Client[SessionT]] = {}
        self._gone: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[SessionT]:
        return iter(self._sessions)

    def __contains__(self, session: object) -> bool:
        return session in self._sessions

    def add(self, session: SessionT) -> None:
        """Count a link."""
        self._sessions.add(session)

    def discard(self, session: SessionT) -> None:
        """Remove a link and its streams from the totals, if it was counted."""
        if session in self._sessions:
            self._forget_name(session)
            self._sessions.discard(session)
            if not self._sessions:
                waiting, self._gone = self._gone, []
                for each in waiting:
                    each.callback(None)

    async def all_gone(self) -> None:
        """Wait until no link is left."""
        if self._sessions:
            gone: Deferred[None] = Deferred()
            self._gone.append(gone)
            await gone

    # Totals of one client name

    def rename(self, session: SessionT) -> None:
        """Take note that a link's ``client_name`` may have changed."""
        name = session.client_name
        if session not in self._sessions or self._names.get(session, "") == name:
            return
        self._forget_name(session)
        if name:
            client = self._clients.setdefault(name, _Client())
            client.sessions.add(session)
            client.streams += session.link.stream_count
            self._names[session] = name

    def _forget_name(self, session: SessionT) -> None:
        name = self._names.pop(session, None)
        if name is not None:
            client = self._clients[name]
            client.sessions.discard(session)
            client.streams -= session.link.stream_count
            if not client.sessions:
                del self._clients[name]

    def count(self, session: ISession, change: int) -> None:
        """Take note that a link has *change* more streams."""
        name = self._names.get(session)
        if name is not None:
            self._clients[name].streams += change

    def streams_of(self, session: ISession) -> int:
        """Return how many streams all links of the client's name have; without a name, those of its own link."""
        name = self._names.get(session)
        return session.link.stream_count if name is None else self._clients[name].streams

    def tunnels_of(self, session: ISession) -> int:
        """Return how many tunnels those links have or are asking for."""
        name = self._names.get(session)
        sessions: Iterable[ISession] = (session,) if name is None else self._clients[name].sessions
        return sum(len(each.backends) for each in sessions)
