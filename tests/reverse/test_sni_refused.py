"""Who gets no further than the HTTPS port: an alert or a page, one line in the log, and the end."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.rules import Rules
from rtunnel.reverse.fronts.sni import NO_HTTP_HERE
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.web.client_hello import DECODE_ERROR, INTERNAL_ERROR, UNRECOGNIZED_NAME, fatal_alert
from tests.reverse.https import https_server, publish, visit
from tests.reverse.net import BOTH_PLANES, INIT, READY, until
from tests.reverse.test_sni import waiting
from tests.reverse.world import World
from tests.wire.web.hellos import body, by_python, hello, message, records, server_name

NAME = "app.example.org"
UNKNOWN, BROKEN = fatal_alert(UNRECOGNIZED_NAME), fatal_alert(DECODE_ERROR)
REFUSED = {
    "unknown": (hello("other.example.org"), UNKNOWN, "nobody publishes https://other.example.org"),
    "above a wildcard": (hello("dev.example.org"), UNKNOWN, "nobody publishes https://dev.example.org"),
    "no name": (by_python(None), UNKNOWN, "it asks for no host by name (SNI)"),
    "address": (hello("127.0.0.1"), UNKNOWN, "nobody publishes https://127.0.0.1"),
    "braces": (hello("{peer}"), UNKNOWN, "nobody publishes https://{peer}"),
    "malformed": (records(message(body(server_name(b"a", b"b")))), BROKEN, "it asks for two host names"),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: app.example.org\r\n\r\n", NO_HTTP_HERE, "that is HTTP, and the port speaks"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NO_HTTP_HERE, "that is HTTP, and the port speaks"),
    "SSH": (b"SSH-2.0-OpenSSH_9.9\r\n", b"", "that is no TLS"),
    "zeros": (bytes(1000), b"", "that is no TLS"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("kind", ["bare socket", "transport"])
@ensureDeferred
async def test_refused(world: World, monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    if kind == "transport":
        monkeypatch.setattr("rtunnel.upkeep.listening.give_sockets", lambda _port, _factory: None)
    data, answer, words = REFUSED[name]
    server = https_server(world)
    await publish(world, server, NAME, "*.dev.example.org")
    visitor = await visit(world, server, data)
    await visitor.has(answer)
    await visitor.ends()
    assert not visitor.was_reset
    assert len(world.lines(f"connection from {visitor.name} closed: {words}")) == 1
    assert not server.visitors
    visitor.close()
    await until(lambda: not waiting(server))


@ensureDeferred
async def test_the_same_again_is_one_line(world: World) -> None:
    server = https_server(world)
    for _ in range(5):
        visitor = await visit(world, server, hello(NAME))
        await visitor.has(UNKNOWN)
        await visitor.ends()
    assert len(world.lines("nobody publishes")) == 1


@BOTH_PLANES
@ensureDeferred
async def test_client_that_can_take_no_more(world: World) -> None:
    server = https_server(world, limits=LinkLimits(max_streams=1))
    await publish(world, server, NAME)
    first = await visit(world, server, hello(NAME))
    await first.has(hello(NAME))
    second = await visit(world, server, hello(NAME))
    await second.has(fatal_alert(INTERNAL_ERROR))
    await second.ends()
    await world.logged(f"closed: the client of https://{NAME} cannot take it now")
    first.send(b"more")
    await first.has(hello(NAME) + b"more")


@ensureDeferred
async def test_client_that_can_take_no_more_while_its_connection_is_a_transport(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtunnel.upkeep.listening.give_sockets", lambda _port, _factory: None)
    server = https_server(world, limits=LinkLimits(max_streams=1), handshake_timeout=0.3)
    await publish(world, server, NAME)
    await (await visit(world, server, hello(NAME))).has(hello(NAME))
    second = await visit(world, server, hello(NAME))
    await second.has(fatal_alert(INTERNAL_ERROR))
    await second.ends()
    await until(lambda: not waiting(server))
    assert not world.lines("it named no host")


@ensureDeferred
async def test_name_that_was_freed(world: World) -> None:
    server = https_server(world, hold=0.0)
    link = await world.raw_extended(server, capabilities=["withdraw", "hosts"])
    link.put(INIT, 0, f"https/{NAME}:local".encode())
    await link.take(READY, 0)
    link.abort()
    await until(lambda: not server.sessions)
    await (await visit(world, server, hello(NAME))).has(UNKNOWN)


@BOTH_PLANES
@pytest.mark.parametrize("kind", ["bare socket", "transport"])
@ensureDeferred
async def test_rules_of_a_name(world: World, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "transport":
        monkeypatch.setattr("rtunnel.upkeep.listening.give_sockets", lambda _port, _factory: None)
    server = https_server(world)
    await publish(world, server, NAME, "other.example.org")
    group = server.names.https(NAME)
    assert group is not None
    group.limits.use([Rules(deny=(ip_network("127.0.0.0/8"),))], 0.0)
    denied = await visit(world, server, hello(NAME))
    await denied.ends()
    assert not denied.received
    await world.logged(f"visitor 127.0.0.1 of https://{NAME} refused: its address may not come")
    # A right of its own, for each name.
    await (await visit(world, server, hello("other.example.org"))).has(hello("other.example.org"))
    group.limits.use([Rules(connections=2)], 0.0)
    visitors = [await visit(world, server, hello(NAME)) for _ in range(2)]
    for visitor in visitors:
        await visitor.has(hello(NAME))
    third = await visit(world, server, hello(NAME))
    await third.ends()
    assert not third.received
    await world.logged(f"visitor 127.0.0.1 of https://{NAME} refused: its address has 2 connections at once, the limit")
    visitors[0].close()
    await until(lambda: len(server.visitors) == 2)
    await (await visit(world, server, hello(NAME))).has(hello(NAME))
    assert not waiting(server)
