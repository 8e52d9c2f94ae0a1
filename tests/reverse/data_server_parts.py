"""A client by hand that has its tickets, and connections of it that wait."""

from __future__ import annotations

from typing import Any

from rtunnel.wire.data.keys import Ticket
from tests.ports import free_port
from tests.reverse.data import (
    CAPABILITIES,
    RawData,
    attach,
    session_of,
    tickets_of,
)
from tests.reverse.net import RawLink, until
from tests.reverse.world import World

TICKET = bytes(range(16))


async def client_by_hand(world: World, *, session: str = "", **settings: Any) -> tuple[Any, RawLink, int, list[Ticket]]:
    """Our server, a link by hand with a tunnel, its port, and the first tickets."""
    server, port = world.server(**settings), free_port()
    more = settings.get("more", [])
    link = await world.raw_extended(server, port, session=session, capabilities=[*CAPABILITIES, *more])
    return server, link, port, await tickets_of(link)


async def waiting_connection(world: World, server: Any, ticket: Ticket) -> RawData:
    """A data connection that waits for a visitor."""
    before = len(session_of(server).carriers[0]._idle)
    data = await attach(world, server, ticket)
    await until(lambda: len(session_of(server).carriers[0]._idle) > before)
    return data
