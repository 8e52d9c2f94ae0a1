"""Visitors of a client that is started again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.task import deferLater

from rtunnel.errors import Code
from rtunnel.reverse.carriers.frozen import Thawing
from rtunnel.reverse.client.data_connections import DataConnections
from rtunnel.reverse.client.links.link import LET_GO, LOOK_EVERY, LinkService
from rtunnel.reverse.client.links.links import Links
from rtunnel.reverse.stored.keeper import IStore, Keeper, Source, take_all
from rtunnel.reverse.stored.peers import AbsentLink, read_identity, write_identity
from rtunnel.reverse.stored.pools import Sockets, pairs_of
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.data.frozen import Fields, State
from rtunnel.wire.data.keys import Root
from rtunnel.wire.data.seal import Cipher

if TYPE_CHECKING:
    from rtunnel.tls.identity import Peer
    from rtunnel.upkeep.visitors import Visitors

#: The highest number of a link, and of a tunnel.
LAST_LINK, LAST_TUNNEL = 9999, 2**32 - 1


class Owners:
    """See :class:`~rtunnel.reverse.stored.pools.IOwners`: an owner is the number of a tunnel."""

    def write(self, owner: Any) -> State:
        """See :class:`IOwners`."""
        return {"number": owner}

    def read(self, state: Fields) -> int:
        """See :class:`IOwners`."""
        return state.number("number", LAST_TUNNEL)


def _write_server(link: LinkService, known_as: tuple[str, bool], data: DataConnections, label: str) -> State:
    server = write_identity(data.server)
    return {"link": link.number, "session": known_as[0], "has_tls": known_as[1], "identity": server, "payer": label}


class ClientKeeper(Keeper):
    """See :class:`Keeper`."""

    def __init__(self, links: Links, visitors: Visitors, store: IStore) -> None:
        super().__init__(links.reactor, visitors, Owners(), store)
        self._links = links

    def sources(self) -> Iterator[Source]:
        """See :class:`Keeper`."""
        for link in self._links.all:
            held: list[tuple[Any, Any, DataConnections]] = list(link.kept)
            session = link.session
            if session is not None and session.known_as is not None:
                held += [(session.known_as, session, data) for data in session.all_data]
            for known_as, of, data in held:
                whose = partial(_write_server, link, known_as, data, of.payer)
                yield Source(whose, data.in_use, list(pairs_of(data.in_use)), of)

    def link_streams(self) -> int:
        """See :class:`Keeper`."""
        return sum(len(session.link.streams) for session in self._links.sessions)

    async def leave(self) -> None:
        """See :class:`~rtunnel.upkeep.draining.IKeeper`.

        The server hears first that the links are over and their streams are not. What it has sent before is served.
        """
        if self.can_keep_any:
            until = self._clock.seconds() + LET_GO
            self._links.await_successor()
            sessions = list(self._links.sessions)
            for session in sessions:
                session.close(Code.TAKEN_OVER, "the client is started again")
            while any(each.connected_now for each in sessions) and self._clock.seconds() < until:
                await deferLater(self._clock, LOOK_EVERY)
            while self._is_dialling and self._clock.seconds() < until:
                await deferLater(self._clock, LOOK_EVERY)
        self.put_all()

    @property
    def _is_dialling(self) -> bool:
        return any(data.is_dialling for link in self._links.all for _, _, data in link.kept)


class AbsentServer:
    """A server to which there is no link yet: a stand-in for its session.

    :ivar known_as: by what it is known when there is one.
    """

    def __init__(self, state: Fields, link: LinkService) -> None:
        """Read it.

        :raises ValueError: :class:`ClientKeeper` has not written this.
        """
        self.known_as = state.text("session"), state.flag("has_tls")
        self.identity: Peer | None = read_identity(state, "identity")
        self.payer = state.text("payer")
        self.servers = [] if self.identity is None else [self.identity]
        self.link: Any = AbsentLink(link.settings.limits)
        self.moved_early: dict[int, Any] = {}
        self.clock = link.reactor
        self.memory = link.memory
        self.log_limiter = LogLimiter(link.log, link.reactor)

    def flush(self) -> None:
        """Do nothing: there is no link."""

    def count_streams(self) -> None:
        """Do nothing: they count once there is a link."""

    def service_of(self, tunnel: int) -> Any:
        """Return None: no visitors come."""
        return None

    def end_tls(self, service: Any, visitor: str) -> Any:
        """Not called, as no visitors come; nor are the others."""
        raise NotImplementedError

    carry_datagrams = dialled = dial_failed = end_tls


class RevivedConnections(DataConnections):
    """What the last process has left of a link. No visitors come by it, and it waits for the next one."""

    def __init__(self, server: AbsentServer, link: LinkService, visitors: Visitors, cipher: Cipher) -> None:
        # The keys of its link are gone, and no more data connections are made with them.
        super().__init__(server, link, Root(secrets.token_bytes(32), cipher), 0, visitors)  # type: ignore[arg-type]
        self.close(cut=False)
        self.server = server.identity
        self._absent, self._link = server, link
        self.thawing = Thawing(link.poller, self, link.settings.limits, self.in_use, is_server=False)

    def keep(self) -> None:
        """Wait for the link."""
        self._link.kept.keep(self._absent.known_as, self._absent, [self])


def take_back(links: Links, visitors: Visitors, state: State, sockets: Sockets) -> None:
    """Go on with the visitors of the last process."""

    def build(whose: Fields, cipher: Cipher) -> RevivedConnections:
        number = whose.number("link", LAST_LINK)
        if number >= len(links.all):
            raise ValueError("there are fewer links than before")
        link = links.all[number]
        return RevivedConnections(AbsentServer(whose, link), link, visitors, cipher)

    take_all(state, sockets, links.reactor, visitors, Owners(), build)
