"""Streams over data channels with a reference peer: no credit, no half-close, and bounded memory all the same."""

from __future__ import annotations

from typing import Any

import pytest

from rtunnel.errors import Code
from rtunnel.rtc.receiving import MAX_STALL, STALLING
from rtunnel.wire.halves import HIGH_WATER
from rtunnel.wire.limits import ChannelLimits
from tests.rtc.fakes import FakeChannelUser
from tests.rtc.streams import Lone, Pair, User

MIB = 1024 * 1024


def pass_time(pair: Pair, seconds: float) -> None:
    """Time goes by, with a tick in each second."""
    for _ in range(int(seconds)):
        pair.clock.advance(1.0)
        for streams in pair.ends:
            streams.tick()
        pair.settle()


def bulk(user: Any, count: int) -> None:
    for _ in range(count // 65536):
        user.stream.write(bytes(65536))


# Bytes and ends


def test_text_is_bytes_and_nothing_but_bytes_is_sent() -> None:
    lone = Lone(reference=True)
    user, channel, told = lone.by_hand()
    user.read()
    channel.send(b"one ")
    channel.send_text('{"reset": "two"}')
    channel.send_text("")
    user.stream.write(bytes(300_000))
    user.stream.finish()
    lone.settle()
    assert user.received == b'one {"reset": "two"}'
    assert all(isinstance(item, bytes) for item in told.told[:-1])
    assert sum(len(item) for item in told.told[:-1]) == 300_000
    assert told.told[-1] == "closed"
    assert user.told == ["paused", "closed"]
    lone.nothing_left()


def test_a_reset_behind_what_was_written_closes_the_channel_behind_it() -> None:
    pair = Pair(reference=True, room=10_000)
    one, two = pair.open()
    two.read()
    one.stream.write(bytes(200_000))
    one.stream.reset(Code.CONNECTION_LOST, "gone", behind=True)
    # What it is sent in the meantime is nobody's.
    two.stream.write(bytes(5 * HIGH_WATER))
    pair.settle()
    assert (len(two.received), two.told[-1]) == (200_000, "closed")
    assert (one.received, one.told) == (b"", ["paused"])
    pair.nothing_left()


def test_our_end_closes_the_channel_behind_what_is_queued() -> None:
    pair = Pair(reference=True, room=10_000)
    one, two = pair.open()
    one.stream.write(bytes(200_000))
    one.stream.finish()
    one.stream.write(b"late")
    two.stream.write(b"on its way")
    pair.until(lambda: "closed" in two.told and "closed" in one.told)
    assert (len(two.received), two.told) == (200_000, ["closed"])
    assert one.received == b"on its way", "what the other end had sent still arrives"
    two.read()
    one.read()
    pair.nothing_left()


def test_end_before_the_channel_is_open() -> None:
    pair = Pair(reference=True)
    one = pair.start()
    one.stream.write(b"short")
    one.stream.finish()
    pair.settle()
    (two,) = pair.users
    two.read()
    assert (two.received, two.told, one.told) == (b"short", ["closed"], ["closed"])
    pair.nothing_left()


def test_a_channel_that_the_peer_closes_is_the_end_of_both_directions() -> None:
    lone = Lone(reference=True)
    user, channel, _ = lone.by_hand()
    channel.send(b"all")
    channel.close()
    lone.settle()
    assert (user.received, user.told) == (b"all", ["closed"])
    assert len(lone.ends[0]) == 0
    assert lone.one.held == 3
    user.stream.write(b"late")
    user.stream.finish()
    user.stream.delivered(1)
    assert lone.one.held == 2
    user.stream.reset(Code.CONNECTION_LOST, "the reader is gone")
    lone.nothing_left()
    user.stream.delivered(2)
    lone.nothing_left()


@pytest.mark.parametrize("finished", [False, True], ids=["open", "finished"])
def test_a_reset_closes_the_channel(finished: bool) -> None:
    lone = Lone(reference=True)
    user, channel, told = lone.by_hand()
    channel.send(bytes(1000))
    lone.settle()
    if finished:
        user.stream.finish()
    user.stream.reset(Code.LOCAL_UNREACHABLE, "refused")
    channel.send(b"late")
    lone.settle()
    assert told.told == ["closed"]
    assert (len(user.received), user.told) == (1000, [])
    user.stream.delivered(1000)
    lone.nothing_left()


def test_a_user_may_reset_its_stream_when_bytes_come() -> None:
    class Rash(User):
        def data_received(self, data: bytes) -> None:
            self.stream.reset(Code.CONNECTION_LOST, "enough")

    pair = Pair(reference=True)
    one = Rash()
    one.stream = pair.ends[0].attach(pair.one.open_channel("tcp-192.0.2.1:1"), one)
    pair.settle()
    pair.users[-1].stream.write(b"data")
    pair.settle()
    pair.nothing_left()


def test_a_refused_channel_is_closed_without_a_word() -> None:
    lone = Lone(reference=True)
    lone.peers[0].on_channel = lambda channel: lone.ends[0].refuse(channel, Code.UNKNOWN_SERVICE)
    told = FakeChannelUser()
    lone.two.open_channel("tcp-192.0.2.1:1").use(told)
    lone.settle()
    assert told.told == ["opened", "closed"]


# Memory


def test_a_source_is_paused_and_resumed() -> None:
    pair = Pair(reference=True, room=10_000)
    one, two = pair.open()
    two.read()
    one.stream.write(bytes(HIGH_WATER * 2))
    assert one.told == ["paused"]
    pair.until(lambda: one.told == ["paused", "resumed"])
    pair.until(lambda: len(two.received) == HIGH_WATER * 2)


def test_bytes_that_wait_are_taken_off_the_receive_window() -> None:
    pair = Pair(reference=True)
    one, two = pair.open()
    bulk(one, 4 * MIB)
    pair.settle()
    assert MIB <= len(two.received) <= MIB + 16384, "the window is shut"
    assert pair.two.held == len(two.received)
    assert one.paused
    two.stream.delivered(300_000)
    assert pair.two.held == len(two.received) - 300_000
    pair.settle()
    assert pair.two.held >= MIB
    two.delivers = two.stream
    two.stream.delivered(len(two.received) - 300_000)
    pair.settle()
    assert len(two.received) == 4 * MIB
    assert pair.two.held == 0


def test_bytes_that_are_delivered_at_once_never_touch_the_window() -> None:
    pair = Pair(reference=True)
    one, two = pair.open()
    two.read()
    bulk(one, 2 * MIB)
    pair.settle()
    assert len(two.received) == 2 * MIB
    assert pair.two.most_held == 0


def test_a_peer_that_ignores_the_window_costs_the_stream_with_the_most_bytes() -> None:
    limits = ChannelLimits(peer_buffer=MIB)
    pair = Pair(reference=True, receive_window=None, limits=limits)
    streams = [pair.open() for _ in range(3)]
    bulk(streams[0][0], MIB // 4)
    bulk(streams[2][0], MIB // 8)
    bulk(streams[1][0], MIB)
    pair.settle()
    assert [two.told for _, two in streams] == [[], ["reset"], []]
    assert streams[1][1].reset is not None
    assert streams[1][1].reset[0] == Code.STALLED
    assert pair.two.most_held <= MIB + 16384
    assert pair.two.held == pair.ends[1].buffer.reserved == MIB // 4 + MIB // 8
    assert streams[1][0].told[-1] == "closed"


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed by the peer"])
def test_a_reader_that_does_not_move_has_to_go(closed: bool) -> None:
    pair = Pair(reference=True)
    slow_one, slow = pair.open()
    _, other = pair.open()
    bulk(slow_one, STALLING + 65536)
    if closed:
        slow_one.stream.finish()
    pair.settle()
    assert slow.told == ["closed"] * closed
    pass_time(pair, MAX_STALL - 1)
    assert slow.told == ["closed"] * closed
    pass_time(pair, 2)
    assert slow.told == ["closed"] * closed + ["reset"]
    assert slow.reset == (Code.STALLED, f"{STALLING + 65536} bytes wait for a reader")
    assert other.told == []
    assert pair.two.held == 0
    slow.stream.delivered(100)
    assert pair.two.held == 0


def test_a_reader_that_moves_may_stay() -> None:
    pair = Pair(reference=True)
    one, two = pair.open()
    bulk(one, 2 * MIB)
    for _ in range(5):
        pass_time(pair, MAX_STALL - 1)
        two.stream.delivered(1)
    assert pair.two.held > STALLING
    assert "reset" not in two.told


def test_a_reader_that_holds_little_may_stay() -> None:
    pair = Pair(reference=True)
    one, two = pair.open()
    bulk(one, STALLING)
    pair.settle()
    pass_time(pair, 5 * MAX_STALL)
    assert two.told == []
    assert pair.two.held == STALLING


def test_time_counts_from_when_bytes_began_to_wait() -> None:
    pair = Pair(reference=True)
    one, two = pair.open()
    pass_time(pair, 5 * MAX_STALL)
    bulk(one, MIB)
    pair.settle()
    pass_time(pair, MAX_STALL - 2)
    assert two.told == []


def test_of_those_that_stall_the_largest_goes_first() -> None:
    pair = Pair(reference=True)
    streams = [pair.open() for _ in range(3)]
    for (one, _), part in zip(streams, (1, 4, 2), strict=True):
        bulk(one, part * 65536 * 2)
    pair.settle()
    pass_time(pair, MAX_STALL + 1)
    assert [two.told for _, two in streams] == [[], ["reset"], []]
    assert pair.two.held <= STALLING


# Ends of everything


def test_a_lost_connection_is_no_proper_end() -> None:
    pair = Pair(reference=True)
    one, two = pair.open()
    closed_one, closed_two = pair.open()
    closed_one.stream.finish()
    one.stream.write(b"arrived")
    pair.settle()
    one.stream.write(bytes(1000))
    for connection, streams in zip((pair.one, pair.two), pair.ends, strict=True):
        connection.lose("no answer")
        streams.reset_all(Code.CONNECTION_LOST)
    pair.settle()
    assert (one.told, two.told, two.received) == (["reset"], ["reset"], b"arrived")
    assert (closed_one.told, closed_two.told) == (["closed"], ["closed"])
    pair.nothing_left()


def test_all_are_reset_at_the_end() -> None:
    pair = Pair(reference=True)
    streams = [pair.open() for _ in range(2)]
    streams[0][0].stream.write(bytes(1000))
    pair.settle()
    pair.ends[1].reset_all(Code.SHUTTING_DOWN)
    pair.settle()
    assert [two.told for _, two in streams] == [["reset"]] * 2
    assert [one.told for one, _ in streams] == [["closed"]] * 2
    pair.nothing_left()
