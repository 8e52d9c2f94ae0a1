"""Visitors of the HTTPS port whose hello is there before the server accepts them, as when it is busy."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.rules import Rules
from rtunnel.reverse.fronts import sni
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.web.client_hello import DECODE_ERROR, INTERNAL_ERROR, UNRECOGNIZED_NAME, fatal_alert
from tests.reverse.https import https_port, https_server, publish
from tests.reverse.net import BOTH_PLANES, HOST, until
from tests.reverse.world import World
from tests.wire.web.hellos import by_openssl, hello, records

NAME = "app.example.org"
POST_QUANTUM = by_openssl(NAME, ["X25519MLKEM768"])


class Early(socket.socket):
    """A visitor who has said something before the reactor gets a turn."""

    def __init__(self, port: int, data: bytes) -> None:
        super().__init__()
        self.connect((HOST, port))
        self.sendall(data)
        self.setblocking(False)
        self.received = b""
        self.is_over = False

    def look(self) -> bytes:
        """Read what there is; return all that has come."""
        try:
            while data := self.recv(65536):
                self.received += data
            self.is_over = True
        except BlockingIOError:
            pass
        except OSError:
            self.is_over = True
        return self.received

    async def has(self, data: bytes) -> None:
        """Wait for exactly these bytes."""
        await until(lambda: len(self.look()) >= len(data) or self.is_over, f"{len(data)} bytes")
        assert self.received == data

    async def ends(self) -> None:
        await until(lambda: self.look() is None or self.is_over, "the end")


@pytest.fixture
def visit() -> Iterator[Callable[[TunnelServer, bytes], Early]]:
    visitors: list[Early] = []

    def come(server: TunnelServer, data: bytes) -> Early:
        visitors.append(Early(https_port(server), data))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.close()


Visit = Callable[[TunnelServer, bytes], Early]


@BOTH_PLANES
@ensureDeferred
async def test_nothing_is_built_and_nothing_lost(world: World, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    server = https_server(world)
    await publish(world, server, NAME)
    monkeypatch.delattr(sni, "BareGuest")
    for data in (hello(NAME), POST_QUANTUM, POST_QUANTUM + b"early" * 100, POST_QUANTUM + b"early" * 10_000):
        visitor = visit(server, data)
        await visitor.has(data)
        visitor.send(b"more")
        await visitor.has(data + b"more")
        visitor.close()
    await until(lambda: not server.visitors)


@BOTH_PLANES
@ensureDeferred
async def test_hello_that_is_not_read_at_once(world: World, visit: Visit) -> None:
    """Half of it, one in several records, and one that is longer than what is read at a time."""
    server = https_server(world)
    await publish(world, server, NAME)
    half = visit(server, POST_QUANTUM[:700])
    for data in (hello(NAME, (21, bytes(500)), size=100), hello(NAME, (21, bytes(10_000)))):
        await visit(server, data).has(data)
    half.sendall(POST_QUANTUM[700:])
    await half.has(POST_QUANTUM)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (hello("other.example.org"), fatal_alert(UNRECOGNIZED_NAME)),
        (records(b"\1\0\0\1x"), fatal_alert(DECODE_ERROR)),
        (b"GET / HTTP/1.1\r\n\r\n", sni.NO_HTTP_HERE),
        (b"SSH-2.0-x\r\n", b""),
    ],
)
@ensureDeferred
async def test_refused(world: World, visit: Visit, data: bytes, answer: bytes) -> None:
    server = https_server(world)
    await publish(world, server, NAME)
    visitor = visit(server, data)
    await visitor.ends()
    assert visitor.received == answer
    assert len(world.lines(f"connection from 127.0.0.1:{visitor.getsockname()[1]} closed: ")) == 1


@BOTH_PLANES
@ensureDeferred
async def test_rules_and_limits_hold(world: World, visit: Visit) -> None:
    server = https_server(world, limits=LinkLimits(max_streams=2))
    await publish(world, server, NAME)
    group = server.names.https(NAME)
    assert group is not None
    group.limits.use([Rules(deny=(ip_network("127.0.0.1/32"),))], 0.0)
    denied = visit(server, hello(NAME))
    await denied.ends()
    assert not denied.received
    group.limits.use([Rules(connections=1)], 0.0)
    first = visit(server, hello(NAME))
    await first.has(hello(NAME))
    second = visit(server, hello(NAME))
    await second.ends()
    assert not second.received
    group.limits.use([Rules()], 0.0)
    await visit(server, hello(NAME)).has(hello(NAME))
    beyond = visit(server, hello(NAME))
    await beyond.ends()
    assert beyond.received == fatal_alert(INTERNAL_ERROR)
    assert len(world.lines("visitor 127.0.0.1 of https")) == 2
    assert len(world.lines("connection from {peer} closed:")) == 1


@ensureDeferred
async def test_who_has_left_already(world: World, visit: Visit) -> None:
    server = https_server(world)
    await publish(world, server, NAME)
    for data in (b"", POST_QUANTUM[:100], POST_QUANTUM):
        visit(server, data).close()
    await visit(server, hello(NAME)).has(hello(NAME))
    await until(lambda: len(server.visitors) == 1)
    assert not world.lines("connection from {peer} closed:")
