"""A client with host names is away for a moment: requests and TLS connections wait for it."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.addresses import ListenAddress
from rtunnel.reverse.fronts import http as front
from rtunnel.reverse.server.held import HeldRequest, HeldVisitor
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.web import connection, upstreams
from rtunnel.wire.limits import LinkLimits
from tests.no_collector import no_collector
from tests.patience import PATIENCE
from tests.reverse.https import https_port
from tests.reverse.net import DATA, ERROR, HOST, NEW_CONN, PING, PONG, Peer, RawLink, turns, until
from tests.reverse.test_host_names import client
from tests.reverse.test_http import GET, OK, answered, http_server
from tests.reverse.world import World, port_of
from tests.wire.web.hellos import hello

HTTP, HTTPS, APP = "http/app.example.org", "https/app.example.org", "app.example.org"
#: More than one read of a ClientHello.
LARGE = hello(APP, (21, bytes(20_000)))
#: A stream that breaks off, as when its client is lost.
LOST = b'{"scope": "stream", "code": "connection-lost", "message": ""}'
POST = b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 4\r\n\r\nbody"


def names_server(world: World, **settings: Any) -> TunnelServer:
    return http_server(world, https_listen=ListenAddress.parse(f"{HOST}:0"), **{"hold": PATIENCE} | settings)


async def lose(server: TunnelServer, link: RawLink) -> None:
    """The connection of a link breaks."""
    link.abort()
    await until(lambda: not server.sessions, "the link is lost")


async def request(world: World, server: TunnelServer, data: bytes = GET) -> Peer:
    """A visitor whose request waits."""
    before = len(server.http._held)
    visitor = await world.visitor(port_of(server.named.listeners["http"]))
    visitor.send(data)
    await until(lambda: len(server.http._held) == before + 1, "a request waits")
    return visitor


async def say_hello(world: World, server: TunnelServer, *data: bytes) -> list[Peer]:
    """Visitors of the HTTPS port who wait."""
    visitors = []
    for each in data:
        before = len(server.visitors)
        visitors.append(await world.visitor(https_port(server)))
        visitors[-1].send(each)
        await until(lambda: len(server.visitors) == before + 1, "a visitor waits")  # noqa: B023
    return visitors


async def reply(link: RawLink, visitor: Peer) -> bytes:
    """Answer the next request; return it."""
    stream, _ = await link.take(NEW_CONN)
    await until(lambda: link.data_of(stream).endswith((b"\r\n\r\n", b"body")), "a request")
    asked = link.data_of(stream)
    link.put(DATA, stream, OK)
    await visitor.has(OK)
    return asked


@ensureDeferred
async def test_requests_wait(world: World) -> None:
    server = names_server(world)
    await lose(server, await client(world, server, HTTP))
    first, second = await request(world, server), await request(world, server, POST)
    link = await client(world, server, HTTP)
    assert (await reply(link, first)).startswith(b"GET / ")
    assert (await reply(link, second)).endswith(b"\r\n\r\nbody")
    assert not server.http._held
    # The connections go on.
    first.send(GET)
    asked = [payload for kind, _, payload in link.frames if kind == DATA]
    await until(lambda: len([1 for kind, _, _ in link.frames if kind == DATA]) > len(asked), "the next request")


@ensureDeferred
async def test_requests_wait_for_room(world: World) -> None:
    """One stream at a time: each answer lets the next request go, on the same stream."""
    server = names_server(world, limits=LinkLimits(max_streams=1))
    await lose(server, await client(world, server, HTTP))
    visitors = [await request(world, server) for _ in range(5)]
    link = await client(world, server, HTTP)
    stream, _ = await link.take(NEW_CONN)
    for visitor in visitors:
        await link.take(DATA, stream)
        link.put(DATA, stream, OK)
        await visitor.has(OK)
    assert link.seen.count(NEW_CONN) == 1


@ensureDeferred
async def test_nobody_has_come(world: World) -> None:
    server = names_server(world, hold=0.5)
    await lose(server, await client(world, server, HTTP, HTTPS))
    visitor = await request(world, server)
    [other] = await say_hello(world, server, LARGE)
    await until(lambda: visitor.received.startswith(b"HTTP/1.1 503 "), "an answer")
    assert b"nobody serves http://app.example.org now" in visitor.received
    await other.ends()
    assert not server.names.knows(APP)
    visitor.received.clear()
    visitor.send(GET)
    await until(lambda: visitor.received.startswith(b"HTTP/1.1 404 "), "another answer")


@ensureDeferred
async def test_visitors_who_come_and_go_leave_nothing(world: World) -> None:
    server = names_server(world)
    await lose(server, await client(world, server, HTTP))
    [group] = [group for group in [server.names.http(APP, "/")] if group is not None]
    for _ in range(20):
        visitor = await request(world, server)
        visitor.abort()
        await until(lambda: not server.http._held, "nobody waits")
    assert not group._line
    assert not server.http.connections
    assert not server.visitors


@ensureDeferred
async def test_another_client_does_not_get_the_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = names_server(world)
    await lose(server, await client(world, server, HTTP, HTTPS))
    visitor = await request(world, server)
    [other] = await say_hello(world, server, LARGE)
    # As if it were another one.
    for group in (server.names.http(APP, "/"), server.names.https(APP)):
        assert group is not None
        group._last_holders = ["another"]
    link = await client(world, server, HTTP)
    await until(lambda: visitor.received.startswith(b"HTTP/1.1 503 "), "an answer")
    await other.ends()
    await link.is_alive()
    assert NEW_CONN not in link.seen
    assert server.names.https(APP) is None


@ensureDeferred
async def test_connections_by_name_wait(world: World) -> None:
    server = names_server(world)
    await lose(server, await client(world, server, HTTPS))
    visitors = await say_hello(world, server, hello(APP), LARGE)
    link = await client(world, server, HTTPS, credit=1 << 20)
    for visitor, said in zip(visitors, (hello(APP), LARGE), strict=True):
        stream, _ = await link.take(NEW_CONN)
        await link.has_data(stream, said)
        link.put(DATA, stream, b"answer")
        await visitor.has(b"answer")


@ensureDeferred
async def test_what_they_have_said_counts_as_memory(world: World) -> None:
    server = names_server(world, memory=256 * 1024)
    await lose(server, await client(world, server, HTTPS))
    visitors = []
    for _ in range(40):
        visitors.append(await world.visitor(https_port(server)))
        visitors[-1].send(LARGE)
        await turns(5)
    await until(lambda: any(visitor.over for visitor in visitors), "some give way")
    await world.logged("memory is used up: 127.0.0.1 held")
    server.memory.look()
    together = sum(each._cost for each in server.visitors._ends)  # type: ignore[attr-defined]
    assert together <= 256 * 1024
    assert sum(not visitor.over for visitor in visitors) >= 8


@ensureDeferred
async def test_the_server_stops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER", 0.5)
    monkeypatch.setattr(upstreams, "LINGER", 0.5)
    server = names_server(world, drain=PATIENCE)
    await lose(server, await client(world, server, HTTP, HTTPS))
    visitor = await request(world, server)
    [other] = await say_hello(world, server, LARGE)
    await server.stopService()
    await until(lambda: visitor.received.startswith(b"HTTP/1.1 503 "), "an answer")
    await visitor.ends()
    await other.ends()
    assert not server.visitors


@ensureDeferred
async def test_streams_of_the_lost_link_are_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "LINGER", 0.5)
    server = names_server(world)
    link = await client(world, server, HTTP)
    visitor = await world.visitor(port_of(server.named.listeners["http"]))
    visitor.send(GET)
    await answered(link, visitor)
    await lose(server, link)
    waiting = await request(world, server)
    link = await client(world, server, HTTP)
    await reply(link, waiting)
    [known] = server.http._targets.values()
    await until(lambda: len(known.balanced._of) == 1, "the former tunnel is forgotten")


@pytest.mark.parametrize("earlier", [False, True])
@ensureDeferred
async def test_a_request_that_is_under_way(world: World, earlier: bool) -> None:
    """It has no answer yet, and may be sent again: it is, once."""
    server = names_server(world)
    link = await client(world, server, HTTP)
    port = port_of(server.named.listeners["http"])
    visitors = [await world.visitor(port) for _ in range(2)]
    for visitor in visitors:
        visitor.send(GET)
    streams = [(await link.take(DATA))[0] for _ in visitors]
    if earlier:
        for stream in streams:
            link.put(DATA, stream, OK)
        for visitor in visitors:
            await visitor.has(OK)
            visitor.received.clear()
            visitor.send(GET)
        for _ in visitors:
            await link.take(DATA)
    await lose(server, link)
    await until(lambda: len(server.http._held) == 2, "the requests wait")
    link = await client(world, server, HTTP)
    for _ in visitors:
        stream, _ = await link.take(DATA)
    link.put(DATA, stream, OK)
    await until(lambda: any(visitor.received == OK for visitor in visitors), "an answer")
    await lose(server, link)
    await until(lambda: any(visitor.received.startswith(b"HTTP/1.1 502 ") for visitor in visitors), "another answer")


@ensureDeferred
async def test_a_client_that_is_back_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server looks again whether it was lost."""
    monkeypatch.setattr(front, "LOOK_AFTER", 0.5)
    monkeypatch.setattr(front, "LOOK_EVERY", 0.5)
    server = names_server(world)
    link = await client(world, server, HTTP)
    link.put(PONG, 0, (await link.take(PING))[1])
    visitor = await world.visitor(port_of(server.named.listeners["http"]))
    visitor.send(GET)
    stream, _ = await link.take(DATA)
    link.put(ERROR, stream, LOST)
    await link.take(PING)
    await lose(server, link)
    link = await client(world, server, HTTP)
    assert (await reply(link, visitor)).startswith(b"GET / ")


@ensureDeferred
async def test_a_client_that_was_there_all_the_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer to the PING says so: its service has failed."""
    monkeypatch.setattr(front, "NEWS_IN", PATIENCE)
    server = names_server(world)
    link = await client(world, server, HTTP)
    link.put(PONG, 0, (await link.take(PING))[1])
    visitor = await world.visitor(port_of(server.named.listeners["http"]))
    visitor.send(GET)
    stream, _ = await link.take(DATA)
    link.put(ERROR, stream, LOST)
    _, payload = await link.take(PING)
    assert not visitor.received
    link.put(PONG, 0, payload)
    await until(lambda: visitor.received.startswith(b"HTTP/1.1 502 "), "an answer")


@pytest.mark.parametrize("request_", [POST, POST.replace(b"POST", b"PUT")])
@ensureDeferred
async def test_a_request_that_must_not_be_sent_twice(world: World, request_: bytes) -> None:
    server = names_server(world)
    link = await client(world, server, HTTP)
    visitor = await world.visitor(port_of(server.named.listeners["http"]))
    visitor.send(request_)
    stream, _ = await link.take(NEW_CONN)
    await link.take(DATA, stream)
    await lose(server, link)
    await until(lambda: visitor.received.startswith(b"HTTP/1.1 502 "), "an answer")


@ensureDeferred
async def test_who_leaves_while_his_request_may_be_sent_again(world: World) -> None:
    server = names_server(world)
    link = await client(world, server, HTTP)
    for is_early in (True, False):
        visitor = await world.visitor(port_of(server.named.listeners["http"]))
        visitor.send(GET)
        await link.take(NEW_CONN)
        await lose(server, link)
        if not is_early:
            await until(lambda: server.http._held, "the request waits")
        visitor.abort()
        await until(lambda: not server.http.connections, "the visitor is gone")
        assert not server.http._held
        assert not server.http._looks
        link = await client(world, server, HTTP)
    await turns()
    assert NEW_CONN not in link.seen


@ensureDeferred
async def test_no_circles(world: World) -> None:
    """Who was served, or is gone, does not wait for the garbage collector."""
    server = names_server(world)
    with no_collector():
        await lose(server, await client(world, server, HTTP, HTTPS))
        [first, second] = await say_hello(world, server, LARGE, hello(APP))
        requests = [await request(world, server) for _ in range(2)]
        first.abort()
        requests[0].abort()
        await until(lambda: len(server.http._held) == 1 and len(server.visitors) == 2, "two wait")
        link = await client(world, server, HTTP, HTTPS)
        for _ in range(2):
            await link.take(NEW_CONN)
        second.abort()
        requests[1].abort()
        await until(lambda: not server.visitors, "nobody is left")
        await turns()
        assert not [each for each in gc.get_objects() if isinstance(each, HeldVisitor | HeldRequest)]
