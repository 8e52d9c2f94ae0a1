"""The links of a server, and what those of one client have together.

It is counted as it changes: no visitor costs a look at all links.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtunnel.reverse.server.session import ServerSession


class _Client:
    """The links of one name."""

    __slots__ = ("sessions", "streams")

    def __init__(self) -> None:
        self.sessions: set[ServerSession] = set()
        self.streams = 0


class Roster:
    """The links that are there, and connections that may become some.

    :ivar links: how many are not spare.
    """

    def __init__(self) -> None:
        self._sessions: set[ServerSession] = set()
        self._names: dict[ServerSession, str] = {}
        self._clients: dict[str, _Client] = {}
        self.links = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[ServerSession]:
        return iter(self._sessions)

    def __contains__(self, session: object) -> bool:
        return session in self._sessions

    def add(self, session: ServerSession, *, is_spare: bool) -> None:
        """There is one more; *is_spare*: it is one more than there may be links."""
        session.is_spare = is_spare
        self._sessions.add(session)
        self.links += not is_spare

    def promote(self, session: ServerSession) -> None:
        """It is a link like any other."""
        self.links += session.is_spare and session in self._sessions
        session.is_spare = False

    def discard(self, session: ServerSession) -> None:
        """It is gone, if it was there; what its link still does is not counted."""
        if session in self._sessions:
            self._forget_name(session)
            self._sessions.discard(session)
            self.links -= not session.is_spare

    # What the links of one name have together

    def rename(self, session: ServerSession) -> None:
        """Its ``client_name`` may be another now."""
        name = session.client_name
        if session not in self._sessions or self._names.get(session, "") == name:
            return
        self._forget_name(session)
        if name:
            client = self._clients.setdefault(name, _Client())
            client.sessions.add(session)
            client.streams += session.link.stream_count
            self._names[session] = name

    def _forget_name(self, session: ServerSession) -> None:
        name = self._names.pop(session, None)
        if name is not None:
            client = self._clients[name]
            client.sessions.discard(session)
            client.streams -= session.link.stream_count
            if not client.sessions:
                del self._clients[name]

    def count(self, session: ServerSession, change: int) -> None:
        """Its link has so many streams more, or fewer."""
        name = self._names.get(session)
        if name is not None:
            self._clients[name].streams += change

    def streams_of(self, session: ServerSession) -> int:
        """Streams of all links of its name, or of its own link where it has none."""
        name = self._names.get(session)
        return session.link.stream_count if name is None else self._clients[name].streams

    def tunnels_of(self, session: ServerSession) -> int:
        """Tunnels that they have, or ask for just now."""
        name = self._names.get(session)
        sessions = (session,) if name is None else self._clients[name].sessions
        return sum(len(each.backends) for each in sessions)
