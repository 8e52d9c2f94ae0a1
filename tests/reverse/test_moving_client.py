"""Our client with a server by hand that moves visitors from the link to data connections."""

from __future__ import annotations

from struct import Struct
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from tests.reverse.data import (
    AUTO,
    R_DATA,
    R_DONE,
    R_END,
    R_OPEN,
    R_RESET,
    RawData,
    opening,
    record,
    relays,
)
from tests.reverse.net import DATA, ERROR, FIN, MOVE, NEW_CONN, PING, LocalService, Peer, RawLink, frame, turns, until
from tests.reverse.server_by_hand import ServerByHand
from tests.reverse.world import QUICK, World

COUNT = Struct("!Q")
STREAM = 7


class Moving:
    """A visitor on the link, who has said something, and a data connection."""

    by_hand: ServerByHand
    link: RawLink
    data: RawData
    service: LocalService
    peer: Peer

    async def start(self, world: World, **settings: Any) -> Moving:
        self.service = await world.service()
        self.by_hand = await ServerByHand().start(world, (8080, self.service.port), **settings)
        self.by_hand.send_tickets(1)
        self.data = await self.by_hand.data()
        self.link = self.by_hand.link
        self.put(NEW_CONN, b'{"tunnel": 0, "visitor": "192.0.2.1:5000"}')
        self.put(DATA, b"question")
        self.peer = await self.service.peer()
        await self.peer.has(b"question")
        return self

    @property
    def client(self) -> Any:
        return self.by_hand.client

    @property
    def session(self) -> Any:
        return self.client.link.session

    def put(self, kind: int, payload: bytes) -> None:
        self.link.put(kind, STREAM, payload)

    def open(self, *records: tuple[int, bytes], moved: int = STREAM) -> None:
        """Open the stream on the data connection; *records* come in the same packet."""
        self.data.number += 1
        self.data.ended = False
        every = [(R_OPEN, opening(0, "", moved)), *records]
        self.data.send(b"".join(record(kind, self.data.number, payload) for kind, payload in every))

    async def move_early(self) -> None:
        """MOVE comes before OPEN."""
        self.put(MOVE, COUNT.pack(8))
        await until(lambda: self.session.moved_early, "MOVE")

    async def is_over(self) -> None:
        """Wait until nothing of the visitor is left."""
        await until(lambda: not self.client.visitors, "the visitor's end")
        await until(lambda: self.session.link.stream_count == 0, "the stream's end")
        visits = self.session.data._visits
        assert not visits.used
        assert not visits._on_link
        assert not self.session.moved_early


@pytest.mark.parametrize("is_early", [False, True])
@AUTO
@ensureDeferred
async def test_each_direction_moves(world: World, is_early: bool) -> None:
    visit = await Moving().start(world)
    visit.peer.send(b"answer")
    await visit.link.has_data(STREAM, b"answer")
    if is_early:
        await visit.move_early()
        visit.open((R_DATA, b", moved"))
    else:
        visit.open((R_DATA, b", moved"))
        assert await visit.link.take(MOVE, STREAM) == (STREAM, COUNT.pack(6))
        await turns()
        assert visit.peer.received == b"question"
        visit.put(MOVE, COUNT.pack(8))
    await visit.peer.has(b"question, moved")
    visit.peer.send(b", too")
    await visit.data.has_stream(b", too")
    assert visit.link.data_of(STREAM) == b"answer"
    visit.peer.half_close()
    await until(lambda: visit.data.ended)
    visit.data.say(R_END)
    await until(lambda: R_DONE in visit.data.kinds, "DONE")
    await visit.peer.ends()
    assert not visit.peer.was_reset
    await visit.is_over()


@AUTO
@ensureDeferred
async def test_service_that_says_nothing_more_is_taken_from_twisted_too(world: World) -> None:
    visit = await Moving().start(world)
    visit.peer.send(b"answer")
    await visit.link.has_data(STREAM, b"answer")
    visit.open()
    await visit.link.take(MOVE, STREAM)
    # In one packet, so that bytes still wait for the service when the stream leaves the link.
    visit.link.send(frame(DATA, STREAM, b", more") + frame(MOVE, STREAM, COUNT.pack(14)))
    await visit.peer.has(b"question, more")
    await until(lambda: relays(visit.client), "a relay")
    visit.data.say(R_DATA, b"!")
    await visit.peer.has(b"question, more!")


@AUTO
@ensureDeferred
async def test_service_that_has_ended_before_it_moves(world: World) -> None:
    """FIN and MOVE take the stream off the link, and then OPEN comes."""
    visit = await Moving().start(world)
    visit.peer.half_close()
    await visit.link.take(FIN, STREAM)
    await visit.move_early()
    assert not visit.session.link.streams
    visit.open((R_DATA, b", moved"))
    await visit.peer.has(b"question, moved")
    await until(lambda: visit.data.ended)
    visit.data.say(R_END)
    await visit.peer.ends()
    assert not visit.peer.was_reset
    assert R_DONE in visit.data.kinds
    assert visit.link.seen.count(MOVE) == 0
    await visit.is_over()


@AUTO
@ensureDeferred
async def test_service_that_is_lost_before_it_moves(world: World) -> None:
    """It has ended, so the link has nothing more to say about it when its socket has to make room for others."""
    visit = await Moving().start(world)
    visit.peer.half_close()
    await visit.link.take(FIN, STREAM)
    await visit.move_early()
    (end,) = visit.client.visitors._ends
    end.cut()
    assert not visit.client.visitors
    visit.open((R_DATA, b", moved"))
    assert await visit.data.is_reset() == "connection-lost"
    await visit.is_over()


@AUTO
@ensureDeferred
async def test_stream_that_no_data_connection_brings(world: World) -> None:
    visit = await Moving().start(world, limits=QUICK)
    await visit.move_early()

    def is_reset() -> bool:
        visit.link.put(PING, 0, b"the link lives")
        return visit.peer.was_reset

    await until(is_reset)
    assert (await visit.link.take(ERROR))[0] == STREAM
    await visit.is_over()


@pytest.mark.parametrize("number", [STREAM + 1, 0xFFFFFFFF])
@AUTO
@ensureDeferred
async def test_stream_that_is_not_there(world: World, number: int) -> None:
    visit = await Moving().start(world)
    visit.open((R_DATA, b"x"), (R_END, b""), moved=number)
    assert await visit.data.is_reset() == "connection-lost"
    visit.data.say(R_RESET, b"connection-lost\0")
    visit.open()
    assert await visit.link.take(MOVE, STREAM) == (STREAM, COUNT.pack(0))


@AUTO
@ensureDeferred
async def test_stream_that_moves_twice(world: World) -> None:
    """The second data connection is none of its business."""
    visit = await Moving().start(world)
    visit.by_hand.send_tickets(1)
    other = await visit.by_hand.data(1)
    visit.open()
    await visit.link.take(MOVE, STREAM)
    other.number = 1
    other.say(R_OPEN, opening(0, "", STREAM))
    assert await other.is_reset() == "connection-lost"
    visit.put(MOVE, COUNT.pack(8))
    visit.data.say(R_DATA, b", moved")
    await visit.peer.has(b"question, moved")


@AUTO
@ensureDeferred
async def test_next_visitor_while_bytes_of_the_last_one_are_on_the_link(world: World) -> None:
    """The stream is over on the data connection, which the next visitor gets, and not on the link."""
    visit = await Moving().start(world)
    visit.peer.send(b"answer")
    visit.peer.half_close()
    await visit.link.take(FIN, STREAM)
    visit.open((R_DATA, b", moved"), (R_END, b""))
    await until(lambda: R_DONE in visit.data.kinds, "DONE")
    visit.open((R_DATA, b"another visitor"), moved=0)
    other = await visit.service.peer(1)
    await other.has(b"another visitor")
    assert visit.peer.received == b"question"
    visit.put(DATA, b" on the link")
    visit.put(MOVE, COUNT.pack(20))
    await visit.peer.has(b"question on the link, moved")
    await visit.peer.ends()
    assert not visit.peer.was_reset
    other.send(b"is served")
    await visit.data.has_stream(b"is served")
    other.abort()
    await visit.data.is_reset()
    visit.data.say(R_RESET, b"connection-lost\0")
    await visit.is_over()


@AUTO
@ensureDeferred
async def test_reset_in_the_packet_of_open(world: World) -> None:
    """It comes behind what is on the link."""
    visit = await Moving().start(world)
    visit.open((R_DATA, b", moved"), (R_RESET, b"connection-lost\0"))
    await visit.link.take(MOVE, STREAM)
    visit.put(DATA, b" on the link")
    visit.put(MOVE, COUNT.pack(20))
    await visit.peer.ends()
    assert visit.peer.was_reset
    assert visit.peer.received == b"question on the link, moved"
    await visit.is_over()


@pytest.mark.parametrize("is_early", [False, True])
@AUTO
@ensureDeferred
async def test_link_that_is_lost_in_a_move(world: World, is_early: bool) -> None:
    visit = await Moving().start(world)
    link = visit.session.link
    if is_early:
        await visit.move_early()
    else:
        visit.open()
        await visit.link.take(MOVE, STREAM)
    visit.link.abort()
    await visit.peer.ends()
    assert visit.peer.was_reset
    await until(lambda: not visit.client.visitors)
    assert link.stream_count == 0
