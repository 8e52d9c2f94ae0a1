"""The links of a server, with the totals of links, streams and tunnels of each client.

The totals are kept up to date with each change, so that a visitor does not cost a look at all links.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

from rtunnel.reverse.server.interfaces import ISession
from rtunnel.upkeep.places import Places

SessionT = TypeVar("SessionT", bound=ISession)


class Roster(Generic[SessionT]):
    """The links that have one of the places of ``--max-links``: those whose clients were let in."""

    def __init__(self) -> None:
        self._sessions: Places[SessionT] = Places()
        self._nameless: Places[SessionT] = Places()
        self._addresses: Counter[str] = Counter()
        # Visitors may outlive their link, and count for the client's name until they are gone.
        self._names: dict[ISession, str] = {}
        self._visitors: Counter[str] = Counter()
        self._gone: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[SessionT]:
        return iter(self._sessions)

    def __contains__(self, session: object) -> bool:
        return session in self._sessions

    def has_link_from(self, address: str) -> bool:
        """Return whether any link comes from *address*, see :func:`~rtunnel.relay.sockets.address_prefix`."""
        return address in self._addresses

    def add(self, session: SessionT) -> None:
        """Give a link a place."""
        self._take_place(session)
        self._addresses[session.address] += 1

    def discard(self, session: SessionT) -> None:
        """Free the place of a link, if it has one."""
        if not self._leave_place(session):
            return
        self._addresses[session.address] -= 1
        if not self._addresses[session.address]:
            del self._addresses[session.address]
        if not session.visitor_count:
            self._forget_name(session)
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

    def rename(self, session: SessionT) -> None:
        """Take note that a link's ``client_name`` may have changed."""
        if session in self._sessions and self._names.get(session, "") != session.client_name:
            self._leave_place(session)
            self._forget_name(session)
            self._take_place(session)

    def _take_place(self, session: SessionT) -> None:
        self._sessions.add(session, session.holder)
        name = session.client_name
        if not name:
            self._nameless.add(session, session.holder)
        else:
            self._names[session] = name
            self._visitors[name] += session.visitor_count

    def _leave_place(self, session: SessionT) -> bool:
        self._nameless.discard(session)
        return self._sessions.discard(session)

    def _forget_name(self, session: ISession) -> None:
        name = self._names.pop(session, None)
        if name is not None:
            self._add_visitors(name, -session.visitor_count)

    def _add_visitors(self, name: str, change: int) -> None:
        self._visitors[name] += change
        if not self._visitors[name]:
            del self._visitors[name]

    def first_to_go_for(self, newcomer: SessionT) -> SessionT | None:
        """Return the link that gives way to that of *newcomer* when all places are taken; None if none has to.

        It is one of the client that has most links, if those are at least two more than the newcomer's, or one of a
        client without a name, if the newcomer has one and no more links: of these links, the newest of those with the
        fewest visitors. So whoever gives way does not come back in place of the newcomer, and the other way round.
        """
        own = len(self._sessions.of(newcomer.holder))
        links = self._sessions.of(self._sessions.heaviest)
        if len(links) <= own + 1:
            if not newcomer.client_name or not self._nameless:
                return None
            links = self._nameless.of(self._nameless.heaviest)
            if len(links) <= own:
                return None
        return min(reversed(list(links)), key=lambda session: session.visitor_count)

    # Totals of one client

    def count(self, session: ISession, change: int) -> None:
        """Take note that a link has *change* more visitors."""
        name = self._names.get(session)
        if name is not None:
            self._add_visitors(name, change)
            if not session.visitor_count and session not in self._sessions:
                del self._names[session]

    def visitors_of(self, session: ISession) -> int:
        """Return how many visitors all links of the client's name have; without a name, those of its own link."""
        name = self._names.get(session)
        return session.visitor_count if name is None else self._visitors[name]

    def tunnels_of(self, session: ISession) -> int:
        """Return how many tunnels those links have or are asking for."""
        is_named = session in self._names
        sessions: Iterable[ISession] = self._sessions.of(session.holder) if is_named else (session,)
        return sum(len(each.backends) for each in sessions)

    def links_besides(self, session: ISession) -> int:
        """Return how many other links the client's name has; without a name, how many its address has."""
        return len(self._sessions.of(session.holder)) - (session in self._sessions)
