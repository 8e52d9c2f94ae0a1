"""Streams over data channels between two ends of ours: resets behind what was written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rtunnel.errors import Code
from rtunnel.rtc.sending import LOW, MESSAGE
from rtunnel.wire.credit import MAX_OFFSET
from rtunnel.wire.halves import BROKEN_MAX_STALL, HIGH_WATER
from rtunnel.wire.limits import ChannelLimits
from tests.rtc.fakes import FakeChannelUser
from tests.rtc.streams import LIMITS, Lone, Pair, User, texts


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
    one.stream.write(bytes(LIMITS.initial_credit + HIGH_WATER))
    # A connection that takes all at once.
    lone.one.put = lambda *_arguments: None  # type: ignore[method-assign]
    lone.one.buffered = 0
    one.stream.text_received(json.dumps({"credit": MAX_OFFSET}).encode())
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
