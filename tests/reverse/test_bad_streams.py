"""Bad input that concerns a stream, at both ends: it is ignored, or ends that stream and no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from struct import pack
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse.carriers.link_protocol import LinkProtocol
from tests.ports import free_port
from tests.reverse.net import (
    CLOSE_CONN,
    CREDIT,
    DATA,
    ERROR,
    FIN,
    HELLO,
    MOVE,
    NEW_CONN,
    Peer,
    RawLink,
    hello,
    until,
)
from tests.reverse.world import World, held

RESET = b'{"scope": "stream", "code": "x", "message": "y"}'


class Scene:
    """Our end of a link with two streams, and the other end in our hands.

    :ivar link: the other end.
    :ivar number: a stream's conn_id ...
    :ivar end: ... and its socket at our end; the other stream's are *other_number* and *other*.
    """

    ours: Callable[[], LinkProtocol]
    link: RawLink
    number: int
    other_number: int
    end: Peer
    other: Peer

    async def goes_on(self) -> None:
        """The link and the other stream do not mind."""
        await self.link.is_alive()
        mark = b"%d bytes" % len(self.link.frames)
        self.other.send(mark)
        await until(lambda: self.link.data_of(self.other_number).endswith(mark))
        assert not self.other.over

    async def is_reset(self, code: str) -> None:
        error = await self.link.take_json(ERROR, self.number)
        assert (error["scope"], error["code"]) == ("stream", code)
        await until(lambda: self.end.was_reset, "a reset of the socket")
        await self.goes_on()


async def at_server(world: World) -> Scene:
    """Our server; the other end is a client that takes a mile."""
    scene, server, port = Scene(), world.server(), free_port()
    scene.link = await world.raw_extended(server, port)
    scene.ours = lambda: next(iter(server.sessions))
    scene.end = await world.visitor(port)
    scene.number = (await scene.link.take(NEW_CONN))[0]
    scene.other = await world.visitor(port)
    scene.other_number = (await scene.link.take(NEW_CONN))[0]
    return scene


async def at_client(world: World) -> Scene:
    """Our client; the other end is a server."""
    scene, by_hand, service = Scene(), await world.raw_server(), await world.service()
    client = world.client(by_hand.port, (8080, service.port))
    link: Any = await by_hand.peer()
    scene.link = link
    await link.take(HELLO)
    link.send(hello())
    scene.ours = lambda: client.link.session
    scene.number, scene.other_number = 7, 8
    link.put(NEW_CONN, 7, b'{"tunnel": 0, "visitor": "192.0.2.1:1"}')
    scene.end = await service.peer(0)
    link.put(NEW_CONN, 8, b'{"tunnel": 0, "visitor": "192.0.2.1:2"}')
    scene.other = await service.peer(1)
    return scene


@pytest_twisted.async_yield_fixture(params=[at_server, at_client])
async def scene(world: World, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    scene: Scene = await request.param(world)
    yield scene
    await scene.goes_on()


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (DATA, b"x" * 1000),
        (CLOSE_CONN, b""),
        (CREDIT, pack("!QQ", 2**20, 0)),
        (FIN, pack("!Q", 0)),
        (MOVE, pack("!Q", 0)),
        (ERROR, RESET),
    ],
)
@pytest.mark.parametrize("ever", ["never was", "over"])
@ensureDeferred
async def test_frames_for_a_stream_that_is_not_there(
    world: World, scene: Scene, kind: int, payload: bytes, ever: str
) -> None:
    number = scene.number
    if ever == "over":
        scene.link.put(CLOSE_CONN, number)
        await until(lambda: scene.end.over)
    else:
        number = 4_000_000_000
    before = scene.link.seen.count(ERROR)
    for _ in range(10):
        scene.link.put(kind, number, payload)
    await scene.goes_on()
    assert scene.ours().link.ignored.total() == 10
    assert scene.link.seen.count(ERROR) == before, "never answered"
    assert not world.lines("ignored", LogLevel.warn), "it happens between honest peers too"


@ensureDeferred
async def test_frames_for_ids_of_another_link(world: World) -> None:
    """One client must not get at the visitors of another."""
    server, ports = world.server(), [free_port(), free_port()]
    mine, theirs = [await world.raw_extended(server, port) for port in ports]
    visitor = await world.visitor(ports[1])
    number, _ = await theirs.take(NEW_CONN)
    mine.put(DATA, number, b"for you")
    mine.put(CREDIT, number, pack("!QQ", 2**30, 0))
    mine.put(FIN, number, pack("!Q", 7))
    mine.put(ERROR, number, RESET)
    mine.put(CLOSE_CONN, number)
    await mine.is_alive()
    theirs.put(DATA, number, b"from the right one")
    await visitor.has(b"from the right one")
    visitor.send(b"answer")
    await theirs.has_data(number, b"answer")
    assert not visitor.over


@ensureDeferred
async def test_credit_that_goes_backwards_is_ignored(scene: Scene) -> None:
    for limit in (65536 + 1000, 65536, 10, 0):
        scene.link.put(CREDIT, scene.number, pack("!QQ", limit, 0))
    await scene.link.is_alive()
    scene.end.send(b"x" * 100_000)
    await until(lambda: len(scene.link.data_of(scene.number)) >= 65536 + 1000)
    await scene.link.is_alive()
    assert len(scene.link.data_of(scene.number)) == 65536 + 1000


@pytest.mark.parametrize(
    "payload",
    [pack("!QQ", 2**64 - 1, 0), pack("!QQ", 2**62, 0), pack("!QQ", 70000, 1), b"", b"\0" * 15, b"\0" * 17],
)
@ensureDeferred
async def test_credit_that_cannot_be(scene: Scene, payload: bytes) -> None:
    """Beyond all offsets (it would wrap), more delivered than sent, or not two numbers."""
    scene.link.put(CREDIT, scene.number, payload)
    await scene.is_reset("flow-control")


@ensureDeferred
async def test_more_data_than_credit(scene: Scene) -> None:
    """rust-yamux CVE-2026-32314. The socket does not read, so that no credit is added; nothing is kept of the rest."""
    scene.end.stop_reading()
    for _ in range(400):
        scene.link.put(DATA, scene.number, b"x" * 60_000)
    await until(lambda: scene.link.seen.count(ERROR))
    scene.end.read_on()
    await scene.is_reset("flow-control")
    assert held([scene.ours()]) == 0


@ensureDeferred
async def test_data_after_fin(scene: Scene) -> None:
    scene.link.put(DATA, scene.number, b"abc")
    scene.link.put(FIN, scene.number, pack("!Q", 3))
    scene.link.put(DATA, scene.number, b"d")
    await scene.is_reset("protocol-error")


@pytest.mark.parametrize("payload", [pack("!Q", 2), pack("!Q", 4), pack("!Q", 2**64 - 1), b"", b"\0" * 9])
@ensureDeferred
async def test_fin_that_does_not_fit(scene: Scene, payload: bytes) -> None:
    scene.link.put(DATA, scene.number, b"abc")
    scene.link.put(FIN, scene.number, payload)
    await scene.is_reset("protocol-error")


@ensureDeferred
async def test_fin_twice(scene: Scene) -> None:
    for _ in range(2):
        scene.link.put(FIN, scene.number, pack("!Q", 0))
    await scene.is_reset("protocol-error")


@pytest.mark.parametrize("scene", [at_server], indirect=True)
@ensureDeferred
async def test_move_without_a_data_connection(scene: Scene) -> None:
    scene.link.put(DATA, scene.number, b"abc")
    scene.link.put(MOVE, scene.number, pack("!Q", 3))
    await scene.is_reset("protocol-error")


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"scope": "world"}', b"\xff", b"[" * 9999])
@ensureDeferred
async def test_error_that_says_nothing(scene: Scene, payload: bytes) -> None:
    scene.link.put(ERROR, scene.number, payload)
    await scene.goes_on()
    assert not scene.end.over


@pytest.mark.parametrize("kind", [CLOSE_CONN, ERROR])
@ensureDeferred
async def test_reset_by_the_peer_is_not_answered(scene: Scene, kind: int) -> None:
    scene.link.put(kind, scene.number, RESET if kind == ERROR else b"")
    await until(lambda: scene.end.was_reset)
    await scene.goes_on()
    assert ERROR not in scene.link.seen
    assert CLOSE_CONN not in scene.link.seen


# What only a server can send


@ensureDeferred
async def test_new_conn_for_an_unknown_tunnel(world: World) -> None:
    """A client dials only what it was configured with."""
    scene = await at_client(world)
    for number, tunnel in ((20, b"1"), (21, b"-1"), (22, b"4294967295")):
        scene.link.put(NEW_CONN, number, b'{"tunnel": %s, "visitor": "192.0.2.1:3"}' % tunnel)
        assert (await scene.link.take_json(ERROR, number))["code"] == "unknown-tunnel"
    await scene.goes_on()


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"tunnel": "0"}', b'{"tunnel": true}', b'{"tunnel": 0.0}', b"\xff"])
@ensureDeferred
async def test_new_conn_without_a_tunnel_number(world: World, payload: bytes) -> None:
    scene = await at_client(world)
    scene.link.put(NEW_CONN, 20, payload)
    assert (await scene.link.take_json(ERROR, 20))["code"] == "protocol-error"
    await scene.goes_on()


@ensureDeferred
async def test_new_conn_for_a_stream_that_is_open(world: World) -> None:
    scene = await at_client(world)
    for number in (scene.number, 0):
        scene.link.put(NEW_CONN, number, b'{"tunnel": 0, "visitor": ""}')
    await scene.goes_on()
    assert not scene.end.over


@ensureDeferred
async def test_flood_of_new_conns_is_bounded(world: World) -> None:
    """Floods of opens (rust-yamux CVE-2024-32984): refused beyond the limit, and each is told so."""
    by_hand, service = await world.raw_server(), await world.service()
    from rtunnel.wire.limits import LinkLimits

    world.client(by_hand.port, (8080, service.port), limits=LinkLimits(max_streams=10))
    link: Any = await by_hand.peer()
    await link.take(HELLO)
    link.send(hello())
    for number in range(1, 101):
        link.put(NEW_CONN, number, b'{"tunnel": 0, "visitor": ""}')
    for number in range(11, 101):
        assert (await link.take_json(ERROR, number))["code"] == "limit"
    await link.is_alive()
    assert len(service.peers) == 10


@pytest.mark.parametrize(
    ("kind", "number", "payload"),
    [
        (0x15, 5, b'{"address": "x:1"}'),
        (0x15, 0, b"{}"),
        (ERROR, 5, b'{"scope": "tunnel", "code": "x", "message": ""}'),
        (0x04, 0, b"80:x"),
        (0x17, 0, b"ticket"),
        (0x18, 0, b"{}"),
    ],
)
@ensureDeferred
async def test_other_frames_that_mean_nothing_to_a_client(world: World, kind: int, number: int, payload: bytes) -> None:
    scene = await at_client(world)
    for _ in range(5):
        scene.link.put(kind, number, payload)
    await scene.goes_on()
    assert scene.ours().link.ignored.total() == 5
    assert len(world.lines("ignored: ")) == 1, "counted, and told once"
