"""The order of sending: control frames first, then the streams in fair turns, each within its credit."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import TooMuchWaiting
from rtunnel.wire import frames
from rtunnel.wire.credit import ReceiveWindow, SendWindow
from rtunnel.wire.halves import HIGH_WATER
from rtunnel.wire.outbox import MAX_CONTROL_WAITING, Outbox
from rtunnel.wire.stream import Stream
from tests.wire.pair import extended_server, open_on_server, parse, raw

MOST = frames.MAX_SENT_PAYLOAD


def make_stream(conn_id: int, queued: int, credit: int | None = None) -> Stream:
    stream = Stream(conn_id, SendWindow(credit), ReceiveWindow(0, 0.0))
    if queued:
        stream.chunks.append(bytes(queued))
        stream.queued = queued
    return stream


def turns(outbox: Outbox, budget: int) -> list[tuple[int, int]]:
    """Return the DATA frames for this *budget*, as conn_id and size."""
    out: list[bytes] = []
    outbox.take_turns(budget, out)
    found = []
    for frame_type, conn_id, payload in parse(b"".join(out)):
        assert frame_type == frames.DATA
        found.append((conn_id, len(payload)))
    return found


def test_one_bulk_stream_and_many_small_ones() -> None:
    outbox = Outbox(0)
    bulk = make_stream(1, 10 * MOST)
    outbox.schedule(bulk)
    assert turns(outbox, 1) == [(1, MOST)]
    small = [make_stream(conn_id, 10) for conn_id in range(2, 50)]
    for stream in small:
        outbox.schedule(stream)
    assert turns(outbox, 3 * MOST) == [(1, MOST), *((conn_id, 10) for conn_id in range(2, 50)), (1, MOST), (1, MOST)]


def test_bulk_streams_take_turns() -> None:
    outbox = Outbox(0)
    for conn_id in (1, 2, 3):
        outbox.schedule(make_stream(conn_id, 2 * MOST + 5))
    assert turns(outbox, MOST + 1) == [(1, MOST), (2, MOST)]
    assert turns(outbox, 5 * MOST) == [(3, MOST), (1, MOST), (2, MOST), (3, MOST), (1, 5), (2, 5), (3, 5)]
    assert not outbox
    assert turns(outbox, MOST) == []


def test_a_stream_that_is_scheduled_again_has_no_second_turn() -> None:
    outbox = Outbox(0)
    busy = make_stream(1, 2 * MOST)
    for stream in (busy, busy, make_stream(2, 2 * MOST)):
        outbox.schedule(stream)
    assert turns(outbox, 4 * MOST) == [(1, MOST), (2, MOST), (1, MOST), (2, MOST)]


def test_credit_ends_a_turn() -> None:
    outbox = Outbox(0)
    stream = make_stream(1, 100, credit=30)
    outbox.schedule(stream)
    outbox.schedule(make_stream(2, 10))
    assert turns(outbox, 1000) == [(1, 30), (2, 10)]
    assert not outbox, "a stream without credit does not keep the link busy"
    outbox.schedule(stream)
    assert not outbox
    stream.send_window.limit = 50
    outbox.schedule(stream)
    outbox.schedule(stream)
    assert turns(outbox, 1000) == [(1, 20)]
    assert stream.queued == 50


def test_no_budget_no_data() -> None:
    outbox = Outbox(0)
    outbox.schedule(make_stream(1, 5))
    assert turns(outbox, 0) == []
    assert outbox


def test_a_stream_that_is_over_has_no_turn() -> None:
    outbox = Outbox(0)
    gone = make_stream(1, 100)
    outbox.schedule(gone)
    outbox.schedule(make_stream(2, 10))
    gone.open = False
    gone.drop()
    assert turns(outbox, 1000) == [(2, 10)]
    assert not outbox


def test_the_end_of_a_stream_needs_no_credit_and_its_turn() -> None:
    outbox = Outbox(0)
    stream = make_stream(1, 0, credit=0)
    outbox.schedule(stream)
    assert not outbox
    stream.ending = True
    outbox.schedule(stream)
    out: list[bytes] = []
    assert outbox.take_turns(1, out) == [stream]
    assert out == []
    stream.sent_end = True
    outbox.schedule(stream)
    assert not outbox


def test_control_frames_keep_their_order_and_the_last_pong_follows() -> None:
    outbox = Outbox(0)
    assert not outbox
    outbox.set_pong(b"old")
    assert outbox.has_control
    outbox.add_control(frames.READY, 2, b"x")
    outbox.set_pong(b"new")
    outbox.add_control(frames.ERROR, 1)
    assert outbox.take_control() == [raw(frames.READY, 2, b"x"), raw(frames.ERROR, 1), raw(frames.PONG, 0, b"new")]
    assert outbox.take_control() == []
    assert not outbox


def test_control_frames_have_a_bound() -> None:
    outbox = Outbox(0)
    for _ in range(MAX_CONTROL_WAITING // 1024):
        outbox.add_control(frames.ERROR, 1, bytes(1015))
    assert outbox.control_waiting == MAX_CONTROL_WAITING
    with pytest.raises(TooMuchWaiting):
        outbox.add_control(frames.ERROR, 1)
    assert len(outbox.take_control()) == MAX_CONTROL_WAITING // 1024, "what was over the bound was not kept"
    outbox.add_control(frames.ERROR, 1)
    assert outbox.control_waiting == 9


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=10), st.lists(st.integers(0, 60), max_size=20))
def test_a_stream_gives_its_bytes_in_order(chunks: list[bytes], takes: list[int]) -> None:
    stream = make_stream(1, 0)
    stream.chunks.extend(chunks)
    stream.queued = len(b"".join(chunks))
    taken = b""
    for count in takes:
        before = stream.queued
        piece = b"".join(stream.take(count))
        assert len(piece) == min(count, before)
        assert stream.queued == before - len(piece)
        taken += piece
    assert taken + b"".join(stream.take(10**6)) == b"".join(chunks)
    assert not stream.chunks


@given(st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 300_000)), max_size=6), st.integers(1, 300_000))
def test_turns_are_fair_and_complete(sizes: list[tuple[int, int]], budget: int) -> None:
    """No stream gets two turns while another that can send gets none, and all that credit allows is sent."""
    outbox = Outbox(0)
    allowed = {}
    for conn_id, (queued, credit) in enumerate(sizes):
        allowed[conn_id] = min(queued, credit)
        outbox.schedule(make_stream(conn_id, queued, credit))
    order = []
    while outbox:
        got = turns(outbox, budget)
        assert sum(size for _, size in got[:-1]) < budget, "one frame at most goes over the budget"
        order += got
    left = dict(allowed)
    waiting = [conn_id for conn_id in left if left[conn_id]]
    for conn_id, size in order:
        assert conn_id == waiting.pop(0)
        assert size == min(left[conn_id], MOST)
        left[conn_id] -= size
        if left[conn_id]:
            waiting.append(conn_id)
    assert not any(left.values())


# On a link


def test_control_goes_before_data() -> None:
    lone = extended_server()
    stream = open_on_server(lone)
    lone.link.send(stream, b"data")
    lone.link.accept_tunnel(0, "192.0.2.1:80")
    lone.feed(raw(frames.PING, 0, b"x"))
    assert [frame[0] for frame in lone.sent()] == [frames.READY, frames.PONG, frames.DATA]


def test_a_flood_of_pings_has_one_answer() -> None:
    lone = extended_server()
    for number in range(10_000):
        lone.feed(raw(frames.PING, 0, b"%d" % number))
    assert lone.sent() == [(frames.PONG, 0, b"9999")]


def test_a_stream_that_is_reset_while_it_is_queued_sends_no_more() -> None:
    lone = extended_server()
    stream, other = open_on_server(lone), open_on_server(lone)
    lone.link.send(stream, bytes(HIGH_WATER))
    lone.link.send(other, b"other")
    lone.link.reset(stream, "test", "a test")
    sent = lone.sent()
    assert [frame[:2] for frame in sent] == [(frames.ERROR, stream.conn_id), (frames.DATA, other.conn_id)]
    assert stream.queued == 0
    assert not lone.link.has_data_to_send
