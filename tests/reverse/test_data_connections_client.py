"""Our client with a server by hand: what it does with tickets, and with visitors over data connections."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse.client import data_connections as pool
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.data import (
    AUTO,
    CAPABILITIES,
    DIRECT,
    KEYS,
    R_ALIVE,
    R_DATA,
    R_DONE,
    R_END,
    R_OPEN,
    R_RESET,
    TICKETS,
    opening,
    record,
    relays,
)
from tests.reverse.net import ERROR, HELLO, NEW_CONN, frame, reactor, turns, until
from tests.reverse.server_by_hand import ROOT, ServerByHand
from tests.reverse.world import OFTEN, QUICK, World

VISITOR = "192.0.2.1:5000"


@AUTO
@ensureDeferred
async def test_each_ticket_is_a_connection_up_to_the_bound(world: World) -> None:
    server = await ServerByHand().start(world, (8080, 9), pool=3)
    tickets = server.send_tickets(5)
    for number in range(3):
        await server.data(number)
    assert {data.attached for data in server.listening.peers[1:]} == set(tickets[:3])  # type: ignore[attr-defined]
    await turns()
    assert len(server.listening.peers) == 1 + 3
    server.listening.peers[1].abort()
    await until(lambda: len(server.connections) == 2)
    server.send_tickets(5)
    await server.data(3)
    await turns()
    assert len(server.listening.peers) == 1 + 4
    assert not world.lines("cannot be made")


@pytest.mark.parametrize(
    "bad",
    [
        [(KEYS, b"\0" + ROOT)],
        [(TICKETS, b'{"first": 1, "count": 1, "expires": 30}')],
        [(TICKETS, b'{"first": 0, "count": 2, "expires": 30}'), (TICKETS, b'{"first": 3, "count": 1, "expires": 30}')],
        [(TICKETS, b'{"first": 0, "count": 2, "expires": 30}'), (TICKETS, b'{"first": 1, "count": 1, "expires": 30}')],
    ],
)
@AUTO
@ensureDeferred
async def test_server_whose_tickets_do_not_follow_one_another(world: World, bad: list[tuple[int, bytes]]) -> None:
    """The ends do not agree, and would not on the next ones: the link ends, and another one is made."""
    server = await ServerByHand().start(world, (8080, 9))
    for kind, payload in bad:
        server.link.put(kind, 0, payload)
    assert (await server.link.take_json(ERROR, 0))["code"] == "protocol-error"
    await server.link.ends()


@AUTO
@ensureDeferred
async def test_ticket_without_room_is_used_when_a_visitor_has_taken_a_connection(world: World) -> None:
    """The server had sent it before we could know of the visitor."""
    service = await world.echo()
    server = await ServerByHand().start(world, (8080, service.port), pool=2)
    tickets = server.send_tickets(3)
    data = await server.data()
    await server.data(1)
    await turns()
    assert len(server.listening.peers) == 1 + 2
    data.open()
    assert (await server.data(2)).attached == tickets[2]
    data.abort()


@AUTO
@ensureDeferred
@pytest.mark.parametrize(("expires", "kept"), [(0.2, 5.0), (30.0, 0.2)])
async def test_tickets_without_room_grow_old(
    world: World, monkeypatch: pytest.MonkeyPatch, expires: float, kept: float
) -> None:
    monkeypatch.setattr(pool, "KEPT", kept)
    service = await world.echo()
    server = await ServerByHand().start(world, (8080, service.port), pool=1)
    server.send_tickets(2, expires=expires)
    data = await server.data()
    await until(lambda: server.client.link.session.data._kept[0][1] < reactor.seconds(), "it has grown old")
    data.open()
    await until(lambda: len(relays(server.client)) == 1)
    await turns()
    assert len(server.listening.peers) == 1 + 1
    assert not server.client.link.session.data._kept
    data.abort()


@AUTO
@ensureDeferred
async def test_visitor_over_a_data_connection(world: World) -> None:
    service = await world.service()
    server = await ServerByHand().start(world, (8080, 9), (8081, service.port))
    server.send_tickets(1)
    data = await server.data()
    data.send(record(R_OPEN, 1, opening(1)) + record(R_DATA, 1, b"GET /"))
    data.number = 1
    peer = await service.peer()
    await peer.has(b"GET /")
    data.say(R_DATA, b" HTTP/1.1")
    await peer.has(b"GET / HTTP/1.1")
    peer.send(b"200 OK")
    await data.has_stream(b"200 OK")
    assert len(relays(server.client)) == 1
    peer.half_close()
    await until(lambda: data.ended)
    data.say(R_END)
    await until(lambda: peer.eof)
    await until(lambda: R_DONE in data.kinds, "DONE: the client had sent its END before it got ours")
    data.open(1)
    other = await service.peer(1)
    data.abort()
    await until(lambda: other.was_reset)
    assert not peer.was_reset


@AUTO
@ensureDeferred
async def test_visitor_who_has_left_before_the_service_answers(world: World) -> None:
    """What the service sends then reaches nobody, and the connection takes the next visitor."""
    service = await world.service()
    server = await ServerByHand().start(world, (8080, service.port))
    server.send_tickets(1)
    data = await server.data()
    for number in range(3):
        data.open()
        peer = await service.peer(number)
        data.say(R_RESET, b"connection-lost\0gone")
        await until(lambda: peer.was_reset)  # noqa: B023
        assert await data.is_reset(number + 1) == "connection-lost"
        assert len(world.lines("the stream was reset: connection-lost: gone", LogLevel.debug)) == number + 1
        assert len(server.connections) == 1
    assert len(server.listening.peers) == 1 + 1


@AUTO
@ensureDeferred
async def test_visitor_of_a_tunnel_that_there_is_not(world: World) -> None:
    server = await ServerByHand().start(world, (8080, 9))
    server.send_tickets(1)
    data = await server.data()
    for number, tunnel in enumerate((1, 2**31, 2**32 - 1)):
        data.open(tunnel)
        assert await data.is_reset(number + 1) == "unknown-tunnel"
        data.say(R_RESET)
    await server.link.is_alive()
    assert not server.client.visitors


@AUTO
@ensureDeferred
async def test_service_that_is_down_is_one_line_and_a_reset(world: World) -> None:
    server = await ServerByHand().start(world, (8080, free_port()))
    server.send_tickets(1)
    data = await server.data()
    for number in range(2):
        data.open()
        data.say(R_DATA, b"GET /")
        assert await data.is_reset(number + 1) == "local-unreachable"
        data.say(R_RESET)
    assert len(world.lines("does not answer (connection refused)", LogLevel.warn)) == 1
    assert server.client.link.session.link.stream_count == 0
    assert len(server.connections) == 1


@AUTO
@pytest.mark.parametrize("proved", [False, True])
@pytest.mark.parametrize(
    "bad",
    [
        b"\xff" * 9,
        record(R_OPEN, 2, opening()),
        record(R_OPEN, 1, b"short"),
        record(R_OPEN, 1, opening()) + record(R_OPEN, 2, opening()),
        record(R_OPEN, 1, opening()) + record(R_DATA, 2, b"x"),
        record(R_OPEN, 1, opening()) + record(R_END, 1) + record(R_DATA, 1, b"x"),
        record(R_DATA, 0, b"x"),
        record(R_DATA, 1),
        record(0x42),
        frame(HELLO),
        frame(NEW_CONN, 1, b'{"tunnel": 0, "visitor": "x:1"}'),
    ],
)
@ensureDeferred
async def test_server_that_breaks_the_protocol_on_a_data_connection(world: World, bad: bytes, proved: bool) -> None:
    server = await ServerByHand().start(world, (8080, 9))
    server.send_tickets(1)
    data = await server.data(takes=proved)
    data.send(bad)
    await data.ends()
    await world.logged("data connections cannot be made: ", LogLevel.warn)
    await server.link.is_alive()


@AUTO
@ensureDeferred
async def test_connections_that_the_server_does_not_take_are_one_line_until_they_are_taken(world: World) -> None:
    service = await world.echo()
    server = await ServerByHand().start(world, (8080, service.port))
    for turn in range(2):
        server.send_tickets(3)
        for number in range(3):
            (await server.data(4 * turn + number, takes=False)).close()
        await until(lambda: not server.connections)
        assert len(world.lines("data connections cannot be made: ", LogLevel.warn)) == turn + 1
        # Visitors are served meanwhile.
        server.link.put(NEW_CONN, 3 + turn, b'{"tunnel": 0, "visitor": "x:1"}')
        await until(lambda: len(server.client.visitors) == turn + 1)  # noqa: B023
        server.send_tickets(1)
        data = await server.data(4 * turn + 3)
        await until(lambda: len(world.lines("can be made again")) == turn + 1)  # noqa: B023
        data.close()
        await until(lambda: not server.connections)


@DIRECT
@pytest.mark.parametrize("knows", [False, True])
@ensureDeferred
async def test_the_line_says_what_becomes_of_visitors(world: World, knows: bool) -> None:
    """A server that knows that they may not go by the link closes them."""
    by_hand = ServerByHand()
    by_hand.capabilities = [*CAPABILITIES, "direct-only"] if knows else CAPABILITIES
    server = await by_hand.start(world, (8080, 9))
    server.send_tickets(1)
    (await server.data(takes=False)).close()
    await until(lambda: world.lines("data connections cannot be made: ", LogLevel.warn))
    (line,) = world.lines("data connections cannot be made: ")
    assert line.endswith("; visitors are closed (--data-plane=direct)" if knows else "; visitors go by the link")


@AUTO
@ensureDeferred
async def test_connection_from_before_does_not_show_that_others_can_be_made(world: World) -> None:
    server = await ServerByHand().start(world, (8080, 9))
    server.send_tickets(1)
    before = await server.data()
    await until(lambda: all(connection.is_proved for connection in server.connections))
    for number in range(1, 4):
        server.send_tickets(1)
        (await server.data(number, takes=False)).close()
        await until(lambda: len(server.connections) == 1)
        before.say(R_ALIVE)
        await turns()
    assert len(world.lines("data connections cannot be made: ", LogLevel.warn)) == 1
    assert not world.lines("can be made again")
    server.send_tickets(1)
    await server.data(4)
    await world.logged("can be made again", LogLevel.info)


@AUTO
@ensureDeferred
async def test_server_of_which_nothing_is_heard_on_a_data_connection(world: World) -> None:
    server = await ServerByHand().start(world, (8080, 9), limits=QUICK)
    server.send_tickets(1)
    data = await server.data()
    while not data.over:
        await server.link.is_alive()
    assert not server.connections


@AUTO
@ensureDeferred
async def test_server_that_does_not_accept_data_connections_in_time(world: World, full_backlog: int) -> None:
    server = await ServerByHand().start(world, (8080, 9), connect_timeout=0.1, limits=OFTEN)
    service: Any = server.client.link
    service._server_now, service._address_now = service.settings.server, (2, ("127.0.0.1", full_backlog))
    server.send_tickets(1)
    while not world.lines("data connections cannot be made: no connection in time"):
        await server.link.is_alive()


@AUTO
@ensureDeferred
async def test_link_that_goes_takes_waiting_and_used_connections_with_it(world: World) -> None:
    """A visitor's for as long as the client may come back."""
    service = await world.service()
    server = await ServerByHand().start(world, (8080, service.port), limits=QUICK)
    server.send_tickets(2)
    waiting, used = await server.data(0), await server.data(1)
    used.open()
    peer = await service.peer()
    server.link.abort()
    for each in (waiting, used, peer):
        await until(lambda: each.over)  # noqa: B023
    assert peer.was_reset


@AUTO
@ensureDeferred
async def test_client_that_goes_down_makes_no_more_and_lets_the_running_ones_finish(world: World) -> None:
    service = await world.service()
    server = await ServerByHand().start(world, (8080, service.port), drain=PATIENCE)
    server.send_tickets(2)
    waiting, used = await server.data(0), await server.data(1)
    used.open()
    peer = await service.peer()
    stopped = server.client.stopService()
    await until(lambda: waiting.eof or waiting.lost is not None)
    server.send_tickets(3)
    await server.link.is_alive()
    assert len(server.listening.peers) == 1 + 2
    peer.send(b"answer")
    await used.has_stream(b"answer")
    used.say(R_DATA, b"thanks")
    await peer.has(b"thanks")
    used.say(R_END)
    await until(lambda: peer.eof)
    peer.close()
    await stopped
    await until(lambda: used.ended)
    assert not used.resets
    assert not peer.was_reset


@AUTO
@ensureDeferred
async def test_visitor_whose_service_takes_its_time(world: World, full_backlog: int) -> None:
    server = await ServerByHand().start(world, (8080, full_backlog), dial_timeout=0.3, limits=OFTEN)
    server.send_tickets(3)
    leaves, patient, many = [await server.data(number) for number in range(3)]
    for each in (leaves, patient, many):
        each.open()
        each.say(R_DATA, b"GET /")
    many.say(R_DATA, bytes(1_000_000))
    await until(lambda: len(server.client.visitors) == 3)
    leaves.say(R_RESET)
    await until(lambda: len(server.client.visitors) == 2)
    while not (patient.resets and many.resets):
        await server.link.is_alive()
    assert patient.resets == many.resets == ["local-timeout"]
    assert len(world.lines("does not answer", LogLevel.warn)) == 1
    assert server.client.link.session.link.stream_count == 0


@AUTO
@ensureDeferred
async def test_visitor_who_was_sent_before_the_server_knew_of_a_successor(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that wait stay for a moment when another process takes the link over."""
    monkeypatch.setattr(pool, "LINGER", 0.5)
    service = await world.echo()
    server = await ServerByHand().start(world, (8080, service.port), pool=2)
    server.send_tickets(2)
    first, second = await server.data(), await server.data(1)
    await turns()
    link = server.client.link
    link.await_successor()
    server.link.abort()
    await until(lambda: link.session is None, "the end of the link")
    first.open()
    await until(lambda: len(relays(server.client)) == 1, "a visitor")
    await second.ends()
    # However long that takes.
    assert link.kept.patience == float("inf")
    assert len(link.kept) == 1
    first.abort()
    await until(lambda: not len(link.kept), "the end of the visitor")
    assert link.session is None


@AUTO
@ensureDeferred
async def test_no_successor_after_all(world: World) -> None:
    service = await world.echo()
    server = await ServerByHand().start(world, (8080, service.port), pool=1)
    server.send_tickets(1)
    first = await server.data()
    await turns()
    link = server.client.link
    link.await_successor()
    link.go_on()
    assert link.kept.patience == server.client.settings.limits.dead_after
    server.link.abort()
    await first.ends()
    await until(lambda: link.session is not None, "another link")
