"""What connects to the wrong port is named in one line, by both ends, and nothing is built for it."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse import door
from rtunnel.reverse.server.service import TunnelServer
from tests.ports import free_port
from tests.reverse.data import CAPABILITIES
from tests.reverse.net import HELLO, Peer, hello, until
from tests.reverse.world import World

FOREIGN = [
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "that is HTTP: visitors use the public port"),
    (b"SSH-2.0-OpenSSH_9.9\r\n", "that is SSH: "),
    (b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n", "that is a PROXY header: "),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "the other end speaks TLS; add --tls here, or remove it there"),
    (
        b"\xff" * 100,
        "that is an unknown protocol: read as a frame it would be type 0xff of 4294967295 ",
    ),
]


@pytest.mark.parametrize("silent_first", [False, True])
@pytest.mark.parametrize(("data", "words"), FOREIGN)
@ensureDeferred
async def test_server_names_what_is_foreign(
    world: World, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str, silent_first: bool
) -> None:
    monkeypatch.setattr(door, "SILENT_AFTER", 0.05)
    server = world.server(shared=silent_first)
    peer: Peer = await world.join(world.control_port(server), Peer())
    if silent_first:
        await until(lambda: len(server.shared_backends) == 1)
    peer.send(data)
    await peer.ends()
    assert len(world.lines("", LogLevel.warn)) == 1
    await world.logged(f"closed: {words}", LogLevel.warn)
    assert bytes(peer.received) == (door.NO_TLS_HERE if data[0] == 0x16 else b"")
    await until(lambda: not server.sessions and not server.door)
    assert not len(server.shared_backends)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", "that is SSH: visitors use the public port, and --server names the control port"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "that is a web server: "),
        (b"\x15\x03\x03\x00\x02\x02\x0a", "the server speaks TLS; add --tls here, or remove it there"),
    ],
)
@ensureDeferred
async def test_client_names_what_is_foreign(world: World, data: bytes, words: str) -> None:
    class Foreign(Peer):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.send(data)

    there = await world.service(Foreign)
    world.client(there.port, (free_port(), 9))
    await world.logged(f"lost: protocol-error: {words}", LogLevel.warn)


@ensureDeferred
async def test_first_bytes_one_by_one(world: World) -> None:
    server = world.server()
    link = await world.raw(server)
    for byte in hello():
        link.send(bytes([byte]))
    await link.take(HELLO)
    assert len(server.sessions) == 1
    assert not server.door


@ensureDeferred
async def test_nothing_is_built_before_it_is_known_what_a_connection_is(world: World) -> None:
    server = world.server()
    link = await world.raw(server)
    link.send(hello()[:8])
    await until(lambda: len(server.door) == 1)
    assert not server.sessions
    link.abort()
    await until(lambda: not server.door)
    assert not world.lines("client"), "nobody came, and nobody is gone"


@ensureDeferred
async def test_server_that_stops_cuts_who_has_said_nothing(world: World) -> None:
    server: TunnelServer = world.server()
    peer: Any = await world.join(world.control_port(server), Peer())
    await until(lambda: len(server.door) == 1)
    await server.stopService()
    await peer.ends()
    assert not server.door


@ensureDeferred
async def test_links_beyond_the_limit_are_told_so(world: World) -> None:
    """There is room at the door for data connections that are on their way; what is none of them has no place."""
    server, port = world.server(max_links=1, data_plane="auto"), free_port()
    first = await world.raw_extended(server, port, capabilities=CAPABILITIES)
    await until(lambda: len(server.tickets) > 0)
    late = await world.raw(server)
    late.send(hello(capabilities=CAPABILITIES))
    await late.take(HELLO)
    await until(lambda: late.over)
    assert b"the server has no room for another link" in b"".join(payload for _, _, payload in late.frames)
    assert len(server.sessions) == 1
    assert len(world.lines("1 links, the limit (--max-links)", LogLevel.warn)) == 1
    await first.is_alive()
