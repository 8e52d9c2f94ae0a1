"""Streams over data channels between two ends of ours: ends, credit, fairness, bounds, and what a peer may do wrong."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import pytest

from rtunnel.errors import Code
from rtunnel.rtc.sending import LOW, MESSAGE
from rtunnel.wire.halves import HIGH_WATER, LOW_WATER
from rtunnel.wire.limits import ChannelLimits
from tests.rtc.fakes import FakeChannelUser
from tests.rtc.streams import LIMITS, Lone, Pair, User, texts
from tests.wire.webrtc.test_channel_messages import HOSTILE

# Opening


def test_bytes_do_not_wait_for_the_peer_to_acknowledge_the_channel() -> None:
    """Those of a reference peer do: what comes before that has nobody who takes it in some programs."""
    for reference in (False, True):
        pair = Pair(reference=reference)
        one = pair.start()
        one.stream.write(b"early bird")
        assert pair.one.buffered == (0 if reference else len(b"early bird"))


@pytest.mark.parametrize("reference", [False, True])
def test_what_is_written_before_the_channel_is_open_arrives(*, reference: bool) -> None:
    pair = Pair(reference=reference)
    one = pair.start()
    one.stream.write(b"early ")
    one.stream.write(b"bird")
    one.stream.finish()
    pair.settle()
    (two,) = pair.users
    assert (two.received, two.told) == (b"early bird", ["closed" if reference else "finished"])


def test_writing_before_the_channel_is_open_is_bounded() -> None:
    pair = Pair(reference=True)
    one = pair.start()
    one.stream.write(bytes(HIGH_WATER - 1))
    assert one.told == []
    one.stream.write(b"x")
    one.stream.write(b"x")
    assert one.told == ["paused"]
    pair.network.pump()
    assert one.told == ["paused"]
    pair.settle()
    assert one.told == ["paused", "resumed"]


def test_a_stream_that_is_reset_before_the_channel_is_open() -> None:
    pair = Pair()
    one = pair.start()
    one.stream.write(b"early")
    one.stream.reset(Code.CONNECTION_LOST, "gone")
    assert len(pair.ends[0]) == 0
    pair.settle()
    (two,) = pair.users
    assert (two.received, two.told, one.told) == (b"early", ["reset"], [])
    pair.nothing_left()


def test_bytes_that_come_before_the_channel_is_open_are_granted_again_when_it_is() -> None:
    lone = Lone()
    lone.network.round_trip = 0.0
    user = lone.start()
    user.delivers = user.stream
    user.stream.message_received(bytes(LIMITS.initial_credit))
    told = FakeChannelUser()
    lone.peers[1].on_channel = lambda channel: channel.use(told)
    lone.settle()
    assert texts(told) == [{"credit": 2 * LIMITS.initial_credit}]


def test_messages_are_not_larger_than_the_peer_takes() -> None:
    lone = Lone()
    lone.one.max_message = 1000
    user, _, told = lone.by_hand()
    user.stream.write(bytes(2500))
    lone.settle()
    assert [len(item) for item in told.told] == [1000, 1000, 500]


# Ends


def test_the_channel_is_closed_when_both_ends_have_come() -> None:
    lone = Lone()
    user, channel, told = lone.by_hand()
    user.stream.write(b"question")
    user.stream.finish()
    lone.settle()
    assert told.told == [b"question", '{"fin":8}']
    channel.send(b"answer")
    channel.send_text('{"fin": 6}')
    lone.settle()
    assert (user.received, user.told) == (b"answer", ["finished"])
    assert told.told[2:] == ["closed"]
    lone.settle()
    assert len(lone.ends[0]) == 0


def test_a_stream_counts_until_its_last_bytes_have_arrived() -> None:
    pair = Pair(room=10_000)
    one, two = pair.open()
    two.read()
    two.stream.finish()
    pair.settle()
    one.stream.write(bytes(50_000))
    one.stream.finish()
    while len(two.received) < 50_000:
        assert len(pair.ends[0]) == 1
        assert not pair.ended
        pair.network.pump()
    pair.settle()
    assert two.told == one.told[-1:] == ["finished"]
    one.read()
    pair.nothing_left()
    assert {pair.one, pair.two} == set(pair.ended), "each end is told"


def test_a_tail_that_is_not_delivered_reserves_no_more_than_itself() -> None:
    pair = Pair()
    one, two = pair.open()
    two.stream.finish()
    one.stream.write(bytes(1000))
    one.stream.finish()
    pair.settle()
    assert [len(streams) for streams in pair.ends] == [0, 0]
    assert [streams.buffer.reserved for streams in pair.ends] == [0, 1000]
    two.stream.delivered(400)
    assert pair.ends[1].buffer.reserved == 600
    two.stream.reset(Code.CONNECTION_LOST, "the reader is gone")
    pair.nothing_left()
    two.stream.delivered(600)
    pair.nothing_left()
    assert (one.told, two.told) == (["finished"], ["finished"])


# What a peer does wrong


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:30]))
def test_text_that_is_no_control_message_resets_its_stream_only(text: bytes) -> None:
    lone = Lone()
    other, other_channel, _ = lone.by_hand()
    user, _, told = lone.by_hand()
    user.stream.text_received(text)
    other_channel.send(b"goes on")
    lone.settle()
    assert user.reset is not None
    assert user.reset[0] == Code.PROTOCOL
    assert [item["reset"] for item in texts(told)] == [Code.PROTOCOL]
    assert told.told[-1] == "closed"
    assert (other.received, other.told) == (b"goes on", [])
    assert len(lone.ends[0]) == 1


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([b"123", '{"fin": 2}'], Code.PROTOCOL),
        ([b"123", '{"fin": 4}'], Code.PROTOCOL),
        ([b"123", '{"fin": 3}', b"4"], Code.PROTOCOL),
        (['{"fin": 0}', '{"fin": 0}'], Code.PROTOCOL),
        ([bytes(16384)] * 4 + [b"x"], Code.FLOW_CONTROL),
        ([bytes(65537)], Code.FLOW_CONTROL),
        (['{"reset": "local-timeout"}'], Code.LOCAL_TIMEOUT),
        (['{"reset": "local-timeout", "credit": 5, "fin": 77}', b"late", "late"], Code.LOCAL_TIMEOUT),
    ],
)
def test_messages_that_end_a_stream(messages: list[Any], code: str) -> None:
    lone = Lone()
    user, channel, told = lone.by_hand()
    for message in messages:
        if isinstance(message, str):
            channel.send_text(message)
        else:
            channel.send(message)
    user.stream.write(b"on its way")
    lone.settle()
    assert user.told[-1] == "reset"
    assert user.reset is not None
    assert user.reset[0] == code
    answer = [] if code == Code.LOCAL_TIMEOUT else [code]
    assert [item["reset"] for item in texts(told)] == answer, "a reset is not answered"
    assert told.told[-1] == "closed"
    lone.nothing_left()


def test_an_empty_message_is_nothing() -> None:
    lone = Lone()
    user, channel, _ = lone.by_hand()
    channel.send(b"")
    lone.settle()
    assert (user.chunks, user.told) == ([], [])


def test_what_a_peer_says_is_cleaned() -> None:
    lone = Lone()
    user, channel, _ = lone.by_hand()
    channel.send_text(json.dumps({"reset": "bad\ncode", "message": "two\nlines\x1b[0m" + "x" * 900}))
    lone.settle()
    assert user.reset is not None
    assert user.reset[0] == "bad?code"
    assert user.reset[1].startswith("two?lines?[0m")
    assert len(user.reset[1]) == 200


# Bounds


def test_a_slow_reader_holds_a_window_and_no_more() -> None:
    pair = Pair()
    one, two = pair.open()
    for _ in range(2):
        while not one.paused:
            one.stream.write(bytes(10_000))
        pair.settle()
    assert len(two.received) == LIMITS.initial_credit
    assert pair.two.most_held == 0, "credit bounds it: the others go on"


def test_windows_do_not_grow_beyond_half_of_the_buffer() -> None:
    limits = ChannelLimits(initial_credit=1000, max_window=1_000_000, peer_buffer=50_000)
    pair = Pair(limits=limits)
    pair.network.round_trip = 100.0
    streams = [pair.open() for _ in range(5)]
    for one, two in streams:
        two.read()
        one.stream.write(bytes(200_000))
    pair.until(lambda: all(len(two.received) == 200_000 for _, two in streams))
    assert 20_000 < pair.ends[1].buffer.reserved <= 25_000
    assert pair.ends[0].buffer.reserved == 5000


@pytest.mark.parametrize(
    "limits", [ChannelLimits(initial_credit=1000, peer_buffer=3500), ChannelLimits(max_streams=3)], ids=str
)
def test_a_stream_beyond_the_bounds_is_refused(limits: ChannelLimits) -> None:
    pair = Pair(second_limits=limits)
    streams = [pair.open() for _ in range(4)]
    one, two = streams[3]
    assert two.told == [], "it has not returned from attach, one might say"
    pair.settle()
    assert two.told == one.told == ["reset"]
    assert one.reset is not None
    assert one.reset[0] == Code.LIMIT
    for write in (two.stream.write, one.stream.write):
        write(bytes(2 * HIGH_WATER))
    assert two.told == one.told == ["reset"]
    two.stream.delivered(0)
    two.stream.reset(Code.LIMIT, "")
    assert [len(streams) for streams in pair.ends] == [3, 3]
    for user in streams[0]:
        user.stream.finish()
    pair.settle()
    assert pair.open()[1].told == []


def test_little_waits_below() -> None:
    pair = Pair(room=5000)
    streams = [pair.open() for _ in range(10)]
    for one, two in streams:
        two.read()
        one.stream.write(bytes(100_000))
    pair.until(lambda: all(len(two.received) == 100_000 for _, two in streams))
    assert pair.one.most_buffered < LOW + MESSAGE


def test_a_source_is_resumed_when_little_is_left() -> None:
    pair = Pair(room=MESSAGE)
    one, two = pair.open()
    two.read()
    one.stream.write(bytes(HIGH_WATER + 2 * MESSAGE))
    assert one.told == ["paused"]
    while one.paused:
        assert one.stream.machine.queued > LOW_WATER
        pair.network.pump()
    assert one.stream.machine.queued <= LOW_WATER


# Fairness


def test_streams_take_turns() -> None:
    pair = Pair(room=MESSAGE)
    order: list[int] = []

    class Noting(User):
        number = 0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            order.append(self.number)

    def arrived(channel: Any) -> None:
        user = Noting()
        user.number = len(pair.users)
        pair.users.append(user)
        user.stream = pair.ends[1].attach(channel, user)

    pair.peers[1].on_channel = arrived
    ones = [pair.open()[0] for _ in range(4)]
    for one in ones[:3]:
        one.stream.write(bytes(4 * MESSAGE))
    pair.network.pump()
    seen = len(order)
    ones[3].stream.write(b"a small one")
    pair.settle()
    # What the connection has already, and one message of each other.
    waited = order[seen:].index(3)
    assert waited <= (LOW + MESSAGE) // MESSAGE + 3
    assert sorted(order) == [0] * 4 + [1] * 4 + [2] * 4 + [3]
    large = [number for number in order if number != 3]
    # The first message of the first was on its way when the others came.
    assert large == [0, *[0, 1, 2] * 3, 1, 2]


def test_control_goes_out_although_bytes_wait_for_room() -> None:
    pair = Pair(room=1000)
    bulk, sink = pair.open()
    sink.read()
    one, two = pair.open()
    two.read()
    bulk.stream.write(bytes(200_000))
    one.stream.finish()
    assert pair.one.buffered >= LOW
    assert '{"fin":0}' in [item[2].decode() for item in pair.one._queue if item[0] == "text"]
    pair.until(lambda: two.told == ["finished"])
    assert len(sink.received) < 100_000


# Nothing stays


@pytest.mark.parametrize("reference", [False, True], ids=["ours", "reference"])
def test_thousands_of_short_streams_are_forgotten(reference: bool) -> None:
    pair = Pair(reference=reference)
    known: weakref.WeakSet[Any] = weakref.WeakSet()
    for _ in range(30):
        for number in range(100):
            one = pair.start()
            known.add(one)
            one.stream.write(b"short")
            if number % 10 == 7:
                one.stream.reset(Code.CONNECTION_LOST, "")
            else:
                one.stream.finish()
        pair.settle()
        for two in pair.users:
            known.add(two)
            two.read()
            two.stream.write(b"answer")
            two.stream.finish()
        pair.settle()
        for user in known:
            if user.delivers is None:
                user.read()
        pair.users.clear()
        pair.peers[1].arrived.clear()
        pair.nothing_left()
        assert not pair.one.channels
        assert not pair.two.channels
    del one, two, user
    gc.collect()
    assert len(known) == 0


def test_streams_that_are_reset_while_nothing_can_be_sent_are_forgotten() -> None:
    pair = Pair()
    pair.one.buffered += LOW
    known: weakref.WeakSet[Any] = weakref.WeakSet()
    for _ in range(100):
        one, _ = pair.open()
        known.add(one)
        one.stream.write(bytes(1000))
        one.stream.reset(Code.CONNECTION_LOST, "")
    pair.settle()
    pair.one.buffered -= LOW
    pair.nothing_left()
    del one
    gc.collect()
    assert len(known) == 0
