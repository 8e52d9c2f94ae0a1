"""The links of a server, and what those of one client have together.

It is counted as it changes: no visitor costs a look at all links.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

from rtunnel.reverse.server.interfaces import ISession

SessionT = TypeVar("SessionT", bound=ISession)


class _Client(Generic[SessionT]):
    """The links of one name."""

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
        """Count a link no more, if it was counted; nor what it still does."""
        if session in self._sessions:
            self._forget_name(session)
            self._sessions.discard(session)
            if not self._sessions:
                waiting, self._gone = self._gone, []
                for each in waiting:
                    each.callback(None)

    async def all_gone(self) -> None:
        """Wait until there is no link left."""
        if self._sessions:
            gone: Deferred[None] = Deferred()
            self._gone.append(gone)
            await gone

    # What the links of one name have together

    def rename(self, session: SessionT) -> None:
        """Take note that a link's ``client_name`` may be another now."""
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
        """Streams of all links of a client's name; of its own link where it has no name."""
        name = self._names.get(session)
        return session.link.stream_count if name is None else self._clients[name].streams

    def tunnels_of(self, session: ISession) -> int:
        """Tunnels that those links have, or ask for just now."""
        name = self._names.get(session)
        sessions: Iterable[ISession] = (session,) if name is None else self._clients[name].sessions
        return sum(len(each.backends) for each in sessions)
