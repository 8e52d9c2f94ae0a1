"""Streams over data channels between two ends of ours: ends, credit, fairness, bounds, and what a peer may do wrong."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import pytest

from rtunnel.errors import Code
from rtunnel.rtc.receiving import CREDIT_ROOM
from rtunnel.rtc.sending import LOW, MESSAGE
from rtunnel.wire.credit import MAX_OFFSET
from rtunnel.wire.halves import BROKEN_MAX_STALL, HIGH_WATER, LOW_WATER
from rtunnel.wire.limits import ChannelLimits
from tests.rtc.fakes import FakeChannelUser
from tests.rtc.streams import LIMITS, Lone, Pair, User
from tests.wire.webrtc.test_channel_messages import HOSTILE


def texts(told: FakeChannelUser) -> list[dict[str, Any]]:
    return [json.loads(item) for item in told.told if isinstance(item, str) and item.startswith("{")]


def data(told: FakeChannelUser) -> bytes:
    return b"".join(item for item in told.told if isinstance(item, bytes))


# Opening


def test_what_is_written_before_the_channel_is_open_arrives() -> None:
    pair = Pair()
    one = pair.start()
    one.stream.write(b"early ")
    one.stream.write(b"bird")
    one.stream.finish()
    pair.settle()
    (two,) = pair.users
    assert (two.received, two.told) == (b"early bird", ["finished"])


def test_writing_before_the_channel_is_open_is_bounded() -> None:
    pair = Pair()
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
    one.stream.write(b"never sent")
    one.stream.reset(Code.CONNECTION_LOST, "gone")
    assert len(pair.ends[0]) == 0
    pair.settle()
    (two,) = pair.users
    assert (two.received, two.told, one.told) == (b"", ["reset"], [])
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


# Resets behind what was written


def test_a_reset_goes_behind_what_was_written() -> None:
    pair = Pair(room=10_000)
    one, two = pair.open()
    one.stream.write(bytes(300_000))
    one.stream.reset(Code.CONNECTION_LOST, "gone", behind=True)
    one.stream.write(b"late")
    one.stream.finish()
    pair.settle()
    # Not beyond what the peer takes.
    assert (len(two.received), two.told) == (LIMITS.initial_credit, [])
    assert len(pair.ends[0]) == 1
    two.read()
    pair.settle()
    assert (len(two.received), two.told) == (300_000, ["reset"])
    assert two.reset == (Code.CONNECTION_LOST, "gone")
    assert one.told == ["paused"], "its user is gone"
    pair.nothing_left()


def test_a_reset_goes_behind_the_end_that_waits() -> None:
    lone = Lone(second_limits=ChannelLimits(initial_credit=0))
    user, channel, told = lone.by_hand()
    user.stream.write(b"all")
    user.stream.finish()
    user.stream.reset(Code.CONNECTION_LOST, "", behind=True)
    lone.settle()
    assert told.told == []
    channel.send_text('{"credit": 3}')
    lone.settle()
    assert told.told == [b"all", '{"fin":3}', '{"reset":"connection-lost"}', "closed"]
    lone.nothing_left()


def test_what_is_written_before_the_channel_is_open_goes_before_the_reset() -> None:
    pair = Pair()
    one = pair.start()
    one.stream.write(b"early")
    one.stream.reset(Code.CONNECTION_LOST, "gone", behind=True)
    pair.settle()
    (two,) = pair.users
    assert (two.received, two.told) == (b"early", ["reset"])
    pair.nothing_left()


def test_with_nothing_written_a_reset_goes_at_once() -> None:
    lone = Lone()
    user, _, told = lone.by_hand()
    user.stream.reset(Code.CONNECTION_LOST, "", behind=True)
    assert len(lone.ends[0]) == 0
    lone.settle()
    assert told.told == ['{"reset":"connection-lost"}', "closed"]


def test_a_peer_may_send_while_a_reset_waits() -> None:
    """It is granted credit, so that a program that sends before it reads gets to read."""
    pair = Pair()
    one, two = pair.open()
    two.stream.write(bytes(LIMITS.initial_credit))
    pair.settle()
    received = len(one.received)
    one.stream.write(bytes(2 * LIMITS.initial_credit))
    one.stream.reset(Code.CONNECTION_LOST, "gone", behind=True)
    for _ in range(50):
        two.stream.write(bytes(10_000))
        pair.settle()
    assert two.stream.machine.queued == 0
    assert len(one.received) == received
    two.stream.finish()
    pair.settle()
    assert (one.told, two.told) == (["paused"], [])
    two.read()
    pair.settle()
    assert two.told == ["reset"]
    pair.nothing_left()


@pytest.mark.parametrize("news", ["reset", "close", "lost"])
def test_the_user_that_has_reset_its_stream_hears_no_more(news: str) -> None:
    lone = Lone(second_limits=ChannelLimits(initial_credit=0))
    user, channel, _ = lone.by_hand()
    user.stream.write(b"never sent")
    user.stream.reset(Code.CONNECTION_LOST, "gone", behind=True)
    if news == "reset":
        channel.send_text('{"reset": "limit"}')
    elif news == "close":
        channel.close()
    else:
        lone.one.lose("no answer")
        lone.ends[0].reset_all(Code.CONNECTION_LOST)
    lone.settle()
    assert user.told == []
    lone.nothing_left()


def test_a_reset_waits_while_its_stream_moves() -> None:
    lone = Lone(second_limits=ChannelLimits(initial_credit=0))
    user, channel, told = lone.by_hand()
    user.stream.write(b"abc")
    user.stream.reset(Code.CONNECTION_LOST, "", behind=True)
    for credit in (1, 2, 3):
        lone.ends[0].tick()
        lone.clock.advance(BROKEN_MAX_STALL - 1)
        lone.ends[0].tick()
        channel.send_text(json.dumps({"credit": credit}))
        lone.settle()
    assert told.told == [b"a", b"b", b"c", '{"reset":"connection-lost"}', "closed"]


def test_a_reset_whose_peer_takes_nothing_goes_at_last() -> None:
    lone = Lone(second_limits=ChannelLimits(initial_credit=0))
    user, _, told = lone.by_hand()
    user.stream.write(b"never sent")
    user.stream.reset(Code.CONNECTION_LOST, "", behind=True)
    lone.ends[0].tick()
    lone.clock.advance(BROKEN_MAX_STALL)
    lone.ends[0].tick()
    lone.settle()
    assert told.told == ['{"reset":"connection-lost"}', "closed"]
    lone.nothing_left()


def test_what_came_before_a_reset_may_be_delivered_and_counts_until_it_is() -> None:
    lone = Lone()
    user, channel, told = lone.by_hand()
    user.keeps = True
    channel.send(bytes(50_000))
    channel.send_text('{"reset": "connection-lost"}')
    lone.settle()
    assert (len(user.received), user.told) == (50_000, ["reset"])
    assert lone.ends[0].buffer.reserved == 50_000
    user.stream.delivered(49_000)
    lone.settle()
    assert lone.ends[0].buffer.reserved == 1000
    assert texts(told) == [], "no credit"
    user.stream.delivered(1000)
    lone.nothing_left()


@pytest.mark.parametrize("ends", [(), (0,), (1,)], ids=["none", "ours", "theirs"])
def test_a_channel_closed_before_both_ends_is_a_reset(ends: tuple[int, ...]) -> None:
    lone = Lone()
    user, channel, _ = lone.by_hand()
    user.stream.write(b"more")
    if 0 in ends:
        user.stream.finish()
    if 1 in ends:
        channel.send_text('{"fin": 0}')
    channel.close()
    lone.settle()
    assert user.told == ["finished"] * len([end for end in ends if end]) + ["reset"]
    assert user.reset is not None
    assert user.reset[0] == Code.CONNECTION_LOST
    assert len(lone.ends[0]) == 0


def test_a_lost_connection_resets_what_is_not_at_its_end() -> None:
    pair = Pair()
    streams = [pair.open() for _ in range(3)]
    streams[0][0].stream.write(bytes(1000))
    for user in streams[1]:
        user.stream.finish()
    for user in streams[2]:
        user.stream.reset(Code.LIMIT, "")
    pair.settle()
    pair.one.lose("no answer")
    pair.two.lose("no answer")
    assert [user.told for user in streams[0]] == [["reset"], ["reset"]]
    assert [user.told for user in streams[1]] == [["finished"], ["finished"]]
    pair.nothing_left()


def test_all_are_reset_at_the_end() -> None:
    pair = Pair()
    streams = [pair.open() for _ in range(3)]
    for user in streams[1]:
        user.stream.finish()
    pair.network.pump()
    pair.ends[0].reset_all(Code.SHUTTING_DOWN)
    assert len(pair.ends[0]) == 1, "this one is at its proper end, and waits for its channel"
    pair.settle()
    for one, two in (streams[0], streams[2]):
        assert (one.told, two.told) == (["reset"], ["reset"])
        assert two.reset == (Code.SHUTTING_DOWN, "the peer connection ends")
    assert [user.told for user in streams[1]] == [["finished"], ["finished"]]
    pair.nothing_left()


def test_a_channel_is_refused_with_the_reason() -> None:
    lone = Lone()
    told = FakeChannelUser()
    lone.peers[0].on_channel = lambda channel: lone.ends[0].refuse(channel, Code.UNKNOWN_SERVICE)
    channel: Any = lone.two.open_channel("tcp-192.0.2.1:1", "nonsense")
    channel.use(told)
    lone.network.pump()
    channel.is_open = True
    channel.send(b"early")
    channel.send_text("nonsense")
    lone.settle()
    assert told.told == ["opened", '{"reset":"unknown-service"}', "closed"]
    assert len(lone.ends[0]) == 0


def test_a_user_may_end_its_stream_in_any_callback() -> None:
    class Rash(User):
        def data_received(self, data: bytes) -> None:
            self.stream.reset(Code.CONNECTION_LOST, "enough")

        def pause(self) -> None:
            super().pause()
            self.stream.reset(Code.CONNECTION_LOST, "enough")

        def finished(self) -> None:
            super().finished()
            self.stream.finish()

    pair = Pair()
    for action in (
        lambda one, two: two.stream.write(b"data"),
        lambda one, two: two.stream.finish(),
        lambda one, two: one.stream.write(bytes(10 * HIGH_WATER)),
    ):
        one = Rash()
        one.stream = pair.ends[0].attach(pair.one.open_channel("tcp-192.0.2.1:1"), one)
        pair.settle()
        action(one, pair.users[-1])
        pair.settle()
        assert len(one.told) <= 1
        pair.nothing_left()


def test_a_user_may_write_when_it_is_resumed() -> None:
    class Eager(User):
        written = 0

        def resume(self) -> None:
            super().resume()
            while not self.paused and self.written < 500_000:
                self.written += 20_000
                self.stream.write(bytes(20_000))

    pair = Pair(room=30_000)
    one = Eager()
    one.stream = pair.ends[0].attach(pair.one.open_channel("tcp-192.0.2.1:1"), one)
    pair.settle()
    pair.users[-1].read()
    one.resume()
    pair.until(lambda: len(pair.users[-1].received) == 500_000)
    assert pair.one.most_buffered < LOW + MESSAGE


def test_a_user_may_go_on_writing_for_ever_when_it_is_resumed() -> None:
    class Eager(User):
        writes = 0

        def resume(self) -> None:
            self.writes += 1
            if self.writes < 3000:
                self.stream.write(bytes(HIGH_WATER))

    lone = Lone()
    one = Eager()
    one.stream = lone.ends[0].attach(lone.one.open_channel("tcp-192.0.2.1:1"), one)
    one.stream.write(bytes(HIGH_WATER))
    one.stream.text_received(json.dumps({"credit": MAX_OFFSET}).encode())
    # A connection that takes all at once.
    lone.one.put = lambda *_arguments: None  # type: ignore[method-assign]
    one.stream.channel_opened()
    assert one.writes == 3000
    assert one.stream.machine.queued == 0


def test_a_reset_by_the_user_while_a_control_message_is_read() -> None:
    class Rash(User):
        def resume(self) -> None:
            self.stream.reset(Code.LIMIT, "")

    lone = Lone(second_limits=ChannelLimits(initial_credit=0))
    one = Rash()
    one.stream = lone.ends[0].attach(lone.one.open_channel("tcp-192.0.2.1:1"), one)
    lone.settle()
    one.stream.write(bytes(HIGH_WATER))
    lone.one.put = lambda *_arguments: None  # type: ignore[method-assign]
    one.stream.text_received(b'{"credit": 100000, "fin": 0}')
    assert one.told == ["paused"]
    assert len(lone.ends[0]) == 0


# Credit


def test_credit_is_absolute_and_granted_by_halves() -> None:
    lone = Lone()
    lone.network.round_trip = 0.0
    user, channel, told = lone.by_hand()
    half = LIMITS.initial_credit // 2
    channel.send(bytes(half))
    lone.settle()
    user.stream.delivered(half - 1)
    lone.settle()
    assert texts(told) == []
    user.stream.delivered(1)
    lone.settle()
    assert texts(told) == [{"credit": 3 * half}]


def test_a_window_grows_while_it_is_what_holds_the_stream_back() -> None:
    pair = Pair()
    pair.network.round_trip = 100.0
    one, two = pair.open()
    two.read()
    one.stream.write(bytes(10_000_000))
    pair.until(lambda: len(two.received) == 10_000_000)
    assert pair.ends[1].buffer.reserved == LIMITS.max_window


def test_credit_that_does_not_rise_is_ignored() -> None:
    lone = Lone(second_limits=ChannelLimits(initial_credit=1000))
    user, channel, told = lone.by_hand()
    for credit in (999, 0, 1000):
        channel.send_text(json.dumps({"credit": credit}))
    user.stream.write(bytes(3000))
    lone.settle()
    assert len(data(told)) == 1000
    channel.send_text('{"credit": 1001}')
    channel.send_text('{"credit": 7}')
    lone.settle()
    assert len(data(told)) == 1001
    channel.send_text(json.dumps({"credit": MAX_OFFSET, "color": "red"}))
    lone.settle()
    assert len(data(told)) == 3000
    assert user.told == []


def test_a_stream_without_credit_does_not_take_part_in_the_round() -> None:
    lone = Lone(second_limits=ChannelLimits(initial_credit=0))
    user, channel, told = lone.by_hand()
    user.stream.write(b"data")
    user.stream.finish()
    lone.settle()
    assert not lone.ends[0].turns
    assert told.told == []
    channel.send_text('{"credit": 4}')
    lone.settle()
    assert told.told == [b"data", '{"fin":4}']


def test_credit_for_a_stream_that_has_ended_is_ignored() -> None:
    lone = Lone()
    user, channel, _ = lone.by_hand()
    user.stream.write(b"x")
    user.stream.finish()
    lone.settle()
    channel.send_text('{"fin": 0}')
    channel.send_text('{"credit": 100000}')
    channel.send_text('{"credit": -1}')
    channel.send_text('{"reset": "limit"}')
    channel.send(b"late")
    lone.settle()
    assert (user.told, user.received) == (["finished"], b"")


def test_credit_waits_for_a_peer_that_sends_and_takes_nothing() -> None:
    pair = Pair(limits=ChannelLimits(initial_credit=1000, max_window=1000), room=1_000_000)
    streams = [pair.open() for _ in range(20)]
    # The first end's connection takes nothing off its queue any more.
    pair.network.round_trip = 0.0
    pair.one.send_out = lambda: None  # type: ignore[method-assign]
    pair.one.buffered += CREDIT_ROOM
    for one, two in streams:
        two.stream.write(bytes(1000))
        pair.network.pump()
        pair.network.pump()
        one.read()
        assert len(one.received) == 1000
    assert len(pair.ends[0].buffer.credit_due) == 20
    assert not pair.one._queue
    pair.one.buffered -= CREDIT_ROOM
    pair.ends[0].has_room()
    assert len(pair.one._queue) == 20
    assert not pair.ends[0].buffer.credit_due


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_credit_that_waited_is_not_granted_after_the_end(end: str) -> None:
    lone = Lone()
    user, channel, told = lone.by_hand()
    lone.one.buffered += CREDIT_ROOM
    channel.send(bytes(50_000))
    lone.settle()
    user.stream.delivered(40_000)
    assert lone.ends[0].buffer.credit_due
    channel.send_text('{"fin": 50000}' if end == "fin" else '{"reset": "limit"}')
    lone.settle()
    lone.one.buffered -= CREDIT_ROOM
    lone.settle()
    assert texts(told) == []
    assert lone.ends[0].buffer.reserved == (10_000 if end == "fin" else 0)


@pytest.mark.parametrize("fin", [False, True], ids=["", "fin"])
def test_bytes_delivered_after_a_reset_change_nothing(fin: bool) -> None:
    lone = Lone()
    user, channel, told = lone.by_hand()
    channel.send(bytes(50_000))
    if fin:
        channel.send_text('{"fin": 50000}')
    lone.settle()
    user.stream.reset(Code.LIMIT, "")
    user.stream.delivered(49_000)
    lone.settle()
    assert texts(told) == [{"reset": "limit"}]
    lone.nothing_left()


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
    assert all(sorted(order[at : at + 3]) == [0, 1, 2] for at in range(0, seen - seen % 3, 3))


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
