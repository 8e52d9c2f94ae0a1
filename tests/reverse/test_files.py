"""A directory as a local service, on both planes, and what its visitors cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.addresses import DialAddress
from rtunnel.errors import StartupError
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from tests.ports import free_port
from tests.reverse.net import HOST, Peer, reactor, until
from tests.reverse.world import World

PLANES = pytest.mark.parametrize("plane", ["mux", "direct"])


@pytest.fixture
def share(tmp_path: Path) -> Path:
    root = tmp_path / "share"
    root.mkdir()
    (root / "a.txt").write_bytes(b"0123456789")
    return root


def client(root: Path, control: int, port: int, **settings: Any) -> TunnelClient:
    tunnel = TunnelSettings(port, DialAddress.of_directory(f"files:{root}", root))
    where = DialAddress.parse(f"{HOST}:{control}")
    return TunnelClient(reactor, ClientSettings(where, (tunnel,), drain=5.0, **settings))


async def visit(world: World, port: int, request: bytes) -> Peer:
    peer = await world.visitor(port)
    peer.send(request)
    return peer


@PLANES
@ensureDeferred
async def test_visitors(world: World, share: Path, plane: str) -> None:
    """Each holds the two sockets and the file, and its data connection if it has one, until it is gone."""
    world.plane = plane
    server, port = world.server(), free_port()
    served = world.start(client(share, world.control_port(server), port, data_plane=plane))
    await world.logged(f"{HOST}:{port} is published; visitors see the files in {share}")
    peers = [await visit(world, port, b"GET /a.txt HTTP/1.1\r\n\r\n") for _ in range(3)]
    await until(lambda: all(b"\r\n\r\n0123456789" in peer.received for peer in peers), "three answers")
    assert served.descriptors.held == 3 * (4 if plane == "direct" else 3)
    peers[0].send(b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n")
    await peers[0].ends()
    assert b"HTTP/1.1 404 Not Found" in peers[0].received
    for peer in peers:
        peer.abort()
    await until(lambda: served.descriptors.held == 0, "they are gone")


@ensureDeferred
async def test_nobody_tries_it(world: World, share: Path) -> None:
    """Such an attempt would only show that this process runs."""
    server, port = world.server(), free_port()
    served = world.start(client(share, world.control_port(server), port, check_services=True))
    await world.logged("visitors see the files in")
    assert [wanted.watch for wanted in served.link.wanted] == [None]


@ensureDeferred
async def test_no_descriptors_are_left(world: World, share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, port = world.server(), free_port()
    world.start(client(share, world.control_port(server), port, data_plane="mux"))
    await world.logged("visitors see the files in")

    def fail() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("rtunnel.services.files.endpoint.socket.socketpair", fail)
    peer = await visit(world, port, b"GET /a.txt HTTP/1.1\r\n\r\n")
    await peer.ends()
    await world.logged("cannot be reached: too many open files")


def test_a_directory_that_cannot_be_read_ends_the_start(share: Path) -> None:
    """With ``twistd --uid``, only at the start is it known who has to read it."""
    service = client(share / "nothing", 1, 1)
    with pytest.raises(StartupError) as caught:
        service.startService()
    assert str(caught.value) == (
        f"files:{share}/nothing cannot be read: no such file or directory; name a directory that this user may read"
    )
