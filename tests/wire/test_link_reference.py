"""Links with a reference peer: no credit and no half-close, so reading pauses, and stalled streams are reset."""

from __future__ import annotations

import pytest

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.events import DataReceived, FrameIgnored, StreamClosed, StreamReset
from rtunnel.wire.link import REFERENCE_MAX_STALL, REFERENCE_MAX_WAITING, Mode
from tests.wire.pair import (
    Pair,
    extended_client,
    open_on_client,
    open_on_server,
    raw,
    reference_client,
    reference_server,
)

PIECE = 65536
MIB = 1024 * 1024


def fill(lone, conn_id: int, size: int = REFERENCE_MAX_WAITING) -> None:
    """Receive *size* bytes for a stream that nobody reads."""
    while size:
        count = min(size, PIECE)
        lone.feed(raw(frames.DATA, conn_id, bytes(count)))
        size -= count


def test_a_stalled_reader_pauses_the_link() -> None:
    assert REFERENCE_MAX_WAITING == MIB
    lone = reference_client()
    stream = open_on_client(lone)
    fill(lone, 7, MIB - 1)
    paused = [lone.link.reading_paused]
    fill(lone, 7, 1)
    paused.append(lone.link.reading_paused)
    for count in (MIB // 2 - 1, 1):
        lone.link.delivered(stream, count)
        paused.append(lone.link.reading_paused)
    assert paused == [False, True, True, False], "from the bound down to half of it"
    assert lone.sent() == [], "a reference peer gets no credit"


def test_two_stalled_readers() -> None:
    lone = reference_client()
    first, second = open_on_client(lone, 7), open_on_client(lone, 8)
    fill(lone, 7)
    fill(lone, 8)
    lone.link.delivered(first, MIB)
    before = lone.link.reading_paused
    lone.link.delivered(second, MIB)
    assert (before, lone.link.reading_paused) == (True, False)


@pytest.mark.parametrize("make", [reference_server, reference_client])
def test_after_30_s_the_stalled_stream_is_reset_and_reading_goes_on(make) -> None:
    assert REFERENCE_MAX_STALL == 30
    lone = make()
    stream = open_on_server(lone) if make is reference_server else open_on_client(lone, 1)
    lone.tick(10)
    fill(lone, 1)
    assert lone.tick(29.5) == []
    assert lone.link.reading_paused
    assert lone.tick(0.5) == [StreamReset(stream, Code.STALLED, "1048576 bytes wait for a reader")]
    assert lone.sent() == [(frames.CLOSE_CONN, 1, b"")]
    assert not lone.link.reading_paused
    assert lone.link.stream_count == 0
    assert lone.link.mode is Mode.REFERENCE


def test_30_s_count_from_the_last_time_that_it_stalled() -> None:
    lone = reference_client()
    stream = open_on_client(lone)
    for _ in range(3):
        fill(lone, 7)
        assert lone.tick(29) == []
        lone.link.delivered(stream, MIB)
        assert not lone.link.reading_paused
    assert stream.open


def test_more_data_while_stalled_does_not_start_the_time_again() -> None:
    lone = reference_client()
    stream = open_on_client(lone)
    fill(lone, 7)
    lone.tick(29)
    fill(lone, 7, 1000)
    (event,) = lone.tick(1)
    assert event == StreamReset(stream, Code.STALLED, "1049576 bytes wait for a reader")


@pytest.mark.parametrize("end", ["reset", "close"])
def test_the_end_of_the_stalled_stream_ends_the_pause(end: str) -> None:
    lone = reference_client()
    stream = open_on_client(lone)
    fill(lone, 7)
    if end == "reset":
        lone.link.reset(stream, "test", "")
    else:
        assert lone.feed(raw(frames.CLOSE_CONN, 7)) == [StreamClosed(stream)]
    assert not lone.link.reading_paused
    assert lone.tick(60) == []


def test_a_closed_link_is_not_paused() -> None:
    lone = reference_client()
    open_on_client(lone)
    fill(lone, 7)
    lone.link.close(Code.SHUTTING_DOWN, "")
    assert not lone.link.reading_paused


def test_an_extended_link_is_never_paused() -> None:
    lone = extended_client()
    open_on_client(lone)
    fill(lone, 7, 65536)
    assert not lone.link.reading_paused
    assert lone.link.streams


# Ends of streams


def test_close_follows_the_data_before_it() -> None:
    lone = reference_server()
    stream = open_on_server(lone)
    lone.link.send(stream, bytes(PIECE + 1))
    lone.link.finish(stream)
    assert [(frame[0], len(frame[2])) for frame in lone.sent(PIECE)] == [(frames.DATA, PIECE)]
    assert [(frame[0], len(frame[2])) for frame in lone.sent(PIECE)] == [(frames.DATA, 1), (frames.CLOSE_CONN, 0)]
    assert lone.link.take_events() == [StreamClosed(stream)]
    assert lone.link.streams == {}


def test_the_peers_close_takes_effect_after_the_data_before_it() -> None:
    lone = reference_server()
    stream = open_on_server(lone)
    lone.link.send(stream, b"too late")
    assert lone.feed(raw(frames.DATA, 1, b"last words"), raw(frames.CLOSE_CONN, 1)) == [
        DataReceived(stream, b"last words"),
        StreamClosed(stream),
    ]
    assert lone.sent() == [], "no half-close: nothing more can be said, and a CLOSE_CONN is not answered"
    assert lone.link.streams == {}
    assert lone.link.stream_count == 1
    lone.link.delivered(stream, 10)
    assert lone.link.stream_count == 0


def test_what_came_before_our_close_is_still_to_be_delivered() -> None:
    lone = reference_client()
    stream = open_on_client(lone)
    lone.feed(raw(frames.DATA, 7, b"abc"))
    lone.link.finish(stream)
    assert lone.sent() == [(frames.CLOSE_CONN, 7, b"")]
    assert lone.link.stream_count == 1
    lone.link.delivered(stream, 3)
    assert lone.link.stream_count == 0


@pytest.mark.parametrize("times", [1, 2, 3])
def test_close_again_and_data_after_our_close(times: int) -> None:
    lone = reference_server()
    stream, other = open_on_server(lone), open_on_server(lone)
    lone.link.reset(stream, Code.CONNECTION_LOST, "not told to a reference peer")
    assert lone.sent() == [(frames.CLOSE_CONN, 1, b"")]
    events = lone.feed(raw(frames.DATA, 1, b"late"), raw(frames.CLOSE_CONN, 1) * times)
    assert events == [
        FrameIgnored("DATA for a stream that is not open", is_normal=True),
        FrameIgnored("CLOSE_CONN for a stream that is not open", is_normal=True),
    ]
    assert lone.sent() == []
    assert other.open


def test_sending_knows_no_credit() -> None:
    lone = reference_server()
    stream = open_on_server(lone)
    for _ in range(20):
        lone.link.send(stream, bytes(MIB))
    sent = lone.sent(1 << 30)
    assert sum(len(frame[2]) for frame in sent) == 20 * MIB
    assert {len(frame[2]) for frame in sent} == {PIECE}


@pytest.mark.parametrize("piece", [0, 1, 10])
def test_our_two_ends_can_be_reference_programs_to_each_other(piece: int) -> None:
    pair = Pair(reference=True, piece=piece)
    at_server, at_client = pair.open()
    pair.server.send(at_server, b"question")
    pair.client.send(at_client, b"answer")
    pair.settle()
    for link, said in ((pair.client, b"question"), (pair.server, b"answer")):
        events = link.take_events()
        assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == said
    pair.client.delivered(at_client, 8)
    pair.server.delivered(at_server, 6)
    pair.client.finish(at_client)
    pair.settle()
    assert pair.server.take_events() == [StreamClosed(at_server)]
    assert pair.server.streams == pair.client.streams == {}
    assert pair.server.stream_count == pair.client.stream_count == 0
