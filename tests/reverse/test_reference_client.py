"""Our server and the reference client."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse import door
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.wire import link as wire_link
from tests.ports import free_port
from tests.reverse.net import Peer, turns, until
from tests.reverse.world import OFTEN, World, held, port_of

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "SILENT_AFTER", 0.05)


async def served(world: World, service: Any, **more: Any) -> tuple[TunnelServer, Any, int]:
    """A server, a reference client with a port of its own, and that port."""
    server, port = world.server(), free_port()
    client = world.reference_client(server, service.port, port, **more)
    await until(lambda: len(server.ports) == 1)
    return server, client, port


@pytest.mark.parametrize("asks_for", ["a port", "nothing"])
@ensureDeferred
async def test_page(world: World, asks_for: str) -> None:
    service = await world.service()
    if asks_for == "a port":
        _server, client, port = await served(world, service)
    else:
        server = world.server(shared=True)
        client, port = world.reference_client(server, service.port), port_of(server.shared)
        await until(lambda: len(server.shared_backends) == 1)
    visitor = await world.visitor(port)
    visitor.send(b"GET / HTTP/1.0\r\n\r\n")
    peer = await service.peer()
    await peer.has(b"GET / HTTP/1.0\r\n\r\n")
    peer.send(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000)
    peer.close()
    await visitor.has(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000)
    await until(lambda: visitor.over)
    await turns()
    assert not client.peer.ignored, "no extension frame"


@ensureDeferred
async def test_five_megabytes_each_way_at_once(world: World) -> None:
    service = await world.service(lambda: Peer(keep=False))
    _server, _client, port = await served(world, service)
    up, down = os.urandom(5_000_000), os.urandom(5_000_000)
    visitor = await world.visitor(port, keep=False)
    peer = await service.peer()
    visitor.send(up)
    peer.send(down)
    await until(lambda: peer.count == len(up) and visitor.count == len(down))
    assert peer.sha.digest() == hashlib.sha256(up).digest()
    assert visitor.sha.digest() == hashlib.sha256(down).digest()


@ensureDeferred
async def test_end_of_the_visitor_closes_the_whole_stream_behind_its_bytes(world: World) -> None:
    service = await world.service(lambda: Peer(keep=False))
    server, _client, port = await served(world, service)
    visitor = await world.visitor(port)
    upload = os.urandom(3_000_000)
    visitor.send(upload)
    visitor.half_close()
    peer = await service.peer()
    await until(lambda: peer.over)
    assert peer.sha.digest() == hashlib.sha256(upload).digest()
    await until(lambda: visitor.over)
    await until(lambda: not server.visitors)


@ensureDeferred
async def test_close_that_comes_three_times_is_no_error(world: World) -> None:
    service = await world.service()
    server, _client, port = await served(world, service)
    for number in range(5):
        visitor = await world.visitor(port)
        peer = await service.peer(number)
        visitor.abort()
        await until(lambda: peer.over)  # noqa: B023
    await turns()
    (session,) = server.sessions
    assert session.link.ignored["CLOSE_CONN for a stream that is not open"] >= 5
    assert not world.lines("", LogLevel.warn)


@ensureDeferred
async def test_service_that_refuses(world: World) -> None:
    nobody = await world.service()
    await world.stop_service(nobody)
    server, _client, port = await served(world, nobody)
    visitor = await world.visitor(port)
    await visitor.ends()
    await until(lambda: not server.visitors)


@ensureDeferred
async def test_shared_port_outranks_init_of_a_reference_client_but_not_ours(world: World) -> None:
    server, service, ports = world.server(shared=True), await world.service(), [free_port(), free_port()]
    world.reference_client(server, service.port, ports[0])
    ours = await world.service()
    world.client(server, (ports[1], ours.port))
    await world.reachable()
    await until(lambda: len(server.shared_backends) == 1)
    assert len(server.ports) == 1
    await world.visitor(port_of(server.shared))
    await service.peer()
    await world.visitor(ports[1])
    await ours.peer()


@ensureDeferred
async def test_bytes_of_old_streams_reach_no_other_visitor(world: World) -> None:
    """After a reconnect it goes on sending under the old ids, and a counter that starts again would hand them over."""
    service = await world.service()
    server, client, port = await served(world, service, keeps_streams=True)
    visitors = [await world.visitor(port) for _ in range(5)]
    await service.peer(4)
    client.peer.transport.abortConnection()
    await until(lambda: all(visitor.over for visitor in visitors))
    await until(lambda: client.links == 2 and len(server.ports) == 1)
    strangers = [await world.visitor(port) for _ in range(5)]
    await service.peer(9)
    for peer in service.peers[:5]:
        peer.send(b"not for you" * 1000)
        peer.close()
    await until(lambda: len(client.sockets) == 5)
    (session,) = server.sessions
    await until(lambda: session.link.ignored.total() >= 5)
    for number, peer in enumerate(service.peers[5:]):
        peer.send(b"for you, %d" % number)
    received = []
    for stranger in strangers:
        await until(lambda: stranger.received)  # noqa: B023
        received.append(bytes(stranger.received))
    await turns()
    assert sorted(received) == [b"for you, %d" % number for number in range(5)]
    assert not any(stranger.over for stranger in strangers)


@ensureDeferred
async def test_ids_are_not_used_again_by_the_next_link(world: World) -> None:
    server, seen = world.server(hold=0.0), set()
    for round_ in range(5):
        link = await world.raw(server)
        port = free_port()
        link.put(4, 0, b"%d:x" % port)
        await until(lambda: len(server.ports) == 1)
        for _ in range(3):
            await world.visitor(port)
            seen.add((await link.take(1))[0])
        link.abort()
        await until(lambda: not server.ports)
        assert len(seen) == 3 * (round_ + 1)


@ensureDeferred
async def test_slow_visitor_pauses_the_link_and_is_reset_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_link, "REFERENCE_MAX_STALL", 3.0)
    service = await world.service(lambda: Peer(keep=False))
    server, port = world.server(limits=OFTEN), free_port()
    world.reference_client(server, service.port, port)
    await until(lambda: len(server.ports) == 1)
    slow, other = await world.visitor(port, keep=False), await world.visitor(port)
    slow.stop_reading()
    first, second = await service.peer(0), await service.peer(1)
    slow.send(b"s")
    await until(lambda: first.count + second.count == 1)
    source, small = (first, second) if first.count else (second, first)
    source.send(bytes(40 * MIB))
    (session,) = server.sessions
    await until(lambda: session.link.reading_paused)
    most = held(server.sessions)
    small.send(b"behind it")
    await turns()
    assert not other.received, "this is what is given up with a reference peer"
    assert session.link.reading_paused
    most = max(most, held(server.sessions))
    # The kernel may still take some of what made the link pause at 1 MiB.
    assert MIB // 2 < most < MIB + 256 * 1024
    await until(lambda: not session.link.reading_paused, "the stalled stream to be reset")
    await other.has(b"behind it")
    slow.read_on()
    await until(lambda: slow.was_reset)
    await until(lambda: source.over)
    assert len(world.lines("stalled", LogLevel.debug)) == 1


@ensureDeferred
async def test_visitor_that_reads_again_in_time_loses_nothing(world: World) -> None:
    service = await world.service(lambda: Peer(keep=False))
    server, _client, port = await served(world, service)
    slow = await world.visitor(port, keep=False)
    slow.stop_reading()
    peer = await service.peer()
    download = os.urandom(12 * MIB)
    peer.send(download)
    peer.half_close()
    (session,) = server.sessions
    await until(lambda: session.link.reading_paused)
    slow.read_on()
    await until(lambda: slow.count == len(download))
    assert slow.sha.digest() == hashlib.sha256(download).digest()


@ensureDeferred
async def test_slow_service_holds_the_visitor_back(world: World) -> None:
    """The reference client stops reading the link; our server must not keep what it cannot send."""
    service = await world.service(lambda: Peer(keep=False))
    server, _client, port = await served(world, service)
    visitor = await world.visitor(port)
    peer = await service.peer()
    peer.stop_reading()
    visitor.send(bytes(30 * MIB))
    (session,) = server.sessions
    await until(lambda: session._connection_full)
    most = 0
    for _ in range(50):
        await turns(2)
        most = max(most, held(server.sessions))
    assert most < 256 * 1024
    assert len(visitor.transport.dataBuffer) > 5 * MIB, "it waits at its source"
    peer.read_on()
    await until(lambda: peer.count == 30 * MIB)
