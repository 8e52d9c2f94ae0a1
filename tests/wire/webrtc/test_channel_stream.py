"""The state of a stream over a data channel: its queue, messages, credit and ends."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.errors import Code
from rtunnel.wire.credit import MAX_OFFSET
from rtunnel.wire.webrtc.channel_stream import ChannelStream
from tests.examples import examples

PATTERN = bytes(range(251)) * 1000


def opened(send_limit: int | None = 1 << 30, credit: int = 1 << 30) -> ChannelStream:
    stream = ChannelStream(send_limit, credit, 0.0)
    stream.opened = True
    return stream


# Queue and messages


@given(
    st.lists(st.integers(0, 9000), max_size=20),
    st.lists(st.tuples(st.integers(1, 20_000), st.integers(1, 9000)), max_size=30),
)
def test_messages_are_the_bytes_in_order(first: list[int], then: list[tuple[int, int]]) -> None:
    stream = opened()
    written = taken = b""
    for size in first:
        data = PATTERN[len(written) : len(written) + size]
        assert stream.put(data) is (size > 0)
        written += data
    for most, size in then:
        if stream.can_send:
            message = stream.next_message(most)
            assert len(message) == min(most, len(written) - len(taken))
            taken += message
        assert stream.put(PATTERN[len(written) : len(written) + size])
        written += PATTERN[len(written) : len(written) + size]
        assert stream.queued == len(written) - len(taken)
    while stream.can_send:
        taken += stream.next_message(16384)
    assert taken == written
    assert stream.send_window.sent == len(written)


def test_small_pieces_make_one_message_and_few_objects() -> None:
    stream = opened()
    for _ in range(16384):
        stream.put(b"x")
    assert len(stream.chunks) <= 5
    assert stream.next_message(16384) == b"x" * 16384
    assert not stream.can_send


def test_a_piece_that_fits_is_passed_on_as_it_is() -> None:
    stream = opened()
    data = bytes(16384)
    stream.put(data)
    assert stream.next_message(16384) is data


def test_nothing_is_sent_before_the_channel_is_open() -> None:
    stream = ChannelStream(100, 100, 0.0)
    stream.put(b"early")
    assert not stream.can_send
    stream.opened = True
    assert stream.can_send


# Credit


def test_no_more_than_credit_is_sent() -> None:
    stream = opened(send_limit=10)
    stream.put(b"0123456789abcdef")
    assert stream.next_message(7) == b"0123456"
    assert stream.next_message(7) == b"789"
    assert not stream.can_send
    assert stream.send_window.raise_limit(12, 0)
    assert stream.next_message(7) == b"ab"
    assert not stream.send_window.raise_limit(11, 0)
    assert not stream.can_send
    assert stream.queued == 4


def test_the_highest_credit_does_no_harm() -> None:
    stream = opened(send_limit=0)
    stream.put(b"all")
    stream.send_window.raise_limit(MAX_OFFSET, 0)
    assert stream.next_message(2) == b"al"


def test_more_bytes_than_credit() -> None:
    stream = opened(credit=10)
    assert stream.receive(10) is None
    assert stream.receive(1) == (Code.FLOW_CONTROL, "more bytes than credit")


def test_a_reference_peer_knows_no_credit() -> None:
    stream = opened(send_limit=None, credit=0)
    assert not stream.extended
    assert stream.receive(1 << 40) is None
    stream.put(bytes(100))
    assert len(stream.next_message(100)) == 100


# Ends


def test_end_is_due_behind_what_is_queued() -> None:
    stream = ChannelStream(3, 100, 0.0)
    stream.put(b"last")
    stream.ending = True
    assert not stream.put(b"late")
    stream.opened = True
    due = [stream.end_is_due]
    assert stream.next_message(100) == b"las"
    due.append(stream.end_is_due)
    stream.send_window.raise_limit(4, 0)
    assert stream.next_message(100) == b"t"
    due.append(stream.end_is_due)
    stream.sent_end = True
    due.append(stream.end_is_due)
    assert due == [False, False, True, False]


def test_end_waits_for_the_channel() -> None:
    stream = ChannelStream(3, 100, 0.0)
    stream.ending = True
    assert not stream.end_is_due
    stream.opened = True
    assert stream.end_is_due


@pytest.mark.parametrize("total", [0, 4, 6, MAX_OFFSET])
def test_a_fin_that_does_not_fit(total: int) -> None:
    stream = opened()
    stream.receive(5)
    fault = stream.receive_fin(total)
    assert fault == (Code.PROTOCOL, f"a fin of {total} bytes where 5 came")
    assert not stream.received_end


def test_nothing_may_follow_a_fin() -> None:
    stream = opened()
    stream.receive(5)
    assert stream.receive_fin(5) is None
    assert stream.receive_fin(5) == (Code.PROTOCOL, "a second fin")
    assert stream.receive(1) == (Code.PROTOCOL, "bytes after fin")


def test_after_the_end_nothing_is_kept() -> None:
    stream = opened()
    stream.put(bytes(100_000))
    stream.next_message(10)
    stream.end()
    assert stream.queued == 0
    assert not stream.chunks
    assert not stream.put(b"late")
    assert not stream.can_send
    stream.ending = True
    assert not stream.end_is_due


# Two ends back to back

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.booleans(), st.integers(1, 300)),
        st.tuples(st.just("write"), st.booleans(), st.integers(1, 300)),
        st.tuples(st.just("message"), st.booleans(), st.integers(1, 200)),
        st.tuples(st.just("message"), st.booleans(), st.integers(1, 200)),
        st.tuples(st.just("arrive"), st.booleans()),
        st.tuples(st.just("arrive"), st.booleans()),
        st.tuples(st.just("deliver"), st.booleans(), st.integers(1, 300)),
        st.tuples(st.just("deliver"), st.booleans(), st.integers(1, 300)),
        st.tuples(st.just("open"), st.booleans()),
        st.tuples(st.just("finish"), st.booleans()),
        st.tuples(st.just("wait"), st.booleans(), st.floats(0, 0.5)),
    ),
    max_size=80,
)


class End:
    """One end, and the messages on their way to it."""

    def __init__(self, send_limit: int, credit: int) -> None:
        self.machine = ChannelStream(send_limit, credit, 0.0)
        self.written = 0
        self.received = b""
        self.arriving: deque[tuple[str, Any]] = deque()
        self.other: End = self
        self.now = 0.0

    @property
    def is_over(self) -> bool:
        machine = self.machine
        return machine.sent_end and machine.received_end and not machine.queued and not self.arriving

    def write(self, count: int) -> None:
        if self.machine.put(PATTERN[self.written : self.written + count]):
            self.written += count

    def message(self, most: int) -> None:
        machine = self.machine
        if machine.can_send:
            data = machine.next_message(most)
            assert 0 < len(data) <= most
            self.other.arriving.append(("data", data))
        if machine.end_is_due:
            machine.sent_end = True
            self.other.arriving.append(("fin", machine.send_window.sent))

    def arrive(self) -> None:
        if not self.arriving:
            return
        kind, value = self.arriving.popleft()
        if kind == "data":
            assert self.machine.receive(len(value)) is None
            self.received += value
        elif kind == "fin":
            assert self.machine.receive_fin(value) is None
        else:
            self.machine.send_window.raise_limit(value, 0)

    def deliver(self, count: int) -> None:
        window = self.machine.receive_window
        window.delivered += min(count, window.waiting)
        if window.grant_is_due and not self.machine.received_end:
            window.grant(self.now, 0.1, 500 - window.size)
            self.other.arriving.append(("credit", window.limit))

    def open(self) -> None:
        self.machine.opened = True

    def finish(self) -> None:
        self.machine.ending = True

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def check(self) -> None:
        window = self.machine.receive_window
        assert window.delivered <= window.received <= window.limit
        assert window.waiting <= window.reserved <= 500
        assert PATTERN[: self.other.written].startswith(self.received)


@given(STEPS)
@settings(max_examples=examples(300))
def test_two_ends(steps: list[tuple[Any, ...]]) -> None:
    one, two = End(90, 60), End(60, 90)
    one.other, two.other = two, one
    for what, first, *arguments in steps:
        getattr(one if first else two, what)(*arguments)
        one.check()
        two.check()
    for end in (one, two):
        end.open()
        end.finish()
    for _ in range(2000):
        over = one.is_over and two.is_over
        for end in (one, two):
            end.message(100)
            end.arrive()
            end.deliver(50)
            end.check()
        if over:
            # That was one more turn, in which nothing may have happened.
            break
    for end in (one, two):
        assert end.machine.sent_end
        assert end.machine.received_end
        assert not end.machine.queued
        assert end.received == PATTERN[: end.other.written]
