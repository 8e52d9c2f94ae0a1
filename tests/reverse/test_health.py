"""Health checks at a client, and what its server makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel

from rtunnel.access.rules import read_rules
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.options.settings.published import published
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.services.health_settings import HealthSettings
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.net import BOTH_PLANES, HELLO, HOST, INIT, READY, LocalService, Peer, hello, reactor, turns, until
from tests.reverse.world import World, port_of

STATE = 0x1C
RULES = ["withdraw", "rules"]
GROUP = {"group": "web", "group-key": "1d8bdd3c5ad1ee8a"}
QUICK = HealthSettings("/healthz", interval=0.1, timeout=PATIENCE, fall=2, rise=2)
SELDOM = replace(QUICK, interval=3600.0)


class Machine:
    """A client, and its service, whose pages have its name.

    :ivar status: what /healthz answers.
    :ivar visitors: requests for other pages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.checks = self.visitors = 0
        self.local: LocalService
        self.client: TunnelClient

    def build(self) -> Peer:
        peer = Peer()
        peer.on_data = lambda _data: self.answer(peer)
        return peer

    def answer(self, peer: Peer) -> None:
        if not peer.received.endswith(b"\r\n\r\n"):
            return
        is_check = peer.received.startswith(b"GET /healthz ")
        peer.received.clear()
        self.checks += is_check
        self.visitors += not is_check
        status, name = self.status if is_check else 200, self.name.encode()
        head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(name))
        peer.send(head + name)

    async def start(self, world: World, server: Any, tunnel: TunnelSettings, **settings: Any) -> Machine:
        self.local = await world.service(self.build)
        await self.connect(world, server, tunnel, **settings)
        return self

    async def connect(self, world: World, server: Any, tunnel: TunnelSettings, **settings: Any) -> None:
        tunnel = replace(tunnel, local=DialAddress.parse(f"{HOST}:{self.local.port}"), name=self.name)
        common: dict[str, Any] = {"data_plane": world.plane, "drain": 5.0, "reconnect_min": 0.05, "reconnect_max": 0.2}
        where = DialAddress.parse(f"{HOST}:{world.control_port(server)}")
        before = len(world.lines("is published", tunnel=True))
        self.client = world.start(TunnelClient(reactor, ClientSettings(where, (tunnel,), **common | settings)))
        await world.reachable(before + 1)

    @property
    def number_of_links(self) -> int:
        return self.client.link.session is not None


def tunnel(kind: str, health: HealthSettings = QUICK) -> TunnelSettings:
    """What all machines publish: a port of their own group, the shared port, or a host name."""
    nowhere = DialAddress.parse("80")
    if kind == "shared":
        return TunnelSettings(0, nowhere, health=health)
    if kind == "http":
        (named,) = published("http:app.example.org=80")
        return replace(named, rules=read_rules(GROUP), health=health)
    return TunnelSettings(free_port(), nowhere, rules=read_rules(GROUP, "tcp"), health=health)


class Place:
    """A server with two machines behind one place."""

    def __init__(self, world: World, kind: str) -> None:
        self._world = world
        self.server = world.server(shared=True, http_listen=ListenAddress.parse(f"{HOST}:0"))
        self.tunnel = tunnel(kind)
        self._port = {"http": lambda: port_of(self.server.named.listeners["http"])}.get(
            kind, lambda: self.tunnel.remote_port or port_of(self.server.shared)
        )

    async def machine(self, name: str) -> Machine:
        return await Machine(name).start(self._world, self.server, self.tunnel)

    async def visit(self) -> str:
        """Ask for a page; return whose it is, or nothing."""
        visitor = await self._world.visitor(self._port())
        visitor.send(b"GET / HTTP/1.1\r\nHost: app.example.org\r\nConnection: close\r\n\r\n")
        await until(lambda: visitor.received[-1:].isalpha() or visitor.over)
        visitor.abort()
        return visitor.received.rpartition(b"\r\n\r\n")[2].decode()

    async def visits(self, count: int = 8) -> set[str]:
        return {await self.visit() for _ in range(count)}


@pytest.mark.parametrize("kind", ["group", "shared", "http"])
@BOTH_PLANES
@ensureDeferred
async def test_one_that_fails_gets_no_visitor_until_it_passes(world: World, kind: str) -> None:
    place = Place(world, kind)
    good, ill = [await place.machine(name) for name in ("good", "ill")]
    assert await place.visits() == {"good", "ill"}
    ill.status = 503
    where = "out of its group" if kind != "shared" else "others go first on the shared port"
    line = f"ill: the service at {HOST}:{ill.local.port} fails its health check (status 503): {where} until it passes 2"
    await world.logged(line, LogLevel.warn)
    await world.logged("fails its health check (status 503)", LogLevel.info)
    assert await place.visits() == {"good"}
    good.status = 503
    await world.logged(f"good: the service at {HOST}:{good.local.port} fails")
    await until(lambda: len(world.lines("fails its health check (status 503)", LogLevel.info)) == 2)
    assert await place.visits() <= {"good", "ill"}, "better than nobody"
    ill.status = 200
    await world.logged(f"ill: the service at {HOST}:{ill.local.port} passes its health check again", LogLevel.info)
    await until(lambda: len(world.lines("passes its health check again", LogLevel.info)) >= 2)
    assert await place.visits() == {"ill"}
    good.status = 200
    await until(lambda: len(world.lines("passes its health check again", LogLevel.info)) >= 4)
    assert await place.visits() == {"good", "ill"}


@ensureDeferred
async def test_visitors_that_are_refused_take_it_out_before_the_next_check(world: World) -> None:
    place = Place(world, "group")
    place.tunnel = replace(place.tunnel, health=SELDOM)
    await place.machine("good")
    ill = await place.machine("ill")
    assert await place.visits() == {"good", "ill"}
    await world.stop_service(ill.local)
    for _ in range(8):
        await place.visit()
    await world.logged(f"ill: the service at {HOST}:{ill.local.port} fails its health check (connection refused)")
    assert len(world.lines("ill: local service", LogLevel.warn)) == 1, "the one before the one that took it out"
    assert await place.visits() == {"good"}
    assert ill.checks == 1


@ensureDeferred
async def test_it_stays_out_when_its_link_is_lost(world: World) -> None:
    """The server knows before it says that the tunnel is published."""
    place = Place(world, "group")
    place.tunnel = replace(place.tunnel, health=SELDOM)
    await place.machine("good")
    ill = await Machine("ill").start(world, place.server, replace(place.tunnel, health=replace(SELDOM, fall=1)))
    await world.stop_service(ill.local)
    while not world.lines("ill: the service at"):
        await place.visit()
    assert await place.visits() == {"good"}
    for count in (3, 4):
        assert ill.client.link.session is not None
        ill.client.link.session.transport.abortConnection()
        await world.reachable(count)
        states = [backend.is_ready for session in place.server.sessions for backend in session.backends.values()]
        assert sorted(states) == [False, True]
        assert await place.visits() == {"good"}


@ensureDeferred
async def test_state_comes_right_behind_init(world: World) -> None:
    """Before READY, so that no visitor comes in between."""
    server = await world.raw_server()
    ill = Machine("ill")
    ill.status = 503
    ill.local = await world.service(ill.build)
    shared = tunnel("shared", SELDOM)
    connecting = ill.connect(world, server.port, shared)
    ready = Deferred.fromCoroutine(connecting)
    link: Any = await server.peer()
    link.put(HELLO, 0, hello(capabilities=RULES)[9:])
    await link.take(INIT)
    link.put(READY, 0, b'{"address": "127.0.0.1:8080"}')
    assert await link.take_json(STATE) == {"ready": False, "why": "status 503"}
    await ready
    link.abort()
    link = await server.peer(1)
    link.put(HELLO, 0, hello(capabilities=RULES)[9:])
    await link.take(INIT)
    assert await link.take_json(STATE, 0) == {"ready": False, "why": "status 503"}
    link.put(READY, 0, b'{"address": "127.0.0.1:8080"}')
    await until(lambda: len(world.lines("fails its health check", LogLevel.warn)) == 2)
    await turns()
    assert STATE not in [kind for kind, _, _ in link.frames]
    assert ill.checks == len(ill.local.peers) == 1, "nothing else looks whether it answers"


@pytest.mark.parametrize(
    ("kind", "capabilities", "why"),
    [
        ("own", RULES, "visitors still come, as it is in no group"),
        ("shared", ["withdraw"], "visitors still come, as this server cannot be told"),
    ],
)
@ensureDeferred
async def test_the_log_says_that_visitors_still_come(
    world: World, kind: str, capabilities: list[str], why: str
) -> None:
    server = await world.raw_server()
    ill = Machine("ill")
    ill.status = 503
    ill.local = await world.service(ill.build)
    own = tunnel("shared", SELDOM) if kind == "shared" else replace(tunnel("group", SELDOM), rules=read_rules({}))
    ready = Deferred.fromCoroutine(ill.connect(world, server.port, own))
    link: Any = await server.peer()
    link.put(HELLO, 0, hello(capabilities=capabilities)[9:])
    await link.take(INIT)
    link.put(READY, 0, b'{"address": "127.0.0.1:8080"}')
    await ready
    (line,) = world.lines("127.0.0.1:8080 is published; the service at ")
    assert line.endswith(f" fails its health check (status 503): {why}")
    await turns()
    assert (STATE in link.seen) is ("rules" in capabilities)


@ensureDeferred
async def test_checks_end_with_the_tunnel(world: World) -> None:
    """A client that drains withdraws its tunnels first."""
    place = Place(world, "group")
    machine = await place.machine("one")
    await until(lambda: machine.checks > 2)
    visitor = await world.visitor(place.tunnel.remote_port)
    visitor.send(b"GET")
    await machine.local.peer(machine.checks)
    stopping = machine.client.stopService()
    await until(lambda: not len(place.server.ports))
    checks = machine.checks
    await turns(200)
    assert machine.checks <= checks + 1
    visitor.abort()
    await stopping


@ensureDeferred
async def test_a_flood_of_states_does_not_fill_the_log(world: World) -> None:
    server = world.server(shared=True)
    link = await world.raw_extended(server, capabilities=RULES)
    link.put(INIT, 0, b"0:local")
    await link.take(READY, 0)
    why = "x" * 2000
    for _ in range(2000):
        link.put(STATE, 0, json.dumps({"ready": False, "why": why}).encode())
        link.put(STATE, 0, b'{"ready": true}')
    link.put(STATE, 0, b'{"ready": false}')
    (session,) = await world.sessions(server, 1)
    await until(lambda: not session.backends[0].is_ready and not link.transport.dataBuffer)
    lines = world.lines("its service of")
    assert len(lines) <= 2000
    assert max(map(len, lines)) < 600
