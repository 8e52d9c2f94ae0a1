"""Streams of an extended link: bytes and ends in both directions, resets, and what is still to be delivered."""

from __future__ import annotations

import pytest

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.events import DataReceived, StreamFinished, StreamReset, StreamWritable
from rtunnel.wire.halves import HIGH_WATER, LOW_WATER
from tests.wire.pair import (
    CREDIT,
    FIN,
    Pair,
    extended_client,
    extended_server,
    only,
    open_on_client,
    open_on_server,
    raw,
    raw_error,
)


@pytest.mark.parametrize("piece", [0, 1, 5])
def test_bytes_both_ways(piece: int) -> None:
    pair = Pair(piece=piece)
    at_server, at_client = pair.open()
    pair.server.send(at_server, b"question")
    pair.client.send(at_client, b"answer")
    pair.client.send(at_client, b"")
    pair.settle()
    for link, stream, said in ((pair.client, at_client, b"question"), (pair.server, at_server, b"answer")):
        found = only(link.take_events(), DataReceived)
        assert b"".join(event.data for event in found) == said
        assert {event.stream.conn_id for event in found} == {stream.conn_id}


def test_half_close_each_way() -> None:
    pair = Pair()
    at_server, at_client = pair.open()
    pair.server.send(at_server, b"question")
    pair.server.finish(at_server)
    pair.server.send(at_server, b"too late")
    pair.settle()
    assert pair.client.take_events() == [DataReceived(at_client, b"question"), StreamFinished(at_client)]
    pair.client.delivered(at_client, 8)
    pair.client.send(at_client, b"answer")
    pair.settle()
    assert pair.server.take_events() == [DataReceived(at_server, b"answer")]
    pair.server.delivered(at_server, 6)
    assert at_server.open
    assert at_client.open
    pair.client.finish(at_client)
    pair.client.finish(at_client)
    pair.settle()
    assert pair.server.take_events() == [StreamFinished(at_server)]
    assert pair.client.take_events() == []
    assert pair.server.streams == pair.client.streams == {}
    assert pair.server.stream_count == pair.client.stream_count == 0


def test_fin_tells_the_total() -> None:
    lone = extended_server()
    stream = open_on_server(lone)
    lone.link.send(stream, b"abc")
    lone.link.finish(stream)
    assert lone.sent() == [(frames.DATA, 1, b"abc"), (frames.FIN, 1, FIN.pack(3))]
    assert lone.sent() == []


def test_one_fin_however_many_turns_a_stream_had() -> None:
    lone = extended_server(initial_credit=1 << 20)
    stream = open_on_server(lone)
    lone.link.send(stream, bytes(200_000))
    lone.link.finish(stream)
    assert [frame[0] for frame in lone.sent()] == [frames.DATA] * 4 + [frames.FIN]


def test_fin_waits_for_what_is_queued() -> None:
    lone = extended_server(initial_credit=2)
    stream = open_on_server(lone)
    lone.link.send(stream, b"abc")
    lone.link.finish(stream)
    assert lone.sent() == [(frames.DATA, 1, b"ab")]
    assert not lone.link.has_data_to_send
    lone.feed(raw(frames.CREDIT, 1, CREDIT.pack(3, 2)))
    assert lone.sent() == [(frames.DATA, 1, b"c"), (frames.FIN, 1, FIN.pack(3))]


def test_fin_needs_no_credit() -> None:
    lone = extended_server(initial_credit=0)
    lone.link.finish(open_on_server(lone))
    assert lone.sent() == [(frames.FIN, 1, FIN.pack(0))]


def test_both_ends_finish_at_once() -> None:
    pair = Pair()
    at_server, at_client = pair.open()
    pair.server.finish(at_server)
    pair.client.finish(at_client)
    pair.settle()
    assert pair.server.take_events() == [StreamFinished(at_server)]
    assert pair.client.take_events() == [StreamFinished(at_client)]
    assert pair.server.streams == pair.client.streams == {}


def test_what_came_is_still_to_be_delivered_after_the_end() -> None:
    """The stream is over on the wire, but counts as a stream of the link until its bytes are delivered."""
    pair = Pair()
    at_server, at_client = pair.open()
    pair.server.send(at_server, b"0123456789")
    pair.server.finish(at_server)
    pair.client.finish(at_client)
    pair.settle()
    assert pair.client.streams == {}
    counts = [(pair.client.stream_count, pair.server.stream_count, at_client.lingering)]
    for count in (9, 1):
        pair.client.delivered(at_client, count)
        counts.append((pair.client.stream_count, pair.server.stream_count, at_client.lingering))
    assert counts == [(1, 0, True), (1, 0, True), (0, 0, False)]
    assert not pair.client.has_data_to_send, "no credit for what is over"


def test_a_lingering_stream_is_given_up() -> None:
    pair = Pair()
    at_server, at_client = pair.open()
    pair.server.send(at_server, b"0123456789")
    pair.server.finish(at_server)
    pair.client.finish(at_client)
    pair.settle()
    pair.client.delivered(at_client, 4)
    pair.client.reset(at_client, Code.CONNECTION_LOST, "the service is gone")
    assert pair.client.stream_count == 0
    assert not pair.client.has_data_to_send
    pair.client.delivered(at_client, 6)
    pair.client.reset(at_client, Code.CONNECTION_LOST, "again")
    assert pair.client.stream_count == 0
    assert pair.client._granted == 0


@pytest.mark.parametrize("by_server", [True, False])
def test_reset(by_server: bool) -> None:
    pair = Pair()
    at_server, at_client = pair.open()
    ours, theirs = (pair.server, pair.client) if by_server else (pair.client, pair.server)
    mine, other = (at_server, at_client) if by_server else (at_client, at_server)
    theirs.send(other, b"x" * 100_000)
    ours.send(mine, b"never sent")
    ours.reset(mine, Code.CONNECTION_LOST, "the socket is gone")
    pair.settle()
    assert theirs.take_events()[-1:] == [StreamReset(other, "connection-lost", "the socket is gone")]
    assert only(ours.take_events(), StreamReset) == []
    assert ours.streams == theirs.streams == {}
    assert ours.stream_count == theirs.stream_count == 0
    assert other.queued == mine.queued == 0
    for link, stream in ((ours, mine), (theirs, other)):
        link.reset(stream, "again", "")
        link.send(stream, b"more")
        link.finish(stream)
        assert not link.has_data_to_send, "a stream that is over says nothing more"


def test_a_reset_is_never_answered() -> None:
    for end in (raw_error("stream", 7, "stalled", "a\nb"), raw(frames.CLOSE_CONN, 7)):
        lone = extended_client()
        stream = open_on_client(lone)
        lone.link.send(stream, b"queued")
        (event,) = lone.feed(end)
        assert isinstance(event, StreamReset)
        assert (event.code, event.message) in [("stalled", "a?b"), ("connection-lost", "closed by the peer")]
        assert lone.sent() == []
        assert lone.link.streams == {}


def test_no_event_follows_the_end() -> None:
    lone = extended_client()
    stream = open_on_client(lone)
    data = raw(frames.DATA, 7, b"abc")
    events = lone.feed(
        data, raw(frames.CLOSE_CONN, 7), data, raw(frames.FIN, 7, FIN.pack(6)), raw(frames.CLOSE_CONN, 7)
    )
    mine = [event for event in events if getattr(event, "stream", None) is stream]
    assert [type(event) for event in mine] == [DataReceived, StreamReset]


# Events for the source


def test_the_source_pauses_and_goes_on() -> None:
    lone = extended_server(initial_credit=HIGH_WATER)
    stream = open_on_server(lone)
    lone.link.send(stream, bytes(HIGH_WATER))
    lone.sent()
    lone.link.send(stream, bytes(HIGH_WATER - 1))
    before = stream.wants_pause
    lone.link.send(stream, b"x")
    assert (before, stream.wants_pause) == (False, True)
    stream.paused = True
    lone.feed(raw(frames.CREDIT, 1, CREDIT.pack(2 * HIGH_WATER - LOW_WATER - 1, 0)))
    lone.sent()
    assert lone.link.take_events() == []
    lone.feed(raw(frames.CREDIT, 1, CREDIT.pack(2 * HIGH_WATER - LOW_WATER, 0)))
    lone.sent()
    assert lone.link.take_events() == [StreamWritable(stream)]
    assert not stream.paused


@pytest.mark.parametrize("reference", [False, True])
def test_a_source_that_has_ended_is_not_told_to_go_on(reference: bool) -> None:
    pair = Pair(reference=reference)
    at_server, at_client = pair.open()
    if not reference:
        pair.client.finish(at_client)
        pair.settle()
    pair.server.send(at_server, bytes(1000))
    at_server.paused = True
    pair.server.finish(at_server)
    pair.settle()
    assert not at_server.open
    assert only(pair.server.take_events(), StreamWritable) == []
