"""Back-pressure and fair turns between the streams of one link of ours."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.net import BOTH_PLANES, CREDIT, DATA, NEW_CONN, Peer, turns, until
from tests.reverse.world import World, held

MIB = 1024 * 1024


class Pair:
    """A server, a client, and a visitor who does nothing yet.

    :ivar visitor: the visitor, and *peer* its service.
    """

    def __init__(self, world: World, limits: LinkLimits | None = None) -> None:
        self._world = world
        self._limits = limits or LinkLimits()

    async def start(self) -> Pair:
        world = self._world
        self.port = free_port()
        self.service = await world.service(lambda: Peer(keep=False))
        self.server = world.server(limits=self._limits)
        self.client = world.client(self.server, (self.port, self.service.port), limits=self._limits)
        await world.reachable()
        self.visitor, self.peer = await self.visit()
        return self

    async def visit(self) -> tuple[Peer, Peer]:
        """A visitor and its service."""
        count = len(self.service.peers)
        visitor = await self._world.visitor(self.port, keep=False)
        return visitor, await self.service.peer(count)

    @property
    def held(self) -> int:
        """Bytes that server and client hold together."""
        return held([*self.server.sessions, self.client.link.session])


def waiting(transport: Any) -> int:
    """Bytes that one of Twisted's transports has not handed to the kernel yet."""
    return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)


def ping_pong(one: Peer, two: Peer) -> list[int]:
    """Start small exchanges between two ends, one after the other; how many there were is the list's length."""
    done: list[int] = []

    def answered(data: bytes) -> None:
        done.append(len(data))
        one.send(b"ping")

    one.on_data = answered
    two.on_data = lambda data: two.send(b"pong")
    one.send(b"ping")
    return done


@pytest.mark.parametrize("direction", ["up", "down"])
@BOTH_PLANES
@ensureDeferred
async def test_bulk_does_not_starve_small_exchanges(world: World, direction: str) -> None:
    pair = await Pair(world).start()
    small = await pair.visit()
    source, sink = (pair.visitor, pair.peer) if direction == "up" else (pair.peer, pair.visitor)
    bulk = os.urandom(20_000_000)
    source.send(bulk)
    await until(lambda: sink.count > 100_000)
    done = ping_pong(*small)
    await until(lambda: sink.count == len(bulk))
    assert len(done) >= 10
    assert sink.sha.digest() == hashlib.sha256(bulk).digest()


@ensureDeferred
async def test_turns_on_the_wire(world: World) -> None:
    """Two streams with much to send alternate frame by frame, and no frame is larger than 64 KiB."""
    server, port = world.server(), free_port()
    link = await world.raw_extended(server, port, credit=100 * MIB)
    visitors = [await world.visitor(port) for _ in range(2)]
    numbers = [(await link.take(NEW_CONN))[0] for _ in visitors]
    link.stop_reading()
    for visitor in visitors:
        visitor.send(bytes(5 * MIB))
    (session,) = server.sessions
    await until(lambda: all(stream.paused for stream in session.link.streams.values()), "both to wait their turn")
    link.read_on()
    await until(lambda: sum(len(link.data_of(number)) for number in numbers) == 10 * MIB)
    order = [(number, len(payload)) for kind, number, payload in link.frames if kind == DATA]
    assert max(size for _, size in order) <= 65536
    longest = dict.fromkeys(numbers, 0)
    run, last = 0, 0
    left = dict.fromkeys(numbers, 5 * MIB)
    for number, size in order:
        run = run + size if number == last else size
        last = number
        left[number] -= size
        if min(left.values()) > MIB and max(left.values()) < 4 * MIB:
            longest[number] = max(longest[number], run)
    assert max(longest.values()) <= 4 * 65536, "bytes of one stream before the other's turn, while both have some"


@pytest.mark.parametrize("stalled", ["visitor", "service"])
@BOTH_PLANES
@ensureDeferred
async def test_stalled_reader_holds_up_nothing_but_its_own_stream(world: World, stalled: str) -> None:
    """A pending queue without bound behind a reader that stalls (tentacle #437)."""
    limits = LinkLimits(max_window=MIB)
    pair = await Pair(world, limits).start()
    reader, source = (pair.visitor, pair.peer) if stalled == "visitor" else (pair.peer, pair.visitor)
    reader.stop_reading()
    block = os.urandom(MIB)
    blocks = 0

    async def send_until_it_waits() -> None:
        """The sockets on the way may hold much, as the kernel lets them grow."""
        nonlocal blocks
        while waiting(source.transport) < 8 * MIB:
            source.send(block)
            blocks += 1
            assert blocks < 1000, "nothing holds the source back"
            await turns(2)

    await send_until_it_waits()
    small = await pair.visit()
    done = ping_pong(*small)
    other = await pair.visit()
    other[1].send(bytes(10 * MIB))
    await until(lambda: other[0].count == 10 * MIB and len(done) > 100)
    await send_until_it_waits()
    assert pair.held <= MIB + 3 * 65536 * 2
    reader.read_on()
    await until(lambda: reader.count == blocks * len(block))
    assert reader.sha.digest() == hashlib.sha256(block * blocks).digest()


@ensureDeferred
async def test_many_stalled_readers_stay_within_the_bound_of_the_link(world: World) -> None:
    limits = LinkLimits(initial_credit=65536, max_window=MIB, link_buffer=2 * MIB)
    pair = await Pair(world, limits).start()
    pairs = [(pair.visitor, pair.peer)] + [await pair.visit() for _ in range(7)]
    most = 0
    for visitor, peer in pairs:
        visitor.stop_reading()
        peer.send(bytes(12 * MIB))
    for _ in range(30):
        await turns(5)
        (session,) = pair.server.sessions
        most = max(most, held([session]))
    assert 0 < most <= 2 * MIB
    for visitor, _peer in pairs:
        visitor.read_on()
    await until(lambda: all(visitor.count == 12 * MIB for visitor, _ in pairs))


@ensureDeferred
async def test_window_does_not_grow_for_a_reader_that_is_slow(world: World) -> None:
    server, port = world.server(), free_port()
    link = await world.raw_extended(server, port)
    visitor = await world.visitor(port)
    visitor.stop_reading()
    number, _ = await link.take(NEW_CONN)
    link.put(DATA, number, bytes(65536))
    await link.is_alive()
    await turns()
    (session,) = server.sessions
    (stream,) = session.link.streams.values()
    granted = stream.receive_window.limit
    assert granted <= 2 * 65536 + 65536
    assert link.seen.count(CREDIT) <= 2


@ensureDeferred
async def test_peer_without_credit_is_sent_nothing(world: World) -> None:
    server, port = world.server(), free_port()
    link = await world.raw_extended(server, port, credit=0)
    visitor = await world.visitor(port)
    number, _ = await link.take(NEW_CONN)
    visitor.send(bytes(4 * MIB))
    await turns(50)
    await link.is_alive()
    assert DATA not in link.seen
    assert held(server.sessions) < 4 * 65536
    link.put(CREDIT, number, (1000).to_bytes(8, "big") + bytes(8))
    await until(lambda: link.data_of(number))
    await link.is_alive()
    assert len(link.data_of(number)) == 1000
