"""Several streams, and everything in any order: nothing is lost, repeated, or kept after its end."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings, strategies as st

from rtunnel.errors import Code
from rtunnel.wire.limits import ChannelLimits
from tests.examples import examples
from tests.rtc.fakes import FakeConnection
from tests.rtc.streams import Pair, User

FIRST = ChannelLimits(initial_credit=600, max_window=4000, peer_buffer=10_000, max_streams=5)
SECOND = ChannelLimits(initial_credit=900, max_window=3000, peer_buffer=6000, max_streams=4)
PATTERN = bytes(range(251)) * 400

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open")),
        st.tuples(st.just("write"), st.integers(0, 9), st.integers(1, 3000)),
        st.tuples(st.just("write"), st.integers(0, 9), st.integers(1, 3000)),
        st.tuples(st.just("deliver"), st.integers(0, 9), st.integers(1, 3000)),
        st.tuples(st.just("deliver"), st.integers(0, 9), st.integers(1, 3000)),
        st.tuples(st.just("finish"), st.integers(0, 9)),
        st.tuples(st.just("reset"), st.integers(0, 9)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.floats(0, 0.5)),
    ),
    max_size=60,
)


class End(User):
    """One end of a stream, and the model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.undelivered = 0
        self.has_finished = False
        self.over = False
        self.other: End | None = None

    def data_received(self, data: bytes) -> None:
        assert not self.over, "who resets is told nothing more"
        super().data_received(data)
        self.undelivered += len(data)

    def finished(self) -> None:
        assert not self.over
        super().finished()

    def closed(self) -> None:
        assert not self.over
        super().closed()

    def was_reset(self, code: str, message: str) -> None:
        assert not self.over
        self.over = True
        super().was_reset(code, message)

    def resume(self) -> None:
        assert not self.over
        assert not self.has_finished
        super().resume()


class World:
    """Two ends of a connection, and what must be so at any time."""

    def __init__(self, reference: bool, room: int) -> None:
        self.reference = reference
        self.pair = Pair(reference=reference, room=room, receive_window=5000, limits=FIRST, second_limits=SECOND)
        self.pair.peers[1].on_channel = self.arrived
        self.ends: list[End] = []
        self.opened: dict[object, End] = {}

    def open(self) -> None:
        channel: Any = self.pair.one.open_channel("tcp-192.0.2.1:1")
        end = self.meet(0, channel)
        self.opened[channel.key] = end

    def arrived(self, channel: Any) -> None:
        end, other = self.meet(1, channel), self.opened[channel.key]
        end.other, other.other = other, end

    def meet(self, side: int, channel: Any) -> End:
        end = End()
        end.stream = self.pair.ends[side].attach(channel, end)
        self.ends.append(end)
        return end

    def step(self, what: str, *arguments: Any) -> None:
        if what == "open":
            self.open()
        elif what == "turn":
            for _ in range(arguments[0]):
                self.pair.network.pump()
                self.pair.clock.advance(0)
        elif what == "wait":
            self.pair.clock.advance(arguments[0])
        elif self.ends:
            getattr(self, what)(self.ends[arguments[0] % len(self.ends)], *arguments[1:])
        self.check()

    def write(self, end: End, count: int) -> None:
        machine = end.stream.machine
        start = end.written % 251
        if machine.open and not end.has_finished:
            end.written += count
        end.stream.write(PATTERN[start : start + count])

    def deliver(self, end: End, count: int) -> None:
        count = min(count, end.undelivered)
        end.undelivered -= count
        end.stream.delivered(count)

    def finish(self, end: End) -> None:
        end.has_finished = True
        end.stream.finish()

    def reset(self, end: End) -> None:
        end.over = True
        end.stream.reset(Code.CONNECTION_LOST, "a test")

    def check(self) -> None:
        for end in self.ends:
            if end.other is not None:
                assert (PATTERN * 5)[: end.other.written].startswith(end.received)
            machine = end.stream.machine
            assert not machine.scheduled or machine.can_send
        for side, limits in ((0, FIRST), (1, SECOND)):
            streams: Any = self.pair.ends[side]
            connection: FakeConnection = (self.pair.one, self.pair.two)[side]
            mine = [end.stream for end in self.ends if end.stream._streams is streams]
            assert streams.buffer.reserved == sum(stream.reserved for stream in mine) <= limits.peer_buffer
            assert connection.held == (streams.buffer.reserved if self.reference else 0)
            assert set(streams.turns._streams) == {stream for stream in mine if stream.machine.scheduled}
            assert {stream for stream in mine if stream.machine.open} <= streams._streams
            assert len(streams) <= limits.max_streams
            for stream in mine:
                window = stream.machine.receive_window
                if not self.reference:
                    assert window.delivered <= window.received <= window.limit
                    assert not stream.reserved or stream.reserved == window.reserved <= limits.max_window

    def wind_up(self) -> None:
        """All ends end, and all readers read; then nothing may be left."""
        for _ in range(500):
            for end in self.ends:
                self.finish(end)
                self.deliver(end, end.undelivered)
            self.step("turn", 1)
            if not any(map(len, self.pair.ends)):
                break
        self.pair.settle()
        for end in self.ends:
            self.deliver(end, end.undelivered)
        self.pair.nothing_left()


@given(STEPS, st.sampled_from([500, 3000, 100_000]))
@settings(max_examples=examples(200))
def test_between_two_of_ours(steps: list[tuple[Any, ...]], room: int) -> None:
    world = World(False, room)
    for step in steps:
        world.step(*step)
    world.wind_up()
    for end in world.ends:
        if end.over or end.other is None or end.other.over:
            continue
        assert end.told[-1] == "finished"
        assert len(end.received) == end.other.written


@given(STEPS, st.sampled_from([500, 3000, 100_000]))
@settings(max_examples=examples(200))
def test_with_a_reference_peer(steps: list[tuple[Any, ...]], room: int) -> None:
    world = World(True, room)
    for step in steps:
        world.step(*step)
    world.wind_up()
    for end in world.ends:
        assert end.over or end.told[-1] == "closed"
