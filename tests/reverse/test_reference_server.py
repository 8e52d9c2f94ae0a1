"""Our client and the reference server."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.logger import LogLevel

from rtunnel.addresses import DialAddress
from rtunnel.reverse.client import session as client_session
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from tests.ports import free_port
from tests.reverse.net import HELLO, INIT, Peer, turns, until
from tests.reverse.world import World, held

MIB = 1024 * 1024


@pytest.mark.parametrize("shared", [False, True])
@ensureDeferred
async def test_page(world: World, shared: bool) -> None:
    server, service = world.reference_server(shared=shared), await world.service()
    world.client(server, (0 if shared else free_port(), service.port))
    await until(lambda: server.public_port and server.peer)
    visitor = await world.visitor(server.public_port)
    visitor.send(b"GET / HTTP/1.0\r\n\r\n")
    peer = await service.peer()
    await peer.has(b"GET / HTTP/1.0\r\n\r\n")
    peer.send(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000)
    peer.close()
    await visitor.has(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000)
    await until(lambda: visitor.over)
    assert server.peer is not None
    assert dict(server.peer.ignored) == {HELLO: 1}, "one HELLO, and no other extension frame"
    assert len(server.inits) == (0 if shared else 1)


@ensureDeferred
async def test_init_is_what_a_reference_server_reads(world: World) -> None:
    server, port = world.reference_server(), free_port()
    world.client(server, (port, 80))
    await until(lambda: server.inits)
    assert server.inits == [b"%d:127.0.0.1:80" % port]


@ensureDeferred
async def test_five_megabytes_each_way_at_once(world: World) -> None:
    server, service = world.reference_server(), await world.service(lambda: Peer(keep=False))
    world.client(server, (free_port(), service.port))
    await until(lambda: server.public_port)
    up, down = os.urandom(5_000_000), os.urandom(5_000_000)
    visitor = await world.visitor(server.public_port, keep=False)
    peer = await service.peer()
    visitor.send(up)
    peer.send(down)
    await until(lambda: peer.count == len(up) and visitor.count == len(down))
    assert peer.sha.digest() == hashlib.sha256(up).digest()
    assert visitor.sha.digest() == hashlib.sha256(down).digest()


@ensureDeferred
async def test_end_of_the_visitor_closes_the_service_behind_its_bytes(world: World) -> None:
    server, service = world.reference_server(), await world.service(lambda: Peer(keep=False))
    client = world.client(server, (free_port(), service.port))
    await until(lambda: server.public_port)
    visitor = await world.visitor(server.public_port)
    upload = os.urandom(500_000)
    visitor.send(upload)
    peer = await service.peer()
    await until(lambda: peer.count == len(upload))
    visitor.half_close()
    await until(lambda: peer.over)
    assert peer.sha.digest() == hashlib.sha256(upload).digest()
    await until(lambda: not client.visitors)


@ensureDeferred
async def test_serves_tunnel_0_only_and_says_so(world: World) -> None:
    server, services = world.reference_server(), [await world.service() for _ in range(2)]
    ports = [free_port(), free_port()]
    world.client(server, *zip(ports, [service.port for service in services], strict=True))
    await until(lambda: server.public_port)
    await world.visitor(server.public_port)
    await services[0].peer()
    line = await world.logged("not served", LogLevel.warn)
    assert f"port {ports[1]}" in line
    assert "a reference server carries one tunnel per link" in line
    assert len(world.lines("asked for")) == 1
    assert len(server.inits) == 1
    assert services[1].peers == []


@ensureDeferred
async def test_a_reference_server_carries_no_udp(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_session, "SILENT_AFTER", 0.05)
    server = world.reference_server()
    local = DialAddress.parse_udp("127.0.0.1:53")
    address = DialAddress.parse(f"127.0.0.1:{server.control_port}")
    world.start(TunnelClient(reactor, ClientSettings(address, (TunnelSettings(5353, local, protocol="udp"),))))
    line = await world.logged("not served", LogLevel.warn)
    assert "UDP port 5353" in line
    assert "only TCP" in line
    assert server.inits == []


@ensureDeferred
async def test_silent_server_is_taken_for_a_reference_server(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_session, "SILENT_AFTER", 0.05)
    server = world.reference_server()
    port = free_port()
    client = world.client(server, (port, 9))
    await world.logged("the reference protocol is assumed", LogLevel.info)
    line = await world.logged("asked for", LogLevel.info)
    assert f"127.0.0.1:{port} is asked for" in line
    assert "does not say whether it is served" in line
    assert client.link.session.was_useful


@ensureDeferred
async def test_late_hello_of_a_slow_server_of_ours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence only changes what is told: HELLO may still come."""
    from tests.reverse.net import hello

    monkeypatch.setattr(client_session, "SILENT_AFTER", 0.02)
    by_hand = await world.raw_server()
    world.client(by_hand.port, (8080, 9), (8081, 9))
    link: Any = await by_hand.peer()
    await world.logged("the reference protocol is assumed")
    await link.take(INIT, 0)
    assert link.seen == [HELLO, INIT]
    link.send(hello())
    await link.take(INIT, 1)
    await link.is_alive()


@ensureDeferred
async def test_comes_back_to_a_reference_server(world: World) -> None:
    server, service = world.reference_server(), await world.echo()
    world.client(server, (free_port(), service.port))
    await until(lambda: server.public_port)
    assert server.peer is not None
    server.peer.cut()
    await until(lambda: server.links == 2 and server.peer is not None and server.peer.up)
    visitor = await world.visitor(server.public_port)
    visitor.send(b"again")
    await visitor.has(b"again")


@ensureDeferred
async def test_slow_service_pauses_the_link(world: World) -> None:
    server, service = world.reference_server(), await world.service(lambda: Peer(keep=False))
    client = world.client(server, (free_port(), service.port))
    await until(lambda: server.public_port)
    visitor = await world.visitor(server.public_port)
    peer = await service.peer()
    peer.stop_reading()
    visitor.send(bytes(30 * MIB))
    session = client.link.session
    await until(lambda: session.link.reading_paused)
    await turns(50)
    assert session.link.reading_paused
    assert MIB // 2 <= held([session]) < MIB + 256 * 1024
    assert len(visitor.transport.dataBuffer) > 5 * MIB, "it waits at its source"
    peer.read_on()
    await until(lambda: peer.count == 30 * MIB)


@ensureDeferred
async def test_slow_visitor_holds_the_service_back(world: World) -> None:
    """The reference server stops reading the link, for all streams: its known defect. Ours keeps little of it."""
    server, service = world.reference_server(), await world.service(lambda: Peer(keep=False))
    client = world.client(server, (free_port(), service.port))
    await until(lambda: server.public_port)
    visitor = await world.visitor(server.public_port, keep=False)
    visitor.stop_reading()
    peer = await service.peer()
    peer.send(bytes(30 * MIB))
    session = client.link.session
    await until(lambda: session._connection_full)
    await turns(50)
    assert held([session]) < 256 * 1024
    visitor.read_on()
    await until(lambda: visitor.count == 30 * MIB)


@ensureDeferred
async def test_stop_closes_the_link(world: World) -> None:
    """A reference server cannot be told to free a tunnel; its port is free when the link is gone."""
    server = world.reference_server(shared=True)
    client = world.client(server, (0, 9))
    await until(lambda: server.peer is not None and server.peer.up)
    await client.stopService()
    await until(lambda: server.peer is not None and not server.peer.up)
