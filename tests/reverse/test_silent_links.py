"""Links that say nothing: reference clients on a shared port wait like that, and so do scanners and attackers."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse import door
from tests.needs import need_descriptors
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.net import HELLO, INIT, NEW_CONN, READY, Peer, RawLink, hello, is_refused, turns, until
from tests.reverse.world import World, port_of


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "SILENT_AFTER", 0.2)


@ensureDeferred
async def test_silence_is_taken_for_a_reference_client_after_one_second(world: World) -> None:
    assert door.SILENT_AFTER == 1.0
    server = world.server(shared=True)
    link = await world.raw(server)
    await is_refused(port_of(server.shared))
    assert link.seen == []
    await until(lambda: len(server.shared_backends) == 1)
    await world.visitor(port_of(server.shared))
    await link.take(NEW_CONN)


@ensureDeferred
async def test_no_visitor_goes_to_a_link_that_may_still_say_hello(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "SILENT_AFTER", PATIENCE)
    server = world.server(shared=True, handshake_timeout=2 * PATIENCE)
    links = [await world.raw(server) for _ in range(5)]
    assert len(server.shared_backends) == 0
    for link in links:
        link.send(hello()[:5])
    for _ in range(3):
        await is_refused(port_of(server.shared))
    for link in links:
        link.send(hello()[5:])
    for link in links:
        await link.take(HELLO)
        assert link.seen == [HELLO, 0x13], "HELLO comes before any other frame"


@pytest.mark.usefixtures("quick")
@ensureDeferred
async def test_hello_after_the_silence_still_counts(world: World) -> None:
    server, port = world.server(shared=True), free_port()
    link = await world.raw(server)
    await until(lambda: len(server.shared_backends) == 1)
    link.send(hello())
    await link.take(HELLO)
    assert len(server.shared_backends) == 0
    link.put(INIT, 0, b"%d:x" % port)
    await link.take(READY, 0)
    await is_refused(port_of(server.shared))
    await world.visitor(port)
    await link.take(NEW_CONN)


@pytest.mark.usefixtures("quick")
@ensureDeferred
async def test_late_init_of_a_reference_client_joins_once(world: World) -> None:
    server = world.server(shared=True)
    link = await world.raw(server)
    await until(lambda: len(server.shared_backends) == 1)
    link.put(INIT, 0, b"%d:x" % free_port())
    await world.logged("-> x of client")
    assert len(server.shared_backends) == 1
    assert not server.ports
    await world.visitor(port_of(server.shared))
    await link.take(NEW_CONN)


@ensureDeferred
async def test_silent_link_without_a_shared_port_is_closed(world: World) -> None:
    server = world.server(handshake_timeout=0.1)
    link = await world.raw(server)
    await link.ends()
    assert link.seen == []
    assert len(world.lines("asked for nothing within 0.1 s")) == 1
    await world.sessions(server, 0)


@ensureDeferred
async def test_link_that_only_says_hello_may_stay(world: World) -> None:
    server = world.server(handshake_timeout=0.1)
    link = await world.raw_extended(server)
    await world.raw(server)
    await world.logged("asked for nothing")
    await link.is_alive()


@pytest.mark.parametrize("said", [b"\x01", hello()[:20], b"\x7f" + bytes(8)])
@ensureDeferred
async def test_link_that_says_too_little_is_closed(world: World, said: bytes) -> None:
    """Half a frame, or a whole one of a type that nobody knows, is no handshake."""
    server = world.server(handshake_timeout=0.1)
    link = await world.raw(server)
    link.send(said)
    await link.ends()
    await world.sessions(server, 0)


@ensureDeferred
async def test_link_whose_bytes_drip_is_closed_all_the_same(world: World) -> None:
    server = world.server(handshake_timeout=0.2)
    link = await world.raw(server)
    for byte in hello():
        if link.over:
            break
        link.send(bytes([byte]))
        await turns(3)
    assert link.over


@ensureDeferred
async def test_a_thousand_silent_links_stop_nobody(world: World) -> None:
    """One idle peer in the handshake must not stop the service (rathole #324), nor a thousand."""
    need_descriptors(2500)
    server, service, port = world.server(handshake_timeout=1.5), await world.echo(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    visitor = await world.visitor(port)
    silent = [await world.join(world.control_port(server), Peer()) for _ in range(1000)]
    assert len(server.door) > 1
    visitor.send(b"still there?")
    await visitor.has(b"still there?")
    newcomer: RawLink = await world.raw_extended(server)
    await newcomer.is_alive()
    await until(lambda: all(peer.over for peer in silent), "a thousand links to be closed")
    await world.sessions(server, 2)
    visitor.send(b" yes")
    await visitor.has(b"still there? yes")
    assert not world.lines("", LogLevel.warn)
