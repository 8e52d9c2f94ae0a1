"""Streams over data channels between two ends of ours: credit."""

from __future__ import annotations

import json

import pytest

from rtunnel.errors import Code
from rtunnel.rtc.receiving import CREDIT_ROOM
from rtunnel.wire.credit import MAX_OFFSET
from rtunnel.wire.limits import ChannelLimits
from tests.rtc.fakes import FakeChannelUser
from tests.rtc.streams import LIMITS, Lone, Pair, texts


def data(told: FakeChannelUser) -> bytes:
    return b"".join(item for item in told.told if isinstance(item, bytes))


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
