"""What a reload of rtunnel-client, and of the WebRTC tunnel, means to those who are there."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from rtunnel.options.plugins import rtc_client, rtc_host, rtc_signal, rtunnel_client
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.rtc.settings import SignalClientSettings, SignalUrl
from rtunnel.rtc.signaling.link import SignalLink
from tests.leftovers import TestLog
from tests.ports import free_port
from tests.reload.conftest import Run
from tests.reload.parts import Running
from tests.reverse.net import HOST, LocalService, Peer, can_bind, connect, until
from tests.reverse.world import World
from tests.rtc.world import ID, World as RtcWorld

# The reverse tunnel


def published(server: TunnelServer) -> list[int]:
    backends = [backend for session in server.sessions for backend in session.backends.values()]
    return sorted(backend.public.port or 0 for backend in backends if backend.public is not None)


class Client:
    """A client that reloads, with a tunnel to an echo."""

    def __init__(self, run: Run, world: World, server: TunnelServer, service: LocalService, **more: Any) -> None:
        self.port, self.other = free_port(), free_port()
        self.running: Running = run(
            rtunnel_client,
            server=f"{HOST}:{world.control_port(server)}",
            tunnels=[f"{self.port}:{HOST}:{service.port}"],
            reconnect_min=0.05,
            reconnect_max=0.2,
            check_services=False,
            **more,
        )
        self.link = self.running.service.link


@ensureDeferred
async def test_a_tunnel_more_and_less(run: Run, world: World) -> None:
    server, service = world.server(), await world.echo()
    client = Client(run, world, server, service, data_plane="mux")
    await until(lambda: published(server) == [client.port], "the tunnel")
    stays = await world.visitor(client.port)
    [tunnel] = client.running.settings["tunnels"]
    outcome = await client.running.reload(tunnels=[tunnel, f"{client.other}:{HOST}:{service.port}"])
    assert outcome.changed == [f"tunnel tcp:{client.other} added"]
    await until(lambda: published(server) == sorted([client.port, client.other]), "both tunnels")
    finishes = await world.visitor(client.other)
    outcome = await client.running.reload(tunnels=[tunnel])
    assert outcome.changed == [f"tunnel tcp:{client.other} removed"]
    await until(lambda: published(server) == [client.port], "one tunnel")
    await until(lambda: can_bind(client.other), "a free port")
    for visitor in (stays, finishes):
        visitor.send(b"hello")
        await visitor.has(b"hello")


@ensureDeferred
async def test_another_service(run: Run, world: World) -> None:
    server, before, now = world.server(), await world.echo(), await world.echo()
    client = Client(run, world, server, before, data_plane="mux")
    await until(lambda: published(server) == [client.port], "the tunnel")
    await world.visitor(client.port)
    await until(lambda: len(before.peers) == 1, "a visitor")
    outcome = await client.running.reload(tunnels=[f"{client.port}:{HOST}:{now.port}"])
    assert outcome.changed == [f"tunnel tcp:{client.port} changed"]
    await world.visitor(client.port)
    await until(lambda: len(now.peers) == 1, "another visitor")


@ensureDeferred
async def test_another_address_of_the_same_server(run: Run, world: World, logged: TestLog) -> None:
    """Visitors on data connections go on."""
    world.plane = "direct"
    server, service = world.server(), await world.echo()
    client = Client(run, world, server, service, data_plane="direct")
    await until(lambda: published(server) == [client.port], "the tunnel")
    visitor, session = await world.visitor(client.port), client.link.session
    visitor.send(b"hello")
    await visitor.has(b"hello")
    await client.running.reload(server=f"localhost:{world.control_port(server)}")
    await until(lambda: client.link.session not in (None, session), "another link")
    assert "lost: the settings lead elsewhere now; 1 visitor goes on without it" in logged.text()
    await until(lambda: published(server) == [client.port], "the tunnel")
    visitor.send(b" again")
    await visitor.has(b"hello again")


@ensureDeferred
async def test_a_server_that_is_there_instead_of_one_that_is_not(run: Run, world: World) -> None:
    """Nobody waits for the end of a long back-off."""
    server, service = world.server(), await world.echo()
    nowhere = free_port()
    client = Client(run, world, server, service, data_plane="mux")
    await client.running.reload(server=f"{HOST}:{nowhere}", reconnect_min="1h", reconnect_max="1h")
    await until(lambda: str(nowhere) in client.link.why_down, "a failure")
    await client.running.reload(server=f"{HOST}:{world.control_port(server)}")
    await until(lambda: published(server) == [client.port], "the tunnel")


@ensureDeferred
async def test_what_was_added_stays(run: Run, world: World) -> None:
    server, service = world.server(), await world.echo()
    client = Client(run, world, server, service, data_plane="mux")
    await until(lambda: published(server) == [client.port], "the tunnel")
    publish = client.running.plugin._control._actions["publish"]
    await publish({"tunnels": [f"tcp:{client.other}={HOST}:{service.port}"]})
    third = free_port()
    [tunnel] = client.running.settings["tunnels"]
    await client.running.reload(tunnels=[tunnel, f"{third}:{HOST}:{service.port}"])
    await until(lambda: published(server) == sorted([client.port, client.other, third]), "all tunnels")


# WebRTC


@pytest.fixture
def rtc(_nothing_left_behind: TestLog) -> Iterator[RtcWorld]:
    world = RtcWorld(_nothing_left_behind)
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.end()))


async def join(rtc: RtcWorld, port: int) -> Peer:
    """A program that connects to a local port."""
    peer = Peer()
    rtc._peers.append(peer)
    await connect(port, peer)
    return peer


def with_token(port: int, token: str) -> SignalClientSettings:
    url = SignalUrl(f"ws://{HOST}:{port}", False, HOST, port)
    return SignalClientSettings(url, token, reconnect_min=0.05, reconnect_max=0.2)


End = Callable[..., Running]


@pytest.fixture
def end(run: Run) -> End:
    def start(plugin: Any, signal: int, **more: Any) -> Running:
        return run(
            plugin,
            signal=f"ws://{HOST}:{signal}",
            stun={"server": ""},
            ice={"interfaces": [HOST]},
            reconnect_min=0.05,
            reconnect_max=0.2,
            **more,
        )

    return start


@ensureDeferred
async def test_services_of_a_host(rtc: RtcWorld, end: End) -> None:
    server, before, now = rtc.signal(), await rtc.echo(), await rtc.echo()
    offers = {"id": ID, "remote": f"{HOST}:{before.port}", "check_services": False}
    host = end(rtc_host, rtc.port_of(server), host=offers)
    client = rtc.client(server)
    await rtc.connected(client)
    stays = await rtc.visitor(client)
    stays.send(b"hello")
    await stays.has(b"hello")
    outcome = await host.reload(host={"remote": f"{HOST}:{now.port}"})
    assert outcome.changed == [f"remote {HOST}:{before.port} -> {HOST}:{now.port}"]
    new = await rtc.visitor(client)
    new.send(b"hello")
    await new.has(b"hello")
    assert (len(before.peers), len(now.peers)) == (1, 1)
    stays.send(b" again")
    await stays.has(b"hello again")


@ensureDeferred
async def test_forwards_of_a_client(rtc: RtcWorld, end: End) -> None:
    server, service = rtc.signal(), await rtc.echo()
    rtc.host(server, service.port)
    ports = [free_port() for _ in range(3)]
    running = end(rtc_client, rtc.port_of(server), client={"id": ID, "local": f"{HOST}:{ports[0]}"})
    await rtc.connected(running.service)
    stays, peer = await join(rtc, ports[0]), running.service.peer
    forwards = [f"{HOST}:{ports[1]}=", f"udp:{HOST}:{ports[2]}=dns"]
    outcome = await running.reload(client={"local": None, "forwards": forwards})
    added = [f"forward {HOST}:{ports[1]}= added", f"forward {HOST}:{ports[2]}=dns added"]
    assert [line for line in outcome.changed if line.startswith("forward")] == added
    new = await join(rtc, ports[1])
    assert can_bind(ports[0])
    for visitor in (stays, new):
        visitor.send(b"hello")
        await visitor.has(b"hello")
    assert running.service.peer is peer
    # A port that leads elsewhere stays open.
    await running.reload(client={"forwards": [f"{HOST}:{ports[1]}=web"]})
    assert running.service.forwards.listeners[0].local_address == f"{HOST}:{ports[1]}"
    refused = await join(rtc, ports[1])
    await until(lambda: refused.over, "a refusal")
    assert not new.over


@ensureDeferred
async def test_a_forward_whose_own_port_is_in_the_way(rtc: RtcWorld, end: End) -> None:
    """As 127.0.0.1:8080 is in the way of :8080."""
    server, service = rtc.signal(), await rtc.echo()
    rtc.host(server, service.port)
    ports, busy = [free_port(), free_port()], service.port
    own = [f"{HOST}:{ports[0]}=", f"udp:{HOST}:{ports[1]}=dns"]
    running = end(rtc_client, rtc.port_of(server), client={"id": ID, "local": None, "forwards": own})
    await rtc.connected(running.service)
    stays = await join(rtc, ports[0])
    everywhere = [f":{ports[0]}=", f"udp::{ports[1]}=dns"]
    # One that cannot be had changes nothing.
    outcome = await running.reload(client={"forwards": [*everywhere, f"{HOST}:{busy}=web"]})
    [line] = outcome.failed
    assert line.endswith("Address already in use; stop what holds it, or choose another address with --forward")
    forwards = running.service.forwards
    assert [each.local_address for each in forwards.listeners] == [f"{HOST}:{ports[0]}"]
    assert [each.listener.local_address for each in forwards.udp] == [f"{HOST}:{ports[1]}"]
    outcome = await running.reload(client={"forwards": everywhere})
    assert outcome.failed == []
    assert [each.local_address for each in forwards.listeners] == [f"0.0.0.0:{ports[0]}"]
    assert [each.listener.local_address for each in forwards.udp] == [f"0.0.0.0:{ports[1]}"]
    # And back.
    outcome = await running.reload(client={"forwards": own})
    assert outcome.failed == []
    assert [each.local_address for each in forwards.listeners] == [f"{HOST}:{ports[0]}"]
    assert [each.listener.local_address for each in forwards.udp] == [f"{HOST}:{ports[1]}"]
    for visitor in (stays, await join(rtc, ports[0])):
        visitor.send(b"hello")
        await visitor.has(b"hello")


@ensureDeferred
async def test_a_forward_whose_unix_socket_gets_another_mode(rtc: RtcWorld, end: End, tmp_path: Path) -> None:
    server, service = rtc.signal(), await rtc.echo()
    rtc.host(server, service.port)
    path = tmp_path / "s"
    running = end(rtc_client, rtc.port_of(server), client={"id": ID, "local": f"unix:{path}:mode=600"})
    await rtc.connected(running.service)
    outcome = await running.reload(client={"local": f"unix:{path}:mode=666"})
    assert outcome.failed == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


@ensureDeferred
async def test_another_signaling_server(rtc: RtcWorld, end: End) -> None:
    """The peer connection stays."""
    servers, service = [rtc.signal(), rtc.signal()], await rtc.echo()
    host = end(rtc_host, rtc.port_of(servers[0]), host={"id": ID, "remote": f"{HOST}:{service.port}"})
    client = rtc.client(servers[0])
    await rtc.connected(client)
    visitor = await rtc.visitor(client)
    await host.reload(signal=f"ws://{HOST}:{rtc.port_of(servers[1])}")
    link: SignalLink = host.service.signaling
    await until(lambda: servers[1].switchboard.hosts == 1 and link.up, "the host at the other server")
    assert servers[0].switchboard.hosts == 0
    visitor.send(b"hello")
    await visitor.has(b"hello")


@ensureDeferred
async def test_a_token_of_a_signaling_server(run: Run, rtc: RtcWorld, logged: TestLog) -> None:
    tokens = ["a-secret-word", "another-word"]
    running = run(rtc_signal, server={"addr": f"{HOST}:0", "auth": {"valid_tokens": tokens}})
    port = rtc.port_of(running.service)
    hosts = [rtc.host(port, 9, id=token, signal=with_token(port, token)) for token in tokens]
    await until(lambda: all(host.signaling.up for host in hosts), "both hosts")
    await running.reload(server={"auth": {"valid_tokens": tokens[:1]}})
    await until(lambda: not hosts[1].signaling.up, "one to be sent away")
    assert hosts[0].signaling.up
    assert "is sent away: its token is not valid any more" in logged.text()
