"""A server that leaves: its clients make their links elsewhere, while their streams on data connections go on here.

That is to the process that takes its place, or to another node of its cluster. Both say the same ``session`` in HELLO,
so for a client its link was lost to the same server.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any, Protocol

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtunnel.errors import Code
from rtunnel.reverse.carriers.kept import KeptConnections

#: Seconds that visitors on a link have to end, or to go on on a data connection. Meanwhile new ones wait.
ON_LINK = 2.0
#: The same where there are no data connections; and never more than the setting drain.
ON_LINK_ONLY = 10.0
#: Seconds for which nobody else gets what a client has here, until it has that at another node.
KEPT_FOR = 3.0
#: How often it is looked at who is left, in seconds.
LOOK_EVERY = 0.02

_log = Logger()


class ILeaving(Protocol):
    """The server that leaves."""

    reactor: Any
    settings: Any
    kept: KeptConnections[Any]
    nodes: Any
    claims: Any

    @property
    def sessions(self) -> Iterable[Any]: ...


async def let_go_of_clients(server: ILeaving, why: str) -> None:
    """End the links of all clients, so that they make others.

    :param why: what clients are told.
    """
    server.kept.patience = inf
    await gatherResults([Deferred.fromCoroutine(_let_go(server, session, why)) for session in list(server.sessions)])
    await server.claims.hand_over(min(server.settings.drain, KEPT_FOR))


async def _let_go(server: ILeaving, session: Any, why: str) -> None:
    clock, link = server.reactor, session.link
    until = clock.seconds() + min(server.settings.drain, ON_LINK if session.has_data_connections else ON_LINK_ONLY)

    async def have_ended() -> None:
        while session.is_live and link.streams and clock.seconds() < until:
            await deferLater(clock, LOOK_EVERY)

    await have_ended()
    # As long as the client is here, it serves those whom other nodes have sent before they know.
    await server.nodes.let_go(list(session.backends.values()))
    await have_ended()
    if link.streams:
        text = "client {peer}: {count} visitors on its link did not finish in time and are cut off"
        _log.warn(text, peer=session.peer_name, count=len(link.streams))
    if session.is_live:
        for backend in session.backends.values():
            server.claims.keep(backend)
        session.close(Code.TAKEN_OVER, why)
