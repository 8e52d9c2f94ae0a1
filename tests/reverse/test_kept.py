"""Visitors on data connections outlive a link that is lost: the same client that comes back owns them again."""

from __future__ import annotations

from typing import Any

from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from tests.ports import free_port
from tests.reverse.data import AUTO
from tests.reverse.net import until
from tests.reverse.world import World


async def visitor_of(world: World, server: Any, client: Any, port: int) -> Any:
    """A visitor who is served on a data connection."""
    visitor = await world.visitor(port)
    visitor.send(b"before")
    await visitor.has(b"before")
    [session] = await world.sessions(server, 1)
    await until(lambda: session.link.direct_streams == client.link.session.link.direct_streams == 1)
    return visitor


@AUTO
@ensureDeferred
async def test_client_that_comes_back_owns_its_visitors_again(world: World) -> None:
    port, service, server = free_port(), await world.echo(), world.server()
    client = world.client(server, (port, service.port))
    await world.reachable()
    visitor = await visitor_of(world, server, client, port)
    for number in range(1, 3):
        [before] = await world.sessions(server, 1)
        client.link.session.transport.abortConnection()
        await until(lambda: len(world.lines("1 visitor goes on without it", LogLevel.warn)) == number)  # noqa: B023
        await world.reachable(number + 1)
        [session] = await world.sessions(server, 1)
        assert session is not before
        assert session.link.direct_streams == client.link.session.link.direct_streams == 1
        assert before.link.direct_streams == 0
        assert len(server.kept) == len(client.link.kept) == 0
        visitor.send(b" and after")
        await visitor.has(b"before" + number * b" and after")
    visitor.half_close()
    await until(lambda: visitor.eof)
    await until(lambda: session.link.direct_streams == client.link.session.link.direct_streams == 0)
    # The data connections that were adopted are gone with their visitor.
    await until(lambda: len(session.carriers) == 2, "the link and its own data connections")


@AUTO
@ensureDeferred
async def test_visitors_end_with_a_client_that_goes_down_after_it_came_back(world: World) -> None:
    port, service, server = free_port(), await world.echo(), world.server()
    client = world.client(server, (port, service.port), drain=0.0)
    await world.reachable()
    visitor = await visitor_of(world, server, client, port)
    client.link.session.transport.abortConnection()
    await world.reachable(2)
    await client.stopService()
    await until(lambda: visitor.was_reset)
    await until(lambda: not server.visitors)
