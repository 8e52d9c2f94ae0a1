"""Nodes whose links have TLS: each shows the certificate that it shows its clients."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.errors import ConfigError
from tests.ports import free_port
from tests.reverse.cluster.parts import HOSTS, Cluster, tunnels, two_nodes
from tests.reverse.net import HOST, until
from tests.reverse.world import World
from tests.tls.parts import Authority


def of_nodes(authority: Authority, **more: Any) -> list[dict[str, Any]]:
    """Settings of three nodes, each with a certificate of its own."""
    return [
        {"tls": authority.trusts(authority.issue(f"node{number}", None, hosts=[host])), **more}
        for number, host in enumerate(HOSTS)
    ]


@ensureDeferred
async def test_a_visitor_crosses(world: World, authority: Authority) -> None:
    world.plane = "direct"
    cluster, first, second = await two_nodes(world, settings=of_nodes(authority))
    echo, port = await world.echo(), free_port()
    tls = authority.trusts(authority.client(), server_name=HOSTS[0])
    cluster.client(first, f"tcp:{port}={HOST}:{echo.port}", tls=tls)
    await cluster.serves(second)
    visitor = await world.visitor(port, to=HOSTS[1])
    visitor.send(b"hello" * 10_000)
    await visitor.has(b"hello" * 10_000)
    (session,) = second.nodes.sessions
    assert session.identity is not None
    assert session.identity.name == "node0"


@ensureDeferred
async def test_the_rights_of_the_client_hold_at_each_node(world: World, authority: Authority, tmp_path: Any) -> None:
    world.plane = "direct"
    port = free_port()
    clients = []
    for number, ports in enumerate((f"{port}", "1024-1030")):
        clients.append(tmp_path / f"clients{number}.yaml")
        clients[-1].write_text(f"laptop:\n  ports: '{ports}'\n")
    settings = of_nodes(authority)
    for own, path in zip(settings, clients, strict=False):
        own["admission"] = AdmissionSettings(path)
    cluster, first, second = await two_nodes(world, settings=settings)
    echo = await world.echo()
    tls = authority.trusts(authority.client(), server_name=HOSTS[0])
    cluster.client(first, f"tcp:{port}={HOST}:{echo.port}", tls=tls)
    await cluster.serves(first)
    await world.logged("is not among those allowed to this client")
    assert not tunnels(second)


@ensureDeferred
async def test_a_nodes_certificate_alone_opens_nothing(world: World, authority: Authority, tmp_path: Any) -> None:
    world.plane = "direct"
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {}\n")
    cluster = Cluster(world, 2, of_nodes(authority, admission=AdmissionSettings(clients)))
    await cluster.meets()
    tls = authority.trusts(authority.issue("node1", None, hosts=[HOSTS[1]]), server_name=HOSTS[0])
    cluster.client(cluster.nodes[0], f"tcp:{free_port()}={HOST}:1", tls=tls)
    await world.logged("the clients file does not let 'node1' in")
    cluster.client(cluster.nodes[0], f"tcp:{free_port()}={HOST}:1", tls=tls, token="rtunnel-node " + "0" * 32)
    await world.logged("no node of this cluster has told of this link")
    await until(lambda: len(cluster.nodes[0].nodes.sessions) == 1, "no other node")
    assert not cluster.nodes[0].sessions


def test_a_certificate_for_servers_only_ends_the_start(world: World, authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"rtunnel pki renew"):
        Cluster(world, 1, [{"tls": authority.trusts(authority.server())}])
