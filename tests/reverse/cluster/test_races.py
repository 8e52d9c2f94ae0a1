"""What happens at once: claims that are made late, clients that go meanwhile, and what must not be left over."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from rtunnel.options.settings.published import published
from rtunnel.reverse.server.service import TunnelServer
from tests.ports import free_port
from tests.reverse.cluster.parts import Cluster, two_nodes
from tests.reverse.net import HOST, turns, until
from tests.reverse.world import World


class Gate:
    """Lets claims of a node wait before or after the directory has decided about them."""

    def __init__(self, node: TunnelServer, *, before: bool = True) -> None:
        self.waiting: list[Deferred[None]] = []
        self.is_open = False
        directory: Any = node.directory
        claim = directory.claim

        async def late(*arguments: Any) -> Any:
            if before:
                await self._pass()
            claimed = await claim(*arguments)
            if not before:
                await self._pass()
            return claimed

        directory.claim = late

    async def _pass(self) -> None:
        if not self.is_open:
            self.waiting.append(Deferred())
            await self.waiting[-1]

    def open(self) -> None:
        self.is_open = True
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(None)


def owners(node: TunnelServer) -> set[bool]:
    """Whether those who serve at *node* are those for whom it holds their places."""
    groups = (*node.ports.groups, *node.names.groups)
    own = [backend for group in groups for backend in group if not backend.is_elsewhere]
    return {backend.claim is not None and backend.claim.owner == backend.party for backend in own}


@pytest.mark.parametrize("service", ["tcp:{port}", "http:app.example.org"])
@ensureDeferred
async def test_two_that_ask_at_one_node_while_the_directory_is_slow(world: World, service: str) -> None:
    cluster, first, second = await two_nodes(world)
    gate, echo = Gate(first), await world.echo()
    what = f"{service.format(port=free_port())}={HOST}:{echo.port}"
    cluster.client(first, what)
    cluster.client(first, what)
    await until(lambda: sum(len(session.backends) for session in first.sessions) == 2, "both have asked")
    gate.open()
    await cluster.serves(second)
    assert owners(first) == {True}
    assert len(first.claims) == 1


@ensureDeferred
async def test_one_that_goes_while_its_claim_is_made(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    gate, echo, port = Gate(first, before=False), await world.echo(), free_port()
    gone = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    await until(lambda: gate.waiting, "its claim is made")
    other = cluster.client(first, f"tcp:{port}={HOST}:{echo.port}")
    await until(lambda: sum(len(session.backends) for session in first.sessions) == 2, "the other has asked")
    await gone.stopService()
    gate.open()
    await cluster.serves(second)
    assert owners(first) == {True}
    await other.stopService()
    await until(lambda: not first.claims and not cluster.shared._keys, "nothing is left")


@ensureDeferred
async def test_paths_that_come_and_go_leave_nothing(world: World) -> None:
    cluster = Cluster(world, 1)
    (node,) = cluster.nodes
    echo = await world.echo()
    client = cluster.client(node, f"http:app.example.org={HOST}:{echo.port}")
    await cluster.serves(node)
    tunnels = client.settings.tunnels
    for number in range(5):
        more = published(f"http:app.example.org/{number}={HOST}:{echo.port}")
        client.links.wanted.use([*tunnels, *more])
        await client.link.session.sync()
        await cluster.serves(node, 2)
        client.links.wanted.use(tunnels)
        await client.link.session.sync()
        await cluster.serves(node)
    (held,) = node.claims._held.values()
    assert len(held.groups) == 1


@ensureDeferred
async def test_a_tunnel_is_asked_for_with_the_number_that_its_claim_has_now(world: World) -> None:
    cluster, first, second = await two_nodes(world)
    echo = await world.echo()
    cluster.client(first, f"tcp:{free_port()}={HOST}:{echo.port}")
    await cluster.serves(second)
    ((backend, carried),) = first.nodes.carried.items()
    assert backend.claim is not None
    backend.claim.number += 7  # as after a lease that has ended, and is renewed
    assert carried.request.behalf is not None
    assert carried.request.behalf.number == backend.claim.number


@ensureDeferred
async def test_one_tunnel_more_is_told_without_a_look_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, first, second = await two_nodes(world)
    links = [link for node in cluster.nodes for link in node.nodes.links]
    await until(
        lambda: all(link.session is not None and link.session.link.is_extended for link in links),
        "both ends know of it",
    )
    looks: list[object] = []

    def look(tunnels: object) -> Iterator[Any]:
        looks.append(tunnels)
        return iter(())

    monkeypatch.setattr("rtunnel.reverse.cluster.link._CarriedTunnels.__iter__", look)
    echo = await world.echo()
    client = cluster.client(first, f"tcp:{free_port()}={HOST}:{echo.port}")
    await cluster.serves(second)
    await client.stopService()
    await cluster.serves(second, 0)
    assert not looks


@pytest.mark.parametrize("listens", [True, False])
@ensureDeferred
async def test_an_introduction_that_takes_too_long(
    world: World, monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    _, first, second = await two_nodes(world)
    monkeypatch.setattr("rtunnel.reverse.cluster.nodes.ANSWER_IN", 0.0)

    async def send(*_: object) -> bool:
        await turns()
        return listens

    monkeypatch.setattr(first.directory, "send", send)
    assert not await first.nodes.introduce(second.directory.node)
    assert not first.nodes._answers
    gc.collect()  # which would show an error that nobody has taken
