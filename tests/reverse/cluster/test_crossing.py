"""A visitor comes to one node, and his client has its link to another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.protocol import DatagramProtocol

from rtunnel.access.rules import Rules
from rtunnel.relay.proxy_header import encode_v2
from rtunnel.relay.sockets import close_socket
from rtunnel.reverse.cluster.crossing import pair
from rtunnel.reverse.cluster.link import NodeSession
from rtunnel.reverse.datagrams.server_flows import UdpPort
from rtunnel.reverse.server.service import TunnelServer
from tests.ports import free_port
from tests.reverse.cluster.parts import HOSTS, Cluster, http_port, two_nodes
from tests.reverse.net import BOTH_PLANES, HOST, Peer, reactor, turns, until
from tests.reverse.world import World, port_of
from tests.wire.web.hellos import by_python

MUCH = 10_000_000


@BOTH_PLANES
@ensureDeferred
async def test_a_visitor_of_a_port_at_the_other_node(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    echo, port = await world.echo(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    await cluster.serves(second)
    visitor = await world.visitor(port, to=HOSTS[1])
    visitor.send(b"hello")
    await visitor.has(b"hello")
    visitor.half_close()
    await visitor.ends()
    assert bytes(visitor.received) == b"hello"
    assert not visitor.was_reset
    for node in first, second:
        [group] = node.ports.groups
        [backend] = group
        account = backend.account
        await until(lambda account=account: not account.live, "the visitor is gone")  # type: ignore[misc]
        assert (account.visitors, account.totals) == (1, (5, 5)), node


@BOTH_PLANES
@ensureDeferred
async def test_much_in_both_directions(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    echo, port = await world.echo(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    await cluster.serves(second)
    data = bytes(range(256)) * (MUCH // 256)
    visitor = await world.visitor(port, to=HOSTS[1], keep=False)
    visitor.send(data)
    visitor.half_close()
    await visitor.ends()
    assert visitor.sha.digest() == hashlib.sha256(data).digest()


@BOTH_PLANES
@ensureDeferred
async def test_his_address_is_kept(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    service, port = await world.service(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{service.port}", proxy_protocol="v1")
    await cluster.serves(second)
    visitor = await world.visitor(port, source="127.0.0.9", to=HOSTS[1])
    visitor.send(b"x")
    await until(lambda: service.peers and service.peers[0].received.endswith(b"\r\nx"))
    source = visitor.transport.getHost()
    assert service.peers[0].received.startswith(b"PROXY TCP4 127.0.0.9 127.0.0.1 %d %d" % (source.port, port))


@BOTH_PLANES
@ensureDeferred
async def test_a_service_that_breaks_off_is_a_reset_for_him(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    service, port = await world.service(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{service.port}")
    await cluster.serves(second)
    visitor = await world.visitor(port, to=HOSTS[1])
    visitor.send(b"x")
    await until(lambda: service.peers and service.peers[0].received)
    service.peers[0].send(b"a part")
    await until(lambda: visitor.received)
    service.peers[0].abort()
    await visitor.ends()
    assert visitor.was_reset


@BOTH_PLANES
@ensureDeferred
async def test_a_visitor_who_breaks_off_is_a_reset_for_the_service(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    service, port = await world.service(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{service.port}")
    await cluster.serves(second)
    visitor = await world.visitor(port, to=HOSTS[1])
    visitor.send(b"x")
    await until(lambda: service.peers and service.peers[0].received)
    visitor.abort()
    await service.peers[0].ends()
    assert service.peers[0].was_reset


@BOTH_PLANES
@ensureDeferred
async def test_a_request_for_a_host_name(world: World) -> None:
    cluster, first, second = await two_nodes(world)

    def build() -> Peer:
        peer = Peer()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        peer.on_data = lambda _data: peer.send(answer) if b"\r\n\r\n" in peer.received else None
        return peer

    service = await world.service(build)
    cluster.client(first, f"http:app.example.org={HOST}:{service.port}")
    await cluster.serves(second)
    visitor = await world.visitor(http_port(second), to=HOSTS[1])
    visitor.send(b"GET / HTTP/1.1\r\nHost: app.example.org\r\n\r\n")
    await until(lambda: visitor.received.endswith(b"ok"), "an answer")
    assert visitor.received.startswith(b"HTTP/1.1 200 ")


@ensureDeferred
async def test_it_is_gone_everywhere_with_its_client(world: World) -> None:
    cluster = Cluster(world, 3)
    await cluster.meets()
    echo, port = await world.echo(), free_port()
    client = cluster.client(cluster.nodes[0], f"tcp:{port}={HOST}:{echo.port}")
    for node in cluster.nodes:
        await cluster.serves(node)
    await client.stopService()
    for node in cluster.nodes:
        await cluster.serves(node, 0)


@ensureDeferred
async def test_many_tunnels_are_not_looked_at_for_each(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when one more comes, nor when they go together: with thousands of them that would take seconds."""
    cluster, first, second = await two_nodes(world)
    echo, looks = await world.echo(), list[Any]()
    sync = NodeSession.sync

    def look(session: NodeSession) -> Any:
        looks.append(session)
        return sync(session)

    monkeypatch.setattr(NodeSession, "sync", look)
    names = [f"http:a{number}.example.org={HOST}:{echo.port}" for number in range(20)]
    client = cluster.client(first, *names)
    await cluster.serves(second, 20)
    # A link that has just come up looks once.
    assert len(looks) < 5
    await client.stopService()
    await cluster.serves(second, 0)
    assert len(looks) < 15


@BOTH_PLANES
@ensureDeferred
async def test_tls_for_a_host_name(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    service = await world.service()
    cluster.client(first, f"https:app.example.org={HOST}:{service.port}")
    await cluster.serves(second)
    hello = by_python("app.example.org")
    visitor = await world.visitor(port_of(second.named.listeners["https"]), to=HOSTS[1])
    visitor.send(hello)
    await until(lambda: service.peers and service.peers[0].received, "a ClientHello at the service")
    assert bytes(service.peers[0].received) == hello


@BOTH_PLANES
@ensureDeferred
async def test_the_shared_port(world: World) -> None:
    cluster, first, second = await two_nodes(world, shared=True)
    echo = await world.echo()
    for _ in range(2):
        cluster.client(first, f"tcp:0={HOST}:{echo.port}")
    await cluster.serves(second, 2)
    assert second.shared is not None
    visitor = await world.visitor(port_of(second.shared), to=HOSTS[1])
    visitor.send(b"hello")
    await visitor.has(b"hello")


@ensureDeferred
async def test_datagrams(world: World) -> None:
    """The service sees the visitor's own address, and the rules of his tunnel go by it."""
    world.plane = "direct"
    cluster, first, second = await two_nodes(world)
    service = UdpEcho()
    listening = reactor.listenUDP(0, service, interface=HOST)
    port = free_port()
    local = f"udp:{port}={HOST}:{listening.getHost().port}"
    cluster.client(first, local, proxy_protocol="v2", rules=Rules(allow=(ip_network(HOSTS[2]),)))
    await cluster.serves(second)
    visitor, stranger = UdpEcho(echoes=False), UdpEcho(echoes=False)
    sending = reactor.listenUDP(0, visitor, interface=HOSTS[2])
    refused = reactor.listenUDP(0, stranger, interface=HOST)
    asked = 0
    while not visitor.received:
        stranger.transport.write(b"go away", (HOSTS[1], port))
        visitor.transport.write(b"hello", (HOSTS[1], port))
        asked += 1
        await turns()
        assert asked < 1000
    ends = (ip_address(HOSTS[2]), sending.getHost().port), (ip_address(HOST), port)
    assert visitor.received[0] == encode_v2(ends, is_datagram=True) + b"hello"
    assert all(b"go away" not in data for data in service.received)
    assert not stranger.received

    udp = udp_port(first)
    assert [flow.name for flow in udp.table] == [f"{HOSTS[2]}:{sending.getHost().port}"]
    account = udp.backend.account
    assert account.visitors == 1
    [flow] = udp.table
    assert account.totals == (flow.bytes_received, flow.bytes_sent)
    assert 0 < flow.bytes_received <= 5 * asked

    # When it ends here, it ends there, and the other way round; who goes on asking gets another one.
    for end in ends_of_a_flow(first, second):
        visitor.received.clear()
        end()
        await until(lambda: not udp.table, "the end of the flow where the client is")
        for _ in range(1000):
            visitor.transport.write(b"again", (HOSTS[1], port))
            await turns()
            if visitor.received:
                break
        assert visitor.received[0].endswith(b"again")
        assert len(udp.table) == 1
    for each in (listening, sending, refused):
        await each.stopListening()


def udp_port(node: TunnelServer) -> UdpPort:
    [held] = node.ports._held.values()
    assert isinstance(held.port, UdpPort)
    return held.port


def ends_of_a_flow(first: TunnelServer, second: TunnelServer) -> Iterator[Callable[[], None]]:
    """What ends the flow of a visitor who has crossed from *second* to *first*, at each of its places."""
    [node] = first.nodes.links
    for table in (udp_port(second).table, udp_port(first).table, node.flows.table):
        yield lambda table=table: [flow.end("the test wants it") for flow in table]  # type: ignore[misc]


@BOTH_PLANES
@ensureDeferred
async def test_a_quota_that_is_used_up_lets_nobody_cross(world: World) -> None:
    cluster, first, second = await two_nodes(world)

    def build() -> Peer:
        peer = Peer()
        peer.on_data = lambda _data: peer.send(bytes(2_000_000))
        return peer

    service, port = await world.service(build), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{service.port}", rules=Rules(quota=1_000_000))
    await cluster.serves(second)
    visitor = await world.visitor(port, to=HOSTS[1])
    visitor.send(b"x")
    await visitor.ends()
    assert visitor.count < 2_000_000
    count = len(service.peers)
    assert count == 1
    for host in HOSTS[:2]:
        visitor = await world.visitor(port, to=host)
        await visitor.ends()
    assert len(service.peers) == count


@BOTH_PLANES
@ensureDeferred
async def test_all_descriptors_of_those_who_cross_are_counted(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    echo, port = await world.echo(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    await cluster.serves(second)
    assert not first.descriptors.held
    visitors = [await world.visitor(port, to=HOSTS[1]) for _ in range(5)]
    for visitor in visitors:
        visitor.send(b"x")
        await visitor.has(b"x")
    # A pair of sockets for each and, with data connections, that from the other node. Those to clients are counted with
    # their links.
    assert first.descriptors.held == 5 * (2 if world.plane == "mux" else 3)
    for number, visitor in enumerate(visitors):
        (visitor.close, visitor.abort)[number % 2]()
    await until(lambda: not first.descriptors.held and not second.descriptors.held, "all are given back")


@ensureDeferred
async def test_ports_of_their_own_only_where_the_client_is(world: World) -> None:
    cluster, first, second = await two_nodes(world, cluster_ports="holder")
    echo, port = await world.echo(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{echo.port}", f"https:app.example.org={HOST}:{echo.port}")
    await cluster.serves(first, 2)
    await cluster.serves(second)
    assert [str(group.public) for group in second.names.groups] == ["https://app.example.org"]
    # Nobody else may have the port all the same.
    cluster.client(second, f"tcp:{port}={HOST}:{echo.port}")
    await world.logged("refused by the server")


class UdpEcho(DatagramProtocol):
    transport: Any

    def __init__(self, *, echoes: bool = True) -> None:
        self.received: list[bytes] = []
        self._echoes = echoes

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.received.append(datagram)
        if self._echoes:
            self.transport.write(datagram, addr)


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("is_moved", [True, False])
def test_the_end_of_a_pair(resets: bool, is_moved: bool) -> None:
    near, far = pair()
    if is_moved:
        near = near.moved()
    near.send(b"x")
    close_socket(near, reset=resets)
    assert far.recv(10) == b"x"
    assert not far.recv(10)
    assert far.is_broken_off == resets
    far.close()


@ensureDeferred
async def test_a_visitor_who_moves_from_the_link_is_still_reset(world: World) -> None:
    """He begins on the client's link, as no data connection waits, and goes on on one of his own."""
    world.plane = "auto"
    cluster, first, second = await two_nodes(world)
    service, port = await world.service(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{service.port}", pool=1)
    await cluster.serves(second)
    visitors = [await world.visitor(port, to=HOSTS[1]) for _ in range(8)]
    for visitor in visitors:
        visitor.send(b"x")
    await until(lambda: len([peer for peer in service.peers if peer.received]) == 8, "all visitors")
    (session,) = first.sessions
    await until(lambda: not session.link.streams, "all have moved")
    for peer in service.peers:
        peer.abort()
    for visitor in visitors:
        await visitor.ends()
        assert visitor.was_reset
