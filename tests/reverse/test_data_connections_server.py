"""Our server with a client by hand: its tickets, what comes with them, and visitors over it."""

from __future__ import annotations

import socket
from math import inf

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse import door
from rtunnel.reverse.carriers import data_connections as pool, pool_size
from rtunnel.reverse.public import MOST_FIRST
from rtunnel.upkeep.descriptors import LEAST_RESERVE
from tests.ports import free_port
from tests.reverse.carriers.rig import Recording
from tests.reverse.data import (
    ATTACH,
    AUTO,
    CAPABILITIES,
    R_DATA,
    R_DONE,
    R_END,
    R_OPEN,
    R_RESET,
    TICKETS,
    RawData,
    attach,
    opening,
    record,
    session_of,
    tickets_of,
)
from tests.reverse.data_server_parts import TICKET, client_by_hand, waiting_connection
from tests.reverse.net import HOST, INIT, NEW_CONN, READY, frame, reactor, turns, until
from tests.reverse.world import World


@pytest.mark.parametrize("how", ["at once", "in two pieces", "after a silence"])
@AUTO
@ensureDeferred
async def test_reader_of_a_data_connection_may_stall(world: World, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """For as long as it likes, and not as long as a link may: the kernel would cut it."""
    monkeypatch.setattr(door, "SILENT_AFTER", 0.05)
    server = world.server(shared=True)
    link = await world.raw_extended(server, free_port(), capabilities=CAPABILITIES)
    tickets = await tickets_of(link)
    session = session_of(server)
    assert session.transport.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    attached = frame(ATTACH, 0, tickets[0].id)
    data: RawData = await world.join(world.control_port(server), RawData())
    if how == "in two pieces":
        data.send(attached[:5])
        await until(lambda: len(server.door) == 1)
    elif how == "after a silence":
        await until(lambda: any(each.backends for each in server.sessions if each is not session))
    data.send(attached[5:] if how == "in two pieces" else attached)
    await until(lambda: session.carriers[0]._idle)
    (waiting,) = session.carriers[0]._idle
    assert waiting.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


@AUTO
@ensureDeferred
async def test_way_of_a_visitor(world: World) -> None:
    server, _link, port, tickets = await client_by_hand(world)
    assert len({ticket.id for ticket in tickets}) == len(tickets) == pool_size.AT_FIRST
    data = await waiting_connection(world, server, tickets[0])
    await data.is_taken()
    visitor = await world.visitor(port)
    visitor.send(b"GET /")
    assert await data.is_used() == (0, visitor.name)
    await data.has_stream(b"GET /")
    data.say(R_DATA, b"200 OK")
    await visitor.has(b"200 OK")
    data.say(R_END)
    await until(lambda: visitor.eof)
    visitor.send(b"more")
    await data.has_stream(b"GET /more")
    visitor.close()
    await until(lambda: data.ended)
    await until(lambda: not server.visitors)
    assert not session_of(server).carriers[0]._idle, "the client may have bytes to read yet"
    data.say(R_DONE)
    await until(lambda: session_of(server).carriers[0]._idle)
    again = await world.visitor(port)
    assert await data.is_used(2) == (0, again.name)


@pytest.mark.parametrize("first", [b"GET /", b"x" * (MOST_FIRST + 1), b""], ids=["little", "much", "nothing"])
@AUTO
@ensureDeferred
async def test_first_bytes_come_with_the_news_of_a_visitor(world: World, first: bytes) -> None:
    """In one packet, so that the client has one event of them."""
    server, _link, port, tickets = await client_by_hand(world)
    data = await waiting_connection(world, server, tickets[0])
    (waiting,) = session_of(server).carriers[0]._idle
    recording = Recording(waiting)
    with socket.create_connection((HOST, port)) as visitor:
        # The server has no turn before they are there.
        visitor.sendall(first)
        if not first:
            visitor.shutdown(socket.SHUT_WR)
        await data.is_used()
        await data.has_stream(first)
        await until(lambda: data.ended == (not first))
        name = "{}:{}".format(*visitor.getsockname())
    assert recording.sent[0] == b"".join(
        [record(R_OPEN, 1, opening(0, name)), *([record(R_DATA, 1, first[:MOST_FIRST])] if first else [])]
    )


@AUTO
@ensureDeferred
async def test_no_late_byte_reaches_the_next_visitor(world: World) -> None:
    server, _link, port, tickets = await client_by_hand(world)
    data = await waiting_connection(world, server, tickets[0])
    first = await world.visitor(port)
    await data.is_used()
    first.abort()
    await data.is_reset()
    data.say(R_DATA, b"too late")
    data.say(R_END)
    await turns()
    assert not session_of(server).carriers[0]._idle
    data.say(R_RESET, b"connection-lost\0")
    await until(lambda: session_of(server).carriers[0]._idle)
    second = await world.visitor(port)
    await data.is_used(2)
    data.say(R_DATA, b"in time")
    await second.has(b"in time")
    # The other way round: the client resets, which is answered.
    data.say(R_RESET, b"local-unreachable\0nobody is at home")
    await until(lambda: second.was_reset)
    assert await data.is_reset(2) == "local-unreachable"
    await world.visitor(port)
    await data.is_used(3)
    assert not world.lines("a data connection is closed")


@pytest.mark.parametrize("how", ["reset", "end"])
@AUTO
@ensureDeferred
async def test_client_that_frees_no_connection_gets_no_more_of_them(world: World, how: str) -> None:
    """Its connections count as no streams once their visitors are gone. Visitors go by the link then."""
    server, link, port, tickets = await client_by_hand(world, pool=1)
    carrier = session_of(server).carriers[0]
    for count in range(1, pool.MOST_ENDING + 2):
        data = await waiting_connection(world, server, tickets[0])
        visitor = await world.visitor(port)
        await data.is_used()
        if how == "reset":
            visitor.abort()
            await data.is_reset()
        else:
            data.say(R_END)
            visitor.close()
            await until(lambda: data.ended)  # noqa: B023
        await until(lambda: not server.visitors)
        assert sum(holding in carrier._busy for _, holding in carrier.holdings()) == count
        if count <= pool.MOST_ENDING:
            tickets = await tickets_of(link)
    await link.is_alive()
    assert link.seen.count(TICKETS) == pool.MOST_ENDING + 1
    await world.visitor(port)
    await link.take(NEW_CONN)
    data.say(*((R_RESET, b"connection-lost\0") if how == "reset" else (R_DONE,)))
    await until(lambda: carrier._idle)


@AUTO
@ensureDeferred
async def test_tickets_come_with_the_first_tunnel_and_not_before(world: World) -> None:
    server = world.server()
    link = await world.raw_extended(server, capabilities=CAPABILITIES)
    await link.is_alive()
    assert TICKETS not in link.seen
    link.put(INIT, 0, b"%d:local" % free_port())
    await link.take(READY, 0)
    assert await tickets_of(link)


@AUTO
@ensureDeferred
async def test_where_descriptors_are_scarce_none_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that wait for visitors leave the rest to visitors and other links."""
    server, link, port, tickets = await client_by_hand(world)
    budget, session = server.descriptors, session_of(server)
    waiting = [await attach(world, server, ticket) for ticket in tickets]
    await until(lambda: len(session.carriers[0]._idle) == len(waiting) == pool_size.AT_FIRST)
    monkeypatch.setattr(budget, "_ask_at", inf)
    monkeypatch.setattr(budget, "_spare_at", 0.0)
    monkeypatch.setattr(budget, "_room", LEAST_RESERVE)
    for _ in range(3):
        session.carriers[0].tick(reactor.seconds())
    assert not session.carriers[0]._idle
    visitor = await world.visitor(port)
    visitor.send(b"by the link")
    await link.take(NEW_CONN)
    await turns(20)
    assert not len(server.tickets)
    monkeypatch.undo()
    session.carriers[0].tick(reactor.seconds())
    assert await tickets_of(link)


@AUTO
@ensureDeferred
async def test_no_tickets_without_the_capability(world: World) -> None:
    server, port = world.server(), free_port()
    link = await world.raw_extended(server, port)
    visitor = await world.visitor(port)
    await link.take(NEW_CONN)
    await link.is_alive()
    assert TICKETS not in link.seen
    assert not visitor.over


@AUTO
@pytest.mark.parametrize("kind", ["never given", "used", "of a link that is gone"])
@pytest.mark.parametrize("pieces", [1, 2])
@ensureDeferred
async def test_ticket_that_is_not_good(world: World, kind: str, pieces: int) -> None:
    server, link, _port, tickets = await client_by_hand(world)
    ticket = tickets[0].id
    if kind == "never given":
        ticket = TICKET
    elif kind == "used":
        await attach(world, server, ticket)
        session = session_of(server)
        await until(lambda: session.carriers[0]._idle)
    else:
        link.abort()
        await world.sessions(server, 0)
    before = len(server.sessions)
    data = await world.join(world.control_port(server), RawData())
    whole = frame(ATTACH, 0, ticket)
    data.send(whole[:20])
    if pieces == 2:
        await turns()
    data.send(whole[20:])
    await data.ends()
    assert not data.kinds
    await world.logged("its ticket is unknown, was used, or has expired", LogLevel.warn)
    await until(lambda: len(server.sessions) == before)
    gone = len(world.lines("gone"))
    assert gone == (kind == "of a link that is gone"), "that was no client"
