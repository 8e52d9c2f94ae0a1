"""Streams that move at random moments, between our server and our client over real sockets.

All visitors begin on the link, whose windows are small, so that its queues stand still while somebody does not read.
The test decides who moves when, and which of the link and the data connections is read first.
"""

from __future__ import annotations

import math
import socket
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings, strategies as st
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from rtunnel.relay import socket_end
from rtunnel.reverse.carriers.data_connections import DataPool
from rtunnel.reverse.carriers.moving import has_stayed
from rtunnel.wire.limits import LinkLimits
from tests.examples import examples
from tests.ports import free_port
from tests.relay.turns import random_bytes
from tests.reverse.data import AUTO, pool_of
from tests.reverse.net import Peer, turns, until
from tests.reverse.world import World

#: More than the buffers of the system and the window of a stream take.
BUFFER, STUCK = 8192, 60_000
LIMITS = LinkLimits(initial_credit=1500, max_window=3000)
CREDIT = LIMITS.initial_credit
#: Each end of each visitor sends its own part of this.
PATTERN = random_bytes(1_000_000)
PART = 120_000

WHO = st.integers(0, 2)
SIDE = st.booleans()
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("stick"), WHO, SIDE),
        st.tuples(st.just("stick"), WHO, SIDE),
        st.tuples(st.just("send"), WHO, SIDE, st.integers(1, 100)),
        st.tuples(st.just("move"), WHO),
        st.tuples(st.just("move"), WHO),
        st.tuples(st.just("move_early"), WHO),
        st.tuples(st.just("read"), WHO, SIDE, st.booleans()),
        st.tuples(st.just("half_close"), WHO, SIDE),
        st.tuples(st.just("abort"), WHO, SIDE),
        st.tuples(st.just("abort"), WHO, SIDE),
        st.tuples(st.just("read_link"), SIDE, st.booleans()),
        st.tuples(st.just("read_data"), st.booleans()),
        st.tuples(st.just("wait"), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.integers(1, 5)),
    ),
    max_size=20,
)
#: What a visitor or its service does before it moves, and how it moves.
BEGINNINGS = st.lists(
    st.tuples(st.sampled_from(["stick", "send", "half_close"]), SIDE, st.sampled_from(["move", "move_early"])),
    min_size=1,
    max_size=3,
)


class Visit:
    """A visitor and its service's connection, with what each has sent."""

    def __init__(self, number: int, peers: tuple[Peer, Peer], conn_id: int) -> None:
        self.peers = peers
        self.conn_id = conn_id
        self.sent = [0, 0]
        self.done = [False, False]
        self.aborted = False
        self._starts = [(2 * number + side) * PART for side in (0, 1)]

    def has_sent(self, side: int) -> bytes:
        start = self._starts[side]
        return PATTERN[start : start + self.sent[side]]

    def send(self, side: int, count: int) -> None:
        if self.aborted or self.done[side] or self.peers[side].lost is not None:
            return
        start = self._starts[side] + self.sent[side]
        self.sent[side] += min(count, PART - self.sent[side])
        self.peers[side].send(PATTERN[start : self._starts[side] + self.sent[side]])

    def stick(self, side: int) -> None:
        """Send what the other end does not read."""
        self.read(1 - side, False)
        self.send(side, STUCK)

    def half_close(self, side: int) -> None:
        if not (self.aborted or self.done[side]):
            self.done[side] = True
            self.peers[side].half_close()

    def abort(self, side: int) -> None:
        if not self.aborted and not all(self.done):
            self.aborted = True
            self.peers[side].abort()

    def read(self, side: int, wanted: bool) -> None:
        peer = self.peers[side]
        if peer.lost is None and not peer.eof:
            peer.read_on() if wanted else peer.stop_reading()

    def check(self) -> None:
        for side, peer in enumerate(self.peers):
            assert self.has_sent(1 - side).startswith(bytes(peer.received))
            assert not peer.eof or self.aborted or self.done[1 - side]


class Tunnel:
    """A server and a client that are already there, and the visitors of one example."""

    def __init__(self, world: World, server: Any, client: Any, port: int, service: Any, pool: Any) -> None:
        self._world = world
        self._server, self._client = server, client
        self._port, self._service, self._pool = port, service, pool
        self.links = (pool._session, client.link.session)
        self.visits: list[Visit] = []
        self.moves = 0

    async def come(self, count: int) -> None:
        link = self.links[0].link
        self._service.listening.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        for number in range(count):
            known = set(link.streams)
            visitor = await self._world.visitor(self._port)
            visitor.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            visitor.send(b"!")
            peer = await self._service.peer(len(self._service.peers))
            await peer.has(b"!")
            peer.send(b"?")
            await visitor.has(b"?")
            for each in (visitor, peer):
                each.received.clear()
            (conn_id,) = set(link.streams) - known
            self.visits.append(Visit(number, (visitor, peer), conn_id))

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        for what, *arguments in steps:
            if what == "wait":
                await turns(arguments[0])
            elif what == "read_link":
                transport = self.links[arguments[0]].transport
                transport.resumeProducing() if arguments[1] else transport.pauseProducing()
            elif what == "read_data":
                self.read_data(arguments[0])
            else:
                visit = self.visits[arguments[0] % len(self.visits)]
                if what == "move":
                    self.move(visit)
                elif what == "move_early":
                    self.read_data(False)
                    self.move(visit)
                    await turns(3)
                else:
                    getattr(visit, what)(*arguments[1:])
            for visit in self.visits:
                visit.check()

    def read_data(self, wanted: bool) -> None:
        """Let the client read OPEN, or not yet."""
        for connection in self._client.link.session.data._connections:
            if connection.state.is_free:
                connection.resume_reading() if wanted else connection.stop_reading()

    def move(self, visit: Visit) -> None:
        stream = self.links[0].link.streams.get(visit.conn_id)
        if stream is not None and self._pool._idle and has_stayed(stream, CREDIT, math.inf):
            self._pool._move_one(stream)
            self.moves += 1

    async def wind_up(self) -> None:
        """Let all bytes arrive, end everything, and look whether all is at rest again."""
        for session in self.links:
            session.transport.resumeProducing()
        self.read_data(True)
        for visit in self.visits:
            for side in (0, 1):
                visit.read(side, True)
                visit.half_close(side)
        for visit in self.visits:
            for peer in visit.peers:
                await peer.ends()
            visit.check()
            for side, peer in enumerate(visit.peers):
                if visit.aborted:
                    assert peer.was_reset or visit.done[1 - side]
                else:
                    assert not peer.was_reset
                    assert bytes(peer.received) == visit.has_sent(1 - side)
                peer.close()
        server, client = self._server, self._client
        await until(lambda: not (server.visitors or client.visitors), "the end of all relays")
        await until(lambda: not any(session.link.stream_count for session in self.links), "the end of all streams")
        visits = client.link.session.data._visits
        await until(lambda: not self._pool._busy, "free connections")
        assert not self._pool._used
        assert not visits.used
        assert self._pool._on_link == visits._on_link == 0
        assert not any(session.link.streams or session.link.lingering for session in self.links)
        assert not client.link.session.moved_early
        assert not server.ids._live
        self._service.peers.clear()
        self.visits.clear()


@pytest.fixture
def tunnel(world: World, monkeypatch: pytest.MonkeyPatch) -> Tunnel:
    """All visitors begin on the link, and move only when the test says so."""

    def tune(transport: Any) -> None:
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)

    monkeypatch.setattr(socket_end, "tune", tune)
    monkeypatch.setattr(DataPool, "open", lambda *_: False)
    monkeypatch.setattr(DataPool, "_move_soon", lambda _: None)

    async def start() -> Tunnel:
        server, service, port = world.server(limits=LIMITS), await world.service(), free_port()
        client = world.client(server, (port, service.port), limits=LIMITS)
        await world.reachable()
        return Tunnel(world, server, client, port, service, await pool_of(world, server, 4))

    tunnel: Tunnel = pytest_twisted.blockon(Deferred.fromCoroutine(start()))
    return tunnel


@AUTO
@given(beginnings=BEGINNINGS, steps=STEPS)
@settings(max_examples=examples(15), suppress_health_check=list(HealthCheck))
@ensureDeferred
async def test_streams_that_move(tunnel: Tunnel, beginnings: Any, steps: list[tuple[Any, ...]]) -> None:
    await tunnel.come(len(beginnings))
    for who, (what, side, move) in enumerate(beginnings):
        more = (1000,) if what == "send" else ()
        await tunnel.run([(what, who, side, *more), ("wait", 3), (move, who)])
    await tunnel.run(steps)
    await tunnel.wind_up()
