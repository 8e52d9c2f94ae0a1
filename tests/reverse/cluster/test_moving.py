"""A client goes from one node to another, and its streams on data connections go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.tokens import parse_tokens
from rtunnel.addresses import DialAddress
from rtunnel.reverse.cluster.claims import link_of
from rtunnel.wire.limits import LinkLimits
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.cluster.parts import HOSTS, Cluster, two_nodes
from tests.reverse.net import HOST, until
from tests.reverse.world import World

TOKENS = AdmissionSettings(tokens=parse_tokens(["laptop:0123456789abcdef", "phone:fedcba9876543210"]))
LAPTOP, PHONE = "0123456789abcdef", "fedcba9876543210"


def lead_to(client: Any, node: Any) -> None:
    """Let the next link of *client* lead to *node*."""
    where = DialAddress.parse(node.control.local_address)
    client.link.use(replace(client.settings, server=where))


@ensureDeferred
async def test_streams_are_kept_as_long_as_the_client_is_elsewhere(world: World) -> None:
    world.plane = "direct"
    quick = LinkLimits(keepalive_interval=0.1, dead_after=1.5)
    cluster, first, second = await two_nodes(world, limits=quick)
    echo, port = await world.echo(), free_port()
    client = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}", limits=LinkLimits(dead_after=PATIENCE))
    await cluster.serves(second)
    visitor = await world.visitor(port)
    visitor.send(b"one")
    await visitor.has(b"one")
    lead_to(client, second)
    await until(lambda: second.claims and not first.claims, "the client is at the other node")
    await cluster.serves(first)
    (kept,) = first.kept._kept.values()
    kept.until = 0.0
    first.kept._look()
    visitor.send(b"two")
    await visitor.has(b"onetwo")
    # When it leaves the other node too, nobody waits any longer.
    await client.stopService()
    await cluster.serves(first, 0)
    first.kept._look()
    await visitor.ends()


@ensureDeferred
async def test_streams_go_on_with_a_node_that_has_not_reached_the_directory_yet(world: World) -> None:
    """As one that has just been started again: in a rolling restart, the next node that drains sends clients to it."""
    world.plane = "direct"
    cluster = Cluster(world, 1)
    (first,) = cluster.nodes
    second = cluster.start(HOSTS[1], is_parted=True)
    echo, port = await world.echo(), free_port()
    client = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    await cluster.serves(first)
    visitor = await world.visitor(port)
    visitor.send(b"one")
    await visitor.has(b"one")
    lead_to(client, second)
    (session,) = first.sessions
    session.transport.abortConnection()
    await until(lambda: second.sessions, "the client is at the other node")
    visitor.send(b"two")
    await visitor.has(b"onetwo")


@ensureDeferred
async def test_a_node_drains_while_its_visitors_go_on(world: World) -> None:
    world.plane = "direct"
    cluster, first, second = await two_nodes(world, drain=PATIENCE)
    echo, port = await world.echo(), free_port()
    client = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    await cluster.serves(second)
    own = await world.visitor(port)
    crossing = await world.visitor(port, to=HOSTS[1])
    for visitor in (own, crossing):
        visitor.send(b"one")
        await visitor.has(b"one")
    # As a client does that knows several servers.
    client.link.settings = replace(client.settings, server=DialAddress.parse(second.control.local_address))
    stopped = first.stopService()
    await until(lambda: second.claims, "the client is at the other node")
    await cluster.serves(second)
    for visitor in (own, crossing):
        visitor.send(b"two")
        await visitor.has(b"onetwo")
    new = await world.visitor(port, to=HOSTS[1])
    new.send(b"new")
    await new.has(b"new")
    assert not stopped.called
    for visitor in (own, crossing):
        visitor.half_close()
        await visitor.ends()
        assert not visitor.was_reset
    await stopped
    await until(lambda: not second.directory.nodes, "it has left the directory")


@ensureDeferred
async def test_visitors_at_other_nodes_wait_for_a_client_that_is_lost(world: World) -> None:
    world.plane = "direct"
    cluster, first, second = await two_nodes(world, hold=PATIENCE)
    echo, port = await world.echo(), free_port()
    client = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}", reconnect_min=0.3, reconnect_max=0.3)
    await cluster.serves(second)
    (session,) = first.sessions
    session.transport.abortConnection()
    await cluster.serves(second, 0)
    visitor = await world.visitor(port, to=HOSTS[1])
    visitor.send(b"hello")
    await visitor.has(b"hello")
    # When it leaves in good order, nobody waits.
    await client.stopService()
    await until(lambda: not first.ports.groups and not second.ports.groups, "the port is free at both nodes")


@ensureDeferred
async def test_visitors_wait_at_both_nodes_for_a_client_that_is_started_again(world: World) -> None:
    """Both nodes have lost it. Each of them knows it again, whichever of its links comes first."""
    cluster, first, second = await two_nodes(world, hold=PATIENCE)
    echo, port = await world.echo(), free_port()
    publish, both = f"tcp:{port}={HOST}:{echo.port}", (DialAddress.parse(second.control.local_address),)
    client = cluster.client(first, publish, links=2, other_servers=both)
    for node in cluster.nodes:
        await cluster.serves(node, 2)
    await is_killed(client, cluster)
    visitors = [await world.visitor(port, to=host) for host in HOSTS[:2]]
    await until(lambda: all(len(node.visitors) for node in cluster.nodes), "they wait")
    cluster.client(first, publish, links=2, other_servers=both)
    for visitor in visitors:
        visitor.send(b"hello")
        await visitor.has(b"hello")


@pytest.mark.parametrize("is_same", [True, False])
@ensureDeferred
async def test_who_is_waited_for_at_other_nodes(world: World, is_same: bool) -> None:
    """A client that is known by its name, whichever node it comes back to; not another one that takes the place."""
    cluster, first, second = await two_nodes(world, hold=PATIENCE, admission=TOKENS)
    echo, port = await world.echo(), free_port()
    publish = f"tcp:{port}={HOST}:{echo.port}"
    client = cluster.client(first, publish, token=LAPTOP)
    await cluster.serves(second)
    await is_killed(client, cluster)
    visitor = await world.visitor(port, to=HOSTS[1])
    await until(lambda: len(second.visitors), "he waits")
    if is_same:
        cluster.client(second, publish, token=LAPTOP)
        visitor.send(b"hello")
        await visitor.has(b"hello")
    else:
        cluster.client(first, publish, token=PHONE)
        await until(lambda: visitor.over, "he has waited for somebody else")


async def is_killed(client: Any, cluster: Cluster) -> None:
    """All links of *client* are lost, and it makes no others."""
    for node in cluster.nodes:
        for session in node.sessions:
            session.transport.abortConnection()
    await client.stopService()
    for node in cluster.nodes:
        await cluster.serves(node, 0)


@ensureDeferred
async def test_where_a_client_is_is_known_without_a_look_at_all_tunnels(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node with thousands of lost links asks for each of them, once a second."""
    cluster, first, second = await two_nodes(world)
    echo = await world.echo()
    client = cluster.client(first, *(f"tcp:{free_port()}={HOST}:{echo.port}" for _ in range(2)))
    await cluster.serves(second, 2)
    (session,) = first.sessions
    assert session.known_as is not None
    link = link_of(session.known_as)
    with monkeypatch.context() as patched:
        patched.setattr(second.nodes, "sessions", None)
        assert second.nodes.has_client(link)
    assert not first.nodes.has_client(link)
    await client.stopService()
    await cluster.serves(second, 0)
    assert not second.nodes.has_client(link)


@pytest.mark.parametrize("drain", [PATIENCE, 0.0])
@ensureDeferred
async def test_visitors_at_other_nodes_wait_for_clients_of_a_node_that_stops(world: World, drain: float) -> None:
    world.plane = "direct"
    cluster, first, second = await two_nodes(world, hold=PATIENCE, drain=drain)
    echo, port = await world.echo(), free_port()
    client = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}", reconnect_min=3.0, reconnect_max=3.0)
    await cluster.serves(second)
    client.link.settings = replace(client.settings, server=DialAddress.parse(second.control.local_address))
    stopped = first.stopService()
    await cluster.serves(second, 0)
    assert second.ports.groups, "its visitors are turned away"
    visitor = await world.visitor(port, to=HOSTS[1])
    visitor.send(b"hello")
    await stopped
    await until(lambda: not second.directory.nodes, "the node has left the directory")
    await visitor.has(b"hello")


@ensureDeferred
async def test_visitors_wait_for_clients_of_a_node_whose_lease_is_over(world: World) -> None:
    cluster, first, second = await two_nodes(world, hold=PATIENCE)
    echo, port = await world.echo(), free_port()
    client = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    await cluster.serves(second)
    cluster.shared.parted.add(first.directory.node)  # nobody says that its links are lost
    await cluster.serves(second, 0)
    assert second.ports.groups, "its visitors are turned away"
    visitor = await world.visitor(port, to=HOSTS[1])
    visitor.send(b"hello")
    lead_to(client, second)
    await visitor.has(b"hello")
    cluster.shared.parted.clear()


@ensureDeferred
async def test_a_client_that_does_not_answer_gives_way_to_one_at_another_node(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtunnel.reverse.server.take_over.TAKE_OVER_AFTER", 0.2)
    cluster, first, second = await two_nodes(world, hold=PATIENCE, limits=LinkLimits(dead_after=PATIENCE))
    port = free_port()
    await world.raw_extended(first, port)  # it answers no PING
    await cluster.serves(second)
    echo = await world.echo()
    cluster.client(second, f"tcp:{port}={HOST}:{echo.port}")
    await until(lambda: second.claims, "the other client has it")
    visitor = await world.visitor(port, to=HOSTS[1])
    visitor.send(b"hello")
    await visitor.has(b"hello")
    assert world.lines("a client of another node asks for what it has")
