"""Our server with a client by hand: visitors that wait for a data connection."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse.carriers import data_connections as pool
from rtunnel.reverse.carriers.waiting import PATIENCE
from rtunnel.upkeep.descriptors import LEAST_RESERVE
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.data import (
    AUTO,
    CAPABILITIES,
    DIRECT,
    R_DATA,
    R_END,
    attach,
    relays,
    session_of,
)
from tests.reverse.data_server_parts import client_by_hand, waiting_connection
from tests.reverse.net import HOST, NEW_CONN, turns, until
from tests.reverse.world import World


@DIRECT
@ensureDeferred
async def test_visitor_waits_for_a_connection(world: World) -> None:
    server, link, port, tickets = await client_by_hand(world)
    visitor = await world.visitor(port)
    visitor.send(b"GET /")
    visitor.half_close()
    await link.is_alive()
    assert NEW_CONN not in link.seen
    session = session_of(server)
    assert session.link.stream_count == len(server.visitors) == 1
    data = await attach(world, server, tickets[0])
    await data.is_used()
    await data.has_stream(b"GET /")
    await until(lambda: data.ended)
    assert session.link.stream_count == len(server.visitors) == len(relays(server)) == 1
    data.say(R_DATA, b"200 OK")
    data.say(R_END)
    await visitor.has(b"200 OK")


@DIRECT
@ensureDeferred
async def test_visitor_who_has_left_costs_no_connection(world: World) -> None:
    """A connection that is cut for nothing would be news to the client: none can be made, it would say."""
    server, _link, port, tickets = await client_by_hand(world)
    visitors = [await world.visitor(port) for _ in range(3)]
    session = session_of(server)
    await until(lambda: len(server.visitors) == 3)
    for gone in visitors[:2]:
        gone.abort()
    await until(lambda: all(gone.over for gone in visitors[:2]))
    visitors[2].send(b"GET /")
    first, second = [await attach(world, server, ticket) for ticket in tickets[:2]]
    await first.is_used()
    await first.has_stream(b"GET /")
    await until(lambda: len(session.carriers[0]._idle) == 1)
    assert session.link.stream_count == len(server.visitors) == 1
    await turns()
    assert not second.over
    assert second.visitor is None


@DIRECT
@ensureDeferred
async def test_visitor_waits_no_longer_than_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PATIENCE == 5.0
    monkeypatch.setattr(pool, "PATIENCE", 0.1)
    server, _link, port, _tickets = await client_by_hand(world, limits=LinkLimits(keepalive_interval=0.2))
    visitor = await world.visitor(port)
    await until(lambda: visitor.was_reset)
    assert not server.visitors
    session = session_of(server)
    assert session.link.stream_count == 0
    # Nobody else says so at this end.
    assert len(world.lines("no data connection came for it", LogLevel.warn)) == 1


@DIRECT
@ensureDeferred
async def test_waiting_visitors_go_with_the_link_and_count_as_streams(world: World) -> None:
    server, link, port, _tickets = await client_by_hand(world, limits=LinkLimits(max_streams=2))
    visitors = [await world.visitor(port) for _ in range(3)]
    await until(lambda: visitors[2].was_reset)
    await turns()
    assert not visitors[0].over
    assert not visitors[1].over
    link.abort()
    await until(lambda: visitors[0].was_reset and visitors[1].was_reset)
    assert not server.visitors


@DIRECT
@ensureDeferred
async def test_waiting_visitors_of_one_client_leave_room_for_those_of_another(world: World) -> None:
    """Even if all of them come from one address."""
    server, _link, port, tickets = await client_by_hand(world, pool=2)
    other = free_port()
    await world.raw_extended(server, other, capabilities=CAPABILITIES)
    budget = server.descriptors
    budget._limit, budget._count_open = lambda: 30 + LEAST_RESERVE, lambda: budget.held
    flood = [await world.visitor(port) for _ in range(40)]
    await until(lambda: all(each.was_reset for each in flood[:10]))
    few = [await world.visitor(other) for _ in range(10)]
    await until(lambda: all(each.was_reset for each in flood[:20]))
    await turns()
    assert len(server.visitors) == budget.held == 30
    assert not any(each.over for each in [*flood[20:], *few])
    # They wait for something. The first one may have made room for it.
    data = await attach(world, server, tickets[0])
    assert (await data.is_used())[1] in (flood[20].name, flood[21].name)


@DIRECT
@ensureDeferred
async def test_server_that_stops_does_not_wait_for_a_connection(world: World) -> None:
    server, _link, port, _tickets = await client_by_hand(world, drain=0.2)
    visitor = await world.visitor(port)
    await until(lambda: len(server.visitors) == 1)
    await server.stopService()
    await until(lambda: visitor.was_reset)


@DIRECT
@ensureDeferred
async def test_client_that_knows_none_is_served_by_the_link(world: World) -> None:
    server, port = world.server(), free_port()
    link = await world.raw_extended(server, port)
    await world.visitor(port)
    await link.take(NEW_CONN)
    assert len(world.lines("knows no data connections: its visitors go by the link", LogLevel.warn)) == 1


@AUTO
@ensureDeferred
async def test_what_outlives_its_link_still_counts(world: World) -> None:
    """The link is lost twice. The client's visitor goes on, and pays for what it holds; so does it in between."""
    server, link, port, tickets = await client_by_hand(world, session="1" * 32)
    data = await waiting_connection(world, server, tickets[0])
    visitor = await world.visitor(port)
    await data.is_used()
    memory, lost = server.memory, session_of(server)

    def held() -> int:
        return sum(used is holding for each in memory._parties for _, holding in each.holdings())

    (used,) = lost.carriers[0]._used
    for question in (b"one", b"two"):
        link.abort()
        await world.sessions(server, 0)
        assert len(server.kept) == lost.visitor_count == held() == 1
        assert [party.payer for party in memory._parties] == [HOST]
        visitor.send(question)
        await until(lambda: data.stream.endswith(question))  # noqa: B023
        link = await world.raw_extended(server, port, session="1" * 32, capabilities=CAPABILITIES)
        (lost,) = server.sessions
        assert len(lost.carriers) == 3, "what is empty is not kept"
        assert lost.visitor_count == held() == len(memory._parties) == 1
        assert not len(server.kept)
    link.abort()
    await world.sessions(server, 0)
    (party,) = memory._parties
    for _, holding in list(party.holdings()):
        party.free(holding)
    await until(lambda: visitor.was_reset)
    data.abort()
    await until(lambda: not memory._parties, "the look at what is kept")
    assert [len(server.kept), lost.visitor_count, len(server.visitors)] == [0, 0, 0]
