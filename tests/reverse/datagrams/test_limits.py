"""Who may send datagrams to a port, and how often: what is refused costs no flow, and the client never hears of it."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.rules import Rules
from rtunnel.addresses import DialAddress
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from tests.ports import free_port
from tests.reverse.datagrams.parts import ask, published
from tests.reverse.net import HOST, reactor, until
from tests.reverse.world import NO_RULES, World
from tests.rtc.udp.parts import Echo, Program

OTHER = "127.0.0.2"


class Limited:
    """A server, a client whose UDP tunnel has rules, and a service that echoes.

    :ivar at: where visitors ask.
    """

    def __init__(self, world: World, rules: Rules = NO_RULES, clients: Path | None = None, token: str = "") -> None:
        self.world = world
        self.port = free_port()
        self.at = (HOST, self.port)
        self.service = Echo()
        self.server = world.server(admission=AdmissionSettings(clients))
        host, local = self.service.address
        tunnel = TunnelSettings(self.port, DialAddress.parse(f"{host}:{local}"), protocol="udp", rules=rules)
        where = DialAddress.parse(f"{HOST}:{world.control_port(self.server)}")
        client = ClientSettings(where, (tunnel,), data_plane=world.plane, token=token or None)
        world.start(TunnelClient(reactor, client))

    @property
    def flows(self) -> Any:
        return self.server.ports._held[self.public].port

    @property
    def public(self) -> Any:
        [session] = self.server.sessions
        [backend] = session.backends.values()
        return backend.public

    async def refused(self, source: str, why: str) -> None:
        await self.world.logged(f"visitor {source} of UDP port {self.port} refused: {why}")


@ensureDeferred
async def test_networks(world: World) -> None:
    tunnel, denied, other = Limited(world, Rules(deny=(ip_network(HOST),))), Program(), Program(OTHER)
    await published(world)
    for _ in range(10):
        denied.send(b"in vain", tunnel.at)
    await ask(other, tunnel.at)
    await tunnel.refused(HOST, "its address may not come")
    assert len(tunnel.flows) == 1
    assert denied.poll() is None
    for each in (denied, other):
        each.close()
    await tunnel.service.close()


@ensureDeferred
async def test_flows_at_once(world: World) -> None:
    tunnel, visitors = Limited(world, Rules(connections=2)), [Program() for _ in range(3)]
    other = Program(OTHER)
    await published(world)
    for each in visitors[:2]:
        await ask(each, tunnel.at)
    visitors[2].send(b"in vain", tunnel.at)
    await tunnel.refused(HOST, "its address has 2 flows at once, the limit")
    for each in (*visitors[:2], other):
        await ask(each, tunnel.at, b"more")
    assert visitors[2].poll() is None
    assert len(tunnel.flows) == 3
    next(iter(tunnel.flows._flows.values())).end("a test wants it")
    await ask(visitors[2], tunnel.at)
    for each in (*visitors, other):
        each.close()
    await tunnel.service.close()


@ensureDeferred
async def test_new_flows_a_second(world: World) -> None:
    tunnel, first, second = Limited(world, Rules(connection_rate=0.001)), Program(), Program()
    await published(world)
    await ask(first, tunnel.at)
    second.send(b"in vain", tunnel.at)
    await tunnel.refused(HOST, "its address opens more than 0.001 flows a second")
    await ask(first, tunnel.at, b"more")
    assert second.poll() is None
    for each in (first, second):
        each.close()
    await tunnel.service.close()


@ensureDeferred
async def test_clients_file_that_changes(world: World, tmp_path: Path) -> None:
    """The flows of whoever may no longer come end."""
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {token: 1234-5678}\n")
    tunnel = Limited(world, clients=clients, token="1234-5678")
    visitor, other = Program(), Program(OTHER)
    await published(world)
    for each in (visitor, other):
        await ask(each, tunnel.at)
    clients.write_text("laptop: {token: 1234-5678, deny: 127.0.0.1}\n")
    await until(lambda: len(tunnel.flows) == 1)
    visitor.send(b"in vain", tunnel.at)
    await tunnel.refused(HOST, "its address may not come")
    await ask(other, tunnel.at, b"more")
    await world.logged("the server says: the server limits visitors: 127.0.0.1 may not come")
    clients.write_text("laptop: {token: 1234-5678}\n")
    await ask(visitor, tunnel.at, b"again")
    for each in (visitor, other):
        each.close()
    await tunnel.service.close()
