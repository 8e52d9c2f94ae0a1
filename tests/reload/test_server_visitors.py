"""What a reload of rtunnel-server means to clients and visitors who are there."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.options.plugins import rtunnel_server
from tests.leftovers import TestLog
from tests.ports import free_port
from tests.reload.conftest import Run
from tests.reload.parts import Running
from tests.reverse.net import HOST, can_bind, is_refused, until
from tests.reverse.world import World, port_of

TOKEN, OTHER = "a-secret-word", "another-word"


class Tunnels:
    """A server that reloads, a client of it with two tunnels, and an echo."""

    def __init__(self, running: Running, world: World) -> None:
        self.running = running
        self.world = world
        self.server = running.service
        self.stays, self.goes = free_port(), free_port()

    async def start(self, *tunnels: int, **more: Any) -> Any:
        service = await self.world.echo()
        client = self.world.client(self.server, *((port, service.port) for port in tunnels), token=TOKEN, **more)
        await self.published(len(tunnels))
        return client

    async def published(self, count: int) -> None:
        def found() -> int:
            return sum(
                each.public is not None for session in self.server.sessions for each in session.backends.values()
            )

        await until(lambda: found() == count, f"{count} tunnels")


@pytest.fixture
def tunnels(run: Run, world: World) -> Tunnels:
    running = run(
        rtunnel_server, control_listen=f"{HOST}:0", public_interface=HOST, valid_tokens=[TOKEN], data_plane="mux"
    )
    return Tunnels(running, world)


@ensureDeferred
async def test_ports_that_are_allowed_no_more_and_again(tunnels: Tunnels) -> None:
    await tunnels.start(tunnels.stays, tunnels.goes)
    stays, goes = [await tunnels.world.visitor(port) for port in (tunnels.stays, tunnels.goes)]
    await tunnels.running.reload(allow_ports=str(tunnels.stays))
    await tunnels.published(1)
    await until(lambda: can_bind(tunnels.goes), "a free port")
    # Those who are there finish.
    for visitor in (stays, goes, await tunnels.world.visitor(tunnels.stays)):
        visitor.send(b"hello")
        await visitor.has(b"hello")
    await tunnels.running.reload(allow_ports=None)
    await tunnels.published(2)
    await tunnels.world.visitor(tunnels.goes)


@ensureDeferred
async def test_a_token_that_is_gone(tunnels: Tunnels, logged: TestLog) -> None:
    client = await tunnels.start(tunnels.stays)
    session = client.link.session
    await tunnels.running.reload(valid_tokens=[TOKEN, OTHER])
    assert client.link.session is session
    await tunnels.running.reload(valid_tokens=[OTHER])
    await until(lambda: client.link.session is None, "the client to be gone")
    assert "the client's token is not valid" in logged.text()
    await tunnels.running.reload(valid_tokens=[TOKEN])
    await tunnels.published(1)


@ensureDeferred
async def test_another_control_port(tunnels: Tunnels) -> None:
    """The link stays, and whoever comes uses the new one."""
    client = await tunnels.start(tunnels.stays)
    session, before, visitor = client.link.session, port_of(tunnels.server.control), None
    visitor = await tunnels.world.visitor(tunnels.stays)
    await tunnels.running.reload(control_listen=f"{HOST}:{free_port()}")
    await is_refused(before)
    visitor.send(b"hello")
    await visitor.has(b"hello")
    assert client.link.session is session
    await tunnels.start(tunnels.stays, tunnels.goes)
    await tunnels.world.visitor(tunnels.goes)


@ensureDeferred
async def test_the_shared_port_comes_moves_and_goes(tunnels: Tunnels) -> None:
    await tunnels.start()
    service = await tunnels.world.echo()
    tunnels.world.client(tunnels.server, (0, service.port), token=TOKEN)
    ports = [free_port(), free_port()]
    await tunnels.running.reload(public_listen=f"{HOST}:{ports[0]}")
    await until(lambda: len(tunnels.server.shared_backends) == 1, "a client of the shared port")
    visitor = await tunnels.world.visitor(ports[0])
    await tunnels.running.reload(public_listen=f"{HOST}:{ports[1]}")
    await is_refused(ports[0])
    await tunnels.world.visitor(ports[1])
    await tunnels.running.reload(public_listen=None)
    await until(lambda: can_bind(ports[1]), "a free port")
    assert len(tunnels.server.shared_backends) == 0
    visitor.send(b"hello")
    await visitor.has(b"hello")


@ensureDeferred
async def test_another_way_to_spread_visitors(tunnels: Tunnels) -> None:
    await tunnels.running.reload(public_listen=f"{HOST}:{free_port()}")
    services = [await tunnels.world.echo() for _ in range(2)]
    for service in services:
        tunnels.world.client(tunnels.server, (0, service.port), token=TOKEN)
    await until(lambda: len(tunnels.server.shared_backends) == 2, "both clients")
    await tunnels.running.reload(route="sticky")
    for _ in range(6):
        await tunnels.world.visitor(port_of(tunnels.server.shared))
    await until(lambda: sum(len(service.peers) for service in services) == 6, "all visitors")
    assert sorted(len(service.peers) for service in services) == [0, 6]


@ensureDeferred
async def test_a_lower_limit_turns_nobody_away_who_is_there(tunnels: Tunnels) -> None:
    first = await tunnels.start(tunnels.stays)
    session = first.link.session
    await tunnels.running.reload(max_links=1)
    service = await tunnels.world.echo()
    other = tunnels.world.client(tunnels.server, (tunnels.goes, service.port), token=TOKEN)
    await until(lambda: "no room" in other.link.why_down, "a refusal")
    assert first.link.session is session
    await tunnels.running.reload(max_links=2)
    await tunnels.published(2)


@ensureDeferred
async def test_visitors_who_are_silent(tunnels: Tunnels) -> None:
    await tunnels.start(tunnels.stays)
    visitor = await tunnels.world.visitor(tunnels.stays)
    await tunnels.running.reload(visitor_idle="0.1s")
    await until(lambda: visitor.over, "the end of somebody silent")
    await tunnels.running.reload(visitor_idle=None)
    visitor = await tunnels.world.visitor(tunnels.stays)
    await tunnels.running.reload(hold=7)
    visitor.send(b"hello")
    await visitor.has(b"hello")


@ensureDeferred
async def test_more_time_for_visitors_at_the_end(tunnels: Tunnels, logged: TestLog) -> None:
    """Also when that has begun."""
    await tunnels.start(tunnels.stays)
    visitor = await tunnels.world.visitor(tunnels.stays)
    await tunnels.running.reload(drain="1h")
    stopped: list[object] = []
    tunnels.running.plugin.stopService().addCallback(stopped.append)
    await until(lambda: "waiting up to 3600 s for 1 visitors" in logged.text(), "the server to wait")
    assert not stopped
    visitor.send(b"hello")
    await visitor.has(b"hello")
    tunnels.server.set_drain(0.0)
    await until(lambda: stopped, "the end")


@ensureDeferred
async def test_paths_of_udp(tunnels: Tunnels, logged: TestLog) -> None:
    """Those that lead to the address of before go on; its socket goes with the last of them."""
    server = tunnels.server
    before = server.path_port
    path = before.join(object())
    places = [f"{HOST}:{free_port()}" for _ in range(2)]
    await tunnels.running.reload(udp_listen=places[0])
    first = server.path_port
    assert (first.local_address, before.bound is None) == (places[0], False)
    # Back to where paths still are.
    await tunnels.running.reload(udp_listen=None)
    assert server.path_port is before
    assert first.bound is None
    await tunnels.running.reload(udp_listen=places[1])
    before.leave(path)
    assert before.bound is None
    assert server.path_port.local_address == places[1]
    # Its own socket is in the way.
    await tunnels.running.reload(udp_listen=f"0.0.0.0:{places[1].rpartition(':')[2]}")
    assert server.path_port.local_address.startswith("0.0.0.0:")
    assert "go by data connections" not in logged.text()


@ensureDeferred
async def test_paths_of_udp_where_somebody_else_is(tunnels: Tunnels) -> None:
    server = tunnels.server
    before = server.path_port.local_address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HOST, 0))
        taken = f"{HOST}:{other.getsockname()[1]}"
        outcome = await tunnels.running.reload(udp_listen=taken)
        assert outcome.failed == [f"udp-listen: cannot listen on {taken} by UDP: Address already in use"]
    assert server.path_port.local_address == before
