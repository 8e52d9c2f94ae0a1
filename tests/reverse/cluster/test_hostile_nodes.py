"""Clients that pretend to be nodes, and nodes that say what they should not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.cluster.memory import MemoryDirectory
from rtunnel.reverse.cluster.claims import LET_GO
from rtunnel.reverse.cluster.nodes import INTRODUCE, INTRODUCED, KIND, MOST_INTRODUCED, TOKEN
from tests.ports import free_port
from tests.reverse.cluster.parts import HOSTS, Cluster, tunnels, two_nodes
from tests.reverse.net import ERROR, HELLO, HOST, INIT, READY, RawLink, hello, reactor, turns, until
from tests.reverse.world import World

ODD: list[Any] = [None, 0, "", "x" * 100_000, [], {}, [1], {"a": 1}, True, "\0\ud800", TOKEN, 1e308]


class Stranger:
    """A node by hand: whoever can write to the directory."""

    def __init__(self, cluster: Cluster) -> None:
        self.directory = MemoryDirectory(reactor, cluster.shared)
        self.directory.startService()

    async def link(self, world: World, node: Any) -> RawLink:
        """A link to *node*, which lets it in as that of a node."""
        token = TOKEN + "5" * 32
        assert await self.directory.send(node.directory.node, INTRODUCE, {"token": token})
        await until(lambda: token in node.nodes._introduced, "the introduction")
        link = await world.raw(node)
        link.send(hello(token=token, capabilities=["withdraw", "rules", "hosts"]))
        await link.take(HELLO)
        return link

    async def stop(self) -> None:
        await self.directory.stopService()


def init(port: int, **behalf: Any) -> bytes:
    return b"%d:x\n" % port + json.dumps({"on-behalf": behalf}).encode()


async def is_refused(world: World, node: Any, token: str) -> None:
    host, _, port = node.control.local_address.rpartition(":")
    link: RawLink = await world.join(int(port), RawLink(), to=host)
    link.send(hello(token=token))
    assert "unauthorized" in str(await link.take(ERROR))
    await link.ends()


@ensureDeferred
async def test_an_introduction_is_good_once(world: World) -> None:
    _, first, second = await two_nodes(world)
    (link,) = second.nodes.links
    token = link._hello.token
    assert token is not None
    assert token.startswith(TOKEN)
    await is_refused(world, first, token)
    # And it is good at one node.
    await is_refused(world, second, await second.nodes.introduce(first.directory.node))


@ensureDeferred
async def test_an_introduction_is_not_good_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, second = await two_nodes(world)
    monkeypatch.setattr("rtunnel.reverse.cluster.nodes.GOOD_FOR", -1.0)
    await is_refused(world, first, await second.nodes.introduce(first.directory.node))


@ensureDeferred
async def test_a_node_passes_on_only_what_is_somebodys(world: World) -> None:
    cluster = Cluster(world)
    first = cluster.nodes[0]
    await cluster.meets()
    stranger = Stranger(cluster)
    link = await stranger.link(world, first)
    port = free_port()
    bad = [b"%d:x" % port, init(port), init(port, owner=""), init(port, owner="x", number=-1), init(port, owner=["x"])]
    for number, each in enumerate(bad):
        link.put(INIT, number, each)
        assert "bad-request" in str(await link.take(ERROR, number))
    link.put(INIT, 90, init(port, owner="client x"))
    await link.take(READY, 90)
    # No client of another node has its name by that: its rights are those of the clients file.
    link.put(INIT, 91, init(0, owner="client x"))
    assert "no-shared-port" in str(await link.take(ERROR, 91))
    assert not first.sessions
    link.abort()
    await cluster.serves(first, 0)
    await stranger.stop()


@ensureDeferred
async def test_a_node_whose_lease_is_over_gets_no_tunnel(world: World) -> None:
    cluster = Cluster(world)
    first = cluster.nodes[0]
    await cluster.meets()
    stranger = Stranger(cluster)
    link = await stranger.link(world, first)
    await stranger.stop()
    await until(lambda: not first.nodes.knows(stranger.directory.node), "it is gone")
    link.put(INIT, 0, init(free_port(), owner="client x"))
    assert "cluster-away" in str(await link.take(ERROR, 0))


@ensureDeferred
async def test_messages_that_make_no_sense(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    echo, port = await world.echo(), free_port()
    cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    await cluster.serves(second)
    stranger = Stranger(cluster)
    for odd in ODD:
        for kind in (INTRODUCE, INTRODUCED, LET_GO):
            for message in ({"token": odd, "key": odd}, {str(odd): odd}, {}):
                await stranger.directory.send(first.directory.node, kind, message)
        for about in ({"kind": KIND, "control": odd}, {"kind": odd}, {"control": odd}, {}):
            stranger.directory.announce(about)
        await turns(1)
    for number in range(2 * MOST_INTRODUCED):
        await stranger.directory.send(first.directory.node, INTRODUCE, {"token": f"{TOKEN}{number}"})
    await turns()
    assert len(first.nodes._introduced) <= MOST_INTRODUCED
    assert len(world.lines("cannot be reached")) <= len(ODD) * len(cluster.nodes)
    visitor = await world.visitor(port, to=HOSTS[1])
    visitor.send(b"hello")
    await visitor.has(b"hello")
    await stranger.stop()
    await until(lambda: len(first.nodes.links) == 1, "its link is given up")


@ensureDeferred
async def test_a_thousand_names_that_come_and_go(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    link = await world.raw_extended(first, capabilities=["withdraw", "hosts"])
    for number in range(1000):
        link.put(INIT, number, b"http/a%d.example.org:x" % (number % 7))
        link.put(ERROR, number, b'{"code":"shutting-down","message":""}')
        if not number % 100:
            await link.is_alive()
    await link.is_alive()
    await until(lambda: not first.claims and not cluster.shared._keys, "no claim is left")
    await until(lambda: not tunnels(first) and not tunnels(second), "no tunnel is left")
    assert not first.claims._locks
    assert not first.nodes.carried
    (there,) = first.nodes.links
    await until(lambda: not there.session._tunnels, "nothing of them is left at the link")  # type: ignore[union-attr]
