"""Which message goes next."""

from __future__ import annotations

from typing import Any, cast

from aiortc.rtcsctptransport import WEBRTC_BINARY, WEBRTC_DCEP

from rtunnel.rtc.aiortc.channel import Channel
from rtunnel.rtc.aiortc.send_queue import DATAGRAM_SHARE, LEAD, MAX_DATAGRAM_BYTES, MESSAGE_COST, SendQueue

NOBODY = cast(Any, None)
STREAM = Channel(NOBODY, "tcp-x", "", True, 2)
FLOW = Channel(NOBODY, "udp-x", "", False, 4)


def put(queue: SendQueue, channel: Channel, *sizes: int) -> None:
    for size in sizes:
        queue.put(channel, WEBRTC_BINARY, bytes(size))


def taken(queue: SendQueue, *, streams: bool = True) -> list[Channel]:
    """The channels of all messages that wait, in the order in which they go."""
    channels = []
    while (message := queue.take(streams=streams)) is not None:
        channels.append(message[0])
    return channels


def test_openings_then_datagrams_then_streams() -> None:
    queue, new = SendQueue(), Channel(NOBODY, "tcp-y", "", True, None)
    put(queue, STREAM, 1)
    put(queue, FLOW, 1, 1)
    queue.put(new, WEBRTC_DCEP, b"open")
    assert queue.streams_of() == {2, 4, None}
    assert taken(queue) == [new, FLOW, FLOW, STREAM]


def test_while_the_peers_window_is_shut_only_streams_wait() -> None:
    queue = SendQueue()
    put(queue, STREAM, 1)
    put(queue, FLOW, *[1000] * 100)
    assert taken(queue, streams=False) == [FLOW] * 100
    assert taken(queue) == [STREAM]


def test_a_few_datagrams_go_before_a_stream_and_too_many_do_not() -> None:
    queue = SendQueue()
    put(queue, STREAM, 16384, 16384)
    put(queue, FLOW, *[1000] * 100)
    ahead = LEAD // (1000 + MESSAGE_COST) + 1
    assert taken(queue) == [FLOW] * ahead + [STREAM] + [FLOW] * ahead + [STREAM] + [FLOW] * (100 - 2 * ahead)


def test_a_stream_that_begins_beside_a_flood_is_next() -> None:
    queue = SendQueue()
    for _ in range(1000):
        put(queue, FLOW, 1000)
        assert queue.take(streams=True) is not None
    put(queue, FLOW, 1000)
    wanted = queue.wants_streams
    put(queue, STREAM, 10)
    assert (wanted, queue.wants_streams) == (True, False)
    assert taken(queue) == [STREAM, FLOW]


def test_the_share_of_streams_is_one_of_bytes() -> None:
    for size in (1000, 5000, 16384):
        queue, passed = SendQueue(), {STREAM: 0, FLOW: 0}
        for _ in range(5000):
            put(queue, FLOW, 1000)
            put(queue, STREAM, size)
            message = queue.take(streams=True)
            assert message is not None
            passed[message[0]] += len(message[2]) + MESSAGE_COST
        assert 0.9 * DATAGRAM_SHARE < passed[FLOW] / passed[STREAM] < 1.1 * DATAGRAM_SHARE


def test_the_oldest_datagrams_are_dropped() -> None:
    queue = SendQueue()
    put(queue, FLOW, *range(1000, 1110))
    assert queue.dropped == 0
    put(queue, FLOW, *[2000] * 10)
    assert 0 < queue.dropped < 120
    left = 120 - queue.dropped
    assert left * 1120 > MAX_DATAGRAM_BYTES // 2
    message = queue.take(streams=True)
    assert message is not None
    assert len(message[2]) == 1000 + queue.dropped
    assert len(taken(queue)) == left - 1
    assert queue.dropped == 120 - left


def test_datagrams_without_a_byte_are_not_free() -> None:
    queue = SendQueue()
    put(queue, FLOW, *[0] * 10_000)
    waiting = len(taken(queue))
    assert waiting <= MAX_DATAGRAM_BYTES // MESSAGE_COST
    assert waiting + queue.dropped == 10_000


def test_cleared() -> None:
    queue = SendQueue()
    put(queue, STREAM, 1)
    put(queue, FLOW, 1)
    assert queue.stream_bytes == 1
    assert queue.clear() == {STREAM, FLOW}
    assert queue.stream_bytes == 0
    assert taken(queue) == []
