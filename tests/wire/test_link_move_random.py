"""Streams that go on elsewhere at random moments, beside a model of the data connection of each.

The model is a queue for each direction, of bytes and of the ends END and RESET. An end reads it only when the peer's
direction of the link is over and all that came on it is delivered. It handles resets as the I/O does: on either
carrier they end both.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import given, settings, strategies as st

from rtunnel.wire.events import (
    DataReceived,
    StreamFinished,
    StreamLeft,
    StreamMoved,
    StreamReset,
    StreamWritable,
)
from rtunnel.wire.link import Link
from rtunnel.wire.stream import Stream
from tests.examples import examples
from tests.wire.two_links import PATTERN, TwoLinks

END = "end"
RESET = "reset"

WHICH = st.integers(0, 9)
COUNTS = st.integers(1, 300)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open")),
        st.tuples(st.just("send"), WHICH, COUNTS),
        st.tuples(st.just("send"), WHICH, COUNTS),
        st.tuples(st.just("deliver"), WHICH, COUNTS),
        st.tuples(st.just("deliver"), WHICH, COUNTS),
        st.tuples(st.just("read"), WHICH, COUNTS),
        st.tuples(st.just("read"), WHICH, COUNTS),
        st.tuples(st.just("move"), WHICH),
        st.tuples(st.just("move"), WHICH),
        st.tuples(st.just("finish"), WHICH),
        st.tuples(st.just("reset"), WHICH, st.sampled_from(["at once", "behind", "behind what is on the link"])),
        st.tuples(st.just("carry"), st.booleans(), st.integers(0, 300)),
        st.tuples(st.just("carry"), st.booleans(), st.integers(0, 300)),
        st.tuples(st.just("cut"), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.floats(0, 0.5)),
    ),
    min_size=10,
    max_size=80,
)


class End:
    """One end of one stream, as the I/O keeps it: what its user has sent and received, on both carriers."""

    def __init__(self, link: Link, stream: Stream, incoming: deque[bytes | str], outgoing: deque[bytes | str]) -> None:
        self.link = link
        self.stream = stream
        self.incoming = incoming
        self.outgoing = outgoing
        self.sent = 0
        self.received = b""
        self.undelivered = 0
        self.has_moved = self.has_finished = False
        self.peer_left_link = self.saw_finish = False
        self.has_reset = self.was_reset = self.resets_behind_all = False
        stream.owner = self

    @property
    def is_over(self) -> bool:
        return self.has_reset or self.was_reset or (self.has_finished and self.saw_finish)

    # What the user does

    def send(self, count: int) -> None:
        if self.has_finished or self.has_reset or self.was_reset:
            return
        data = PATTERN[self.sent % 251 :][:count]
        self.sent += count
        if self.has_moved:
            self.outgoing.append(data)
        else:
            self.link.send(self.stream, data)
            self.stream.paused = self.stream.queued > 0

    def move(self) -> None:
        if not (self.has_finished or self.has_reset or self.was_reset):
            self.has_moved = True
        self.link.move(self.stream)

    def finish(self) -> None:
        if self.has_finished or self.has_reset or self.was_reset:
            return
        self.has_finished = True
        if self.has_moved:
            self.outgoing.append(END)
        else:
            self.link.finish(self.stream)

    def reset(self, how: str) -> None:
        """Reset both carriers, at once or behind what was sent before."""
        if self.is_over:
            return
        self.has_reset = True
        self.resets_behind_all = how == "behind" or (how != "at once" and not self.has_moved)
        if how == "at once":
            # What was written may not arrive.
            self.outgoing.clear()
        self.outgoing.append(RESET)
        # The link still sends its bytes and MOVE, if the reset comes behind what is on the data connection.
        elsewhere = how == "behind" and self.has_moved
        self.link.reset(self.stream, "test", "a test", behind=how != "at once", elsewhere=elsewhere)
        self.link.delivered(self.stream, self.stream.receive_window.waiting)
        self.undelivered = 0

    def deliver(self, count: int) -> None:
        count = min(count, self.undelivered)
        self.undelivered -= count
        self.link.delivered(self.stream, count)

    # What comes

    def take(self, event: Any) -> None:
        """Take an event of this stream."""
        match event:
            case DataReceived(data=data):
                assert data
                assert not self.peer_left_link
                assert not self.was_reset
                if self.has_reset:
                    self.link.delivered(self.stream, len(data))
                else:
                    self.received += data
                    self.undelivered += len(data)
            case StreamFinished() | StreamMoved():
                assert not self.peer_left_link
                assert not self.was_reset
                self.peer_left_link = True
                self.saw_finish = isinstance(event, StreamFinished)
            case StreamLeft():
                assert self.has_moved
                assert self.peer_left_link
                assert not self.stream.open
            case StreamWritable():
                assert not self.has_finished
                assert not self.has_moved
            case StreamReset():
                assert not self.was_reset
                self.take_reset()
            case _:
                raise AssertionError(event)

    def read(self, count: int) -> None:
        """Read up to *count* bytes, or an end, from the data connection."""
        if not self.incoming or not self.peer_left_link or self.stream.receive_window.waiting or self.was_reset:
            return
        found = self.incoming.popleft()
        if isinstance(found, bytes):
            assert not self.saw_finish
            if found[count:]:
                self.incoming.appendleft(found[count:])
            if not self.has_reset:
                self.received += found[:count]
        elif found is END:
            assert not self.saw_finish
            self.saw_finish = True
        else:
            self.link.reset(self.stream, "test", "on the data connection")
            self.take_reset()

    def take_reset(self) -> None:
        self.was_reset = True
        if not self.has_reset:
            self.outgoing.append(RESET)


class World(TwoLinks):
    """Two links, and a model of what they should do."""

    def meet(self, link: Link, stream: Stream) -> None:
        twins = self.twins.setdefault(stream.conn_id, [])
        if twins:
            end = End(link, stream, twins[0].outgoing, twins[0].incoming)
        else:
            end = End(link, stream, deque(), deque())
        twins.append(end)
        self.ends.append(end)

    def step(self, what: str, *arguments: Any) -> None:
        pair = self.pair
        if what == "open":
            self.open()
        elif what == "carry":
            pair.carry(self.links[arguments[0]], arguments[1])
        elif what == "cut":
            pair.piece = arguments[0]
        elif what == "wait":
            pair.now += arguments[0]
        elif self.ends:
            end = self.ends[arguments[0] % len(self.ends)]
            getattr(end, what)(*arguments[1:])
        self.look()

    def check(self, link: Link) -> None:
        super().check(link)
        for end in self.ends:
            stream = end.stream
            if end.link is link and stream.received_end and (stream.open or stream.lingering):
                window = stream.receive_window
                assert window.limit == window.received, "nothing is granted for a direction that is over"

    def drain(self) -> None:
        """Let both ends deliver and read everything until nothing more comes."""
        busy = True
        while busy:
            self.pair.settle()
            self.look()
            before = [(len(end.incoming), end.was_reset) for end in self.ends]
            for end in self.ends:
                end.deliver(end.undelivered)
                end.read(1000)
            busy = any(link.has_data_to_send or link.has_events for link in self.links)
            busy = busy or before != [(len(end.incoming), end.was_reset) for end in self.ends]

    def wind_up(self) -> None:
        """Finish all streams at both ends, and check that nothing is left."""
        self.drain()
        for end in self.ends:
            end.finish()
        self.drain()
        self.check_end()


@given(piece=st.sampled_from([0, 1, 13]), streams=st.integers(1, 3), steps=STEPS)
@settings(max_examples=examples(300))
def test_streams_that_move(piece: int, streams: int, steps: list[tuple[Any, ...]]) -> None:
    world = World(reference=False, piece=piece)
    for step in [("open",)] * streams + [("carry", True, 0)] + steps:
        world.step(*step)
    world.wind_up()
    for twins in world.twins.values():
        assert all(end.is_over for end in twins)
        resets = [end.has_reset for end in twins]
        if any(resets):
            assert all(end.has_reset or end.was_reset for end in twins)
        elif len(twins) == 1:
            assert twins[0].was_reset, "refused by the client"
        else:
            assert not any(end.was_reset for end in twins)
        for end, other in zip(twins, reversed(twins), strict=True):
            if not any(resets) and len(twins) == 2:
                assert end.saw_finish
                assert not end.incoming
                assert end.received == PATTERN[: other.sent], "every byte once and in order"
            elif sum(resets) == 1 and other.resets_behind_all and len(twins) == 2:
                assert end.received == PATTERN[: other.sent], "every byte before the reset"
