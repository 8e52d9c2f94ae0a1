"""Our client with a server by hand: what it does with tickets, and with visitors over data connections."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse.client import data_connections as pool
from tests.ports import free_port
from tests.reverse.data import (
    ATTACH,
    AUTO,
    CAPABILITIES,
    DIRECT,
    TICKETS,
    RawData,
    relays,
)
from tests.reverse.net import (
    HELLO,
    INIT,
    NEW_CONN,
    PING,
    PONG,
    READY,
    RawLink,
    frame,
    hello,
    reactor,
    turns,
    until,
)
from tests.reverse.world import QUICK, World


class ServerByHand:
    """A server by hand, to which our client has connected: the first connection is the link."""

    link: Any
    capabilities = CAPABILITIES

    async def start(self, world: World, *tunnels: tuple[int, int], **settings: Any) -> ServerByHand:
        self.listening = await world.service(RawLink)
        self.client = world.client(self.listening.port, *tunnels, **settings)
        self.link = await self.listening.peer()
        said = await self.link.take_json(HELLO, 0)
        assert set(CAPABILITIES) <= set(said["capabilities"])
        # What comes from now on is a data connection.
        self.listening._build = RawData
        self.link.send(hello(capabilities=self.capabilities))
        for number, (port, _local) in enumerate(tunnels):
            await self.link.take(INIT, number)
            self.link.put(READY, number, b'{"address": "127.0.0.1:%d"}' % port)
        return self

    def send_tickets(self, count: int, expires: float = 30) -> list[str]:
        tickets = [f"{number:032x}" for number in range(count)]
        self.link.put(TICKETS, 0, json.dumps({"tickets": tickets, "expires": expires}).encode())
        return tickets

    async def data(self, number: int = 0) -> RawData:
        """The data connection with this number, once its ticket was shown."""
        data: Any = await self.listening.peer(1 + number)
        _, payload = await data.take(ATTACH)
        assert int(payload.partition(b":")[0], 16) < 64
        found: RawData = data
        return found


def new_conn(tunnel: int = 0, conn_id: int = 7) -> bytes:
    return frame(NEW_CONN, conn_id, b'{"tunnel": %d, "visitor": "192.0.2.1:5000"}' % tunnel)


@AUTO
@ensureDeferred
async def test_each_ticket_is_a_connection_up_to_the_bound(world: World) -> None:
    server = await ServerByHand().start(world, (8080, 9), pool=3)
    server.send_tickets(5)
    for number in range(3):
        data = await server.data(number)
        data.put(PING, 0, b"there?")
        assert await data.take(PONG) == (0, b"there?")
    await turns()
    assert len(server.listening.peers) == 1 + 3
    server.listening.peers[1].abort()
    await until(lambda: len(server.client.link.session.data._there) == 2)
    server.send_tickets(5)
    await server.data(3)
    await turns()
    assert len(server.listening.peers) == 1 + 4
    assert not world.lines("cannot be made")


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
    data.send(new_conn())
    third: Any = await server.listening.peer(1 + 2)
    _, payload = await third.take(ATTACH)
    assert payload.partition(b":")[0].decode() == tickets[2]
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
    await until(lambda: server.client.link.session.data._tickets[0][1] < reactor.seconds(), "it has grown old")
    data.send(new_conn())
    await until(lambda: len(relays(server.client)) == 1)
    await turns()
    assert len(server.listening.peers) == 1 + 1
    assert not server.client.link.session.data._tickets
    data.abort()


@AUTO
@ensureDeferred
async def test_visitor_over_a_data_connection(world: World) -> None:
    service = await world.service()
    server = await ServerByHand().start(world, (8080, 9), (8081, service.port))
    server.send_tickets(1)
    data = await server.data()
    data.send(new_conn(1) + b"GET /")
    peer = await service.peer()
    await peer.has(b"GET /")
    data.send(b" HTTP/1.1")
    await peer.has(b"GET / HTTP/1.1")
    peer.send(b"200 OK")
    await until(lambda: data.received == b"200 OK")
    assert len(relays(server.client)) == 1
    data.abort()
    await until(lambda: peer.was_reset)


@AUTO
@ensureDeferred
async def test_visitor_of_a_tunnel_that_there_is_not(world: World) -> None:
    server = await ServerByHand().start(world, (8080, 9))
    server.send_tickets(3)
    for number, tunnel in enumerate((1, -1, 2**40)):
        data = await server.data(number)
        data.send(new_conn(tunnel))
        await until(lambda: data.was_reset)  # noqa: B023
    await server.link.is_alive()
    assert not server.client.visitors


@AUTO
@ensureDeferred
async def test_service_that_is_down_is_one_line_and_a_reset(world: World) -> None:
    server = await ServerByHand().start(world, (8080, free_port()))
    server.send_tickets(2)
    for number in range(2):
        data = await server.data(number)
        data.send(new_conn() + b"GET /")
        await until(lambda: data.was_reset)  # noqa: B023
    assert len(world.lines("does not answer (connection refused)", LogLevel.warn)) == 1
    assert server.client.link.session.link.stream_count == 0


@AUTO
@pytest.mark.parametrize(
    "bad", [b"\xff" * 9, frame(PING, 0, bytes(17)), frame(NEW_CONN, 0, b"{}"), frame(NEW_CONN, 1, b"x"), frame(HELLO)]
)
@ensureDeferred
async def test_server_that_breaks_the_protocol_on_a_data_connection(world: World, bad: bytes) -> None:
    server = await ServerByHand().start(world, (8080, 9))
    server.send_tickets(1)
    data = await server.data()
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
            (await server.data(4 * turn + number)).close()
        await until(lambda: not server.client.link.session.data._there)
        assert len(world.lines("data connections cannot be made: ", LogLevel.warn)) == turn + 1
        # Visitors are served meanwhile.
        server.link.put(NEW_CONN, 3 + turn, b'{"tunnel": 0, "visitor": "x:1"}')
        await until(lambda: len(server.client.visitors) == turn + 1)  # noqa: B023
        server.send_tickets(1)
        data = await server.data(4 * turn + 3)
        data.put(PING)
        await data.take(PONG)
        await until(lambda: len(world.lines("can be made again")) == turn + 1)  # noqa: B023
        data.close()
        await until(lambda: not server.client.link.session.data._there)


@DIRECT
@pytest.mark.parametrize("knows", [False, True])
@ensureDeferred
async def test_the_line_says_what_becomes_of_visitors(world: World, knows: bool) -> None:
    """A server that knows that they may not go by the link closes them."""
    by_hand = ServerByHand()
    by_hand.capabilities = [*CAPABILITIES, "direct-only"] if knows else CAPABILITIES
    server = await by_hand.start(world, (8080, 9))
    server.send_tickets(1)
    (await server.data()).close()
    await until(lambda: world.lines("data connections cannot be made: ", LogLevel.warn))
    (line,) = world.lines("data connections cannot be made: ")
    assert line.endswith("; visitors are closed (--data-plane=direct)" if knows else "; visitors go by the link")


@AUTO
@ensureDeferred
async def test_connection_from_before_does_not_show_that_others_can_be_made(world: World) -> None:
    server = await ServerByHand().start(world, (8080, 9))
    server.send_tickets(1)
    before = await server.data()
    before.put(PING)
    await before.take(PONG)
    for number in range(1, 4):
        server.send_tickets(1)
        (await server.data(number)).close()
        await until(lambda: len(server.client.link.session.data._there) == 1)
        before.put(PING)
        await before.take(PONG)
    assert len(world.lines("data connections cannot be made: ", LogLevel.warn)) == 1
    assert not world.lines("can be made again")
    before.send(new_conn())
    server.send_tickets(1)
    (await server.data(4)).send(new_conn())
    await world.logged("can be made again", LogLevel.info)


@AUTO
@ensureDeferred
async def test_server_of_which_nothing_is_heard_on_a_data_connection(world: World) -> None:
    server = await ServerByHand().start(world, (8080, 9), limits=QUICK)
    server.send_tickets(1)
    data = await server.data()
    while not data.over:
        await server.link.is_alive()
    assert not server.client.link.session.data._there


@AUTO
@ensureDeferred
async def test_server_that_does_not_accept_data_connections_in_time(world: World, full_backlog: int) -> None:
    server = await ServerByHand().start(world, (8080, 9), connect_timeout=0.1, limits=QUICK)
    service: Any = server.client.link
    service._server_now, service._address_now = service._settings.server, (2, ("127.0.0.1", full_backlog))
    server.send_tickets(1)
    while not world.lines("data connections cannot be made: no connection in time"):
        await server.link.is_alive()


@AUTO
@ensureDeferred
async def test_link_that_goes_takes_waiting_and_used_connections_with_it(world: World) -> None:
    service = await world.service()
    server = await ServerByHand().start(world, (8080, service.port))
    server.send_tickets(2)
    waiting, used = await server.data(0), await server.data(1)
    used.send(new_conn())
    peer = await service.peer()
    server.link.abort()
    for each in (waiting, used, peer):
        await until(lambda: each.lost is not None)  # noqa: B023
    assert used.was_reset
    assert peer.was_reset


@AUTO
@ensureDeferred
async def test_client_that_goes_down_makes_no_more_and_lets_the_running_ones_finish(world: World) -> None:
    service = await world.service()
    server = await ServerByHand().start(world, (8080, service.port), drain=20.0)
    server.send_tickets(2)
    waiting, used = await server.data(0), await server.data(1)
    used.send(new_conn())
    peer = await service.peer()
    stopped = server.client.stopService()
    await until(lambda: waiting.lost is not None)
    server.send_tickets(3)
    await server.link.is_alive()
    assert len(server.listening.peers) == 1 + 2
    peer.send(b"answer")
    await until(lambda: used.received == b"answer")
    used.send(b"thanks")
    await peer.has(b"thanks")
    peer.close()
    used.close()
    await stopped
    assert not peer.was_reset
    assert not used.was_reset


@AUTO
@ensureDeferred
async def test_visitor_whose_service_takes_its_time(world: World, full_backlog: int) -> None:
    server = await ServerByHand().start(world, (8080, full_backlog), dial_timeout=0.3, limits=QUICK)
    server.send_tickets(3)
    leaves, patient, many = [await server.data(number) for number in range(3)]
    for each in (leaves, patient, many):
        each.send(new_conn() + b"GET /")
    many.send(bytes(1_000_000))
    await until(lambda: len(server.client.visitors) == 3)
    leaves.abort()
    await until(lambda: len(server.client.visitors) == 2)
    while not (patient.over and many.over):
        await server.link.is_alive()
    assert patient.was_reset
    assert len(world.lines("does not answer", LogLevel.warn)) == 1
    assert server.client.link.session.link.stream_count == 0
