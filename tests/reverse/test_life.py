"""Signs of life: links and visitors that are there and no longer answer, or have nothing to say."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.net import BOTH_PLANES, ERROR, PING, PONG, Peer, can_bind, reactor, turns, until
from tests.reverse.world import QUICK, World


@ensureDeferred
async def test_dead_link_is_dropped_and_its_port_free(world: World) -> None:
    server, port = world.server(limits=QUICK, hold=0.0), free_port()
    link = await world.raw_extended(server, port)
    visitor = await world.visitor(port)
    await until(lambda: not server.sessions)
    assert link.seen.count(PING) >= 2
    await until(lambda: can_bind(port))
    await until(lambda: visitor.was_reset)
    assert len(world.lines("nothing heard", LogLevel.warn)) == 1


@ensureDeferred
async def test_link_that_answers_pings_lives(world: World) -> None:
    server = world.server(limits=QUICK)
    link = await world.raw_extended(server)
    until_when = reactor.seconds() + 2 * QUICK.dead_after
    while reactor.seconds() < until_when:
        number, mark = await link.take(PING)
        link.put(PONG, number, mark)
    assert server.sessions


@ensureDeferred
async def test_any_byte_proves_life(world: World) -> None:
    server = world.server(limits=QUICK)
    link = await world.raw_extended(server)
    until_when = reactor.seconds() + 2 * QUICK.dead_after
    while reactor.seconds() < until_when:
        link.put(0x7F)
        await turns(5)
    assert server.sessions


@BOTH_PLANES
@ensureDeferred
async def test_client_drops_a_dead_server_and_comes_back(world: World) -> None:
    """A client must recover from a server that is there and does nothing (bore #190, frp #5355)."""
    dead = await world.raw_server()
    client = world.client(dead.port, (8080, 9), limits=QUICK)
    first = await dead.peer(0)
    first.send(_server_hello())
    await world.logged("connected to", LogLevel.info)
    await dead.peer(1)
    assert len(world.lines("nothing heard", LogLevel.warn)) >= 1
    await client.stopService()


@BOTH_PLANES
@ensureDeferred
async def test_quiet_link_and_quiet_visitor_still_work_after_a_long_time(world: World) -> None:
    """Nothing but PING and PONG for several times dead-after (wstunnel #534)."""
    server, service, port = world.server(limits=QUICK), await world.echo(), free_port()
    world.client(server, (port, service.port), limits=QUICK)
    await world.reachable()
    old = await world.visitor(port)
    until_when = reactor.seconds() + 3 * QUICK.dead_after
    await until(lambda: reactor.seconds() > until_when)
    new = await world.visitor(port)
    for visitor in (old, new):
        visitor.send(b"anybody?")
        await visitor.has(b"anybody?")


@BOTH_PLANES
@ensureDeferred
async def test_visitor_that_says_nothing_harms_nobody(world: World) -> None:
    server, service, port = world.server(), await world.echo(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    silent = [await world.visitor(port) for _ in range(50)]
    await until(lambda: len(service.peers) == 50)
    visitor = await world.visitor(port)
    visitor.send(b"and I?")
    await visitor.has(b"and I?")
    assert not any(peer.over for peer in silent)


@BOTH_PLANES
@ensureDeferred
async def test_visitor_idle_closes_the_silent(world: World) -> None:
    server, service, port = world.server(visitor_idle=0.3), await world.echo(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    silent = await world.visitor(port)
    ends = await service.peer(0)
    await until(lambda: silent.over)
    assert not server.visitors
    await until(lambda: ends.over, "the service's end of the idle visitor")
    assert world.lines("1 idle visitors closed", LogLevel.info)


@pytest.mark.parametrize("direction", ["up", "down"])
@BOTH_PLANES
@ensureDeferred
async def test_bytes_in_one_direction_are_enough_for_visitor_idle(world: World, direction: str) -> None:
    """What is between two searches for idle visitors is a byte, and not some time."""
    server, port = world.server(), free_port()
    service = await world.service()
    world.client(server, (port, service.port))
    await world.reachable()
    visitor = await world.visitor(port)
    local: Peer = await service.peer()
    source, target = (visitor, local) if direction == "up" else (local, visitor)
    # The first one finds a new visitor.
    for count in range(4):
        assert server.visitors.abort_idle() == 0
        source.send(b".")
        await target.has(b"." * (count + 1))
    assert server.visitors.abort_idle() == 0
    assert server.visitors.abort_idle() == 1
    await until(lambda: visitor.over)


@ensureDeferred
async def test_peer_that_ends_the_link_is_logged_with_its_reason(world: World) -> None:
    link = await world.raw_extended(world.server())
    link.put(ERROR, 0, b'{"scope": "link", "code": "x-tired", "message": "good\\nnight"}')
    await link.ends()
    line = await world.logged("x-tired", LogLevel.warn)
    assert "good?night" in line


def _server_hello() -> bytes:
    from tests.reverse.net import hello

    return hello()


@ensureDeferred
async def test_patience_beyond_what_the_kernel_knows(world: World) -> None:
    server = world.server(limits=LinkLimits(dead_after=200_000.0))
    link = await world.raw_extended(server, free_port())
    await link.is_alive()
