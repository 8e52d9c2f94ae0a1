"""Two links and several streams, with everything in random order: nothing is lost, repeated, or kept after its end."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from hypothesis import given, settings, strategies as st

from rtunnel.errors import Refused
from rtunnel.wire.events import (
    DataReceived,
    FrameIgnored,
    LinkFailed,
    StreamClosed,
    StreamFinished,
    StreamOpened,
    StreamReset,
    StreamWritable,
)
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import Link
from rtunnel.wire.stream import Stream
from tests.wire.pair import Pair

CLIENT = LinkLimits(initial_credit=60, max_window=400, link_buffer=1000, max_streams=5)
SERVER = LinkLimits(initial_credit=90, max_window=300, link_buffer=600, max_streams=4)
PATTERN = bytes(range(251)) * 400

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open")),
        st.tuples(st.just("send"), st.integers(0, 9), st.integers(1, 300)),
        st.tuples(st.just("send"), st.integers(0, 9), st.integers(1, 300)),
        st.tuples(st.just("deliver"), st.integers(0, 9), st.integers(1, 300)),
        st.tuples(st.just("deliver"), st.integers(0, 9), st.integers(1, 300)),
        st.tuples(st.just("finish"), st.integers(0, 9)),
        st.tuples(st.just("reset"), st.integers(0, 9)),
        st.tuples(st.just("carry"), st.booleans(), st.integers(0, 300)),
        st.tuples(st.just("carry"), st.booleans(), st.integers(0, 300)),
        st.tuples(st.just("wait"), st.floats(0, 0.5)),
        st.tuples(st.just("ping")),
    ),
    max_size=60,
)


class End:
    """What one end of one stream has sent and received."""

    def __init__(self, link: Link, stream: Stream) -> None:
        self.link = link
        self.stream = stream
        self.sent = 0
        self.received = b""
        self.undelivered = 0
        self.has_finished = False
        self.saw_finish = False
        self.is_over = False
        self.was_reset = False
        stream.owner = self

    def take(self, event: Any) -> None:
        """Take an event of this stream."""
        assert not self.is_over, f"{event} after the end"
        match event:
            case DataReceived(data=data):
                assert data
                assert not self.saw_finish
                self.received += data
                self.undelivered += len(data)
            case StreamFinished():
                assert not self.saw_finish
                self.saw_finish = True
            case StreamWritable():
                assert not self.has_finished
            case StreamClosed() | StreamReset():
                self.is_over = True
                self.was_reset = isinstance(event, StreamReset)


class World:
    """Two links, and a model of what they should do."""

    def __init__(self, reference: bool, piece: int) -> None:
        self.pair = Pair(CLIENT, SERVER, reference=reference, piece=piece)
        self.links: list[Link] = [self.pair.client, self.pair.server]
        self.ends: list[End] = []
        self.twins: dict[int, list[End]] = {}
        self.counted: Counter[Link] = Counter()
        for link in self.links:
            link.on_stream_count = partial(self.count, link)

    def count(self, link: Link, change: int) -> None:
        assert change
        self.counted[link] += change

    def meet(self, link: Link, stream: Stream) -> None:
        end = End(link, stream)
        self.ends.append(end)
        self.twins.setdefault(stream.conn_id, []).append(end)

    def step(self, what: str, *arguments: Any) -> None:
        pair = self.pair
        if what == "open":
            try:
                self.meet(pair.server, pair.server.open_stream(0, ""))
            except Refused:
                assert pair.server.stream_count == 4 or pair.server._granted + 90 > 600
        elif what == "carry":
            pair.carry(self.links[arguments[0]], arguments[1])
        elif what == "wait":
            pair.now += arguments[0]
        elif what == "ping":
            pair.client.ping(pair.now)
            pair.server.ping(pair.now)
        elif self.ends:
            end = self.ends[arguments[0] % len(self.ends)]
            getattr(self, what)(end, *arguments[1:])
        self.look()

    def send(self, end: End, count: int) -> None:
        start = end.sent % 251
        if end.stream.open and not end.has_finished:
            end.sent += count
        end.link.send(end.stream, PATTERN[start : start + count])
        end.stream.paused = end.stream.queued > 0

    def deliver(self, end: End, count: int) -> None:
        count = min(count, end.undelivered)
        end.undelivered -= count
        end.link.delivered(end.stream, count)

    def finish(self, end: End) -> None:
        end.has_finished = True
        end.link.finish(end.stream)

    def reset(self, end: End) -> None:
        # A stream that is over stays as it is.
        end.was_reset = end.was_reset or end.stream.open
        end.is_over = True
        end.link.reset(end.stream, "test", "a test")

    def look(self) -> None:
        """Take all events, and check the invariants."""
        for link in self.links:
            for event in link.take_events():
                assert not isinstance(event, LinkFailed)
                assert not isinstance(event, FrameIgnored) or event.is_normal
                if isinstance(event, StreamOpened):
                    self.meet(link, event.stream)
                elif (stream := getattr(event, "stream", None)) is not None:
                    stream.owner.take(event)
            self.check(link)
        for twins in self.twins.values():
            for end, other in zip(twins, reversed(twins), strict=True):
                sent = PATTERN[: other.sent] if len(twins) == 2 else b""
                assert sent.startswith(end.received)

    def check(self, link: Link) -> None:
        mine = [end.stream for end in self.ends if end.link is link]
        assert {stream.conn_id: stream for stream in mine if stream.open} == link.streams
        held = [stream for stream in mine if stream.open or stream.lingering]
        assert link.stream_count == self.counted[link] == len(held)
        if not link.is_extended:
            assert link._granted == sum(stream.receive_window.waiting for stream in held)
            return
        assert link._granted == sum(stream.receive_window.reserved for stream in held) <= link.limits.link_buffer
        for stream in held:
            window = stream.receive_window
            assert stream.send_window.sent <= stream.send_window.limit
            assert window.delivered <= window.received <= window.limit
            assert window.limit - window.delivered <= window.reserved <= link.limits.max_window

    def drain(self) -> None:
        """Let both ends deliver everything until nothing more comes."""
        busy = True
        while busy:
            self.pair.settle()
            self.look()
            for end in self.ends:
                self.deliver(end, end.undelivered)
            busy = any(link.has_data_to_send for link in self.links)

    def wind_up(self) -> None:
        """Finish all streams at both ends, and check that nothing is left."""
        self.drain()
        for end in self.ends:
            self.finish(end)
        self.drain()
        for link in self.links:
            self.check(link)
            assert link.streams == {}
            assert link.stream_count == link._granted == 0
            assert not link._stalled
            assert not link._credit_due
        assert self.pair.ids._live == set()

    def complete(self) -> list[tuple[End, End]]:
        """Yield sender and receiver of each direction of the streams that were not reset."""
        pairs = [twins for twins in self.twins.values() if not any(end.was_reset for end in twins)]
        return [(end, other) for twins in pairs for end, other in zip(twins, reversed(twins), strict=True)]


@given(piece=st.sampled_from([0, 1, 13]), steps=STEPS)
@settings(max_examples=200)
def test_extended(piece: int, steps: list[tuple[Any, ...]]) -> None:
    world = World(reference=False, piece=piece)
    for step in steps:
        world.step(*step)
    world.wind_up()
    for end, other in world.complete():
        assert end is not other
        assert end.saw_finish
        assert end.received == PATTERN[: other.sent], "every byte once and in order"


@given(piece=st.sampled_from([0, 1, 13]), steps=STEPS)
@settings(max_examples=200)
def test_reference(piece: int, steps: list[tuple[Any, ...]]) -> None:
    world = World(reference=True, piece=piece)
    for step in steps:
        world.step(*step)
    world.drain()
    for end, other in world.complete():
        assert end.is_over is (end.has_finished or other.has_finished)
        if not end.has_finished:
            assert end.received == PATTERN[: other.sent], "all that the end that closes had said before"
    world.wind_up()
    assert all(end.is_over for end in world.ends)
