"""Which message goes next."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.sctp.chunks import BEGIN, END, PPID_BINARY, PPID_DCEP, UNORDERED
from rtunnel.wire.sctp.scheduler import (
    DATAGRAM_SHARE,
    LEAD,
    LEAST_FRAGMENT,
    MAX_DATAGRAM_BYTES,
    MESSAGE_COST,
    TURN,
    Message,
    Scheduler,
)

STREAM, FLOW, NEW = 2, 4, 6
#: What fits into a packet of the smallest size.
ROOM = 1160


def scheduler(interleaved: bool = False) -> Scheduler:
    made = Scheduler()
    made.interleaved = interleaved
    return made


def put(queue: Scheduler, stream: int, *sizes: int) -> None:
    for size in sizes:
        queue.put(Message(stream, PPID_BINARY, bytes(size), stream != FLOW, 1 if stream == FLOW else None))


def taken(queue: Scheduler, *, streams: bool = True, room: int = ROOM) -> list[int]:
    """The streams of all messages that wait, in the order in which they are complete."""
    order = []
    while (found := queue.take(room, streams=streams)) is not None:
        message, _, flags = found
        if flags & END:
            order.append(message.stream)
    return order


@pytest.mark.parametrize("interleaved", [False, True])
def test_openings_then_datagrams_then_streams(interleaved: bool) -> None:
    queue = scheduler(interleaved)
    put(queue, STREAM, 1)
    put(queue, FLOW, 1, 1)
    queue.put(Message(NEW, PPID_DCEP, b"open", ordered=True, most_sends=None))
    assert [queue.is_busy(stream) for stream in (STREAM, FLOW, NEW, 8)] == [True, True, True, False]
    assert taken(queue) == [NEW, FLOW, FLOW, STREAM]
    assert not any(queue.is_busy(stream) for stream in (STREAM, FLOW, NEW))
    assert not queue.has_some


@pytest.mark.parametrize("interleaved", [False, True])
def test_while_the_peers_window_is_shut_only_streams_wait(interleaved: bool) -> None:
    queue = scheduler(interleaved)
    put(queue, STREAM, 1)
    put(queue, FLOW, *[1000] * 100)
    assert taken(queue, streams=False) == [FLOW] * 100
    assert taken(queue) == [STREAM]


def test_a_message_that_has_begun_waits_for_the_window_too() -> None:
    queue = scheduler()
    put(queue, STREAM, 3000)
    assert queue.take(ROOM, streams=True) is not None
    put(queue, FLOW, 10)
    assert queue.take(ROOM, streams=False) is None
    assert taken(queue) == [STREAM, FLOW]


def test_a_datagram_goes_between_the_fragments_of_a_message_that_is_interleaved() -> None:
    for interleaved, order in (True, [FLOW, STREAM]), (False, [STREAM, FLOW]):
        queue = scheduler(interleaved)
        put(queue, STREAM, 100_000)
        assert queue.take(ROOM, streams=True) is not None
        put(queue, FLOW, 10)
        assert taken(queue) == order


def test_a_few_datagrams_go_before_a_stream_and_too_many_do_not() -> None:
    queue = scheduler()
    put(queue, STREAM, 16384, 16384)
    put(queue, FLOW, *[1000] * 100)
    order = taken(queue)
    ahead = LEAD // (1000 + MESSAGE_COST) + 1
    assert order[: ahead + 1] == [FLOW] * ahead + [STREAM]
    second = order.index(STREAM, ahead + 1)
    assert abs(second - ahead - 1 - DATAGRAM_SHARE * 16384 / (1000 + MESSAGE_COST)) <= 1


def test_a_stream_that_begins_beside_a_flood_is_next() -> None:
    queue = scheduler()
    for _ in range(1000):
        put(queue, FLOW, 1000)
        assert queue.take(ROOM, streams=True) is not None
    put(queue, FLOW, 1000)
    wanted = queue.wants_streams
    put(queue, STREAM, 10)
    assert (wanted, queue.wants_streams) == (True, False)
    assert taken(queue) == [STREAM, FLOW]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("size", [1000, 5000, 16384])
@pytest.mark.parametrize("room", [ROOM, 8940, 16300])
def test_the_share_of_streams_is_one_of_bytes(size: int, room: int, interleaved: bool) -> None:
    queue, passed = scheduler(interleaved), {STREAM: 0, FLOW: 0}
    while sum(passed.values()) < 5_000_000:
        put(queue, FLOW, 1000)
        if not queue.is_busy(STREAM):
            put(queue, STREAM, size, size)
        found = queue.take(room, streams=True)
        assert found is not None
        passed[found[0].stream] += len(found[1]) + (MESSAGE_COST if found[0].stream == FLOW else 0)
    assert 0.9 * DATAGRAM_SHARE < passed[FLOW] / passed[STREAM] < 1.1 * DATAGRAM_SHARE


@pytest.mark.parametrize("interleaved", [False, True])
def test_streams_take_turns_by_bytes(interleaved: bool) -> None:
    queue = scheduler(interleaved)
    passed = dict.fromkeys((2, 6, 8), 0)
    sizes = {2: 100, 6: 5000, 8: 16384}
    for stream, size in sizes.items():
        put(queue, stream, *[size] * (1_500_000 // size))
    while sum(passed.values()) < 3_000_000:
        found = queue.take(ROOM, streams=True)
        assert found is not None
        passed[found[0].stream] += len(found[1])
    assert max(passed.values()) - min(passed.values()) <= 3 * TURN


def test_the_oldest_datagrams_are_dropped() -> None:
    queue = scheduler()
    put(queue, FLOW, *range(1000, 1110))
    assert queue.dropped == 0
    put(queue, FLOW, *[2000] * 10)
    assert 0 < queue.dropped < 120
    left = 120 - queue.dropped
    assert left * 1120 > MAX_DATAGRAM_BYTES // 2
    found = queue.take(ROOM, streams=True)
    assert found is not None
    assert len(found[1]) == 1000 + queue.dropped
    assert len(taken(queue)) == left - 1
    assert queue.dropped == 120 - left


def test_a_datagram_that_has_begun_is_not_dropped_and_the_newest_is_never() -> None:
    queue = scheduler()
    put(queue, FLOW, 3000)
    found = queue.take(ROOM, streams=True)
    assert found is not None
    put(queue, FLOW, *[1000] * 200)
    message, payload, flags = queue.take(ROOM, streams=True) or (None, b"", 0)
    assert (message, len(payload), flags) == (found[0], ROOM, UNORDERED) or message is found[0]
    put(queue, FLOW, 2 * MAX_DATAGRAM_BYTES)
    assert taken(queue)[-1] == FLOW
    assert not queue.has_some


def test_small_datagrams_are_not_free() -> None:
    queue = scheduler()
    put(queue, FLOW, *[1] * 10_000)
    waiting = len(taken(queue))
    assert waiting <= MAX_DATAGRAM_BYTES // MESSAGE_COST
    assert waiting + queue.dropped == 10_000


def test_a_message_is_not_cut_into_crumbs() -> None:
    queue = scheduler()
    put(queue, STREAM, 1000)
    assert queue.take(LEAST_FRAGMENT - 1, streams=True) is None
    assert queue.take(LEAST_FRAGMENT, streams=True) is not None


def test_numbers_are_those_of_their_stream_and_begin_anew_with_it() -> None:
    queue = scheduler()
    numbers = []
    for _ in range(2):
        put(queue, STREAM, 1, 1)
        put(queue, 8, 1)
        while (found := queue.take(ROOM, streams=True)) is not None:
            numbers.append((found[0].stream, found[0].number))
        queue.forget(STREAM)
    assert sorted(numbers) == [(2, 0), (2, 0), (2, 1), (2, 1), (8, 0), (8, 1)]


def test_cleared() -> None:
    queue = scheduler()
    put(queue, STREAM, 1)
    put(queue, FLOW, 1)
    assert queue.stream_bytes == 1
    queue.clear()
    assert queue.stream_bytes == 0
    assert not queue.has_some
    assert taken(queue) == []


PUTS = st.tuples(st.sampled_from([STREAM, 8, 10, FLOW]), st.integers(1, 40_000))


@given(st.lists(PUTS | st.sampled_from([None, 300, ROOM, 16300]), max_size=60), st.booleans())
def test_every_byte_goes_once_and_fragments_in_order(steps: list[tuple[int, int] | int | None], mixed: bool) -> None:
    queue = scheduler(mixed)
    sent: dict[Message, bytes] = {}
    got: dict[Message, bytes] = {}
    ended: list[Message] = []
    open_message: Message | None = None

    def take(room: int, streams: bool) -> bool:
        nonlocal open_message
        found = queue.take(room, streams=streams)
        if found is None:
            return False
        message, payload, flags = found
        assert 0 < len(payload) <= room
        assert streams or message.stream == FLOW
        assert bool(flags & BEGIN) == (message not in got)
        assert bool(flags & UNORDERED) == (message.stream == FLOW)
        assert mixed or open_message in (None, message)
        got[message] = got.get(message, b"") + bytes(payload)
        open_message = None if flags & END else message
        if flags & END:
            assert got[message] == sent[message]
            ended.append(message)
        return True

    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            data = bytes([number]) * step[1]
            message = Message(step[0], PPID_BINARY, data, step[0] != FLOW, 1 if step[0] == FLOW else None)
            sent[message] = data
            queue.put(message)
        else:
            take(step or ROOM, step is not None)
    while take(ROOM, True):
        pass
    assert len(ended) == len(sent) - queue.dropped
    for stream in (STREAM, 8, 10, FLOW):
        order = [list(sent).index(message) for message in ended if message.stream == stream]
        assert order == sorted(order)
    assert queue.stream_bytes == queue._datagram_bytes == 0
    assert not queue.has_some
    assert queue.bytes_begun == sum(map(len, got.values()))
