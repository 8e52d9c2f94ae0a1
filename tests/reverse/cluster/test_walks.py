"""Three servers, and clients, visitors and accidents that come by chance.

Whenever a client is given a visitor, nobody else may have its place: that is looked up in what the directories share.
Nothing depends on time: on a slow machine leases end by themselves, which is one accident more.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater

from rtunnel.access.public import Public
from rtunnel.access.rules import Rules
from rtunnel.cluster.times import Times
from rtunnel.reverse.cluster.claims import key_of
from rtunnel.reverse.public import Visitor
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.server.session import ServerSession
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.cluster.parts import Cluster, http_port, tunnels
from tests.reverse.net import HOST, Peer, reactor, until
from tests.reverse.world import World

TIMES = Times(lease=1.2, margin=0.2, renew_every=0.3)
STEPS = 150
WALKS = 4
#: Who wants which place: two that share one as a group, and three that do not.
GROUP = Rules(group="web", group_key="k" * 16)
NAME = "app.example.org"


class Checker:
    """Looks at each visitor who is given to a client.

    :ivar given: how many there were.
    """

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cluster = cluster
        self._numbers: dict[str, int] = {}
        self.faults: list[str] = []
        self.given = 0
        open_visitor = ServerSession.open_visitor

        def checked(session: ServerSession, tunnel: int, visitor: Visitor) -> bool:
            is_given = open_visitor(session, tunnel, visitor)
            backend = session.backends.get(tunnel)
            if is_given and not session.node and backend is not None and backend.public is not None:
                self._look(backend.public, backend.party, backend.number_of_claim)
            return is_given

        monkeypatch.setattr(ServerSession, "open_visitor", checked)

    def _look(self, public: Public, party: str, number: int) -> None:
        self.given += 1
        key, shared = key_of(public), self._cluster.shared
        held = shared._keys.get(key)
        if held is not None and shared.find(key, reactor.seconds()) and held.owner != party:
            self.faults.append(f"{public} is that of {held.owner}, and {party} got a visitor")
        if number < self._numbers.get(key, 0):
            self.faults.append(f"{public}: a visitor by claim {number}, behind one by {self._numbers[key]}")
        self._numbers[key] = max(number, self._numbers.get(key, 0))


def _is_up(peer: Peer) -> bool:
    return bool(peer.connected) and peer.lost is None


class Walk:
    """One of many possible histories.

    :param seed: which.
    """

    def __init__(self, world: World, cluster: Cluster, seed: int) -> None:
        self.world = world
        self.cluster = cluster
        self.chance = Random(seed)
        self.port = free_port()
        self.clients: list[Any] = []
        self.visitors: list[Peer] = []
        self.said: list[tuple[Peer, bytes]] = []
        self.echo = 0
        self.stopping: list[Any] = []
        for node in cluster.nodes:
            self._slow(node)
        self.actions: list[Callable[[], None]] = [
            *(self.client_comes,) * 4,
            *(self.client_goes,) * 2,
            *(self.client_is_lost,) * 2,
            *(self.visitor_comes,) * 12,
            *(self.visitor_goes,) * 6,
            self.part,
            *(self.join,) * 2,
            self.pause,
            *(self.go_on,) * 2,
            *(self.cut,) * 2,
            self.drain,
        ]

    def _slow(self, node: TunnelServer) -> None:
        """Let the directory take its time for claims, before and after it has decided."""
        directory: Any = node.directory
        claim = directory.claim

        async def late(*arguments: Any) -> Any:
            await deferLater(reactor, self.chance.choice((0.0, 0.0, 0.02)))
            claimed = await claim(*arguments)
            await deferLater(reactor, self.chance.choice((0.0, 0.0, 0.02)))
            return claimed

        directory.claim = late

    @property
    def node(self) -> TunnelServer:
        return self.chance.choice(self.cluster.nodes)

    def client_comes(self) -> None:
        if len(self.clients) == 6:
            return
        rules = GROUP if self.chance.random() < 0.4 else Rules()
        services = [f"tcp:{self.port}={HOST}:{self.echo}", f"http:{NAME}={HOST}:{self.echo}"]
        self.clients.append(self.cluster.client(self.node, *services, rules=rules))

    def client_goes(self) -> None:
        if self.clients:
            client = self.clients.pop(self.chance.randrange(len(self.clients)))
            self.stopping.append(client.stopService())

    def client_is_lost(self) -> None:
        self._abort_one(list(self.node.sessions))

    def cut(self) -> None:
        """A link between nodes breaks."""
        self._abort_one(list(self.node.nodes.sessions))

    def _abort_one(self, sessions: list[Any]) -> None:
        if sessions:
            self.chance.choice(sessions).transport.abortConnection()

    def visitor_comes(self) -> None:
        node = self.node
        is_http = self.chance.random() < 0.4
        peer = Peer()
        self.visitors.append(peer)
        where = http_port(node) if is_http else self.port
        text = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode() if is_http else b"visitor %d" % len(self.said)
        if not is_http:
            self.said.append((peer, text))

        def come(_: object) -> None:
            if _is_up(peer):
                peer.send(text)

        joined = self.world.join(where, peer, to=node.settings.public_interface)
        Deferred.fromCoroutine(joined).addCallbacks(come, lambda failure: failure.trap(ConnectError))

    def visitor_goes(self) -> None:
        if self.visitors:
            visitor = self.visitors.pop(self.chance.randrange(len(self.visitors)))
            if _is_up(visitor):
                self.chance.choice((visitor.abort, visitor.half_close, visitor.close))()

    def part(self) -> None:
        self.cluster.shared.parted.add(self.node.directory.node)

    def join(self) -> None:
        self.cluster.shared.parted.clear()

    def pause(self) -> None:
        """A node renews no lease."""
        self._renewals(self.node).stop()

    def go_on(self) -> None:
        for node in self.cluster.nodes:
            self._renewals(node).stop()
            self._renewals(node).start(TIMES.renew_every)

    @staticmethod
    def _renewals(node: TunnelServer) -> Any:
        directory: Any = node.directory
        return directory._renewals

    def drain(self) -> None:
        """A node ends, and another one begins in its place."""
        node = self.node
        host = node.settings.public_interface
        self.cluster.nodes.remove(node)
        stopped = node.stopService()
        node.stop_now()
        self.stopping.append(stopped)
        control = node.control.local_address
        stopped.addCallback(lambda _: self._start(host, control))

    def _start(self, host: str, control: str) -> None:
        self._slow(self.cluster.start(host, control=int(control.rpartition(":")[2]), drain=0.5, hold=0.5))

    async def go(self) -> None:
        self.echo = (await self.world.echo()).port
        for _ in range(STEPS):
            if self.cluster.nodes:
                self.chance.choice(self.actions)()
            await deferLater(reactor, self.chance.choice((0.0, 0.01, 0.05)))

    async def heal(self) -> None:
        self.join()
        self.go_on()
        for stopped in self.stopping:
            await stopped
        await self.cluster.meets()


async def served(world: World, port: int, node: TunnelServer) -> None:
    """Wait until a visitor of *node* is served. A node whose lease is not sure for a moment turns them away."""
    deadline = reactor.seconds() + PATIENCE
    while reactor.seconds() < deadline:
        visitor = await world.visitor(port, to=node.settings.public_interface)
        visitor.send(b"last")
        await until(lambda: visitor.over or len(visitor.received) >= 4, "an answer, or none")  # noqa: B023
        if not visitor.over:
            assert bytes(visitor.received) == b"last"
            visitor.abort()
            return
    raise AssertionError("nobody is served")


@pytest.mark.parametrize("seed", range(WALKS))
@ensureDeferred
async def test_a_place_has_one_owner_and_nothing_is_left(
    world: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.plane = ("mux", "direct")[seed % 2]
    cluster = Cluster(world, 3, times=TIMES, drain=0.5, hold=0.5)
    await cluster.meets()
    checker, walk = Checker(cluster, monkeypatch), Walk(world, cluster, seed)
    await walk.go()
    await walk.heal()
    # Whoever comes now is served everywhere.
    for client in walk.clients:
        await client.stopService()
    await until(lambda: not any(node.claims for node in cluster.nodes), "no claim is left")
    last = cluster.client(walk.node, f"tcp:{walk.port}={HOST}:{walk.echo}")
    for node in cluster.nodes:
        await cluster.serves(node)
        await served(world, walk.port, node)
    await last.stopService()
    for visitor in walk.visitors:
        if _is_up(visitor):
            visitor.abort()
    assert not checker.faults
    assert all(text.startswith(peer.received) for peer, text in walk.said), "a visitor got another one's bytes"
    assert any(peer.received for peer, _ in walk.said)
    assert checker.given > 5
    for node in cluster.nodes:
        await until(lambda node=node: not tunnels(node) and not node.claims, "no tunnel is left")  # type: ignore[misc]
        await until(lambda node=node: not node.visitors and not node.streams_left(), "nobody is left")  # type: ignore[misc]
        assert not node.sessions
        assert not node.nodes.carried
        assert not node.nodes._elsewhere
        assert not node.nodes._links_elsewhere
        await until(lambda node=node: not node.claims._locks, "no claim is asked for")  # type: ignore[misc]
        assert not node.nodes._answers
        assert not node.kept
        assert {link.node for link in node.nodes.links} == set(node.directory.nodes)
    assert not cluster.shared._keys
