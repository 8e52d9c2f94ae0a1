"""Streams that go on elsewhere: MOVE in each direction, what may follow it, and what counts until all is delivered."""

from __future__ import annotations

from typing import Any

import pytest

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.events import (
    DataReceived,
    FrameIgnored,
    StreamFinished,
    StreamLeft,
    StreamMoved,
    StreamReset,
    StreamWritable,
)
from rtunnel.wire.halves import BROKEN_MAX_STALL
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import Link
from rtunnel.wire.server_link import ServerLink
from rtunnel.wire.stream import Stream
from tests.wire.pair import (
    CREDIT,
    FIN,
    Lone,
    Pair,
    extended_client,
    extended_server,
    only,
    open_on_client,
    open_on_server,
    raw,
    raw_error,
    reference_client,
    reference_server,
)

MAKERS = [extended_server, extended_client]


def open_on(lone: Lone[Any]) -> Stream:
    """Open a stream with number 1."""
    return open_on_server(lone) if isinstance(lone.link, ServerLink) else open_on_client(lone, 1)


def move(count: int) -> bytes:
    return raw(frames.MOVE, 1, FIN.pack(count))


def fin(count: int) -> bytes:
    return raw(frames.FIN, 1, FIN.pack(count))


def nothing_is_left(link: Link) -> bool:
    return not (link.streams or link.lingering or link._granted or link.stream_count or link.has_data_to_send)


# The end that moves


@pytest.mark.parametrize("make", MAKERS)
def test_move_goes_behind_the_queue_and_needs_no_credit(make) -> None:
    lone = make(initial_credit=4)
    stream = open_on(lone)
    lone.link.send(stream, b"answer")
    lone.link.move(stream)
    assert lone.sent() == [(frames.DATA, 1, b"answ")]
    assert (stream.sent_move, lone.link.has_data_to_send) == (False, False)
    lone.feed(raw(frames.CREDIT, 1, CREDIT.pack(6, 4)))
    assert lone.sent() == [(frames.DATA, 1, b"er"), (frames.MOVE, 1, FIN.pack(6))]
    assert stream.sent_move
    assert lone.link.streams == {1: stream}, "the peer may still send"


def test_move_of_a_stream_without_bytes() -> None:
    lone = extended_server(initial_credit=0)
    stream = open_on(lone)
    lone.link.move(stream)
    assert lone.link.has_data_to_send
    assert lone.sent() == [(frames.MOVE, 1, FIN.pack(0))]
    assert not lone.link.has_data_to_send


@pytest.mark.parametrize("is_sent", [False, True])
def test_nothing_is_sent_behind_move(is_sent: bool) -> None:
    lone = extended_server()
    stream = open_on(lone)
    lone.link.send(stream, b"abc")
    lone.link.move(stream)
    found = lone.sent() if is_sent else []
    lone.link.send(stream, b"late")
    lone.link.finish(stream)
    lone.link.move(stream)
    assert found + lone.sent() == [(frames.DATA, 1, b"abc"), (frames.MOVE, 1, FIN.pack(3))]


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_stream_that_was_finished_does_not_move(is_sent: bool) -> None:
    lone = extended_server()
    stream = open_on(lone)
    lone.link.finish(stream)
    found = lone.sent() if is_sent else []
    lone.link.move(stream)
    assert found + lone.sent() == [(frames.FIN, 1, FIN.pack(0))]
    assert not stream.sent_move


def test_a_stream_that_was_reset_does_not_move() -> None:
    lone = extended_server(initial_credit=0)
    stream, other = open_on_server(lone), open_on_server(lone)
    for each in (stream, other):
        lone.link.send(each, b"abc")
    lone.link.reset(stream, "test", "")
    lone.link.reset(other, "test", "", behind=True)
    for each in (stream, other):
        lone.link.move(each)
        assert not each.moving
    lone.feed(raw(frames.CREDIT, 2, CREDIT.pack(3, 0)))
    assert [frame[:2] for frame in lone.sent()] == [(frames.ERROR, 1), (frames.DATA, 2), (frames.ERROR, 2)]


def test_a_source_that_has_moved_is_not_told_to_go_on() -> None:
    lone = extended_server()
    stream = open_on(lone)
    lone.link.send(stream, bytes(1000))
    stream.paused = True
    lone.link.move(stream)
    lone.sent()
    assert only(lone.link.take_events(), StreamWritable) == []


@pytest.mark.parametrize("make", [reference_server, reference_client])
def test_streams_of_a_reference_link_do_not_move(make) -> None:
    lone = make()
    stream = open_on(lone)
    with pytest.raises(RuntimeError, match=r"^streams move on extended links only$"):
        lone.link.move(stream)
    lone.link.send(stream, b"abc")
    assert lone.sent() == [(frames.DATA, 1, b"abc")]
    assert lone.feed(move(0)) == [FrameIgnored("MOVE on a reference link", is_normal=False)]
    assert lone.link.streams == {1: stream}


# The end whose peer moves


@pytest.mark.parametrize("make", MAKERS)
def test_the_peers_move(make) -> None:
    lone = make(LinkLimits(initial_credit=100))
    stream = open_on(lone)
    assert lone.feed(raw(frames.DATA, 1, b"abc"), move(3)) == [DataReceived(stream, b"abc"), StreamMoved(stream)]
    assert (stream.receive_window.waiting, lone.link._granted) == (3, 3), "what was not used is taken back"
    lone.link.delivered(stream, 3)
    assert (stream.receive_window.waiting, lone.link._granted) == (0, 0)
    assert lone.sent() == [], "no credit for a direction that has moved"
    lone.link.send(stream, b"this direction goes on")
    assert lone.sent() == [(frames.DATA, 1, b"this direction goes on")]


def test_credit_that_was_due_is_not_granted() -> None:
    lone = extended_client(LinkLimits(initial_credit=100))
    stream = open_on(lone)
    lone.feed(raw(frames.DATA, 1, bytes(100)))
    lone.link.delivered(stream, 100)
    assert lone.link.has_data_to_send
    lone.feed(move(100))
    assert not lone.link.has_data_to_send


WRONG = {
    "too few": (move(2), "MOVE does not fit the 3 bytes received"),
    "too many": (move(4), "MOVE does not fit the 3 bytes received"),
    "short": (raw(frames.MOVE, 1, bytes(7)), "MOVE does not fit the 3 bytes received"),
    "long": (raw(frames.MOVE, 1, bytes(9)), "MOVE does not fit the 3 bytes received"),
    "twice": (move(3) + move(3), "MOVE does not fit the 3 bytes received"),
    "DATA behind": (move(3) + raw(frames.DATA, 1, b"x"), "DATA after FIN or MOVE"),
    "FIN behind": (move(3) + fin(3), "FIN does not fit the 3 bytes received"),
    "behind FIN": (fin(3) + move(3), "MOVE does not fit the 3 bytes received"),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("case", WRONG)
def test_breaches_reset_the_stream(make, case: str) -> None:
    found, message = WRONG[case]
    lone = make()
    stream = open_on(lone)
    *_, reset = lone.feed(raw(frames.DATA, 1, b"abc"), found)
    assert reset == StreamReset(stream, Code.PROTOCOL, message)
    assert [frame[:2] for frame in lone.sent()] == [(frames.ERROR, 1)]
    assert nothing_is_left(lone.link)
    assert not lone.link.is_closed


def test_an_empty_data_frame_behind_move_does_nothing() -> None:
    """As behind FIN: the decoder hands on no empty piece."""
    lone = extended_server()
    stream = open_on(lone)
    assert lone.feed(move(0), raw(frames.DATA, 1)) == [StreamMoved(stream)]
    assert stream.open


# Both directions


@pytest.mark.parametrize("piece", [0, 1, 5])
@pytest.mark.parametrize("by_server", ["move", "finish"])
@pytest.mark.parametrize("by_client", ["move", "finish"])
@pytest.mark.parametrize("crossing", [False, True])
def test_both_ways(piece: int, by_server: str, by_client: str, crossing: bool) -> None:
    pair = Pair(piece=piece)
    at_server, at_client = pair.open()
    pair.server.send(at_server, b"question")
    pair.client.send(at_client, b"answer")
    getattr(pair.server, by_server)(at_server)
    if not crossing:
        pair.settle()
    getattr(pair.client, by_client)(at_client)
    pair.settle()
    ends = {"move": StreamMoved, "finish": StreamFinished}
    for link, stream, said, end in (
        (pair.client, at_client, b"question", ends[by_server]),
        (pair.server, at_server, b"answer", ends[by_client]),
    ):
        found = link.take_events()
        if stream.moving and found[-1] == StreamLeft(stream):
            del found[-1]
        else:
            # If its own end had gone out before, the peer's tells that the stream has left the link.
            assert crossing or link is pair.server or not stream.moving
        *data, last = found
        assert b"".join(event.data for event in only(data, DataReceived)) == said
        assert last == end(stream)
        assert (link.streams, link.lingering) == ({}, {stream})
        assert (link.stream_count, link._granted) == (1, len(said))
        link.delivered(stream, len(said) - 1)
        assert (link.stream_count, link._granted, stream.receive_window.waiting) == (1, 1, 1)
        link.delivered(stream, 1)
        assert stream.receive_window.waiting == 0
        assert nothing_is_left(link)
    assert pair.ids._live == set()
    assert (at_server.sent_move, at_client.sent_move) == (by_server == "move", by_client == "move")
    assert not pair.client.ignored
    assert not pair.server.ignored


def test_a_stream_that_has_left_is_late() -> None:
    lone = extended_server()
    stream = open_on(lone)
    lone.link.move(stream)
    lone.sent()
    lone.feed(move(0))
    for frame in (raw(frames.DATA, 1, b"x"), move(0), fin(0), raw_error("stream", 1)):
        (event,) = lone.feed(frame)
        assert isinstance(event, FrameIgnored)
        assert event.is_normal
    lone.link.reset(stream, "test", "")
    assert nothing_is_left(lone.link), "a reset does not go on the link any more"


# Resets


def test_reset_of_a_stream_of_which_one_direction_has_moved() -> None:
    for ours in (False, True):
        lone = extended_server()
        stream = open_on(lone)
        if ours:
            lone.link.move(stream)
            lone.sent()
        else:
            lone.feed(move(0))
        lone.link.reset(stream, "test", "", behind=ours)
        assert [frame[:2] for frame in lone.sent()] == [(frames.ERROR, 1)]
        assert nothing_is_left(lone.link)


def test_the_peers_reset_of_a_stream_of_which_one_direction_has_moved() -> None:
    pair = Pair()
    at_server, at_client = pair.open()
    pair.server.send(at_server, b"abc")
    pair.server.move(at_server)
    pair.settle()
    assert pair.client.take_events() == [DataReceived(at_client, b"abc"), StreamMoved(at_client)]
    pair.client.reset(at_client, "test", "gone")
    pair.settle()
    assert pair.server.take_events() == [StreamReset(at_server, "test", "gone")]
    assert nothing_is_left(pair.server)
    assert nothing_is_left(pair.client)


def test_reset_drops_a_move_that_waits() -> None:
    lone = extended_server(initial_credit=2)
    stream = open_on(lone)
    lone.link.send(stream, b"abc")
    lone.link.move(stream)
    lone.sent()
    lone.link.reset(stream, "test", "")
    assert [frame[:2] for frame in lone.sent()] == [(frames.ERROR, 1)]
    assert not stream.sent_move


@pytest.mark.parametrize("has_bytes", [False, True])
def test_reset_behind_the_queue_takes_the_place_of_move(has_bytes: bool) -> None:
    """Behind a MOVE the peer would ignore it, if the peer's own direction had moved or ended."""
    pair = Pair()
    at_server, at_client = pair.open()
    pair.client.finish(at_client)
    pair.settle()
    pair.server.send(at_server, b"abc" * has_bytes)
    pair.server.move(at_server)
    pair.server.reset(at_server, "test", "gone", behind=True)
    pair.settle()
    assert pair.client.take_events() == [DataReceived(at_client, b"abc")] * has_bytes + [
        StreamReset(at_client, "test", "gone")
    ]
    pair.client.delivered(at_client, 3 * has_bytes)
    assert nothing_is_left(pair.server)
    assert nothing_is_left(pair.client)


def test_a_broken_stream_takes_the_peers_move() -> None:
    lone = extended_client(initial_credit=0)
    stream = open_on(lone)
    lone.link.send(stream, b"answer")
    lone.link.reset(stream, Code.CONNECTION_LOST, "gone", behind=True)
    assert lone.feed(raw(frames.DATA, 1, b"abc"), move(3)) == [StreamMoved(stream)]
    assert stream.receive_window.waiting == lone.link._granted == 0
    for _ in range(4):
        lone.feed(raw(frames.PONG, 0))
        lone.tick(BROKEN_MAX_STALL / 3)
    assert (frames.ERROR, 1) in [frame[:2] for frame in lone.sent()]
    assert nothing_is_left(lone.link)


def test_streams_take_turns_while_one_moves() -> None:
    lone = extended_server(initial_credit=1 << 20)
    first, second = open_on_server(lone), open_on_server(lone)
    lone.link.send(first, bytes(150_000))
    lone.link.send(second, bytes(150_000))
    lone.link.move(first)
    assert [frame[:2] for frame in lone.sent()] == [
        *[(frames.DATA, 1), (frames.DATA, 2)] * 3,
        (frames.MOVE, 1),
    ]


# A reset that goes out elsewhere


@pytest.mark.parametrize("make", MAKERS)
def test_a_reset_elsewhere_is_none_here(make) -> None:
    lone = make(initial_credit=4)
    stream = open_on(lone)
    lone.link.send(stream, b"answer")
    lone.link.move(stream)
    lone.sent()
    lone.feed(raw(frames.DATA, 1, b"abc"))
    lone.link.reset(stream, "test", "", behind=True, elsewhere=True)
    assert lone.feed(raw(frames.DATA, 1, b"is dropped")) == []
    lone.link.delivered(stream, 3)
    lone.feed(raw(frames.CREDIT, 1, CREDIT.pack(6, 4)))
    assert lone.sent() == [(frames.DATA, 1, b"er"), (frames.MOVE, 1, FIN.pack(6))]
    lone.link.reset(stream, "test", "", behind=True, elsewhere=True)
    lone.link.tick(lone.now + BROKEN_MAX_STALL + 1)
    lone.link.tick(lone.now + 2 * BROKEN_MAX_STALL + 2)
    assert [frame for frame in lone.sent() if frame[1]] == []
    lone.feed(move(13))
    assert nothing_is_left(lone.link)


def test_a_reset_elsewhere_of_a_stream_that_has_finished_is_one_here() -> None:
    lone = extended_server()
    stream = open_on(lone)
    lone.link.finish(stream)
    lone.link.reset(stream, "test", "", behind=True, elsewhere=True)
    assert [frame[:2] for frame in lone.sent()] == [(frames.FIN, 1), (frames.ERROR, 1)]
    assert nothing_is_left(lone.link)


def test_a_reset_elsewhere_that_stands_still_is_one_here_after_all() -> None:
    lone = extended_server(initial_credit=4)
    stream = open_on(lone)
    lone.link.send(stream, b"answer")
    lone.link.move(stream)
    lone.link.reset(stream, "test", "", behind=True, elsewhere=True)
    assert lone.sent() == [(frames.DATA, 1, b"answ")]
    lone.link.tick(lone.now)
    lone.link.tick(lone.now + BROKEN_MAX_STALL / 2)
    assert stream.open
    lone.link.tick(lone.now + BROKEN_MAX_STALL)
    assert (frames.ERROR, 1) in [frame[:2] for frame in lone.sent()]
    assert nothing_is_left(lone.link)
