"""The HTTPS port: a connection goes where the name in its ClientHello is served, and nothing of it is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.reverse.fronts import sni
from rtunnel.wire.web.client_hello import MOST
from tests.patience import PATIENCE
from tests.reverse.data import DIRECT, attach, pool_of, tickets_of
from tests.reverse.https import https_port, https_server, publish, visit
from tests.reverse.net import BOTH_PLANES, INIT, READY, Peer, reactor, turns, until
from tests.reverse.world import World
from tests.wire.web.hellos import ECH, alpn, by_openssl, by_python, hello

NAME = "app.example.org"
POST_QUANTUM = by_openssl(NAME, ["X25519MLKEM768"])
#: More than is read at a time, and more than a link's first credit of a test.
LARGE = hello(NAME, (21, bytes(20_000)))


@pytest.fixture(params=["bare socket", "transport"])
def _connections(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports of both kinds: those that hand out bare sockets, and those that cannot."""
    if request.param == "transport":
        monkeypatch.setattr("rtunnel.upkeep.listening.give_sockets", lambda _port, _factory: None)


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@BOTH_PLANES
@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_each_name_has_its_client(world: World) -> None:
    server = https_server(world)
    app = await publish(world, server, NAME, "*.dev.example.org")
    other = await publish(world, server, "other.example.org", "a.dev.example.org")
    for name, service in (
        (NAME, app),
        ("APP.Example.ORG", app),
        ("b.dev.example.org", app),
        ("b.c.dev.example.org", app),
        ("other.example.org", other),
        ("a.dev.example.org", other),
    ):
        before = len(service.peers)
        data = by_python(name)
        visitor = await visit(world, server, data)
        await visitor.has(data)
        assert len(service.peers) == before + 1
        assert bytes(service.peers[-1].received) == data
        visitor.close()
    await until(lambda: not server.visitors)
    assert not server.named.listeners["https"]._factory.waiting  # type: ignore[attr-defined]


PIECES: dict[str, Sequence[bytes]] = {
    "whole": [POST_QUANTUM],
    "single bytes": one_by_one(POST_QUANTUM),
    "two packets": [POST_QUANTUM[:1400], POST_QUANTUM[1400:]],
    "large": [LARGE],
    "large in small pieces": [LARGE[at : at + 500] for at in range(0, len(LARGE), 500)],
    "tiny records": [hello(NAME, alpn(b"h2"), ECH, size=3)],
    "with early data": [POST_QUANTUM + b"early" * 1000],
}


@BOTH_PLANES
@pytest.mark.usefixtures("_connections")
@pytest.mark.parametrize("name", PIECES)
@ensureDeferred
async def test_nothing_is_lost(world: World, name: str) -> None:
    server = https_server(world, handshake_timeout=PATIENCE)
    await publish(world, server, NAME)
    visitor = await visit(world, server, *PIECES[name])
    sent = b"".join(PIECES[name])
    await visitor.has(sent)
    visitor.send(b"more" * 10_000)
    await visitor.has(sent + b"more" * 10_000)
    visitor.half_close()
    await visitor.ends()
    assert not visitor.was_reset


@BOTH_PLANES
@ensureDeferred
async def test_many_at_once(world: World) -> None:
    server = https_server(world)
    await publish(world, server, NAME)
    visitors = [await visit(world, server, hello(NAME, (21, bytes(number)))) for number in range(50)]
    for number, visitor in enumerate(visitors):
        await visitor.has(hello(NAME, (21, bytes(number))))


@DIRECT
@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_visitor_who_waits_for_a_data_connection(world: World) -> None:
    server = https_server(world)
    link = await world.raw_extended(server, capabilities=["direct", "withdraw", "hosts"])
    link.put(INIT, 0, f"https/{NAME}:local".encode())
    await link.take(READY, 0)
    visitor = await visit(world, server, LARGE)
    await until(lambda: len(server.visitors) == 1)
    visitor.send(b"behind it")
    await link.is_alive()
    [session] = server.sessions
    assert sum(held for held, _ in session.carriers[0].holdings()) == len(LARGE)
    data = await attach(world, server, (await tickets_of(link))[0])
    await data.is_used()
    await data.has_stream(LARGE + b"behind it")
    assert data.visitor == (0, visitor.name)


@DIRECT
@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_visitor_who_gives_up_waiting(world: World) -> None:
    server = https_server(world)
    link = await world.raw_extended(server, capabilities=["direct", "withdraw", "hosts"])
    link.put(INIT, 0, f"https/{NAME}:local".encode())
    await link.take(READY, 0)
    visitor = await visit(world, server, hello(NAME))
    await until(lambda: len(server.visitors) == 1)
    visitor.abort()
    await turns()
    data = await attach(world, server, (await tickets_of(link))[0])
    await until(lambda: not server.visitors)
    await link.is_alive()
    assert not data.over


@ensureDeferred
async def test_behind_a_load_balancer(world: World) -> None:
    server = https_server(world, "haproxy:tcp:0:interface=127.0.0.1")
    echo = await publish(world, server, NAME)
    data = hello(NAME)
    visitor = await visit(world, server, b"PROXY TCP4 192.0.2.7 198.51.100.1 1111 443\r\n" + data)
    await visitor.has(data)
    await world.logged("visitor 192.0.2.7:1111 of tunnel 0 of client")
    assert bytes(echo.peers[0].received) == data


def waiting(server: Any) -> int:
    """Connections whose hello is not complete."""
    factory = server.named.listeners["https"]._factory
    return len(factory.waiting)


@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_silence_and_half_a_hello_end_in_time(world: World) -> None:
    server = https_server(world, handshake_timeout=0.3)
    silent = await visit(world, server)
    half = await visit(world, server, POST_QUANTUM[:700])
    await until(lambda: waiting(server) == 2)
    await silent.ends()
    await half.ends()
    await until(lambda: not waiting(server))
    # The second line about the same address is counted.
    assert world.lines("closed:") == [f"HTTPS connection from {silent.name} closed: it named no host within 0.3 s"]


@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_time_is_that_of_the_whole_hello(world: World) -> None:
    """Single bytes, each of them soon after the last one, do not help."""
    server = https_server(world, handshake_timeout=0.5)
    visitor = await visit(world, server)
    began = reactor.seconds()
    for byte in one_by_one(POST_QUANTUM):
        if visitor.over:
            break
        visitor.send(byte)
        await turns(20)
    assert visitor.over
    assert reactor.seconds() - began >= 0.4
    await until(lambda: not waiting(server))


@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_the_oldest_stranger_gives_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sni, "MAX_WAITING", 3)
    server = https_server(world)
    await publish(world, server, NAME)
    strangers = []
    for number in range(5):
        strangers.append(await visit(world, server, POST_QUANTUM[:700]))
        await until(lambda count=number + 1: waiting(server) == min(3, count))  # type: ignore[misc]
    for stranger in strangers[:2]:
        await stranger.ends()
    assert len(world.lines("it has not named a host yet, like {count} others")) == 1
    for stranger in strangers[2:]:
        stranger.send(POST_QUANTUM[700:])
        await stranger.has(POST_QUANTUM)
    assert not waiting(server)


@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_who_leaves_is_forgotten(world: World) -> None:
    server = https_server(world)
    visitors = [await visit(world, server, POST_QUANTUM[:number]) for number in (0, 700, 700)]
    await until(lambda: waiting(server) == 3)
    visitors[0].close()
    visitors[1].abort()
    visitors[2].half_close()
    await until(lambda: not waiting(server))
    for visitor in visitors:
        await visitor.ends()
    assert not world.lines("closed:")


@BOTH_PLANES
@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_server_that_stops_as_somebody_comes(world: World) -> None:
    """He has a moment to name his host, and is served."""
    server = https_server(world)
    await publish(world, server, NAME)
    if world.plane == "direct":
        await pool_of(world, server)  # none can be made any more once it stops
    visitor = await visit(world, server, POST_QUANTUM[:100])
    await until(lambda: waiting(server) == 1)
    stopped = server.stopService()
    await until(lambda: server.named.listeners["https"].host is None)
    visitor.send(POST_QUANTUM[100:])
    await visitor.has(POST_QUANTUM)
    visitor.close()
    await stopped


@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_server_that_stops_cuts_who_has_named_no_host(world: World) -> None:
    server = https_server(world)
    visitor: Peer = await visit(world, server, POST_QUANTUM[:700])
    await until(lambda: waiting(server) == 1)
    await server.stopService()
    await visitor.ends()
    await until(lambda: not waiting(server))


@ensureDeferred
async def test_endless_hello_is_not_read_to_its_end(world: World) -> None:
    server = https_server(world)
    visitor = await visit(world, server)
    visitor.send(hello(NAME, (21, bytes(60_000)), size=100))
    await visitor.ends()
    await world.logged(f"closed: its hello is longer than {MOST} bytes")
    assert not waiting(server)
    assert https_port(server)
