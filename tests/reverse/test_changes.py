"""A client's tunnels change while it runs, and only who is concerned notices."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from pytest_twisted import ensureDeferred

from rtunnel.access.rules import read_rules
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.services.health_settings import HealthSettings
from rtunnel.wire.frames import ERROR
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.datagrams.parts import ask, can_bind_udp, published
from tests.reverse.net import BOTH_PLANES, HELLO, HOST, INIT, READY, Peer, can_bind, hello, is_refused, turns, until
from tests.reverse.test_changes_https import Site
from tests.reverse.world import World, port_of
from tests.rtc.udp.parts import Echo, Program

ALL = ["withdraw", "rules", "hosts"]
GET = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"


def tcp(port: int, service: int, **more: Any) -> TunnelSettings:
    return TunnelSettings(port, DialAddress.parse(f"{HOST}:{service}"), **more)


def named(service: Any) -> TunnelSettings:
    return TunnelSettings(0, DialAddress.parse(f"{HOST}:{service.port}"), protocol="http", host="app")


def sites(service: Any) -> list[Site]:
    return [site for site in service.peers if isinstance(site, Site)]


async def answer(visitor: Peer) -> bytes:
    """Make a request, and return what the answer ends with."""
    visitor.received.clear()
    visitor.send(GET)
    await until(lambda: visitor.received.endswith((b"\r\n\r\nformer", b"\r\n\r\nnext")), "an answer")
    return bytes(visitor.received).rpartition(b"\r\n")[2]


def address(echo: Echo) -> DialAddress:
    return DialAddress.parse_udp(f"{echo.address[0]}:{echo.address[1]}")


async def talk(visitor: Peer, service: Any, number: int, text: bytes) -> None:
    """The visitor says something that its connection at the service hears, and the other way round."""
    visitor.send(text)
    peer = await service.peer(number)
    await peer.has(text)
    peer.send(text.upper())
    await visitor.has(text.upper())
    peer.received.clear()
    visitor.received.clear()


@BOTH_PLANES
@ensureDeferred
async def test_one_more_and_one_less(world: World) -> None:
    server, first, second = world.server(), await world.service(), await world.service()
    one, two = tcp(free_port(), first.port), tcp(free_port(), second.port)
    client = world.client(server, (one.remote_port, first.port))
    await world.reachable()
    [session] = server.sessions
    visitor = await world.visitor(one.remote_port)
    await talk(visitor, first, 0, b"before")
    for round in range(3):
        await client.apply([one, two])
        await world.reachable(round + 2)
        other = await world.visitor(two.remote_port)
        await talk(other, second, round, b"one more")
        await client.apply([one])
        await until(lambda: can_bind(two.remote_port), "the port is free")
        await is_refused(two.remote_port)
        # Whoever is there finishes.
        await talk(other, second, round, b"still here")
        other.close()
        await talk(visitor, first, 0, b"meanwhile %d" % round)
    assert [*server.sessions] == [session]
    assert [*session.backends] == [0]
    assert not world.lines("lost")
    await client.apply([])
    await until(lambda: can_bind(one.remote_port), "the last port is free")
    await talk(visitor, first, 0, b"after all")
    await client.apply([one])
    await world.reachable(5)
    await talk(await world.visitor(one.remote_port), first, 1, b"again")


@BOTH_PLANES
@ensureDeferred
async def test_another_service_takes_over_without_a_gap(world: World) -> None:
    server, former, next_ = world.server(), await world.service(), await world.service()
    port = free_port()
    client = world.client(server, (port, former.port))
    await world.reachable()
    visitor = await world.visitor(port)
    await talk(visitor, former, 0, b"before")
    await client.apply([tcp(port, next_.port)])
    await world.logged(f"{HOST}:{port} leads elsewhere from now on; the service at {HOST}:{next_.port} has not")
    await talk(visitor, former, 0, b"still the former")
    await talk(await world.visitor(port), next_, 0, b"the next one")
    assert not world.lines("withdrawn")
    assert len(world.lines("is published")) == 1


@BOTH_PLANES
@ensureDeferred
async def test_requests_go_to_another_service(world: World) -> None:
    """Not over a stream to the former one that is kept, nor over one that still carried a request."""
    server = world.server(http_listen=ListenAddress.parse(f"{HOST}:0"))
    former, next_ = [await world.service(partial(Site, name)) for name in (b"former", b"next")]
    client = world.client(server)
    await client.apply([named(former)])
    await world.reachable()
    one, two = [await world.visitor(port_of(server.named.listeners["http"])) for _ in range(2)]
    assert await answer(one) == b"former"
    two.send(GET.replace(b"/", b"/later", 1))
    await until(lambda: any(site.is_asked for site in sites(former)), "a request is under way")
    # The only stream that was kept carries it now.
    assert await answer(one) == b"former"
    await client.apply([named(next_)])
    await world.logged("leads elsewhere from now on")
    [session] = server.sessions
    [backend] = session.backends.values()
    await until(lambda: backend.services, "the server knows")
    assert await answer(one) == b"next"
    [late] = [site for site in sites(former) if site.is_asked]
    late.send(late.answer)
    await until(lambda: two.received.endswith(b"former"))
    assert await answer(two) == b"next"
    assert await answer(one) == b"next"


@ensureDeferred
async def test_other_rules_are_asked_for_anew(world: World) -> None:
    server, service = world.server(), await world.service()
    port = free_port()
    client = world.client(server, (port, service.port))
    await world.reachable()
    visitor = await world.visitor(port)
    await talk(visitor, service, 0, b"before")
    await client.apply([tcp(port, service.port, rules=read_rules({"deny": ["127.0.0.2"]}, "tcp"))])
    await world.reachable(2)
    await talk(visitor, service, 0, b"after")
    await talk(await world.visitor(port), service, 1, b"may come")
    refused = await world.visitor(port, "127.0.0.2")
    await until(lambda: refused.over, "the other may not")
    # The server names visitors by the number of the new tunnel; the former one's is not used again.
    [session] = server.sessions
    assert [*session.backends] == [1]


@ensureDeferred
async def test_what_is_the_same_is_not_touched(world: World) -> None:
    server = world.server()
    one, two = tcp(free_port(), 9), tcp(free_port(), 9)
    client = world.client(server, (one.remote_port, 9), (two.remote_port, 9))
    await world.reachable(2)
    before = [(each, each.watch) for each in client.link.wanted]
    await client.apply([replace(two, added="kept"), one])
    await turns()
    assert [(each, each.watch) for each in client.link.wanted] == before[::-1]
    assert [each.settings.added for each in client.link.wanted] == ["kept", ""]
    assert len(world.lines("is published")) == 2
    assert not world.lines("withdrawn")


@ensureDeferred
async def test_without_a_link_it_is_asked_for_with_the_next(world: World) -> None:
    control, service, port = free_port(), await world.service(), free_port()
    client = world.client(control, (free_port(), 9))
    await world.logged("cannot reach")
    await client.apply([tcp(port, service.port)])
    server = world.server(control=control)
    await world.reachable()
    [session] = server.sessions
    assert [*session.backends] == [0], "the number that a reference server needs"
    await talk(await world.visitor(port), service, 0, b"here")


@ensureDeferred
async def test_before_the_server_has_answered(world: World) -> None:
    """What was asked for already is given up, and the rest follows, once that is possible."""
    raw = await world.raw_server()
    one, two, three = (tcp(free_port(), 9) for _ in range(3))
    client = world.client(raw.port, (one.remote_port, 9), (two.remote_port, 9))
    link: Any = await raw.peer()
    await link.take(INIT, 0)
    applied = client.apply([two, three])
    link.send(hello(capabilities=ALL))
    await link.take(INIT, 1)
    assert (await link.take_json(ERROR, 0))["scope"] == "tunnel"
    assert (await link.take(INIT, 2))[1].startswith(b"%d:" % three.remote_port)
    link.put(READY, 1, b'{"address": "127.0.0.1:1"}')
    link.put(READY, 2, b'{"address": "127.0.0.1:2"}')
    await world.reachable(2)
    assert applied.called


@ensureDeferred
async def test_one_that_is_refused_is_not_asked_for_again_once_it_is_gone(world: World) -> None:
    raw = await world.raw_server()
    one, two = tcp(free_port(), 9), tcp(free_port(), 9)
    client = world.client(raw.port, (one.remote_port, 9), (two.remote_port, 9))
    link: Any = await raw.peer()
    link.send(hello(capabilities=ALL))
    await link.take(INIT, 0)
    await link.take(INIT, 1)
    link.put(ERROR, 1, b'{"scope": "tunnel", "code": "port-in-use", "message": "no"}')
    await world.logged("refused by the server: port-in-use: no")
    applied = client.apply([one])
    await until(lambda: applied.called, "nothing is left to wait for", 2 * PATIENCE)
    assert client.link.session._tunnels.keys() == {0}


@ensureDeferred
async def test_a_server_that_cannot_be_told_gets_another_link(world: World) -> None:
    raw = await world.raw_server()
    one, two = tcp(free_port(), 9), tcp(free_port(), 9)
    client = world.client(raw.port, (one.remote_port, 9))
    link: Any = await raw.peer()
    link.send(hello(capabilities=["rules"]))
    await link.take(INIT, 0)
    await until(lambda: client.link.session is not None and client.link.session.link.is_extended)
    client.apply([two])
    second: Any = await raw.peer(1)
    await second.take(HELLO)
    assert (await second.take(INIT, 0))[1].startswith(b"%d:" % two.remote_port)


@ensureDeferred
async def test_a_reference_server_gets_another_link(world: World) -> None:
    server, former, next_ = world.reference_server(), await world.service(), await world.service()
    client = world.client(server, (free_port(), former.port))
    await until(lambda: server.public_port)
    visitor = await world.visitor(server.public_port)
    await talk(visitor, former, 0, b"before")
    await client.apply([tcp(free_port(), next_.port)])
    await until(lambda: len(server.inits) == 2, "it is asked again")
    assert world.lines("lost: the tunnels have changed")
    await until(lambda: server.public_port and server.peer)
    await talk(await world.visitor(server.public_port), next_, 0, b"after")


@BOTH_PLANES
@ensureDeferred
async def test_the_client_stops_while_one_is_given_up(world: World) -> None:
    server = world.server()
    one, two = tcp(free_port(), 9), tcp(free_port(), 9)
    client = world.client(server, (one.remote_port, 9), (two.remote_port, 9))
    await world.reachable(2)
    applied = client.apply([one])
    await client.stopService()
    await applied
    await until(lambda: can_bind(one.remote_port) and can_bind(two.remote_port))


@BOTH_PLANES
@ensureDeferred
async def test_the_link_is_lost_while_one_is_given_up(world: World) -> None:
    server = world.server()
    one, two = tcp(free_port(), 9), tcp(free_port(), 9)
    client = world.client(server, (one.remote_port, 9), (two.remote_port, 9))
    await world.reachable(2)
    applied = client.apply([one])
    client.link.session.drop()
    await applied
    await world.reachable(3)
    [session] = await world.sessions(server, 1)
    assert [backend.asked.port for backend in session.backends.values()] == [one.remote_port]


@ensureDeferred
async def test_udp(world: World) -> None:
    """Also where no tunnel was for UDP when the link was made."""
    server, echoes, port = world.server(), [Echo(), Echo()], free_port()
    one = tcp(free_port(), 9)
    client = world.client(server, (one.remote_port, 9))
    await world.reachable()
    [session] = server.sessions
    assert session.datagrams is None
    udp = [replace(one, remote_port=port, protocol="udp", local=address(echo)) for echo in echoes]
    await client.apply([one, udp[0]])
    await published(world, 1)
    visitor = Program()
    await ask(visitor, (HOST, port))
    assert len(echoes[0].sources) == 1
    await client.apply([one, udp[1]])
    await ask(visitor, (HOST, port))
    assert len(echoes[1].sources) == 1, "the next datagram goes to the other service"
    await client.apply([one])
    await until(lambda: can_bind_udp(port), "the port is free")
    await until(lambda: not len(client.link.flows.table), "no flow is left")
    assert not world.lines("lost")
    visitor.close()
    for echo in echoes:
        await echo.close()


@ensureDeferred
async def test_health_checks_follow_the_service(world: World) -> None:
    server, service = world.server(), await world.service()
    port, group = free_port(), read_rules({"group": "web", "group-key": "1d8bdd3c5ad1ee8a"}, "tcp")
    quick = HealthSettings("", interval=0.1, timeout=PATIENCE, fall=1, rise=1)
    down = tcp(port, free_port(), rules=group, health=quick)
    client = world.client(server, (free_port(), 9))
    await world.reachable()
    await client.apply([down])
    [session] = server.sessions
    await until(lambda: [backend.is_ready for backend in session.backends.values()] == [False], "it is out")
    await client.apply([replace(down, local=DialAddress.parse(f"{HOST}:{service.port}"))])
    await until(lambda: [backend.is_ready for backend in session.backends.values()] == [True], "it is back")
    await client.apply([])
    before = len(service.peers)
    await turns(100)
    assert len(service.peers) <= before + 1, "nobody checks any more"
