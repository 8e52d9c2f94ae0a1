"""Who may have a place in the whole cluster, and what happens when the directory or a node is away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.rules import Rules
from rtunnel.addresses import DialAddress
from rtunnel.cluster.interface import LEASE
from rtunnel.control.server import look
from rtunnel.errors import Code
from rtunnel.wire.limits import LinkLimits
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.cluster.parts import HOSTS, Cluster, http_port, tunnels, two_nodes
from tests.reverse.net import ERROR, HELLO, HOST, INIT, Peer, hello, turns, until
from tests.reverse.world import World


@ensureDeferred
async def test_another_client_at_another_node_is_refused(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    echo, port = await world.echo(), free_port()
    holder = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    await cluster.serves(second)
    other = cluster.client(second, f"tcp:{port}={HOST}:{echo.port}")
    line = await world.logged("refused by the server")
    assert f"{Code.PORT_IN_USE}: port {port} is served by another client, at another server" in line
    assert first.directory.node not in line, "its operator is told of no node"
    assert tunnels(second) == 1
    await holder.stopService()
    await until(lambda: second.claims and not first.claims, "the other client has it")
    await cluster.serves(first)
    await other.stopService()
    await until(lambda: not second.claims, "it is free")


@ensureDeferred
async def test_of_two_that_ask_at_once_one_has_the_name(world: World) -> None:
    cluster = Cluster(world)
    await cluster.meets()
    echo = await world.echo()
    for node in cluster.nodes:
        cluster.client(node, f"http:app.example.org={HOST}:{echo.port}", f"https:app.example.org={HOST}:{echo.port}")
    for node in cluster.nodes:
        await cluster.serves(node, 2)
    assert sorted(len(node.claims) for node in cluster.nodes) == [0, 1]


@ensureDeferred
async def test_a_group_over_two_nodes_prefers_its_own(world: World) -> None:
    cluster = Cluster(world)
    second = cluster.nodes[1]
    await cluster.meets()
    port = free_port()
    services = [await world.service(), await world.service()]
    rules = Rules(group="web", group_key="k" * 16)
    clients = []
    for node, service in zip(cluster.nodes, services, strict=True):
        clients.append(cluster.client(node, f"tcp:{port}={HOST}:{service.port}", rules=rules))
    for node in cluster.nodes:
        await cluster.serves(node, 2)
    for _ in range(4):
        await world.visitor(port, to=HOSTS[1])
    await until(lambda: len(services[1].peers) == 4, "visitors at their own node")
    assert not services[0].peers
    await clients[1].stopService()
    await cluster.serves(second)
    await world.visitor(port, to=HOSTS[1])
    await until(lambda: len(services[0].peers) == 1, "a visitor crosses, as nobody is left here")


@ensureDeferred
async def test_a_node_without_the_directory_takes_no_new_visitors(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    echo, port = await world.echo(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{echo.port}", reconnect_max=0.1)
    await cluster.serves(second)
    before = await world.visitor(port)
    before.send(b"before")
    await before.has(b"before")
    cluster.shared.parted.add(first.directory.node)
    await until(lambda: not first.directory.is_sure, "the lease is over", LEASE + 30)
    for where in HOSTS[:2]:
        visitor = await world.visitor(port, to=where)
        await visitor.ends()
    before.send(b", after")
    await before.has(b"before, after")
    # Another client takes it at the other node.
    await until(lambda: not second.directory.nodes, "the lease has ended for the others too", LEASE + 30)
    service = await world.service()
    cluster.client(second, f"tcp:{port}={HOST}:{service.port}")
    await until(lambda: second.claims, "the other client has it")
    await world.visitor(port, to=HOSTS[1])
    await until(lambda: service.peers, "a visitor")
    # The first is back, and gives it up.
    cluster.shared.parted.clear()
    await until(lambda: not first.claims, "the first has given it up")
    await cluster.meets()
    await cluster.serves(first)
    await world.visitor(port)
    await until(lambda: len(service.peers) == 2, "a visitor at the first node")
    before.send(b"!")
    await before.has(b"before, after!")


@ensureDeferred
async def test_what_is_asked_for_while_the_directory_is_away_has_to_wait(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    cluster.shared.parted.add(first.directory.node)
    echo, port = await world.echo(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    assert Code.CLUSTER_AWAY in await world.logged("refused by the server")
    cluster.shared.parted.clear()
    await cluster.serves(second)


@ensureDeferred
async def test_links_of_one_process_are_one_owner(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    echo, port = await world.echo(), free_port()
    for number, node in enumerate((first, second, second)):
        client = cluster.client(node, f"tcp:{port}={HOST}:{echo.port}")
        client.link.number = number
        client.links.session_name = "ab" * 16
    for node in cluster.nodes:
        await cluster.serves(node, 3)
    assert [len(node.claims) for node in cluster.nodes] == [1, 1]


@ensureDeferred
async def test_a_token_of_no_node_opens_nothing(world: World) -> None:
    cluster = Cluster(world)
    first = cluster.nodes[0]
    await cluster.meets()
    link = await world.raw(first)
    link.send(hello(token="rtunnel-node " + "0" * 32))
    assert "unauthorized" in str(await link.take(ERROR))
    await turns()
    assert not first.sessions
    assert len(first.nodes.sessions) == 1


@ensureDeferred
async def test_a_client_passes_nothing_on(world: World) -> None:
    server = world.server()
    link = await world.raw(server)
    link.send(hello())
    await link.take(HELLO)
    link.put(INIT, 0, b'%d:x\n{"on-behalf":{"owner":"client x"}}' % free_port())
    assert "bad-request" in str(await link.take(ERROR))


@ensureDeferred
async def test_a_node_that_dies(world: World) -> None:
    cluster = Cluster(world, 3)
    first, second, third = cluster.nodes
    await cluster.meets()
    echo, port = await world.echo(), free_port()
    client = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    client.link.session_name = "cd" * 16
    await cluster.serves(second)
    # Its process is gone: nothing of it is said to anybody.
    cluster.shared.parted.add(first.directory.node)
    await client.stopService()
    first.stop_now()
    await first.stopService()
    again = cluster.client(second, f"tcp:{port}={HOST}:{echo.port}")
    again.link.session_name = "cd" * 16  # the same client, at another node
    await until(lambda: second.claims, "the client is back")
    await cluster.serves(third)
    visitor = await world.visitor(port, to=HOSTS[2])
    visitor.send(b"hello")
    await visitor.has(b"hello")


@ensureDeferred
async def test_status_shows_the_nodes_and_that_the_directory_is_away(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    found = look(first)
    assert found["ready"]
    assert not found["problems"]
    assert not found["clients"]
    (node,) = found["nodes"]
    assert node["node"] == second.directory.node
    assert node["address"] == second.control.local_address
    assert node["tunnels"] == node["visitors"] == 0
    echo, port = await world.echo(), free_port()
    cluster.client(second, f"tcp:{port}={HOST}:{echo.port}")
    await cluster.serves(first)
    visitor = await world.visitor(port, to=HOSTS[0])
    visitor.send(b"hello")
    await visitor.has(b"hello")
    assert look(first)["nodes"][0]["tunnels"] == 1
    assert look(second)["nodes"][0]["visitors"] == 1
    cluster.shared.parted.add(first.directory.node)
    assert "the directory of the cluster is away: it is parted from the others" in look(first)["problems"]
    await until(lambda: not first.directory.is_sure, "the lease is over")
    assert not look(first)["ready"]
    cluster.shared.parted.clear()


@ensureDeferred
async def test_alone_it_says_nothing_of_nodes(world: World) -> None:
    found = look(world.server())
    assert found["ready"]
    assert "nodes" not in found


@ensureDeferred
async def test_requests_on_a_kept_connection_do_not_go_to_a_node_whose_lease_is_over(world: World) -> None:
    cluster, first, second = await two_nodes(world)

    def build() -> Peer:
        peer = Peer()
        peer.on_data = lambda _data: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return peer

    service = await world.service(build)
    cluster.client(first, f"http:app.example.org={HOST}:{service.port}")
    await cluster.serves(second)
    visitor = await world.visitor(http_port(second), to=HOSTS[1])
    visitor.send(b"GET / HTTP/1.1\r\nHost: app.example.org\r\n\r\n")
    await until(lambda: visitor.received.endswith(b"ok"), "an answer")
    cluster.shared.parted.add(first.directory.node)
    await until(lambda: not second.directory.nodes, "its lease is over")
    count = sum(peer.count for peer in service.peers)
    visitor.received.clear()
    visitor.send(b"GET / HTTP/1.1\r\nHost: app.example.org\r\n\r\n")
    await until(lambda: b"HTTP/1.1 " in visitor.received or visitor.over, "no answer of the service")
    assert not visitor.received.startswith(b"HTTP/1.1 200")
    assert sum(peer.count for peer in service.peers) == count
    cluster.shared.parted.clear()


@ensureDeferred
async def test_links_follow_changed_settings(world: World) -> None:
    cluster = Cluster(world)
    first = cluster.nodes[0]
    await cluster.meets()
    first.settings = replace(first.settings, limits=replace(first.settings.limits, dead_after=77.0))
    first.nodes.look()
    (link,) = first.nodes.links
    assert link.settings.limits.dead_after == 77.0
    assert link.session is not None
    assert link.session.connected_now


@ensureDeferred
async def test_nobody_else_gets_what_a_client_has_while_its_node_drains(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtunnel.reverse.cluster.leaving.KEPT_FOR", PATIENCE)
    cluster, first, second = await two_nodes(world, drain=PATIENCE, hold=PATIENCE)
    echo, port = await world.echo(), free_port()
    holder = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}", f"http:app.example.org={HOST}:{echo.port}")
    await cluster.serves(second, 2)
    stopped = first.stopService()
    await until(lambda: not first.sessions, "the holder is on its way")
    for service in f"tcp:{port}", "http:app.example.org":
        other = cluster.client(second, f"{service}={HOST}:{echo.port}")
        await until(lambda other=other: _refusals(other), "another one is refused")  # type: ignore[misc]
        await other.stopService()
    assert not stopped.called
    holder.link.settings = replace(holder.settings, server=DialAddress.parse(second.control.local_address))
    await cluster.serves(second, 2)
    await stopped
    assert len(second.claims) == 2


@ensureDeferred
async def test_what_a_client_does_not_come_for_is_free(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtunnel.reverse.cluster.leaving.KEPT_FOR", 0.2)
    world.plane = "direct"
    cluster, first, second = await two_nodes(world, drain=PATIENCE)
    echo, port = await world.echo(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{echo.port}", limits=LinkLimits(dead_after=PATIENCE))
    await cluster.serves(second)
    visitor = await world.visitor(port)
    visitor.send(b"hello")
    await visitor.has(b"hello")
    stopped = first.stopService()
    await until(lambda: not first.claims, "nothing is kept any more")
    cluster.client(second, f"tcp:{port}={HOST}:{echo.port}")
    await until(lambda: second.claims, "another client has it")
    assert not stopped.called
    visitor.close()
    await stopped


@ensureDeferred
async def test_what_is_kept_while_the_directory_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtunnel.reverse.cluster.leaving.KEPT_FOR", 0.2)
    cluster, first, second = await two_nodes(world, drain=PATIENCE)
    echo = await world.echo()
    cluster.client(first, f"tcp:{free_port()}={HOST}:{echo.port}")
    await cluster.serves(second)
    cluster.shared.parted.add(first.directory.node)
    await first.stopService()
    assert not first.claims
    cluster.shared.parted.clear()


def _refusals(client: Any) -> list[str]:
    """Why the tunnels of *client* are refused."""
    session = client.link.session
    return [tunnel.refusal for tunnel in session._tunnels.values() if tunnel.refusal] if session is not None else []
