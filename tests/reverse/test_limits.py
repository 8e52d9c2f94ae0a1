"""Who may come to a port, and how often: by the rules of its tunnel, and by what the clients file says."""

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.rules import Rules
from rtunnel.reverse.public import Owner
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.server.session import ServerSession
from tests.ports import free_port
from tests.reverse.data import pool_of
from tests.reverse.net import BOTH_PLANES, HOST, INIT, NEW_CONN, READY, LocalService, Peer, RawLink, turns, until
from tests.reverse.world import NO_RULES, World, port_of

NOTICE = 0x1D
CAPABILITIES = ["withdraw", "hosts", "rules", "udp"]
OTHER = "127.0.0.2"
DENIED = Rules(deny=(ip_network(HOST),))


async def is_refused(visitor: Peer) -> None:
    """The connection was reset, without a byte."""
    await visitor.ends()
    assert visitor.was_reset
    assert not visitor.received


async def is_served(visitor: Peer, data: bytes = b"hello") -> None:
    before = bytes(visitor.received)
    visitor.send(data)
    await visitor.has(before + data)


class Tunnel:
    """A server, a client with these rules, and a service that echoes, at one public port."""

    def __init__(self, world: World, server: TunnelServer, service: LocalService, port: int) -> None:
        self._world = world
        self.server = server
        self.service = service
        self.port = port

    @classmethod
    async def begin(
        cls,
        world: World,
        rules: Rules = NO_RULES,
        *,
        server: dict[str, Any] | None = None,
        **client: Any,
    ) -> Tunnel:
        made, service, port = world.server(**(server or {})), await world.echo(), free_port()
        world.client(made, (port, service.port), rules=rules, **client)
        await world.reachable()
        if world.plane == "direct":
            await pool_of(world, made)
        return cls(world, made, service, port)

    async def visitor(self, source: str = HOST) -> Peer:
        return await self._world.visitor(self.port, source)

    def count(self, prefix: str = HOST) -> int:
        """How many connections an address has here."""
        [session] = self.server.sessions
        [backend] = session.backends.values()
        descriptors = self.server.visitors.descriptors
        return descriptors.count_if(prefix, lambda owner: isinstance(owner, Owner) and owner.public == backend.public)


# The rules of a tunnel


@BOTH_PLANES
@ensureDeferred
async def test_networks(world: World) -> None:
    """The client never hears of whoever is turned away."""
    tunnel = await Tunnel.begin(world, DENIED)
    await is_refused(await tunnel.visitor())
    await is_served(await tunnel.visitor(OTHER))
    await is_refused(await tunnel.visitor())
    assert len(tunnel.service.peers) == 1
    where = f"of port {tunnel.port} refused: its address may not come"
    assert world.lines(where, LogLevel.info) == [f"visitor {HOST} {where}"]


@BOTH_PLANES
@ensureDeferred
async def test_connections_at_once(world: World) -> None:
    tunnel = await Tunnel.begin(world, Rules(connections=2))
    first, second = await tunnel.visitor(), await tunnel.visitor()
    for each in (first, second):
        await is_served(each)
    await is_refused(await tunnel.visitor())
    await is_served(await tunnel.visitor(OTHER))
    await world.logged(
        f"visitor {HOST} of port {tunnel.port} refused: its address has 2 connections at once, the limit"
    )
    first.close()
    await until(lambda: tunnel.count() == 1)
    await is_served(await tunnel.visitor())
    await is_refused(await tunnel.visitor())


@BOTH_PLANES
@ensureDeferred
async def test_new_connections_a_second(world: World) -> None:
    tunnel = await Tunnel.begin(world, Rules(connection_rate=0.01))
    first = await tunnel.visitor()
    await is_served(first)
    first.close()
    await is_refused(await tunnel.visitor())
    await is_served(await tunnel.visitor(OTHER))
    await world.logged("refused: its address opens more than 0.01 connections a second")


@BOTH_PLANES
@ensureDeferred
async def test_nobody_is_counted_who_has_vanished(world: World) -> None:
    """Also if he goes at once, or while he waits, or is refused, or when the client cannot reach its service."""
    tunnel = await Tunnel.begin(world, Rules(connections=3))
    for _ in range(5):
        visitors = [await tunnel.visitor() for _ in range(4)]
        for number, visitor in enumerate(visitors):
            if visitor.lost is None and number % 2:
                visitor.send(b"something")
            if visitor.lost is None:
                visitor.abort()
        await until(lambda: not tunnel.count(), "no visitor")
    await world.stop_service(tunnel.service)
    for _ in range(4):
        await (await tunnel.visitor()).ends()
        await until(lambda: not tunnel.count(), "no visitor")
    assert not tunnel.server.visitors


@BOTH_PLANES
@ensureDeferred
async def test_who_waits_for_the_client_counts(world: World) -> None:
    server, port = world.server(hold=60.0), free_port()
    rules = json.dumps({"max-connections": 1}).encode()
    link = await world.raw_extended(server, capabilities=CAPABILITIES, session="a" * 32)
    link.put(INIT, 0, b"%d:local\n%b" % (port, rules))
    await link.take(READY, 0)
    link.abort()
    await world.sessions(server, 0)
    waits = await world.visitor(port)
    await until(lambda: len(server.visitors) == 1)
    await is_refused(await world.visitor(port))
    assert not waits.over
    again = await world.raw_extended(server, capabilities=CAPABILITIES, session="a" * 32)
    again.put(INIT, 0, b"%d:local\n%b" % (port, rules))
    await again.take(NEW_CONN)
    await is_refused(await world.visitor(port))
    waits.abort()
    await until(lambda: not server.visitors)
    await world.visitor(port)
    await again.take(NEW_CONN)


@ensureDeferred
async def test_rules_that_are_new_hold_for_those_who_waited(world: World) -> None:
    server, port = world.server(hold=60.0), free_port()
    link = await world.raw_extended(server, port, capabilities=CAPABILITIES)
    link.abort()
    await world.sessions(server, 0)
    here, other = await world.visitor(port), await world.visitor(port, OTHER)
    await until(lambda: len(server.visitors) == 2)
    again = await world.raw_extended(server, capabilities=CAPABILITIES)
    again.put(INIT, 0, b'%d:local\n{"deny": ["127.0.0.1"]}' % port)
    await again.take(NEW_CONN)
    await is_refused(here)
    await again.is_alive()
    assert NEW_CONN not in [kind for kind, _, _ in again.frames]
    assert not other.over


@ensureDeferred
async def test_port_whose_connections_are_transports(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtunnel.reverse.server.ports.give_sockets", lambda _port, _factory: None)
    tunnel = await Tunnel.begin(world, Rules(deny=(ip_network(OTHER),), connections=1))
    first = await tunnel.visitor()
    await is_served(first)
    await is_refused(await tunnel.visitor())
    await is_refused(await tunnel.visitor(OTHER))
    first.close()
    await until(lambda: not tunnel.server.visitors)
    await is_served(await tunnel.visitor())


@BOTH_PLANES
@ensureDeferred
async def test_members_of_a_group_count_together(world: World) -> None:
    server, port, services = world.server(), free_port(), [await world.echo() for _ in range(2)]
    rules = Rules(connections=3, group="web", group_key="0123456789abcdef")
    for service in services:
        world.client(server, (port, service.port), rules=rules)
    await world.reachable(2)
    visitors = [await world.visitor(port) for _ in range(3)]
    for visitor in visitors:
        await is_served(visitor)
    assert sorted(len(service.peers) for service in services) == [1, 2]
    await is_refused(await world.visitor(port))


# The shared port


@BOTH_PLANES
@ensureDeferred
async def test_whom_one_client_of_the_shared_port_refuses_goes_to_another(world: World) -> None:
    server, picky, other = world.server(shared=True), await world.echo(), await world.echo()
    world.client(server, (0, picky.port), rules=Rules(connections=1, deny=(ip_network(OTHER),)))
    await world.reachable()
    shared = port_of(server.shared)
    first = await world.visitor(shared)
    await is_served(first)
    await is_refused(await world.visitor(shared))
    await is_refused(await world.visitor(shared, OTHER))
    await world.logged(f"visitor {OTHER} of the shared public port refused: its address may not come")
    world.client(server, (0, other.port))
    await world.reachable(2)
    for source in (HOST, OTHER, OTHER):
        await is_served(await world.visitor(shared, source))
    assert len(picky.peers) == 1
    first.close()
    await until(lambda: len(server.visitors) == 3)
    visitors = [await world.visitor(shared) for _ in range(2)]
    for visitor in visitors:
        await is_served(visitor)
    assert len(picky.peers) == 2


# The clients file


class Clients:
    """A server with a clients file, and a client spoken by hand that has the token in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.write("")
        self.settings = AdmissionSettings(path)

    def write(self, limits: str) -> None:
        self._path.write_text(f"laptop: {{token: 1234-5678, {limits}}}\n")

    async def link(self, world: World, server: TunnelServer, *what: str, **values: Any) -> RawLink:
        """A link that has asked for these places."""
        link = await world.raw_extended(server, capabilities=CAPABILITIES, token="1234-5678", **values)
        for number, each in enumerate(what):
            link.put(INIT, number, f"{each}:local".encode())
            await link.take(READY, number)
        return link


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    return Clients(tmp_path / "clients.yaml")


async def notice(link: RawLink, number: int = 0) -> str:
    said: str = (await link.take_json(NOTICE, number))["message"]
    return said


@BOTH_PLANES
@ensureDeferred
async def test_clients_file_that_changes(world: World, clients: Clients) -> None:
    """It holds at once for who comes, besides the rules of the tunnel, and those who are there stay."""
    tunnel = await Tunnel.begin(world, Rules(connections=2), server={"admission": clients.settings}, token="1234-5678")
    first = await tunnel.visitor()
    await is_served(first)
    where = f"port {tunnel.port}"
    clients.write("deny: 127.0.0.1")
    await world.logged(f"{where}: the server says: the server limits visitors: 127.0.0.1 may not come", LogLevel.warn)
    await is_refused(await tunnel.visitor())
    await is_served(first)
    await is_served(await tunnel.visitor(OTHER))
    clients.write("max-connections: 1")
    await world.logged("server limits visitors: 1 connection of an address at once")
    await is_refused(await tunnel.visitor())
    clients.write("max-connections: 100")
    await world.logged("server limits visitors: 100 connections of an address at once")
    await is_served(await tunnel.visitor())
    await is_refused(await tunnel.visitor())
    clients.write("")
    await world.logged("the server does not limit visitors any more")
    await is_refused(await tunnel.visitor())


@ensureDeferred
async def test_the_client_is_told(world: World, clients: Clients) -> None:
    clients.write("allow: [127.0.0.0/8, '::1'], max-connections: 20, max-connection-rate: 0.2, max-requests: 10")
    server = world.server(admission=clients.settings, shared=True)
    link = await clients.link(world, server, str(free_port()), f"udp/{free_port()}", "0")
    networks = "only 127.0.0.0/8 and ::1 may come"
    for number, each in enumerate(["connections", "flows", "connections"]):
        expected = f"20 {each} of an address at once, 0.2 new {each} of an address a second, {networks}"
        assert await notice(link, number) == f"the server limits visitors: {expected}"
    clients.write("ports: 1")
    await until(lambda: world.lines("not among those allowed"))
    await link.is_alive()
    # Of the ports that it has lost it need not be told more than that.
    assert await notice(link, 2) == "the server does not limit visitors any more"
    assert NOTICE not in [kind for kind, _, _ in link.frames]


@ensureDeferred
async def test_limits_of_clients_at_the_shared_port(world: World, clients: Clients) -> None:
    clients.write("deny: 127.0.0.1")
    server = world.server(admission=clients.settings, shared=True)
    link = await clients.link(world, server, "0")
    await is_refused(await world.visitor(port_of(server.shared)))
    assert await notice(link) == "the server limits visitors: 127.0.0.1 may not come"
    assert await notice(link) == f"visitor {HOST} was refused: its address may not come"
    clients.write("")
    assert await notice(link) == "the server does not limit visitors any more"
    await world.visitor(port_of(server.shared))
    await link.take(NEW_CONN)


@ensureDeferred
async def test_who_does_not_know_notices_gets_none(world: World, clients: Clients) -> None:
    clients.write("deny: 127.0.0.1")
    server, port = world.server(admission=clients.settings), free_port()
    link = await world.raw_extended(server, port, token="1234-5678")
    await is_refused(await world.visitor(port))
    clients.write("")
    await until(lambda: not next(iter(server.sessions)).backends[0].told)
    await link.is_alive()
    assert NOTICE not in link.seen


@ensureDeferred
async def test_visitor_is_refused_before_the_client_takes_any(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def open_visitor(_session: ServerSession, number: int, _visitor: object) -> bool:
        asked.append(number)
        return False

    monkeypatch.setattr(ServerSession, "open_visitor", open_visitor)
    tunnel = await Tunnel.begin(world, DENIED)
    await is_refused(await tunnel.visitor())
    await turns()
    assert not asked
