"""Our server moves visitors from the link to data connections, with a client by hand."""

from __future__ import annotations

from struct import Struct
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.reverse.carriers import data_connections as pool, moving
from rtunnel.wire import link as wire_link
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.data import (
    AUTO,
    CAPABILITIES,
    R_DATA,
    R_DONE,
    R_END,
    R_RESET,
    RawData,
    attach,
    relays,
    session_of,
    tickets_of,
)
from tests.reverse.net import CREDIT, DATA, ERROR, FIN, MOVE, NEW_CONN, PING, PONG, Peer, RawLink, frame, turns, until
from tests.reverse.world import World

COUNT, TWO_COUNTS = Struct("!Q"), Struct("!QQ")
#: A tick comes soon, but the link lives without an answer to a ping.
TICKING = LinkLimits(keepalive_interval=0.1, dead_after=60)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has been there for a moment has stayed."""
    for module in (moving, pool):
        monkeypatch.setattr(module, "STAYED", 0.01)


class Moving:
    """A visitor on the link, and a data connection.

    :ivar number: the stream's conn_id.
    """

    server: Any
    link: RawLink
    data: RawData
    visitor: Peer

    async def start(self, world: World, credit: int = 65536) -> Moving:
        self.server, port = world.server(limits=TICKING), free_port()
        self.link = await world.raw_extended(self.server, port, capabilities=CAPABILITIES, credit=credit)
        tickets = await tickets_of(self.link)
        self.session = session_of(self.server)
        self.visitor = await world.visitor(port)
        self.visitor.send(b"question")
        self.number, _ = await self.link.take(NEW_CONN)
        await self.link.has_data(self.number, b"question"[:credit])
        self.data = await attach(world, self.server, tickets[0])
        await self.data.is_taken()
        return self

    def put(self, kind: int, payload: bytes) -> None:
        self.link.put(kind, self.number, payload)

    async def move(self, answer: bytes = b"answer") -> None:
        """Answer, and wait for OPEN. Our own end of the stream has not moved yet."""
        self.put(DATA, answer)
        await self.visitor.has(answer)
        await self.data.is_used()
        assert self.data.moved == self.number

    async def is_relayed(self) -> None:
        """Wait until the visitor's socket is taken from Twisted."""
        await until(lambda: relays(self.server), "a relay")
        assert self.session.link.stream_count == 1
        assert not self.session.link.streams

    async def is_over(self) -> None:
        """Wait until nothing of the visitor is left."""
        await until(lambda: not self.server.visitors, "the visitor's end")
        await until(lambda: self.session.link.stream_count == 0, "the stream's end")
        pool = self.session.carriers[0]
        assert not pool._used
        assert not pool._on_link
        assert not self.server.ids._live


@pytest.mark.parametrize("kind", ["DATA", "CREDIT", "PONG"])
@AUTO
@ensureDeferred
async def test_move_waits_for_a_sign_that_the_client_has_the_stream(world: World, kind: str) -> None:
    """OPEN could come before NEW_CONN, and the client would take the stream for one that is over."""
    visit = await Moving().start(world)
    await turns(40)
    assert not visit.data.number
    if kind == "DATA":
        visit.put(DATA, b"answer")
    elif kind == "CREDIT":
        visit.put(CREDIT, TWO_COUNTS.pack(100_000, 8))
    while kind == "PONG" and not visit.data.number:
        _, payload = await visit.link.take(PING)
        visit.link.put(PONG, 0, payload)
        await turns(4)
    await visit.data.is_used()
    assert visit.data.moved == visit.number
    assert await visit.link.take(MOVE) == (visit.number, COUNT.pack(8))


@AUTO
@ensureDeferred
async def test_what_came_on_the_link_goes_first(world: World) -> None:
    visit = await Moving().start(world)
    await visit.move()
    visit.data.say(R_DATA, b" and more")
    visit.visitor.send(b"next")
    await visit.data.has_stream(b"next")
    await turns()
    assert visit.visitor.received == b"answer"
    visit.put(DATA, b", on the link")
    visit.put(MOVE, COUNT.pack(19))
    await visit.visitor.has(b"answer, on the link and more")
    visit.data.say(R_DATA, b"!")
    await visit.visitor.has(b"answer, on the link and more!")
    visit.visitor.half_close()
    await until(lambda: visit.data.ended)
    visit.data.say(R_DONE)
    await visit.visitor.ends()
    assert not visit.visitor.was_reset
    await visit.is_over()
    assert visit.data.stream == b"next"


@AUTO
@ensureDeferred
async def test_who_only_receives_is_taken_from_twisted_too(world: World) -> None:
    visit = await Moving().start(world)
    await visit.move()
    # In one packet, so that bytes still wait for the visitor when the stream leaves the link.
    visit.link.send(frame(DATA, visit.number, b"more") + frame(MOVE, visit.number, COUNT.pack(10)))
    said = b"answermore"
    for _ in range(2):
        visit.data.say(R_DATA, b"x" * 1000)
        said += b"x" * 1000
        await visit.visitor.has(said)
        await turns()
    await visit.is_relayed()


@AUTO
@ensureDeferred
async def test_who_says_nothing_more_is_taken_from_twisted_too(world: World) -> None:
    visit = await Moving().start(world)
    await visit.move()
    visit.link.send(frame(DATA, visit.number, b"more") + frame(MOVE, visit.number, COUNT.pack(10)))
    await visit.visitor.has(b"answermore")
    await visit.is_relayed()
    visit.data.say(R_DATA, b"!")
    await visit.visitor.has(b"answermore!")


@AUTO
@ensureDeferred
async def test_move_that_goes_out_last(world: World) -> None:
    """Nobody needs to say anything for the stream to leave the link."""
    visit = await Moving().start(world, credit=4)
    visit.put(CREDIT, TWO_COUNTS.pack(5, 4))
    await visit.move()
    visit.put(MOVE, COUNT.pack(6))
    await turns()
    assert list(visit.session.link.streams) == [visit.number]
    assert visit.session.link.stream_count == 1
    visit.put(CREDIT, TWO_COUNTS.pack(8, 5))
    assert await visit.link.take(MOVE) == (visit.number, COUNT.pack(8))
    await visit.is_relayed()


@AUTO
@ensureDeferred
async def test_visitor_who_leaves_while_its_bytes_are_on_both_carriers(world: World) -> None:
    """All of them go out, and the reset behind them."""
    visit = await Moving().start(world, credit=4)
    await visit.move()
    visit.visitor.send(b", moved")
    await visit.data.has_stream(b", moved")
    visit.visitor.abort()
    assert await visit.data.is_reset()
    assert visit.data.stream == b", moved"
    visit.put(DATA, b"is dropped")
    visit.put(CREDIT, TWO_COUNTS.pack(8, 4))
    assert await visit.link.take(MOVE) == (visit.number, COUNT.pack(8))
    assert visit.link.data_of(visit.number) == b"question"
    visit.put(MOVE, COUNT.pack(16))
    visit.data.say(R_RESET, b"connection-lost\0")
    await visit.is_over()
    assert ERROR not in visit.link.seen
    await until(lambda: len(visit.session.carriers[0]._idle) == 1, "the connection is free")


@AUTO
@ensureDeferred
async def test_visitor_who_leaves_while_the_link_stands_still(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the client takes nothing for long, the reset goes out on the link after all."""
    monkeypatch.setattr(wire_link, "BROKEN_MAX_STALL", 0.2)
    visit = await Moving().start(world, credit=4)
    await visit.move()
    visit.visitor.abort()
    assert (await visit.link.take(ERROR))[0] == visit.number
    assert visit.link.data_of(visit.number) == b"ques"
    await visit.is_over()


@pytest.mark.parametrize("carrier", ["link", "data"])
@AUTO
@ensureDeferred
async def test_client_that_resets_on_either_carrier(world: World, carrier: str) -> None:
    visit = await Moving().start(world)
    await visit.move()
    if carrier == "link":
        visit.put(DATA, b", more")
        visit.put(ERROR, b'{"scope": "stream", "code": "connection-lost", "message": ""}')
        assert await visit.data.is_reset()
    else:
        visit.data.say(R_DATA, b", moved")
        visit.data.say(R_RESET, b"connection-lost\0")
        visit.put(DATA, b", more")
        visit.put(MOVE, COUNT.pack(12))
    await visit.visitor.ends()
    assert visit.visitor.was_reset
    assert visit.visitor.received == b"answer, more" + (b", moved" if carrier == "data" else b"")
    await visit.is_over()


@AUTO
@ensureDeferred
async def test_end_on_the_link_before_the_client_knows_of_the_move(world: World) -> None:
    visit = await Moving().start(world)
    await visit.move()
    visit.put(FIN, COUNT.pack(6))
    visit.data.say(R_END)
    await until(lambda: visit.visitor.eof)
    visit.visitor.send(b"more")
    visit.visitor.half_close()
    await until(lambda: visit.data.ended)
    assert visit.data.stream == b"more"
    visit.data.say(R_DONE)
    await visit.is_over()
    assert not visit.visitor.was_reset


@pytest.mark.parametrize("what", ["finish", "abort"])
@AUTO
@ensureDeferred
async def test_visitor_who_ends_before_the_client_has_moved(world: World, what: str) -> None:
    visit = await Moving().start(world)
    await visit.move()
    visit.visitor.half_close() if what == "finish" else visit.visitor.abort()
    await until(lambda: visit.data.ended or visit.data.resets)
    visit.put(MOVE, COUNT.pack(6))
    if what == "finish":
        visit.data.say(R_DONE)
    else:
        visit.data.say(R_RESET, b"connection-lost\0")
    await visit.is_over()
    await until(lambda: len(visit.session.carriers[0]._idle) == 1, "the connection is free")


@AUTO
@ensureDeferred
async def test_data_connection_that_breaks_in_a_move(world: World) -> None:
    """The visitor is reset behind what comes on the link."""
    visit = await Moving().start(world)
    await visit.move()
    visit.data.abort()
    visit.put(DATA, b", more")
    visit.put(MOVE, COUNT.pack(12))
    await visit.visitor.ends()
    assert visit.visitor.was_reset
    assert visit.visitor.received == b"answer, more"
    await visit.is_over()


@AUTO
@ensureDeferred
async def test_link_that_is_lost_in_a_move(world: World) -> None:
    visit = await Moving().start(world)
    await visit.move()
    visit.link.abort()
    await visit.visitor.ends()
    assert visit.visitor.was_reset
    await until(lambda: not (visit.server.visitors or visit.server.sessions))
    assert visit.session.link.stream_count == 0


@AUTO
@ensureDeferred
async def test_a_broken_or_closing_socket_is_not_taken(world: World) -> None:
    """A write that fails takes the error with it, and the next read would return an end."""
    visit = await Moving().start(world)
    end: Any
    (end,) = visit.server.visitors._ends
    rest = [end.is_at_rest]
    end.transport._is_broken = True
    rest.append(end.is_at_rest)
    end.transport._is_broken = False
    end.abort()
    assert end.is_connected
    rest.append(end.is_at_rest)
    assert rest == [True, False, False]
    await visit.is_over()
