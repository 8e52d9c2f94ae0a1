"""What connects to the wrong port is named in one line, by both ends, and nothing is built for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.access.admission import AdmissionSettings
from rtunnel.reverse import door
from rtunnel.reverse.server.service import TunnelServer
from tests.ports import free_port
from tests.reverse.data import CAPABILITIES
from tests.reverse.net import ERROR, HELLO, Peer, hello, until
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
    assert not world.lines("client 127"), "nobody came, and nobody is gone"


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


@ensureDeferred
async def test_who_has_no_place_waits_longer_each_time(world: World) -> None:
    """A thousand clients beyond the limit would keep the server busy with their handshakes."""
    server, port = world.server(max_links=1), free_port()
    await world.raw_extended(server, port)
    client = world.client(server, (free_port(), 9), reconnect_min=0.01, reconnect_max=0.1)
    await until(lambda: client.link._backoff._attempts >= 4)


@ensureDeferred
async def test_the_oldest_stranger_gives_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_UNPROVED", 3)
    server = world.server()
    link = await world.raw_extended(server)
    strangers = []
    for number in range(5):
        strangers.append(await world.raw(server))
        await until(lambda count=number + 1: len(server.door) == min(3, count))  # type: ignore[misc]
    for stranger in strangers[:2]:
        await stranger.ends()
    assert len(world.lines("closed: no client is let in by it yet, like 3 others", LogLevel.warn)) == 2
    # Those that are left may still become links.
    for stranger in strangers[2:]:
        stranger.send(hello())
        await stranger.take(HELLO)
    await world.sessions(server, 4)
    assert not server.door
    await link.is_alive()


@ensureDeferred
async def test_who_is_refused_and_stays_gives_way_too(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(door, "MAX_UNPROVED", 3)
    (tmp_path / "clients.yaml").write_text("laptop: {token: 1234-5678}\n")
    server = world.server(max_links=2, admission=AdmissionSettings(tmp_path / "clients.yaml"))
    refused = []
    for _ in range(6):
        refused.append(await world.raw(server))
        refused[-1].send(hello(token="wrong-token"))
        assert (await refused[-1].take_json(ERROR))["code"] == "unauthorized"
    assert not server.sessions
    assert len(server.door) <= 3
    link = await world.raw_extended(server, token="1234-5678")
    await link.is_alive()


@ensureDeferred
async def test_links_of_one_client_have_a_limit(world: World, tmp_path: Path) -> None:
    (tmp_path / "clients.yaml").write_text("laptop: {token: 1234-5678, links: 2}\nphone: {token: 8765-4321}\n")
    server = world.server(admission=AdmissionSettings(tmp_path / "clients.yaml"))
    session = "0123456789abcdef0123456789abcdef"
    first = await world.raw_extended(server, token="1234-5678", session=session)
    await world.raw_extended(server, token="1234-5678")
    late = await world.raw(server)
    late.send(hello(token="1234-5678"))
    assert (await late.take_json(ERROR))["message"] == "this client may have 2 links"
    await world.logged("refused: this client may have 2 links", LogLevel.warn)
    # The link that it had before does not count against whoever comes back.
    again = await world.raw_extended(server, token="1234-5678", session=session)
    assert (await first.take_json(ERROR))["code"] == "taken-over"
    await again.is_alive()
    await (await world.raw_extended(server, token="8765-4321")).is_alive()
    await world.sessions(server, 3)
    # A smaller right counts for links that are there.
    (tmp_path / "clients.yaml").write_text("laptop: {token: 1234-5678, links: 1}\nphone: {token: 8765-4321}\n")
    await world.sessions(server, 2)
    await until(lambda: sorted(each.client_name for each in server.sessions) == ["laptop", "phone"])


@ensureDeferred
async def test_a_dropped_link_is_with_the_strangers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may still say why it was dropped, and is bounded while it does."""
    monkeypatch.setattr(door, "MAX_UNPROVED", 2)
    server = world.server()
    links = [await world.raw_extended(server, session="0123456789abcdef0123456789abcdef") for _ in range(6)]
    await links[-1].is_alive()
    assert len(server.sessions) == 1
    assert len(server.door) <= 2
    for link in links[:3]:
        await link.ends()
