"""Visitors on data connections of their own, between our server and our client."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import LogLevel

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.reverse.carriers import data_connections as data_server, pool_size
from rtunnel.reverse.client import data_connections as data_client, visits
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings, ServerSettings, TunnelSettings
from rtunnel.wire.limits import LinkLimits
from tests.needs import needs_ipv6
from tests.ports import free_port
from tests.reverse.data import AUTO, DIRECT, pool_of, relays
from tests.reverse.net import BOTH_PLANES, HOST, Peer, reactor, turns, until
from tests.reverse.world import OFTEN, World, port_of


async def at_once(world: World, port: int, count: int) -> list[Peer]:
    """So many visitors, who come before the server has accepted the first."""
    return list(await gatherResults([Deferred.fromCoroutine(world.visitor(port)) for _ in range(count)]))


def free(client: TunnelClient) -> int:
    """How many data connections wait, as the client sees it."""
    session: Any = client.link.session
    return sum(connection.state.is_free for connection in session.data._connections)


def probes(sock: socket.socket) -> tuple[int, ...]:
    """Return after how many seconds of silence the kernel probes, how often, and how many probes may go unanswered."""
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    return tuple(sock.getsockopt(socket.IPPROTO_TCP, name) for name in names)


@DIRECT
@ensureDeferred
async def test_visitor_has_a_connection_of_its_own(world: World) -> None:
    limits = LinkLimits(keepalive_interval=3, dead_after=12)
    server, service, port = world.server(limits=limits), await world.service(), free_port()
    client = world.client(server, (port, service.port), limits=limits)
    await world.reachable()
    pool = await pool_of(world, server)
    visitor = await world.visitor(port)
    visitor.send(b"GET /")
    peer = await service.peer()
    await peer.has(b"GET /")
    peer.send(b"200 OK")
    await visitor.has(b"200 OK")
    assert len(relays(server)) == len(relays(client)) == 1
    for end in (server, client):
        (relay,) = relays(end)
        for sock in (relay.socket, relay.far.socket):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert relay.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert probes(relay.socket) == (60, 60, 2)
    (session,) = server.sessions
    assert not session.link.streams
    assert session.link.stream_count == client.link.session.link.stream_count == 1
    peer.close()
    await until(lambda: visitor.eof)
    visitor.close()
    await until(lambda: not server.visitors and not client.visitors)
    assert session.link.stream_count == client.link.session.link.stream_count == 0
    assert not pool._used
    await until(lambda: len(pool._idle) == pool_size.AT_FIRST, "it waits for the next visitor")


@AUTO
@ensureDeferred
async def test_visitors_on_both_ways_at_once(world: World) -> None:
    """More come than connections wait: nobody waits, and everybody has their own bytes."""
    server, service, port = world.server(pool=8), await world.echo(), free_port()
    client = world.client(server, (port, service.port))
    await world.reachable()
    await pool_of(world, server)
    visitors = await at_once(world, port, 40)
    sent = [os.urandom(20_000) for _ in visitors]
    for visitor, data in zip(visitors, sent, strict=True):
        visitor.send(data)
    for visitor, data in zip(visitors, sent, strict=True):
        await visitor.has(data)
    (session,) = server.sessions
    await until(lambda: len(relays(server)) + len(session.link.streams) == len(visitors), "nobody between two ways")
    assert 0 < len(relays(server)) < len(visitors) == len(server.visitors)
    for visitor in visitors:
        visitor.half_close()
    for visitor, data in zip(visitors, sent, strict=True):
        await until(lambda: visitor.over)  # noqa: B023
        assert not visitor.was_reset
        assert bytes(visitor.received) == data
    await until(lambda: not server.visitors and not client.visitors)
    assert session.link.stream_count == client.link.session.link.stream_count == 0


@AUTO
@ensureDeferred
async def test_pool_grows_with_demand_to_its_bound_and_shrinks_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, service, port = world.server(pool=16, limits=OFTEN), await world.echo(), free_port()
    client = world.client(server, (port, service.port), pool=12)
    await world.reachable()
    pool = await pool_of(world, server, pool_size.AT_FIRST)
    await turns()
    assert len(pool._idle) == pool_size.AT_FIRST
    visitors = await at_once(world, port, 40)
    await until(lambda: len(pool._idle) == 12, "as many as the client makes")
    await turns()
    assert free(client) == len(pool._idle) == 12
    for visitor in visitors:
        visitor.close()
    await until(lambda: not server.visitors)
    monkeypatch.setattr(pool_size, "SHRINK_EVERY", 0.05)
    pool._size._shrink_at = 0.0
    await until(lambda: len(pool._idle) <= pool_size.AT_FIRST, "fewer of them")
    await until(lambda: free(client) <= pool_size.AT_FIRST)
    assert not world.lines("cannot be made")


@AUTO
@ensureDeferred
async def test_client_that_makes_fewer_than_the_server_wants_shows_no_ticket_that_is_void(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_server, "LOST_AFTER", 0.4)
    monkeypatch.setattr(data_client, "KEPT", 0.2)
    server, service, port = world.server(pool=8, limits=OFTEN), await world.echo(), free_port()
    client = world.client(server, (port, service.port), pool=6)
    await world.reachable()
    pool = await pool_of(world, server, pool_size.AT_FIRST)
    pool._size.wanted = 8
    await until(lambda: len(pool._idle) == 6, "as many as the client makes")
    wished = pool._wished_at
    await until(lambda: pool._wished_at > wished, "the others are taken for lost")
    # Half of those that it keeps are older than the wish of just now.
    visitor = await world.visitor(port)
    visitor.send(b"here")
    await visitor.has(b"here")
    await until(lambda: free(client) == 6, "another one")
    await turns()
    assert not world.lines("its ticket is unknown")
    assert not world.lines("cannot be made")
    visitor.close()


@DIRECT
@ensureDeferred
async def test_server_without_enough_connections_lets_visitors_wait(world: World) -> None:
    server, service, port = world.server(pool=2), await world.echo(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    visitors = await at_once(world, port, 8)
    for number, visitor in enumerate(visitors):
        visitor.send(b"%d" % number)
    for number, visitor in enumerate(visitors):
        await visitor.has(b"%d" % number)
    assert len(relays(server)) == 8
    (session,) = server.sessions
    assert not session.link.streams


@ensureDeferred
async def test_either_end_may_want_the_link_only(world: World) -> None:
    for ends in (("mux", "direct"), ("auto", "mux")):
        server, service, port = world.server(data_plane=ends[0]), await world.echo(), free_port()
        client = world.client(server, (port, service.port), data_plane=ends[1])
        await until(lambda: len(server.ports) == 1)  # noqa: B023
        visitor = await world.visitor(port)
        visitor.send(b"hello")
        await visitor.has(b"hello")
        assert not relays(server)
        (session,) = server.sessions
        assert len(session.link.streams) == 1
        visitor.close()
        await client.stopService()
    line = await world.logged("knows no data connections: visitors go by the link", LogLevel.warn)
    assert line.startswith("server")


@ensureDeferred
async def test_client_that_wants_no_link_is_obeyed(world: World) -> None:
    server, service, port = world.server(data_plane="auto", pool=1), await world.echo(), free_port()
    world.client(server, (port, service.port), data_plane="direct")
    await world.reachable()
    visitors = await at_once(world, port, 5)
    for visitor in visitors:
        visitor.send(b"x")
        await visitor.has(b"x")
    assert len(relays(server)) == 5


# Bounds that count both ways


@AUTO
@ensureDeferred
async def test_streams_of_a_link_are_bounded_on_both_ways_together(world: World) -> None:
    limits = LinkLimits(max_streams=6)
    server, service, port = world.server(limits=limits, pool=2), await world.echo(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    await pool_of(world, server)
    visitors = await at_once(world, port, 6)
    for visitor in visitors:
        visitor.send(b"x")
        await visitor.has(b"x")
    assert 0 < len(relays(server)) < 6
    await pool_of(world, server)
    one_more = await world.visitor(port)
    await until(lambda: one_more.was_reset)
    assert world.lines("the link has 6 streams, its limit", LogLevel.warn)
    visitors[0].close()
    await until(lambda: len(server.visitors) == 5)
    again = await world.visitor(port)
    again.send(b"y")
    await again.has(b"y")


@DIRECT
@ensureDeferred
async def test_client_resets_visitors_beyond_its_own_limit(world: World) -> None:
    server, service, port = world.server(), await world.echo(), free_port()
    client = world.client(server, (port, service.port), limits=LinkLimits(max_streams=1))
    await world.reachable()
    first = await world.visitor(port)
    first.send(b"x")
    await first.has(b"x")
    second = await world.visitor(port)
    await until(lambda: second.was_reset)
    assert len(client.visitors) == 1
    first.close()
    await until(lambda: not client.visitors)
    third = await world.visitor(port)
    third.send(b"x")
    await third.has(b"x")


@DIRECT
@ensureDeferred
async def test_least_connections_counts_visitors_on_their_own_connections(world: World) -> None:
    server = world.server(shared=True, route="least-connections")
    services = [await world.echo() for _ in range(2)]
    for service in services:
        world.client(server, (0, service.port))
    await world.reachable(2)
    port = port_of(server.shared)
    visitors = [await world.visitor(port) for _ in range(4)]
    for visitor in visitors:
        visitor.send(b"x")
        await visitor.has(b"x")
    assert [len(service.peers) for service in services] == [2, 2]
    busy, idle = services
    for peer in idle.peers:
        peer.abort()
    await until(lambda: len(server.visitors) == 2)
    for visitor in [await world.visitor(port) for _ in range(2)]:
        visitor.send(b"x")
        await visitor.has(b"x")
    assert [len(service.peers) for service in (busy, idle)] == [2, 4]


@AUTO
@ensureDeferred
async def test_full_server_takes_the_data_connections_of_its_links(world: World) -> None:
    server, service, port = world.server(max_links=1), await world.echo(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    await pool_of(world, server, pool_size.AT_FIRST)
    others = [await world.raw(server) for _ in range(3)]
    for other in others:
        other.send(b"\x10")
    await turns()
    assert len(server.sessions) == 1


# The ways to a service


@BOTH_PLANES
@pytest.mark.parametrize("host", ["localhost", pytest.param("[::1]", marks=needs_ipv6), HOST])
@ensureDeferred
async def test_names_and_addresses_of_a_service(world: World, host: str) -> None:
    address = "::1" if host == "[::1]" else HOST
    listening: Any = (
        await ListenAddress.parse(f"{host}:0" if host != "localhost" else f"{HOST}:0")
        .endpoint(reactor)
        .listen(_factory(lambda: Peer(echo=True)))
    )
    try:
        assert listening.getHost().host == address
        server, port = world.server(), free_port()
        tunnel = TunnelSettings(port, DialAddress.parse(f"{host}:{listening.getHost().port}"))
        control = DialAddress.parse(f"{HOST}:{world.control_port(server)}")
        client = world.start(
            TunnelClient(reactor, ClientSettings(control, (tunnel,), data_plane=world.plane, check_services=False))
        )
        await world.reachable()
        visitor = await world.visitor(port)
        visitor.send(b"hello" * 1000)
        await visitor.has(b"hello" * 1000)
        assert len(relays(client)) == (world.plane == "direct")
        visitor.half_close()
        await until(lambda: visitor.over)
        assert not visitor.was_reset
    finally:
        await listening.stopListening()


@BOTH_PLANES
@ensureDeferred
async def test_link_and_data_connections_over_a_unix_socket(world: World, tmp_path: Any) -> None:
    where = f"unix:{tmp_path}/control.sock"
    settings = ServerSettings(ListenAddress.parse(where), public_interface=HOST, data_plane=world.plane)
    server = world.start(TunnelServer(reactor, settings))
    service, port = await world.echo(), free_port()
    tunnel = TunnelSettings(port, DialAddress.parse(f"{HOST}:{service.port}"))
    client = world.start(
        TunnelClient(
            reactor, ClientSettings(DialAddress.parse(where), (tunnel,), data_plane=world.plane, check_services=False)
        )
    )
    await world.reachable()
    visitor = await world.visitor(port)
    data = os.urandom(2_000_000)
    visitor.send(data)
    await visitor.has(data)
    assert len(relays(server)) == len(relays(client)) == (world.plane == "direct")


@BOTH_PLANES
@ensureDeferred
async def test_visitors_behind_haproxy(world: World) -> None:
    """Once the header is read, they are like any others: the log names them, and their sockets are relayed."""
    settings = ServerSettings(
        ListenAddress.parse(f"{HOST}:0"),
        ListenAddress.parse(f"haproxy:tcp:0:interface={HOST}"),
        public_interface=HOST,
        data_plane=world.plane,
    )
    server = world.start(TunnelServer(reactor, settings))
    service = await world.service()
    client = world.client(server, (0, service.port))
    await world.reachable()
    visitor = await world.visitor(server.shared._port.getHost().port)
    visitor.send(b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\nGET /")
    peer = await service.peer()
    await peer.has(b"GET /")
    peer.send(b"200 OK")
    await visitor.has(b"200 OK")
    assert world.lines("visitor 192.0.2.7:1234 of ")
    assert len(relays(server)) == (world.plane == "direct")
    visitor.close()
    await peer.ends()
    peer.close()
    await until(lambda: not server.visitors and not client.visitors)
    (session,) = server.sessions
    assert session.link.stream_count == 0


@DIRECT
@ensureDeferred
async def test_service_whose_socket_cannot_be_had(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind Twisted's TLS: relayed in user space."""
    monkeypatch.setattr(visits, "has_socket", lambda _transport: False)
    server, service, port = world.server(), await world.service(), free_port()
    tunnel = TunnelSettings(port, DialAddress.parse(f"localhost:{service.port}"))
    control = DialAddress.parse(f"{HOST}:{world.control_port(server)}")
    client = world.start(
        TunnelClient(reactor, ClientSettings(control, (tunnel,), data_plane="direct", check_services=False))
    )
    await world.reachable()
    visitor = await world.visitor(port)
    sent, answer = os.urandom(1_000_000), os.urandom(3_000_000)
    visitor.send(sent)
    visitor.half_close()
    peer = await service.peer()
    await until(lambda: peer.eof)
    assert bytes(peer.received) == sent
    peer.send(answer)
    peer.close()
    await visitor.has(answer)
    await until(lambda: not server.visitors and not client.visitors)
    assert not visitor.was_reset
    await until(lambda: client.link.session.link.stream_count == 0)


def _factory(build: Any) -> Any:
    from tests.reverse.net import QuietFactory

    return QuietFactory.forProtocol(build)
