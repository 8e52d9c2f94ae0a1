"""The contract of :class:`~rtunnel.relay.interfaces.IStream`, as tests that every carrier must pass.

Subclass :class:`StreamContract`, and define how to open a stream.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

from pytest_twisted import ensureDeferred

from rtunnel.errors import Code
from tests.relay.fakes import Recorder

BULK = 3_000_000


class End:
    """One end of a stream under test.

    :ivar user: records what it is told. It delivers nothing before :meth:`read`.
    """

    def __init__(self, stream: Any, user: Recorder) -> None:
        self.stream = stream
        self.user = user
        self._sent = 0

    def read(self) -> None:
        """Deliver everything that has come and will come."""
        if self.user.delivers is None:
            self.user.delivers = self.stream
            waiting = len(self.user.received)
            if waiting:
                self.stream.delivered(waiting)


class StreamContract:
    """The tests. *setting* is whatever the fixture of that name in the subclass's module returns."""

    async def open_stream(self, setting: Any) -> tuple[End, End]:
        """Return the two ends of a new stream."""
        raise NotImplementedError

    async def until(self, condition: Callable[[], object]) -> None:
        """Let what is on its way arrive, until *condition* holds."""
        raise NotImplementedError

    @ensureDeferred
    async def test_bytes_arrive_in_order(self, setting: Any) -> None:
        for one, two in self._both_ways(*await self.open_stream(setting)):
            two.read()
            for number in range(500):
                one.stream.write(b"%d," % number)
            expected = b"".join(b"%d," % number for number in range(500))
            await self.until(lambda: len(two.user.received) >= len(expected))  # noqa: B023
            assert two.user.received == expected

    @ensureDeferred
    async def test_large_writes_arrive_whole(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        two.read()
        data = os.urandom(BULK)
        one.stream.write(data)
        one.stream.finish()
        await self.until(lambda: "finished" in two.user.told)
        assert hashlib.sha256(two.user.received).digest() == hashlib.sha256(data).digest()

    @ensureDeferred
    async def test_one_direction_ends_and_the_other_goes_on(self, setting: Any) -> None:
        for first in (0, 1):
            ends = await self.open_stream(setting)
            one, two = ends[first], ends[1 - first]
            one.read()
            two.read()
            one.stream.write(b"question")
            one.stream.finish()
            await self.until(lambda: two.user.told)  # noqa: B023
            assert two.user.told == ["finished"]
            assert two.user.received == b"question"
            two.stream.write(b"answer")
            await self.until(lambda: one.user.received)  # noqa: B023
            assert one.user.told == []
            two.stream.finish()
            await self.until(lambda: one.user.told)  # noqa: B023
            assert one.user.told == ["finished"]
            assert one.user.received == b"answer"
            assert two.user.told == ["finished"]

    @ensureDeferred
    async def test_end_comes_behind_bytes_that_wait_for_a_slow_reader(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        data = os.urandom(BULK)
        one.stream.write(data)
        one.stream.finish()
        await self.until(lambda: two.user.received)
        assert two.user.told == []
        two.read()
        await self.until(lambda: two.user.told)
        assert two.user.received == data

    @ensureDeferred
    async def test_nothing_is_sent_behind_the_end(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        two.read()
        one.stream.write(b"all")
        one.stream.finish()
        one.stream.write(b" and more")
        one.stream.finish()
        await self.until(lambda: two.user.told)
        two.stream.finish()
        await self.until(lambda: one.user.told)
        assert two.user.received == b"all"
        assert two.user.told == ["finished"]

    @ensureDeferred
    async def test_source_is_paused_and_resumed(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        written = 0
        while not one.user.paused:
            one.stream.write(bytes(10_000))
            written += 10_000
            assert written < 20_000_000, "nobody says stop"
        await self.until(lambda: two.user.received)
        assert one.user.paused
        two.read()
        await self.until(lambda: not one.user.paused)
        await self.until(lambda: len(two.user.received) == written)

    @ensureDeferred
    async def test_undelivered_bytes_are_bounded(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        one.stream.write(bytes(BULK))
        await self.until(lambda: two.user.received)
        for _ in range(5):
            before = len(two.user.received)
            other_one, other_two = await self.open_stream(setting)
            other_two.read()
            other_one.stream.write(b"a stream of its own")
            await self.until(lambda: other_two.user.received)  # noqa: B023
        assert len(two.user.received) == before < BULK // 2

    @ensureDeferred
    async def test_reset_ends_both_directions_with_the_reason(self, setting: Any) -> None:
        for first in (0, 1):
            ends = await self.open_stream(setting)
            one, two = ends[first], ends[1 - first]
            one.stream.reset(Code.CONNECTION_LOST, "the socket broke")
            await self.until(lambda: two.user.told)  # noqa: B023
            assert two.user.told == ["reset"]
            assert two.user.reset == (Code.CONNECTION_LOST, "the socket broke")
            assert one.user.told == [], "who resets knows"

    @ensureDeferred
    async def test_reset_overtakes_bytes_that_wait(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        one.stream.write(bytes(BULK))
        await self.until(lambda: two.user.received)
        one.stream.reset(Code.CONNECTION_LOST, "the socket broke")
        await self.until(lambda: two.user.told)
        assert two.user.told == ["reset"]
        assert len(two.user.received) < BULK

    @ensureDeferred
    async def test_reset_behind_bytes_that_wait(self, setting: Any) -> None:
        for first in (0, 1):
            ends = await self.open_stream(setting)
            one, two = ends[first], ends[1 - first]
            data = os.urandom(BULK)
            one.stream.write(data)
            one.stream.reset(Code.CONNECTION_LOST, "the socket broke", behind=True)
            one.stream.write(b"late")
            await self.until(lambda: two.user.received)  # noqa: B023
            assert two.user.told == []
            two.stream.write(b"dropped")
            two.read()
            await self.until(lambda: two.user.told)  # noqa: B023
            assert two.user.received == data
            assert two.user.told == ["reset"]
            assert two.user.reset is not None
            assert two.user.reset[0] == Code.CONNECTION_LOST
            assert one.user.received == b""

    @ensureDeferred
    async def test_stream_that_is_over_does_nothing(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        one.stream.reset(Code.CONNECTION_LOST, "once")
        await self.until(lambda: two.user.told)
        for end in (one, two):
            end.stream.write(b"late")
            end.stream.finish()
            end.stream.delivered(0)
            end.stream.reset(Code.CONNECTION_LOST, "twice")
        fresh_one, fresh_two = await self.open_stream(setting)
        fresh_one.stream.write(b"the others go on")
        await self.until(lambda: fresh_two.user.received)
        assert two.user.told == ["reset"]
        assert (one.user.told, one.user.received, two.user.received) == ([], b"", b"")

    @staticmethod
    def _both_ways(one: End, two: End) -> tuple[tuple[End, End], tuple[End, End]]:
        return (one, two), (two, one)
