"""The end of both services: nothing new, time for what there is, then the links. And starts that fail."""

from __future__ import annotations

import os
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.addresses import ListenAddress
from rtunnel.errors import StartupError
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ServerSettings
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.net import (
    BOTH_PLANES,
    CREDIT,
    ERROR,
    FIN,
    HOST,
    INIT,
    NEW_CONN,
    PING,
    PONG,
    Peer,
    can_bind,
    hello,
    reactor,
    turns,
    until,
)
from tests.reverse.world import World, port_of


class Scene:
    """A server and a client with a visitor in the middle; one of the two is about to stop."""

    async def start(self, world: World, stopping: str, **settings: Any) -> Scene:
        self.service, self.port = await world.service(lambda: Peer(keep=False)), free_port()
        self.server = world.server(**(settings if stopping == "server" else {}))
        more = settings if stopping == "client" else {}
        self.client = world.client(self.server, (self.port, self.service.port), **more)
        await world.reachable()
        self.visitor = await world.visitor(self.port, keep=False)
        self.peer = await self.service.peer()
        self.stopping = self.server if stopping == "server" else self.client
        return self


both = pytest.mark.parametrize("stopping", ["server", "client"])


@both
@BOTH_PLANES
@ensureDeferred
async def test_no_new_visitors_and_the_old_one_finishes(world: World, stopping: str) -> None:
    scene = await Scene().start(world, stopping, drain=PATIENCE)
    stopped = scene.stopping.stopService()
    await until(lambda: can_bind(scene.port))
    scene.visitor.send(b"still here")
    await until(lambda: scene.peer.count == 10)
    answer = os.urandom(3_000_000)
    scene.peer.send(answer)
    scene.peer.close()
    await until(lambda: scene.visitor.eof)
    assert scene.visitor.count == len(answer)
    assert not stopped.called
    scene.visitor.close()
    await stopped
    await until(lambda: not scene.server.sessions)
    assert not world.lines("cut off")


@BOTH_PLANES
@ensureDeferred
async def test_server_waits_for_the_last_bytes_of_a_visitor_who_has_gone(world: World) -> None:
    """Both its ends have come, and the client has not given credit for what it sent."""
    server, port = world.server(drain=PATIENCE), free_port()
    link = await world.raw_extended(server, port, credit=0)
    visitor = await world.visitor(port)
    number, _ = await link.take(NEW_CONN)
    link.put(FIN, number, bytes(8))
    visitor.send(b"last words")
    await until(lambda: visitor.eof)
    visitor.close()
    await until(lambda: not server.visitors)
    stopped = server.stopService()
    await turns()
    link.put(CREDIT, number, (100).to_bytes(8, "big") + bytes(8))
    await link.take(FIN, number)
    assert link.data_of(number) == b"last words"
    await stopped


@BOTH_PLANES
@ensureDeferred
async def test_client_waits_for_the_last_bytes_of_a_service_that_has_gone(world: World) -> None:
    by_hand, service = await world.raw_server(), await world.service()
    client = world.client(by_hand.port, (8080, service.port), drain=PATIENCE)
    link: Any = await by_hand.peer()
    link.send(hello(credit=0))
    await link.take(INIT, 0)
    link.put(NEW_CONN, 5, b'{"tunnel": 0, "visitor": ""}')
    link.put(FIN, 5, bytes(8))
    peer = await service.peer()
    peer.send(b"last words")
    peer.close()
    await until(lambda: peer.lost and not client.visitors)
    stopped = client.stopService()
    await turns()
    link.put(CREDIT, 5, (100).to_bytes(8, "big") + bytes(8))
    await link.take(FIN, 5)
    assert link.data_of(5) == b"last words"
    await stopped


@both
@BOTH_PLANES
@ensureDeferred
async def test_who_does_not_finish_in_time_is_cut_off(world: World, stopping: str) -> None:
    scene = await Scene().start(world, stopping, drain=0.2)
    began = reactor.seconds()
    await scene.stopping.stopService()
    assert reactor.seconds() - began >= 0.2
    await until(lambda: scene.visitor.was_reset and scene.peer.was_reset)
    assert len(world.lines("1 visitors did not finish in time and are cut off", LogLevel.warn)) == 1


@both
@BOTH_PLANES
@ensureDeferred
async def test_stop_now_cuts_off(world: World, stopping: str) -> None:
    scene = await Scene().start(world, stopping, drain=1000.0)
    stopped = scene.stopping.stopService()
    await turns()
    assert not stopped.called
    scene.stopping.stop_now()
    await stopped
    await until(lambda: scene.visitor.over and scene.peer.over)


@both
@BOTH_PLANES
@ensureDeferred
async def test_stop_now_in_the_turn_in_which_it_stops(world: World, stopping: str) -> None:
    scene = await Scene().start(world, stopping, drain=1000.0)
    stopped = scene.stopping.stopService()
    scene.stopping.stop_now()
    await stopped


@both
@ensureDeferred
async def test_stop_without_visitors_is_quick(world: World, stopping: str) -> None:
    server, port = world.server(drain=1000.0), free_port()
    client = world.client(server, (port, 9), drain=1000.0)
    await world.reachable()
    await (server if stopping == "server" else client).stopService()
    await until(lambda: can_bind(port))
    assert not world.lines("waiting up to")


@ensureDeferred
async def test_server_says_why_it_closes(world: World) -> None:
    server = world.server()
    link = await world.raw_extended(server)
    await server.stopService()
    error = await link.take_json(ERROR, 0)
    assert (error["scope"], error["code"]) == ("link", "shutting-down")


@ensureDeferred
async def test_server_that_drains_takes_no_tunnels_and_no_links(world: World) -> None:
    server, port = world.server(control=free_port(), drain=PATIENCE, shared=True), free_port()
    link = await world.raw_extended(server, port)
    await world.visitor(port)
    await link.take(NEW_CONN)
    ports = [world.control_port(server), port_of(server.shared)]
    stopped = server.stopService()
    link.put(INIT, 1, b"%d:x" % free_port())
    assert (await link.take_json(ERROR, 1))["code"] == "shutting-down"
    assert all(can_bind(port) for port in ports)
    server.stop_now()
    await stopped


@ensureDeferred
async def test_client_withdraws_its_tunnels_first(world: World) -> None:
    by_hand, service = await world.raw_server(), await world.service()
    client = world.client(by_hand.port, (8080, service.port), (8081, service.port), drain=PATIENCE)
    link: Any = await by_hand.peer()
    link.send(hello())
    await link.take(INIT, 1)
    link.put(NEW_CONN, 5, b'{"tunnel": 0, "visitor": ""}')
    peer = await service.peer()
    stopped = client.stopService()
    for number in (0, 1):
        error = await link.take_json(ERROR, number)
        assert (error["scope"], error["code"]) == ("tunnel", "shutting-down")
    # Visitors whom the server has sent before it knew are not lost.
    link.put(NEW_CONN, 6, b'{"tunnel": 0, "visitor": ""}')
    early = await service.peer(1)
    for _ in range(3):  # the first one is older
        link.put(PONG, 0, (await link.take(PING))[1])
    await until(lambda: client.link.session._refuses)
    link.put(NEW_CONN, 7, b'{"tunnel": 0, "visitor": ""}')
    await link.take(ERROR, 7)
    for stream, each in ((5, peer), (6, early)):
        each.close()
        link.put(FIN, stream, bytes(8))
    await stopped
    await until(lambda: link.over)
    assert (await link.take_json(ERROR, 0))["scope"] == "link"


@ensureDeferred
async def test_client_does_not_wait_for_ever_until_the_server_knows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtunnel.reverse.client.session.MOST_WITHDRAWAL", 0.1)
    by_hand = await world.raw_server()
    client = world.client(by_hand.port, (8080, 9), drain=PATIENCE)
    link: Any = await by_hand.peer()
    link.send(hello())
    await link.take(INIT, 0)
    await client.stopService()


@BOTH_PLANES
@ensureDeferred
async def test_no_visitor_is_lost_who_was_sent_before_the_server_knew(world: World) -> None:
    """In a group the others serve all who come later."""
    server, service, port = world.server(), await world.echo(), free_port()
    client = world.client(server, (port, service.port), drain=PATIENCE)
    await world.reachable()
    session: Any = next(iter(server.sessions))
    await until(lambda: world.plane == "mux" or len(session.carriers[0]._idle) > 2)
    session.transport.pauseProducing()
    stopped = client.stopService()
    visitors = [await world.visitor(port) for _ in range(3)]
    for visitor in visitors:
        visitor.send(b"hello")
    await until(lambda: len(service.peers) == 3)
    session.transport.resumeProducing()
    for visitor in visitors:
        await visitor.has(b"hello")
        visitor.close()
    await stopped
    await until(lambda: can_bind(port))


@ensureDeferred
async def test_client_without_a_link_stops_at_once(world: World) -> None:
    client = world.client(free_port(), (8080, 9), reconnect_min=1000.0, reconnect_max=1000.0)
    await world.logged("cannot reach server")
    await client.stopService()


@ensureDeferred
async def test_client_that_does_not_read_cannot_keep_the_server(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtunnel.reverse.carriers.link_protocol.LINGER", 0.2)
    server, port = world.server(drain=0.1), free_port()
    link = await world.raw_extended(server, port, credit=2**40)
    link.stop_reading()
    visitor = await world.visitor(port)
    visitor.send(bytes(20_000_000))
    (session,) = server.sessions
    await until(lambda: session._connection_full)
    await server.stopService()
    assert not server.sessions


# Starts that fail


@pytest.mark.parametrize("busy", ["control", "public"])
@ensureDeferred
async def test_busy_port_at_start_is_one_clear_line(world: World, busy: str) -> None:
    other = await world.service()
    control, public = (other.port, 0) if busy == "control" else (0, other.port)
    settings = ServerSettings(
        ListenAddress.parse(f"{HOST}:{control}"), ListenAddress.parse(f"{HOST}:{public}"), public_interface=HOST
    )
    server = TunnelServer(reactor, settings)
    with pytest.raises(StartupError) as caught:
        server.privilegedStartService()
    text = str(caught.value)
    assert f"cannot listen on {HOST}:{other.port}" in text
    assert "Address already in use" in text
    assert f"--{busy}-listen" in text
    assert "\n" not in text
    await server.control.stop_listening()
