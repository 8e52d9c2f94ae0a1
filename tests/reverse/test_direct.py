"""Visitors on data connections of their own, between our server and our client."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.relay.direct import DirectRelay
from tests.reverse.net import free_port, until
from tests.reverse.world import World

DIRECT = pytest.mark.parametrize("world", ["direct"], indirect=True)


async def pool_of(world: World, server: Any, count: int = 1) -> Any:
    """The data connections of the only client, once some wait."""
    (session,) = await world.sessions(server, 1)
    await until(lambda: session.data is not None and len(session.data._idle) >= count, f"{count} data connections")
    return session.data


def relays(service: Any) -> list[Any]:
    return [each for each in service.visitors._ends if isinstance(each, DirectRelay)]


@DIRECT
@ensureDeferred
async def test_visitor_has_a_connection_of_its_own(world: World) -> None:
    server, service, port = world.server(), await world.service(), free_port()
    client = world.client(server, (port, service.port))
    await world.reachable()
    pool = await pool_of(world, server)
    visitor = await world.visitor(port)
    visitor.send(b"GET /")
    peer = await service.peer()
    await peer.has(b"GET /")
    peer.send(b"200 OK")
    await visitor.has(b"200 OK")
    assert len(relays(server)) == len(relays(client)) == 1
    (session,) = server.sessions
    assert not session.link.streams
    assert session.link.stream_count == client.link.session.link.stream_count == 1
    peer.close()
    await until(lambda: visitor.eof)
    visitor.close()
    await until(lambda: not server.visitors and not client.visitors)
    assert session.link.stream_count == client.link.session.link.stream_count == 0
    assert not pool._used
    assert not server.ids._live
