"""Our server with a client by hand: its tickets, what comes with them, and visitors over it."""

from __future__ import annotations

import socket
from math import inf
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse import door
from rtunnel.reverse.carriers import data_connections as pool, sockets
from rtunnel.reverse.public import MOST_FIRST
from rtunnel.upkeep.descriptors import LEAST_RESERVE
from rtunnel.wire.data.keys import Ticket
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.carriers.rig import Recording
from tests.reverse.data import (
    ATTACH,
    AUTO,
    CAPABILITIES,
    DIRECT,
    R_ALIVE,
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
    relays,
    session_of,
    tickets_of,
)
from tests.reverse.net import (
    ERROR,
    HELLO,
    HOST,
    INIT,
    NEW_CONN,
    READY,
    RawLink,
    frame,
    reactor,
    turns,
    until,
)
from tests.reverse.world import QUICK, World, port_of

TICKET = bytes(range(16))


async def client_by_hand(world: World, *, session: str = "", **settings: Any) -> tuple[Any, RawLink, int, list[Ticket]]:
    """Our server, a link by hand with a tunnel, its port, and the first tickets."""
    server, port = world.server(**settings), free_port()
    more = settings.get("more", [])
    link = await world.raw_extended(server, port, session=session, capabilities=[*CAPABILITIES, *more])
    return server, link, port, await tickets_of(link)


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


async def waiting_connection(world: World, server: Any, ticket: Ticket) -> RawData:
    """A data connection that waits for a visitor."""
    before = len(session_of(server).carriers[0]._idle)
    data = await attach(world, server, ticket)
    await until(lambda: len(session_of(server).carriers[0]._idle) > before)
    return data


@AUTO
@ensureDeferred
async def test_way_of_a_visitor(world: World) -> None:
    server, _link, port, tickets = await client_by_hand(world)
    assert len({ticket.id for ticket in tickets}) == len(tickets) == pool.AT_FIRST
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
    await until(lambda: len(session.carriers[0]._idle) == len(waiting) == pool.AT_FIRST)
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
        assert len(tickets) == (pool.AT_FIRST if number == 0 else 1)
        assert server.tickets.outstanding(session.carriers[0], reactor.seconds()) == len(tickets)
        for ticket in tickets:
            await attach(world, server, ticket)
        await until(lambda: len(session.carriers[0]._idle) == pool.AT_FIRST)
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


# Visitors that wait


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
    assert pool.PATIENCE == 5.0
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
    # They wait for something.
    data = await attach(world, server, tickets[0])
    assert (await data.is_used())[1] == flood[20].name


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
