"""Streams that are reset behind what they have queued, and resets that come behind bytes."""

from __future__ import annotations

import pytest

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.events import DataReceived, StreamReset
from rtunnel.wire.halves import BROKEN_MAX_STALL
from tests.wire.pair import (
    CREDIT,
    FIN,
    Pair,
    extended_client,
    only,
    open_on_client,
    raw,
    raw_error,
    reference_client,
)


def test_reset_goes_behind_the_queue_as_credit_comes() -> None:
    lone = extended_client(initial_credit=4)
    stream = open_on_client(lone)
    lone.link.send(stream, b"answer")
    lone.link.reset(stream, Code.CONNECTION_LOST, "gone", behind=True)
    lone.link.send(stream, b"late")
    lone.link.finish(stream)
    assert lone.sent() == [(frames.DATA, 7, b"answ")]
    assert lone.link.stream_count == 1
    lone.feed(raw(frames.CREDIT, 7, CREDIT.pack(10, 4)))
    data, error = lone.sent()
    assert data == (frames.DATA, 7, b"er")
    assert error == (frames.ERROR, 7, b'{"scope":"stream","code":"connection-lost","message":"gone"}')
    assert lone.link.stream_count == lone.link._granted == 0
    assert not lone.link._broken


def test_reset_goes_behind_an_end_that_waits() -> None:
    lone = extended_client(initial_credit=4)
    stream = open_on_client(lone)
    lone.link.send(stream, b"answer")
    lone.link.finish(stream)
    lone.link.reset(stream, Code.CONNECTION_LOST, "gone", behind=True)
    lone.sent()
    lone.feed(raw(frames.CREDIT, 7, CREDIT.pack(10, 4)))
    assert [frame[:2] for frame in lone.sent()] == [(frames.DATA, 7), (frames.FIN, 7), (frames.ERROR, 7)]
    assert lone.link.stream_count == 0


def test_reset_behind_nothing_goes_at_once() -> None:
    lone = extended_client()
    stream = open_on_client(lone)
    lone.link.reset(stream, Code.CONNECTION_LOST, "gone", behind=True)
    assert lone.link.stream_count == 0
    assert [frame[:2] for frame in lone.sent()] == [(frames.ERROR, 7)]


def test_broken_stream_drops_what_comes_and_grants_credit_for_it() -> None:
    lone = extended_client(initial_credit=0)
    stream = open_on_client(lone)
    lone.feed(raw(frames.DATA, 7, bytes(20_000)))
    lone.link.send(stream, b"answer")
    lone.link.reset(stream, Code.CONNECTION_LOST, "gone", behind=True)
    assert lone.feed(raw(frames.DATA, 7, bytes(40_000))) == []
    assert stream.receive_window.waiting == 0
    assert [frame[:2] for frame in lone.sent()] == [(frames.CREDIT, 7)]
    # Its peer's end changes nothing.
    lone.feed(raw(frames.FIN, 7, FIN.pack(60_000)))
    assert lone.link.stream_count == 1


def test_broken_stream_that_does_not_move_is_reset_at_once() -> None:
    lone = extended_client(initial_credit=4)
    stream = open_on_client(lone)
    lone.link.send(stream, b"answer")
    lone.link.reset(stream, Code.CONNECTION_LOST, "gone", behind=True)
    lone.sent()
    for _ in range(3):
        lone.feed(raw(frames.PONG, 0))
        lone.tick(BROKEN_MAX_STALL / 3)
    lone.feed(raw(frames.PONG, 0))
    lone.tick(2)
    assert (frames.ERROR, 7) in [frame[:2] for frame in lone.sent()]
    assert lone.link.stream_count == 0


def test_reference_link_sends_its_only_end_behind_the_queue() -> None:
    lone = reference_client()
    stream = open_on_client(lone)
    lone.link.send(stream, b"answer")
    lone.link.reset(stream, Code.CONNECTION_LOST, "gone", behind=True)
    assert [frame[:2] for frame in lone.sent()] == [(frames.DATA, 7), (frames.CLOSE_CONN, 7)]
    assert lone.link.stream_count == 0


@pytest.mark.parametrize("frame", [raw_error("stream", 7), raw(frames.CLOSE_CONN, 7)])
def test_bytes_before_a_reset_are_still_to_be_delivered(frame: bytes) -> None:
    """They count until then."""
    lone = extended_client()
    stream = open_on_client(lone)
    data, reset = lone.feed(raw(frames.DATA, 7, b"answer"), frame)
    assert data == DataReceived(stream, b"answer")
    assert isinstance(reset, StreamReset)
    assert (lone.link.stream_count, lone.link._granted) == (1, 6)
    lone.link.delivered(stream, 2)
    assert (lone.link.stream_count, lone.link._granted) == (1, 4)
    lone.link.delivered(stream, 4)
    assert (lone.link.stream_count, lone.link._granted) == (0, 0)


def test_answer_that_is_sent_before_the_request_is_read() -> None:
    pair = Pair()
    at_server, at_client = pair.open()
    pair.server.send(at_server, bytes(60_000))
    pair.client.send(at_client, b"413")
    pair.client.reset(at_client, Code.CONNECTION_LOST, "gone", behind=True)
    pair.settle()
    data, reset = pair.server.take_events()
    assert data == DataReceived(at_server, b"413")
    assert isinstance(reset, StreamReset)
    assert not only(pair.client.take_events(), StreamReset)
