"""Our server with our clients: ports of their own, the shared port, many tunnels over one link."""

from __future__ import annotations

import hashlib
import os

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from tests.ports import free_port
from tests.reverse.net import BOTH_PLANES, Peer, can_bind, turns, until
from tests.reverse.world import World, port_of


@BOTH_PLANES
@ensureDeferred
async def test_visitor_and_service(world: World) -> None:
    server, service, port = world.server(), await world.service(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    visitor = await world.visitor(port)
    visitor.send(b"GET /")
    peer = await service.peer()
    await peer.has(b"GET /")
    peer.send(b"200 OK")
    await visitor.has(b"200 OK")
    peer.close()
    await until(lambda: visitor.eof)
    visitor.close()
    await until(lambda: not server.visitors)


@BOTH_PLANES
@ensureDeferred
async def test_service_that_speaks_first(world: World) -> None:
    server, service, port = world.server(), await world.service(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    visitor = await world.visitor(port)
    (await service.peer()).send(b"220 ready")
    await visitor.has(b"220 ready")


@BOTH_PLANES
@ensureDeferred
async def test_several_clients_each_with_its_port(world: World) -> None:
    server = world.server()
    services = [await world.service() for _ in range(3)]
    ports = [free_port() for _ in range(3)]
    for port, service in zip(ports, services, strict=True):
        world.client(server, (port, service.port))
    await world.reachable(3)
    for port, service in zip(ports, services, strict=True):
        visitor = await world.visitor(port)
        visitor.send(b"for %d" % port)
        await (await service.peer()).has(b"for %d" % port)
    assert [len(service.peers) for service in services] == [1, 1, 1]


@BOTH_PLANES
@ensureDeferred
async def test_many_tunnels_over_one_link(world: World) -> None:
    server = world.server(shared=True)
    services = [await world.service() for _ in range(10)]
    ports = [free_port() for _ in range(9)]
    world.client(server, *zip([*ports, 0], [service.port for service in services], strict=True))
    await world.reachable(10)
    await world.sessions(server, 1)
    for port, service in zip([*ports, port_of(server.shared)], services, strict=True):
        visitor = await world.visitor(port)
        visitor.send(b"%d" % port)
        await (await service.peer()).has(b"%d" % port)


@BOTH_PLANES
@ensureDeferred
async def test_hundreds_of_tunnels_come_up_together(world: World) -> None:
    """They are asked for at once, not one after the other's answer (frp #4789)."""
    server = world.server()
    ports = {free_port() for _ in range(300)}
    world.client(server, *[(port, 9) for port in ports])
    await until(lambda: len(server.ports) == len(ports), f"{len(ports)} tunnels")
    await world.sessions(server, 1)


@BOTH_PLANES
@ensureDeferred
async def test_round_robin(world: World) -> None:
    server = world.server(shared=True)
    services = [await world.service() for _ in range(3)]
    for number, service in enumerate(services, 1):
        world.client(server, (0, service.port))
        await world.reachable(number)
    for _ in range(6):
        await world.visitor(port_of(server.shared))
    await until(lambda: sum(len(service.peers) for service in services) == 6)
    assert [len(service.peers) for service in services] == [2, 2, 2]


@BOTH_PLANES
@ensureDeferred
async def test_least_connections(world: World) -> None:
    server = world.server(shared=True, route="least-connections")
    services = [await world.service() for _ in range(2)]
    for number, service in enumerate(services, 1):
        world.client(server, (0, service.port))
        await world.reachable(number)
    visitors = []
    for _ in range(4):
        visitors.append(await world.visitor(port_of(server.shared)))
        await until(lambda: sum(len(service.peers) for service in services) == len(visitors))
    assert [len(service.peers) for service in services] == [2, 2]
    # The second client is rid of its visitors: it gets the next two, where turns would be one each.
    for peer in services[1].peers:
        peer.abort()
    await until(lambda: len(server.visitors) == 2)
    for number in (5, 6):
        await world.visitor(port_of(server.shared))
        await until(lambda: sum(len(service.peers) for service in services) == number)  # noqa: B023
    assert [len(service.peers) for service in services] == [2, 4]


@BOTH_PLANES
@ensureDeferred
async def test_ports_are_free_at_once_when_the_client_is_gone(world: World) -> None:
    """Where nobody waits for it."""
    server, ports = world.server(shared=True, hold=0.0), [free_port(), free_port()]
    client = world.client(server, *[(port, 9) for port in ports], (0, 9))
    await world.reachable(3)
    assert not any(can_bind(port) for port in ports)
    client.link.session.drop()
    await until(lambda: not server.sessions)
    await until(lambda: all(can_bind(port) for port in ports))
    assert len(server.shared_backends) == 0


@BOTH_PLANES
@pytest.mark.parametrize("hold", [0.0, 1000.0])
@ensureDeferred
async def test_gone_client_is_one_log_line_with_its_ports(world: World, hold: float) -> None:
    server, port = world.server(hold=hold), free_port()
    client = world.client(server, (port, 9))
    await world.reachable()
    client.link.session.drop()
    await until(lambda: not server.sessions)
    what = "visitors wait 1000 s for it" if hold else "freed"
    assert len([line for line in world.lines("gone", LogLevel.info) if f"; {what}: {port}" in line]) == 1


@BOTH_PLANES
@ensureDeferred
async def test_a_tunnel_is_one_line_at_both_ends(world: World) -> None:
    server, service, port = world.server(), await world.service(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    await turns()
    assert len(world.lines(f"127.0.0.1:{port} -> 127.0.0.1:{service.port} of client")) == 1
    assert len(world.lines(f"127.0.0.1:{port} is published; the service at 127.0.0.1:{service.port}")) == 1


@BOTH_PLANES
@ensureDeferred
async def test_five_megabytes_each_way_at_once(world: World) -> None:
    server, port = world.server(), free_port()
    service = await world.service(lambda: Peer(keep=False))
    world.client(server, (port, service.port))
    await world.reachable()
    up, down = os.urandom(5_000_000), os.urandom(5_000_000)
    visitor = await world.visitor(port, keep=False)
    peer = await service.peer()
    visitor.send(up)
    peer.send(down)
    visitor.half_close()
    peer.half_close()
    await until(lambda: visitor.eof and peer.eof)
    assert peer.sha.digest() == hashlib.sha256(up).digest()
    assert visitor.sha.digest() == hashlib.sha256(down).digest()


@BOTH_PLANES
@ensureDeferred
async def test_request_that_ends_by_half_close_is_answered_in_full(world: World) -> None:
    """The answer is far larger than all windows, and its reader is slow to begin."""
    server, port = world.server(), free_port()
    service = await world.service()
    world.client(server, (port, service.port))
    await world.reachable()
    visitor = await world.visitor(port, keep=False)
    visitor.stop_reading()
    visitor.send(b"everything, please")
    visitor.half_close()
    peer = await service.peer()
    await until(lambda: peer.eof)
    assert bytes(peer.received) == b"everything, please"
    answer = os.urandom(8_000_000)
    peer.send(answer)
    peer.close()
    await turns(50)
    visitor.read_on()
    await until(lambda: visitor.eof)
    assert visitor.sha.digest() == hashlib.sha256(answer).digest()


@BOTH_PLANES
@ensureDeferred
async def test_answer_that_ends_before_the_request(world: World) -> None:
    """The service says its part and ends its direction; the visitor's upload goes on to its last byte."""
    server, port = world.server(), free_port()
    service = await world.service(lambda: Peer(keep=False))
    world.client(server, (port, service.port))
    await world.reachable()
    visitor = await world.visitor(port)
    peer = await service.peer()
    peer.stop_reading()
    peer.send(b"go ahead")
    peer.half_close()
    await until(lambda: visitor.eof)
    upload = os.urandom(8_000_000)
    visitor.send(upload)
    visitor.half_close()
    await turns(50)
    peer.read_on()
    await until(lambda: peer.eof)
    assert peer.sha.digest() == hashlib.sha256(upload).digest()


@BOTH_PLANES
@ensureDeferred
async def test_reset_travels_both_ways(world: World) -> None:
    server, service, port = world.server(), await world.service(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    first, second = await world.visitor(port), await world.visitor(port)
    await service.peer(1)
    first.send(b"1")
    second.send(b"2")
    await until(lambda: all(peer.received for peer in service.peers))
    ours, theirs = sorted(service.peers, key=lambda peer: bytes(peer.received))
    first.abort()
    theirs.abort()
    await until(lambda: ours.lost and second.lost)
    assert ours.was_reset
    assert second.was_reset
    await until(lambda: not server.visitors)
