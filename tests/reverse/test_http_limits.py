"""Whose requests a host name takes: by the rules of its tunnel, and by what the clients file says."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse.server.service import TunnelServer
from tests.reverse.net import HOST, NEW_CONN, READY, Peer, RawLink, until
from tests.reverse.test_host_names import ask, publish
from tests.reverse.test_http import GET, OK, answered, http_server, visit
from tests.reverse.test_limits import CAPABILITIES, Clients, notice
from tests.reverse.world import World

NAME = "http/app.example.org"
PLACE = "http://app.example.org"


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    return Clients(tmp_path / "clients.yaml")


async def status(visitor: Peer) -> int:
    """The status of the first answer."""
    await until(lambda: b"\r\n\r\n" in visitor.received or visitor.over, "an answer")
    return int(bytes(visitor.received).split()[1])


async def refused(world: World, server: TunnelServer, code: int, why: str) -> Peer:
    visitor = await visit(world, server)
    assert await status(visitor) == code
    await world.logged(f"visitor {HOST} of {PLACE} refused: {why}", LogLevel.info)
    return visitor


@ensureDeferred
async def test_clients_file(world: World, clients: Clients) -> None:
    """It holds besides the rules of the tunnel, and a change of it from the next request on."""
    clients.write("deny: 127.0.0.1, max-requests: 7, max-connection-rate: 1")
    server = http_server(world, admission=clients.settings)
    link = await clients.link(world, server, NAME)
    assert await notice(link) == (
        "the server limits visitors: 7 requests of an address a second, 127.0.0.1 may not come"
    )
    visitor = await refused(world, server, 403, "its address may not come")
    assert await notice(link) == f"visitor {HOST} was refused: its address may not come"
    clients.write("max-connections: 1")
    assert await notice(link) == "the server limits visitors: 1 request of an address at once"
    visitor.received.clear()
    visitor.send(GET)
    stream, _ = await link.take(NEW_CONN)
    await refused(world, server, 429, "its address has 1 request at once, the limit")
    link.put(2, stream, OK)
    await visitor.has(OK)
    await answered_again(link, visitor, stream)
    clients.write("max-requests: 0.001")
    assert await notice(link) == "the server limits visitors: 0.001 requests of an address a second"
    visitor.received.clear()
    await answered_again(link, visitor, stream)
    page = await refused(world, server, 429, "its address sends more than 0.001 requests a second")
    assert b"your address sends more than 0.001 requests a second (http://app.example.org)" in page.received
    assert NEW_CONN not in [kind for kind, _, _ in link.frames]


async def answered_again(link: RawLink, visitor: Peer, stream: int) -> None:
    """Let a client answer one more request on a stream."""
    visitor.received.clear()
    visitor.send(GET)
    await until(lambda: any(kind == 2 and number == stream for kind, number, _ in link.frames))
    await link.take(2, stream)
    link.put(2, stream, OK)
    await visitor.has(OK)


@ensureDeferred
async def test_what_is_counted_outlives_the_client(world: World) -> None:
    """Rules that come back the same go on where they were."""
    server = http_server(world, hold=60.0)

    async def begin() -> RawLink:
        link = await world.raw_extended(server, capabilities=CAPABILITIES, session="a" * 32)
        ask(link, 0, NAME, **{"max-requests": 0.01})
        await link.take(READY, 0)
        return link

    link = await begin()
    await answered(link, await visit(world, server))
    await refused(world, server, 429, "its address sends more than 0.01 requests a second")
    link.abort()
    await world.sessions(server, 0)
    waits = await visit(world, server)
    await begin()
    assert await status(waits) == 429


@ensureDeferred
async def test_who_may_not_come_does_not_wait(world: World) -> None:
    """While the client is away, there is no place for him among those that wait."""
    server = http_server(world, hold=60.0)
    link = await world.raw_extended(server, capabilities=CAPABILITIES)
    ask(link, 0, NAME, deny="127.0.0.1")
    await link.take(READY, 0)
    link.abort()
    await world.sessions(server, 0)
    await refused(world, server, 403, "its address may not come")


@ensureDeferred
async def test_limits_of_one_name_are_not_those_of_another(world: World) -> None:
    server = http_server(world)
    link = await world.raw_extended(server, capabilities=CAPABILITIES)
    ask(link, 0, NAME, deny="127.0.0.1")
    await link.take(READY, 0)
    await publish(link, 1, "http/other.example.org")
    await refused(world, server, 403, "its address may not come")
    await answered(link, await visit(world, server, GET.replace(b"app", b"other")))
