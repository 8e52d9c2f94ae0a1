"""Two links and several streams, with everything in random order: nothing is lost, repeated, or kept after its end."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings, strategies as st

from rtunnel.wire.events import DataReceived, StreamClosed, StreamFinished, StreamReset, StreamWritable
from rtunnel.wire.link import Link
from rtunnel.wire.stream import Stream
from tests.examples import examples
from tests.wire.two_links import PATTERN, TwoLinks

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


class World(TwoLinks):
    """Two links, and a model of what they should do."""

    def meet(self, link: Link, stream: Stream) -> None:
        end = End(link, stream)
        self.ends.append(end)
        self.twins.setdefault(stream.conn_id, []).append(end)

    def step(self, what: str, *arguments: Any) -> None:
        pair = self.pair
        if what == "open":
            self.open()
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
        self.check_end()

    def complete(self) -> list[tuple[End, End]]:
        """Yield sender and receiver of each direction of the streams that were not reset."""
        pairs = [twins for twins in self.twins.values() if not any(end.was_reset for end in twins)]
        return [(end, other) for twins in pairs for end, other in zip(twins, reversed(twins), strict=True)]


@given(piece=st.sampled_from([0, 1, 13]), steps=STEPS)
@settings(max_examples=examples(200))
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
@settings(max_examples=examples(200))
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
