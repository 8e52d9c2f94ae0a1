"""Visitors of a server that is started again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from rtunnel.access.public import Public
from rtunnel.errors import Code
from rtunnel.reverse.carriers.data_connections import DataPool
from rtunnel.reverse.carriers.frozen import Frozen, Thawing
from rtunnel.reverse.public import Owner, Visitor
from rtunnel.reverse.stored.held import read_place, release, wait_on, write, write_place
from rtunnel.reverse.stored.keeper import IStore, Keeper, Source, take_all
from rtunnel.reverse.stored.peers import AbsentClient, write_client
from rtunnel.reverse.stored.pools import GARBAGE, Sockets, name_sockets, pairs_of
from rtunnel.wire.data.frozen import Fields, State
from rtunnel.wire.data.keys import Root
from rtunnel.wire.data.seal import Cipher

if TYPE_CHECKING:
    from rtunnel.reverse.server.service import TunnelServer

#: The highest number of a tunnel.
LAST_TUNNEL = 2**32 - 1

_log = Logger()


class Owners:
    """See :class:`~rtunnel.reverse.stored.pools.IOwners`."""

    def __init__(self, client: AbsentClient | None = None) -> None:
        self.client = client

    def write(self, owner: Any) -> State:
        """Write down the place to which a visitor has come."""
        return {"place": write_place(owner.public), "number": owner.number}

    def read(self, state: Fields) -> Owner:
        """Return it, for the client that is waited for."""
        assert self.client is not None
        public = read_place(state.all("place"))
        return Owner(public, self.client.known_as, self.client, state.number("number", LAST_TUNNEL))


class ServerKeeper(Keeper):
    """See :class:`Keeper`."""

    def __init__(self, server: TunnelServer, store: IStore) -> None:
        super().__init__(server.reactor, server.visitors, Owners(), store)
        self._server = server
        # Those who wait for clients.
        self._waiting: list[Frozen] = []
        self._has_left = False

    def take_waiting(self, public: Public, visitor: Visitor, left: float | None) -> bool:
        """Put a visitor away who waits; see :data:`~rtunnel.reverse.server.held.Heir`."""
        state = None if self._has_left else write(public, visitor, left)
        if state is None:
            return False
        self._waiting.append(name_sockets(Frozen(state, [release(visitor)])))
        return True

    def _pools(self) -> Iterator[tuple[Any, DataPool]]:
        for session in list(self._server.sessions):
            if session.known_as is not None:
                for carrier in list(session.carriers):
                    if isinstance(carrier, DataPool):
                        yield session, carrier
        for _, session, pool in self._server.kept:
            if not session.node:
                yield session, pool

    def sources(self) -> Iterator[Source]:
        """See :class:`Keeper`."""
        for session, pool in self._pools():
            yield Source(partial(write_client, session), pool.in_use, list(pairs_of(pool.in_use)), session)

    def link_streams(self) -> int:
        """See :class:`Keeper`."""
        return sum(len(session.link.streams) for session in self._server.links)

    async def leave(self) -> None:
        """See :class:`~rtunnel.upkeep.draining.IKeeper`. Clients whose visitors stay are told to come again."""
        waiting, self._waiting, self._has_left = self._waiting, [], True
        sessions = set(self.put_all(waiting))
        self._server.kept.patience = inf
        for session in self._server.links:
            if session in sessions:
                session.close(Code.TAKEN_OVER, "the server is started again")


class RevivedPool(DataPool):
    """What the last process has left of a link. It takes no visitors, and waits for the client's next link."""

    def __init__(self, client: AbsentClient, server: TunnelServer, cipher: Cipher) -> None:
        # The keys of its link are gone, and no more data connections are made with them.
        super().__init__(client, server, Root(secrets.token_bytes(32), cipher), waits=False)
        self.close(cut=False)
        self._client, self._kept = client, server.kept
        self.thawing = Thawing(server.poller, self, server.settings.limits, self.in_use, is_server=True)

    def keep(self) -> None:
        """Wait for the client."""
        self._kept.keep(self._client.known_as, self._client, [self])


def take_back(server: TunnelServer, state: State, sockets: Sockets) -> None:
    """Go on with the visitors of the last process."""
    owners = Owners()

    def build(whose: Fields, cipher: Cipher) -> RevivedPool:
        owners.client = AbsentClient(whose, server.admission, server.memory, server.settings.limits)
        return RevivedPool(owners.client, server, cipher)

    take_all(state, sockets, server.reactor, server.visitors, owners, build)
    count, waiting = 0, []
    with suppress(*GARBAGE):  # there are none
        waiting = Fields(state).all("waiting")
    for each in waiting:
        with suppress(*GARBAGE):
            fields = Fields(each)
            [name] = fields.all("sockets")
            [sock] = sockets.take([name])
            count += wait_on(server, fields, sock)
    if count:
        _log.info("{count} visitors of the last process wait on", count=count)
