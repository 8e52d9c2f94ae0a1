"""A client with several servers, and with several links: which link leads where, and what all of them share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory
from twisted.logger import LogLevel

from rtunnel.acme.settings import AcmeSettings
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.control.client import look
from rtunnel.reverse.client.links import targets
from rtunnel.reverse.client.links.targets import Target, find_targets, in_turn
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.client.tls_hosts import TlsHosts
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings, ServerSettings, TunnelSettings
from rtunnel.traffic.accounts import Accounts
from tests.ports import free_port
from tests.reverse.data import AUTO
from tests.reverse.net import HELLO, HOST, INIT, Peer, hello, reactor, turns, until
from tests.reverse.world import World

OTHER = "127.0.0.2"


def other_server(world: World, control: int = 0, **more: Any) -> TunnelServer:
    """A server at another address, so that both can open the same public port."""
    settings: dict[str, Any] = {"public_interface": OTHER, "data_plane": world.plane, "drain": 0.0} | more
    where = ListenAddress.parse(f"{OTHER}:{control}")
    server: TunnelServer = world.start(TunnelServer(reactor, ServerSettings(where, **settings)))
    return server


def at(host: str, server: Any) -> DialAddress:
    port = server if isinstance(server, int) else World.control_port(server)
    return DialAddress.parse(f"{host}:{port}")


def served(client: Any) -> list[bool]:
    """For each link, whether it is up and has all tunnels."""
    return [
        link.session is not None
        and all((tunnel := link.session.tunnel_of(each)) and tunnel.is_served for each in client.links.wanted)
        for link in client.links.all
    ]


async def visitor(world: World, port: int, host: str) -> Any:
    """Somebody who has been served."""
    peer: Any = await TCP4ClientEndpoint(reactor, host, port).connect(Factory.forProtocol(Peer))
    world._peers.append(peer)
    peer.send(b"here")
    await peer.has(b"here")
    return peer


async def echoed(world: World, port: int, host: str) -> None:
    """Somebody is served at this address."""
    (await visitor(world, port, host)).abort()


# Where links lead


def resolved(monkeypatch: pytest.MonkeyPatch, **names: Any) -> None:
    def look_up(_reactor: Any, name: str, port: int) -> Deferred[Any]:
        hosts = names[name]
        if hosts is None:
            return fail(DNSLookupError(f"{name}: no address"))
        return succeed([IPv4Address("TCP", host, port) for host in hosts])

    monkeypatch.setattr(targets, "look_up", look_up)


@ensureDeferred
async def test_each_place_is_one_target(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, both=["192.0.2.1", "192.0.2.2"], gone=None)
    servers = [DialAddress.parse(text) for text in ("192.0.2.2:7000", "both:7000", "gone:7000", "unix:/run/x")]
    settings = ClientSettings(servers[0], (), other_servers=tuple(servers[1:]), links=2)
    found = await find_targets(reactor, settings)
    assert list(map(str, found)) == ["192.0.2.2:7000", "both:7000 at 192.0.2.1", "gone:7000", "unix:/run/x"]
    assert isinstance(found[2].problem, DNSLookupError)
    # One link dials a name as ever.
    assert await find_targets(reactor, replace(settings, links=1)) == [Target(server) for server in servers]


def test_order() -> None:
    found = [Target(DialAddress.parse(f"192.0.2.{number}:1")) for number in (1, 2, 3)]
    one, two, three = found
    assert in_turn(found, None, None) == found
    assert in_turn(found, two.key, None) == [two, one, three]
    assert in_turn(found, two.key, two.key) == [one, three, two]


@ensureDeferred
async def test_links_have_names_and_servers_of_their_own(world: World) -> None:
    """And one for which no server is left waits."""
    by_hand = [await world.raw_server() for _ in range(2)]
    client = world.client(by_hand[0].port, (8080, 9), other_servers=(at(HOST, by_hand[1].port),), links=3)
    names = []
    for each in by_hand:
        link: Any = await each.peer(0)
        names.append((await link.take_json(HELLO))["session"])
        link.send(hello())
        await link.take(INIT)
    assert names[1] == names[0] + "+1"
    await world.logged("3 links are wanted, and the servers have 2 address(es)", LogLevel.warn)
    assert client.links.all[2].waits
    assert [len(each.peers) for each in by_hand] == [1, 1]
    assert look(client)["problems"] == []
    assert [each["waits"] for each in look(client)["links"]] == [False, False, True]


@AUTO
@ensureDeferred
async def test_one_watch_and_all_tunnels_on_each_link(world: World) -> None:
    port, service = free_port(), await world.echo()
    server, other = world.server(), other_server(world)
    client = world.client(server, (port, service.port), other_servers=(at(OTHER, other),), links=2, check_services=True)
    await until(lambda: served(client) == [True, True])
    await echoed(world, port, HOST)
    await echoed(world, port, OTHER)
    status = look(client)
    assert status["ready"]
    assert status["visitors_total"] == 2
    assert [each["server"] for each in status["links"]] == [str(at(HOST, server)), str(at(OTHER, other))]
    assert status["tunnels"][0]["public"] == f"{HOST}:{port}, {OTHER}:{port}"
    # One attempt of the watch, and two visitors.
    assert len(service.peers) == 3
    assert len(world.lines(" is published", tunnel=True)) == 2
    # The watch goes on for the link that is left.
    await server.stopService()
    await until(lambda: served(client) == [False, True])
    [wanted] = client.links.wanted
    assert wanted.watch._tell is not None
    assert look(client)["ready"]
    assert "there is no link to" in look(client)["problems"][0]


@AUTO
@ensureDeferred
async def test_next_server_when_one_goes_down(world: World) -> None:
    port, service = free_port(), await world.echo()
    control = free_port()
    server, other = world.server(control=control, drain=0.0), other_server(world)
    client = world.client(control, (port, service.port), other_servers=(at(OTHER, other),))
    await until(lambda: served(client) == [True])
    assert not other.sessions
    await server.stopService()
    await until(lambda: served(client) == [True] and len(other.sessions) == 1)
    assert not world.lines("cannot reach"), "one that says that it goes down is not tried first"
    await echoed(world, port, OTHER)
    # The one that worked last is tried first, and then the other one without a wait.
    server = world.server(control=control, drain=0.0)
    await other.stopService()
    await until(lambda: served(client) == [True] and len(server.sessions) == 1)


@ensureDeferred
async def test_next_server_at_once_when_one_refuses(world: World) -> None:
    other = other_server(world)
    closed = free_port()
    client = world.client(closed, (free_port(), 9), other_servers=(at(OTHER, other),), reconnect_min=60.0)
    await until(lambda: served(client) == [True])
    [line] = world.lines("cannot reach server")
    assert line.endswith(f"; next is server {at(OTHER, other)}")


@AUTO
@ensureDeferred
async def test_streams_go_on_when_the_link_comes_to_another_node(world: World) -> None:
    """The nodes of a cluster say that they are one server."""
    port, service = free_port(), await world.echo()
    server, other = world.server(), other_server(world)
    other.hello = replace(other.hello, session=server.hello.session)
    client = world.client(server, (port, service.port), other_servers=(at(OTHER, other),))
    await until(lambda: served(client) == [True])
    first = await visitor(world, port, HOST)
    await until(lambda: client.link.session.link.direct_streams == 1)
    client.link._left = client.link.target.key
    session = client.link.session
    session.end_code = "timeout"
    session.transport.abortConnection()
    await until(lambda: len(other.sessions) == 1 and served(client) == [True])
    assert client.link.session.link.direct_streams == 1
    assert len(client.link.kept) == 0
    first.send(b" and after")
    await first.has(b"here and after")
    # Data connections of the new link lead to the new node.
    await echoed(world, port, OTHER)


@ensureDeferred
async def test_two_names_of_one_server(world: World) -> None:
    port, service = free_port(), await world.echo()
    where = ListenAddress.parse("0.0.0.0:0")
    server = world.start(TunnelServer(reactor, ServerSettings(where, public_interface=HOST, drain=0.0)))
    client = world.client(server, (port, service.port), other_servers=(at(OTHER, server),), links=2)
    await until(lambda: served(client) == [True, True])
    for _ in range(2):
        await echoed(world, port, HOST)
    assert not look(client)["problems"]


@AUTO
@ensureDeferred
async def test_other_settings_touch_no_link_whose_server_stays(world: World) -> None:
    port, service = free_port(), await world.echo()
    server, other = world.server(), other_server(world)
    client = world.client(server, (port, service.port))
    await until(lambda: served(client) == [True])
    before = client.link.session
    first = await visitor(world, port, HOST)
    alone = client.settings
    client.links.use(replace(alone, other_servers=(at(OTHER, other),), links=2))
    await until(lambda: served(client) == [True, True])
    await echoed(world, port, OTHER)
    assert client.link.session is before
    first.send(b" still")
    await first.has(b"here still")
    # The surplus link lets its visitors finish.

    late = await visitor(world, port, OTHER)
    client.links.use(alone)
    await until(lambda: len(client.links.all) == 1)
    await turns()
    late.send(b" still")
    await late.has(b"here still")
    late.abort()
    await until(lambda: not other.sessions)
    # And a link whose server is none any more leads to another one.
    client.links.use(replace(alone, server=at(OTHER, other)))
    await until(lambda: len(other.sessions) == 1 and not server.sessions)
    await until(lambda: served(client) == [True])
    first.abort()


@ensureDeferred
async def test_one_more_link_leads_to_another_address_of_the_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that was made by the name holds one of its addresses."""
    server = world.server()
    port = world.control_port(server)
    other = other_server(world, port)
    resolved(monkeypatch, localhost=[HOST, OTHER])
    named = ClientSettings(DialAddress.parse(f"localhost:{port}"), (), reconnect_min=0.05, check_services=False)
    client = world.start(TunnelClient(reactor, named))
    await until(lambda: len(server.sessions) == 1)
    before = client.link.session
    client.links.use(replace(named, links=2))
    await until(lambda: len(other.sessions) == 1)
    assert len(server.sessions) == 1
    assert client.link.session is before
    assert str(client.links.all[1].target) == f"localhost:{port} at {OTHER}"


@ensureDeferred
async def test_links_are_renewed_one_by_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.client(free_port(), links=2)
    monkeypatch.setattr("rtunnel.reverse.client.links.links.RENEWAL", 0.05)
    client.links.tls = SimpleNamespace(has_later=lambda shown: shown == "old")
    one, other = client.links.all
    assert not one.has_later("new")
    assert one.has_later("old")
    assert not other.has_later("old")
    await until(lambda: other.has_later("old"))
    client.links.tls = None


def test_a_name_is_published_as_long_as_one_link_publishes_it(tmp_path: Path) -> None:
    """So there is one order, and it does not stop when one of two links is lost."""
    tunnel = TunnelSettings(0, DialAddress.parse(":80"), protocol="https", host="app.example.org", tls="auto")
    acme = AcmeSettings("a@b", tmp_path, "https://ca.test/dir")
    settings = ClientSettings(DialAddress.parse(":1"), (tunnel,), acme=acme, links=2)
    hosts = TlsHosts(reactor, settings, Accounts(reactor))
    told: list[bool] = []
    hosts._orders = cast(Any, SimpleNamespace(published=lambda _host, is_published: told.append(is_published)))
    check = hosts.check_by(tunnel)
    for link, is_published in (("1", True), ("2", True), ("1", False), ("1", False), ("2", False)):
        hosts.published(check, is_published, link)
    assert told == [True, True, True, True, False]
