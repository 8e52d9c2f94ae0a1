"""Groups: which member gets a visitor of a port."""

from __future__ import annotations

from collections import Counter

from pytest_twisted import ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint

from rtunnel.reverse.server.service import TunnelServer
from rtunnel.upkeep.log_limiter import MOST_ADMITTED
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.groups.parts import DOWN, GROUP, STATE, UP, group_of, join, publish, visitors
from tests.reverse.net import CLOSE_CONN, ERROR, HOST, NEW_CONN, Peer, QuietFactory, RawLink, reactor, until
from tests.reverse.world import World


async def come(world: World, port: int, links: list[RawLink], count: int = 1) -> list[int]:
    """Let visitors come one after the other; return whom they have got, as indices."""
    found = []
    for _ in range(count):
        before = [visitors(link) for link in links]
        await world.visitor(port)
        await until(lambda before=before: [visitors(link) for link in links] != before)  # type: ignore[misc]
        found += [number for number, link in enumerate(links) if visitors(link) > before[number]]
    return found


async def come_from(world: World, port: int, address: str) -> Peer:
    """A visitor from another address of this machine."""
    peer = Peer()
    world._peers.append(peer)
    endpoint = TCP4ClientEndpoint(reactor, HOST, port, bindAddress=(address, 0))
    await endpoint.connect(QuietFactory.forProtocol(lambda: peer))
    return peer


def close(link: RawLink, conn_id: int) -> None:
    link.put(CLOSE_CONN, conn_id)


@ensureDeferred
async def test_in_turns(world: World, server: TunnelServer) -> None:
    port = free_port()
    links = await group_of(world, server, 3, port)
    assert await come(world, port, links, 9) == [0, 1, 2] * 3


@ensureDeferred
async def test_least_connections_counts_those_of_the_tunnel(world: World, server: TunnelServer) -> None:
    """A busy SSH port of one member does not keep web visitors from it."""
    port, other = free_port(), free_port()
    links = await group_of(world, server, 2, port, balance="least-connections")
    await publish(links[0], other, {}, 1)
    for _ in range(20):
        await world.visitor(other)
    await until(lambda: visitors(links[0]) == 20)
    assert Counter(await come(world, port, links, 12)) == {0: 6, 1: 6}
    # Those that go make room.
    gone = [conn_id for kind, conn_id, payload in links[1].frames if kind == NEW_CONN][:4]
    for conn_id in gone:
        close(links[1], conn_id)
    await links[1].is_alive()
    await come(world, port, links, 8)
    (held,) = (held for public, held in server.ports._held.items() if public.port == port)
    assert sorted(backend.load for backend in held.group) == [8, 8]


@ensureDeferred
async def test_a_new_member_is_not_run_over(world: World, server: TunnelServer) -> None:
    """It has no visitors, so all would be its."""
    port = free_port()
    links = await group_of(world, server, 2, port, balance="least-connections")
    await come(world, port, links, 40)
    links.append(await join(world, server))
    await publish(links[2], port, {**GROUP, "balance": "least-connections"})
    found = Counter(await come(world, port, links, 24))
    assert 10 <= found[2] <= 14, "its share is 8, and it may have half as much again"


@ensureDeferred
async def test_sticky(world: World, server: TunnelServer) -> None:
    port = free_port()
    links = await group_of(world, server, 3, port, balance="sticky")
    homes: dict[str, int] = {}
    for number in range(2, 14):
        address = f"127.0.0.{number}"
        for _ in range(2):
            before = [visitors(link) for link in links]
            await come_from(world, port, address)
            await until(lambda before=before: [visitors(link) for link in links] != before)  # type: ignore[misc]
            (home,) = (index for index, link in enumerate(links) if visitors(link) > before[index])
            assert homes.setdefault(address, home) == home
    assert len(set(homes.values())) == 3, "twelve addresses that all have the same home, or two, is a chance of 0.01"


@ensureDeferred
async def test_a_service_that_does_not_answer_comes_last(world: World, server: TunnelServer) -> None:
    port = free_port()
    links = await group_of(world, server, 3, port)
    links[1].put(STATE, 0, DOWN)
    await links[1].is_alive()
    assert world.lines(f"its service of port {port} fails its health check (connection refused)")
    assert set(await come(world, port, links, 6)) == {0, 2}
    for link in (links[0], links[2]):
        link.put(STATE, 0, DOWN)
        await link.is_alive()
    # If none answers, all are tried: the news may be old.
    assert set(await come(world, port, links, 6)) == {0, 1, 2}
    links[1].put(STATE, 0, UP)
    await links[1].is_alive()
    assert world.lines(f"its service of port {port} passes its health check again")
    assert await come(world, port, links, 3) == [1, 1, 1]


@ensureDeferred
async def test_a_flood_of_news_fills_no_log(world: World, server: TunnelServer) -> None:
    port = free_port()
    (link,) = await group_of(world, server, 1, port)
    for _ in range(2000):
        link.put(STATE, 0, DOWN)
        link.put(STATE, 0, UP)
    await link.is_alive()
    assert len(world.lines("its service of")) <= MOST_ADMITTED, "as of all lines of one client"


@ensureDeferred
async def test_a_member_that_cannot_take_a_visitor_is_passed_over(world: World) -> None:
    server, port = world.server(limits=LinkLimits(max_streams=2)), free_port()
    links = await group_of(world, server, 3, port)
    assert Counter(await come(world, port, links, 6)) == {0: 2, 1: 2, 2: 2}
    await (await world.visitor(port)).ends()


@ensureDeferred
async def test_one_that_resets_everything_gets_no_more_than_its_share(world: World, server: TunnelServer) -> None:
    """It has always the fewest connections."""
    port = free_port()
    links = await group_of(world, server, 2, port, balance="least-connections")
    for _ in range(40):
        before = visitors(links[0]) + visitors(links[1])
        await world.visitor(port)
        await until(lambda before=before: visitors(links[0]) + visitors(links[1]) > before)  # type: ignore[misc]
        for conn_id in [conn_id for kind, conn_id, _ in links[0].frames if kind == NEW_CONN]:
            links[0].frames = [frame for frame in links[0].frames if frame[:2] != (NEW_CONN, conn_id)]
            links[0].put(ERROR, conn_id, b'{"scope": "stream", "code": "local-unreachable", "message": ""}')
            await links[0].is_alive()
    assert visitors(links[0]) <= 30


@ensureDeferred
async def test_one_that_hangs_costs_the_others_nothing(world: World, server: TunnelServer) -> None:
    """Its link is open, and nobody reads it: only its own visitors wait."""
    port = free_port()
    hanging, member = await join(world, server), await join(world, server)
    for link in (hanging, member):
        await publish(link, port)
    hanging.stop_reading()
    for _ in range(10):
        await world.visitor(port)
    await until(lambda: visitors(member) == 5)
    await member.is_alive()
