"""Streams of data connections, relayed in user space, keep the promises of streams, with plain and sealed records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from rtunnel.errors import Code
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.reverse.carriers.record_stream import HIGH_WATER, RecordStream
from rtunnel.reverse.carriers.record_writer import SMALL
from rtunnel.reverse.public import Visitor
from rtunnel.wire.data.connection import Opened
from rtunnel.wire.data.records import READ_SIZE
from tests.relay.fakes import FakeSocket, Recorder
from tests.relay.stream_contract import BULK, End, StreamContract
from tests.relay.turns import Turns
from tests.reverse.carriers.rig import Pair


class StreamPair(Pair):
    """A data connection with one stream after the other."""

    ends: tuple[End, End]
    streams = 0

    def __init__(self, turns: Turns, lost: list[RecordStream]) -> None:
        super().__init__(turns)
        self._lost = lost
        self._opened = 0
        self.on_opened = self._take

    @property
    def is_idle(self) -> bool:
        return self.server.is_idle and self.server.fileno() >= 0

    def _end(self, far: Any) -> End:
        user = Recorder()
        return End(RecordStream(far, user, self._lost.append), user)

    def _take(self, _opened: Opened) -> None:
        self.client.carry(self.ends[1].stream)
        self._opened += 1

    async def open_stream(self) -> tuple[End, End]:
        self.ends = self._end(self.server), self._end(self.client)
        count = self._opened
        self.server.open(0, "", 0, self.ends[0].stream)
        await self.turns.until(lambda: self._opened > count)
        return self.ends


class Setting:
    """Data connections, which are used again."""

    def __init__(self, which: str) -> None:
        self.turns = Turns(which)
        self.pairs: list[StreamPair] = []
        self.lost: list[RecordStream] = []

    async def open(self) -> tuple[End, End]:
        for pair in self.pairs:
            if pair.is_idle:
                return await pair.open_stream()
        self.pairs.append(StreamPair(self.turns, self.lost))
        return await self.pairs[-1].open_stream()

    def stop(self) -> None:
        for pair in self.pairs:
            with pair:
                pass
        self.turns.close()


class TestRecordStream(StreamContract):
    @pytest_twisted.async_yield_fixture(params=["running", "running watch", "running watch sealed"])
    async def setting(self, request: Any) -> Any:
        setting = Setting(request.param)
        yield setting
        setting.stop()

    async def open_stream(self, setting: Any) -> tuple[End, End]:
        self.turns = setting.turns
        pair: tuple[End, End] = await setting.open()
        return pair

    async def until(self, condition: Callable[[], object]) -> None:
        await self.turns.until(condition)

    @ensureDeferred
    async def test_small_and_large_ones_in_their_order(self, setting: Any) -> None:
        """Also behind what the kernel has not taken."""
        one, two = await self.open_stream(setting)
        pieces = [bytes([65 + turn]) * size for turn in range(3) for size in (1, SMALL, SMALL + 1, BULK, 5)]
        for piece in pieces:
            one.stream.write(piece)
        two.read()
        expected = b"".join(pieces)
        await self.until(lambda: len(two.user.received) >= len(expected))
        assert two.user.received == expected

    @ensureDeferred
    async def test_source_is_paused_and_resumed(self, setting: Any) -> None:
        """The kernel takes megabytes before a pause lasts."""
        one, two = await self.open_stream(setting)
        written = 0
        calm = 0
        while calm < 30:
            calm += 1
            while not one.user.paused:
                calm = 0
                one.stream.write(bytes(10_000))
                written += 10_000
                assert written < 40_000_000, "nobody says stop"
            await self.turns.turn()
        two.read()
        await self.until(lambda: not one.user.paused)
        await self.until(lambda: len(two.user.received) == written)

    @ensureDeferred
    async def test_reset_overtakes_bytes_that_wait(self, setting: Any) -> None:
        """The connection is lost. Who does not read sees it when it reads on."""
        one, two = await self.open_stream(setting)
        one.stream.write(bytes(4 * BULK))
        await self.until(lambda: two.user.received)
        one.stream.reset(Code.CONNECTION_LOST, "the socket broke")
        two.read()
        await self.until(lambda: two.user.told)
        assert two.user.told == ["reset"]
        assert len(two.user.received) < 4 * BULK

    @ensureDeferred
    async def test_both_ends_free_the_connection(self, setting: Any) -> None:
        for _ in range(10):
            one, two = await self.open_stream(setting)
            for end in (one, two):
                end.read()
                end.stream.write(b"all")
                end.stream.finish()
            await self.until(lambda: len(setting.lost) == 2)
            setting.lost.clear()
            for end in (one, two):
                end.stream.write(b"late")
                end.stream.finish()
                end.stream.delivered(0)
            assert one.user.told == two.user.told == ["finished"]
            assert one.user.received == two.user.received == b"all"
        assert len(setting.pairs) == 1

    @ensureDeferred
    async def test_reset_frees_the_connection(self, setting: Any) -> None:
        for behind in (False, True):
            for first in (0, 1):
                ends = await self.open_stream(setting)
                one, two = ends[first], ends[1 - first]
                two.read()
                one.stream.write(b"before")
                one.stream.reset(Code.LIMIT, "too many", behind=behind)
                await self.until(lambda: two.user.told and setting.pairs[0].is_idle)  # noqa: B023
                assert two.user.reset == (Code.LIMIT, "too many")
                assert two.user.received == b"before"
        assert len(setting.pairs) == 1

    @ensureDeferred
    async def test_what_waits_in_memory_is_bounded(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        one.stream.write(bytes(5 * BULK))
        await self.until(lambda: len(two.user.received) >= HIGH_WATER)
        for _ in range(20):
            await self.turns.turn()
        assert len(two.user.received) <= HIGH_WATER + READ_SIZE
        assert two.stream.held >= len(two.user.received)
        assert one.stream.held > BULK

    @ensureDeferred
    async def test_next_stream_is_read_although_the_last_ones_user_is_slow(self, setting: Any) -> None:
        """What it delivers later does not count for the next one either."""
        one, two = await self.open_stream(setting)
        two.stream.finish()
        setting.pairs[0].client.stop_reading()
        one.stream.write(bytes(30_000))
        one.stream.finish()
        for _ in range(20):
            await self.turns.turn()
        setting.pairs[0].client.resume_reading()
        await self.until(lambda: setting.pairs[0].is_idle)
        fresh_one, fresh_two = await self.open_stream(setting)
        assert len(setting.pairs) == 1
        fresh_one.stream.write(bytes(BULK))
        await self.until(lambda: len(fresh_two.user.received) >= HIGH_WATER)
        two.read()
        for _ in range(20):
            await self.turns.turn()
        assert len(fresh_two.user.received) <= HIGH_WATER + READ_SIZE

    @ensureDeferred
    async def test_abort_tells_both_users(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        one.stream.abort()
        one.stream.abort()
        await self.until(lambda: one.user.told and two.user.told)
        assert one.user.told == two.user.told == ["reset"]

    @ensureDeferred
    async def test_lost_connection_tells_both_users(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        setting.pairs[0].server.cut()
        await self.until(lambda: one.user.told and two.user.told)
        assert one.user.told == two.user.told == ["reset"]
        assert len(setting.lost) == 2


def test_visitor_that_left_while_it_waited_is_gone() -> None:
    """Behind TLS of Twisted's, where only its end knows: nothing would ever end its stream, or give back its place."""
    lost: list[SocketEnd] = []
    end = SocketEnd(lambda _end: None, lost.append)
    end.makeConnection(FakeSocket())
    visitor = Visitor(IPv4Address("TCP", "192.0.2.1", 5000), end, lost.append)
    assert visitor.take_socket() is None
    end.connectionLost(Failure(ConnectionDone()))
    assert lost == [end]
    with pytest.raises(ValueError, match="gone"):
        visitor.take_socket()
