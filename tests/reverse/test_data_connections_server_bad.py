"""Our server with a client by hand that breaks rules, falls silent, or goes."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse.carriers import data_connections as pool, pool_size, sockets
from rtunnel.wire.limits import LinkLimits
from tests.reverse.data import (
    AUTO,
    CAPABILITIES,
    R_ALIVE,
    R_DATA,
    R_DONE,
    R_END,
    R_OPEN,
    R_RESET,
    RawData,
    attach,
    opening,
    record,
    session_of,
    tickets_of,
)
from tests.reverse.data_server_parts import TICKET, client_by_hand, waiting_connection
from tests.reverse.net import ERROR, HELLO, INIT, READY, frame, reactor, until
from tests.reverse.world import QUICK, World, port_of


@AUTO
@ensureDeferred
async def test_ticket_grows_old(world: World) -> None:
    server, _link, _port, tickets = await client_by_hand(world)
    server.tickets._expire(reactor.seconds() + 31)
    await (await attach(world, server, tickets[0])).ends()


@AUTO
@ensureDeferred
async def test_tickets_of_which_nothing_came_do_not_stand_in_the_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end had no descriptor for a while, say: each visitor gets a new one, and not only when the old ones expire."""
    server, link, port, lost = await client_by_hand(world, limits=LinkLimits(keepalive_interval=0.2))
    assert pool.LOST_AFTER == 10.0
    session = session_of(server)
    session.carriers[0]._wished_at -= pool.LOST_AFTER
    for number in range(3):
        tickets = await tickets_of(link)
        assert len(tickets) == (pool_size.AT_FIRST if number == 0 else 1)
        assert server.tickets.outstanding(session.carriers[0], reactor.seconds()) == len(tickets)
        for ticket in tickets:
            await attach(world, server, ticket)
        await until(lambda: len(session.carriers[0]._idle) == pool_size.AT_FIRST)
        await world.visitor(port)
    await (await attach(world, server, lost[0])).ends()


@AUTO
@ensureDeferred
async def test_many_bad_tickets_are_few_lines(world: World) -> None:
    server = world.server()
    for _ in range(40):
        await (await attach(world, server, TICKET)).ends()
    assert len(world.lines("its ticket is unknown")) == 20
    assert not server.sessions


@AUTO
@ensureDeferred
async def test_data_connection_that_was_taken_for_a_client_of_the_shared_port(world: World) -> None:
    """After a second of silence; it then takes no place there."""
    server = world.server(shared=True)
    link = await world.raw_extended(server, capabilities=CAPABILITIES)
    link.put(INIT, 0, b"0:local")
    await link.take(READY, 0)
    tickets = await tickets_of(link)
    data = await world.join(world.control_port(server), RawData())
    await until(lambda: len(server.shared_backends) == 2, "two clients of the shared port")
    data.attach(tickets[0].id)
    await until(lambda: len(server.shared_backends) == 1)
    visitor = await world.visitor(port_of(server.shared))
    assert (await data.is_used())[1] == visitor.name
    assert not world.lines("gone")


@AUTO
@pytest.mark.parametrize(
    "early",
    [
        record(R_DATA, 1, b"x"),
        record(R_END, 1),
        record(R_RESET, 1),
        record(R_OPEN, 1, opening()),
        record(R_DONE, 0),
        record(0x42),
        record(R_ALIVE, 0, bytes(5000)),
        frame(HELLO, 0, b"{}"),
        bytes(100_000),
    ],
)
@ensureDeferred
async def test_client_that_breaks_the_protocol_on_a_data_connection(world: World, early: bytes) -> None:
    server, link, _port, tickets = await client_by_hand(world)
    data = await waiting_connection(world, server, tickets[0])
    # What is alive may say so, and what is not known may be ignored if its kind says so.
    data.send(record(R_ALIVE) + record(0x80, 7, b"news"))
    data.send(early)
    await data.ends()
    await world.logged("a data connection is closed: ", LogLevel.warn)
    assert not session_of(server).carriers[0]._idle
    await link.is_alive()


@AUTO
@ensureDeferred
async def test_waiting_connections_are_kept_alive_and_dead_ones_are_closed(world: World) -> None:
    server, link, _port, tickets = await client_by_hand(world, limits=QUICK)
    alive, dead = [await attach(world, server, ticket) for ticket in tickets[:2]]
    while not dead.over:
        alive.say(R_ALIVE)
        await link.is_alive()
    assert dead.kinds.count(R_ALIVE) >= 3
    await until(lambda: len(session_of(server).carriers[0]._idle) == 1)
    assert not alive.over


@AUTO
@ensureDeferred
async def test_link_that_goes_takes_its_data_connections_with_it(world: World) -> None:
    server, link, port, tickets = await client_by_hand(world, limits=QUICK)
    waiting, used = [await attach(world, server, ticket) for ticket in tickets[:2]]
    session = session_of(server)
    await until(lambda: len(session.carriers[0]._idle) == 2)
    visitor = await world.visitor(port)
    await until(lambda: used.visitor is not None or waiting.visitor is not None)
    link.abort()
    for each in (waiting, used, visitor):
        await until(lambda: each.over)  # noqa: B023
    assert visitor.was_reset
    assert not server.ids._live
    assert not len(server.tickets)


@AUTO
@ensureDeferred
async def test_last_bytes_outlive_a_client_that_goes_down_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, link, port, tickets = await client_by_hand(world)
    waiting, used = [await attach(world, server, ticket) for ticket in tickets[:2]]
    session = session_of(server)
    await until(lambda: len(session.carriers[0]._idle) == 2)
    visitor = await world.visitor(port)
    await until(lambda: used.visitor is not None or waiting.visitor is not None)
    if used.visitor is None:
        waiting, used = used, waiting
    tail_of = session.carriers[0]
    link.put(ERROR, 0, b'{"scope": "link", "code": "shutting-down", "message": ""}')
    await world.sessions(server, 0)
    await until(lambda: waiting.eof or waiting.lost is not None)
    used.say(R_DATA, b"the last bytes")
    used.say(R_END)
    await visitor.has(b"the last bytes")
    await until(lambda: visitor.eof)
    visitor.close()
    await until(lambda: not server.visitors)
    assert not visitor.was_reset
    # The client has still to free its connection, and is not waited for without end.
    assert tail_of._tail.active()
    used.abort()
    await until(lambda: not tail_of._tail.active())


@AUTO
@ensureDeferred
async def test_client_that_says_so_and_stays_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "TAIL", 0.1)
    server, link, port, tickets = await client_by_hand(world)
    used = await attach(world, server, tickets[0])
    session = session_of(server)
    await until(lambda: session.carriers[0]._idle)
    visitor = await world.visitor(port)
    await used.is_used()
    link.put(ERROR, 0, b'{"scope": "link", "code": "shutting-down", "message": ""}')
    await until(lambda: visitor.was_reset)
    assert sockets.TAIL == 60.0
