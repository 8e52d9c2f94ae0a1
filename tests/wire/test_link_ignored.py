"""Meaningless frames are ignored, counted, reported once, and not kept in memory."""

from __future__ import annotations

import pytest

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.events import (
    DataReceived,
    FrameIgnored,
    LinkFailed,
    StreamOpened,
    StreamReset,
    TunnelRefused,
    TunnelWithdrawn,
)
from tests.wire.pair import (
    CREDIT,
    FIN,
    REQUEST,
    extended_client,
    extended_server,
    lone_client,
    only,
    open_on_client,
    open_on_server,
    raw,
    raw_error,
    reference_client,
    reference_server,
)

STRAYS = {
    "DATA": raw(frames.DATA, 77, b"x"),
    "CLOSE_CONN": raw(frames.CLOSE_CONN, 77),
    "CREDIT": raw(frames.CREDIT, 77, CREDIT.pack(1, 2**64 - 1)),
    "FIN": raw(frames.FIN, 77, FIN.pack(9)),
    "MOVE": raw(frames.MOVE, 77, FIN.pack(9)),
    "ERROR": raw_error("stream", 77),
}


@pytest.mark.parametrize("make", [extended_server, extended_client])
@pytest.mark.parametrize("name", STRAYS)
def test_a_stream_that_never_was(make, name: str) -> None:
    lone = make()
    what = f"{name} for a stream that is not open"
    assert lone.feed(STRAYS[name] * 3) == [FrameIgnored(what, is_normal=True)], "the first of its kind is told"
    assert lone.feed(STRAYS[name] * 1000) == []
    assert lone.link.ignored == {what: 1003}
    assert lone.link.streams == {}
    assert not lone.link.has_data_to_send, "such frames are not answered"
    assert not lone.link.is_closed


@pytest.mark.parametrize("make", [reference_server, reference_client])
@pytest.mark.parametrize("name", ["DATA", "CLOSE_CONN"])
def test_a_stream_that_never_was_with_a_reference_peer(make, name: str) -> None:
    lone = make()
    what = f"{name} for a stream that is not open"
    before = lone.link.ignored[what]
    assert lone.feed(STRAYS[name] * 3) == [FrameIgnored(what, is_normal=True)] * (before == 0)
    assert lone.link.ignored[what] == before + 3
    assert not lone.link.has_data_to_send
    assert not lone.link.is_closed


@pytest.mark.parametrize("conn_id", [0, 2**32 - 1])
def test_the_ids_at_both_ends_of_the_range(conn_id: int) -> None:
    lone = extended_server()
    (event,) = lone.feed(raw(frames.DATA, conn_id, b"x"))
    assert isinstance(event, FrameIgnored)


@pytest.mark.parametrize("name", STRAYS)
def test_a_stream_that_is_over(name: str) -> None:
    lone = extended_server()
    streams = [open_on_server(lone) for _ in range(78)]
    lone.link.reset(streams[76], Code.CONNECTION_LOST, "over")
    lone.sent()
    (event,) = lone.feed(STRAYS[name])
    assert isinstance(event, FrameIgnored)
    assert event.is_normal
    assert len(lone.link.streams) == 77


def test_a_stream_of_another_link() -> None:
    """After a reconnect a reference client goes on under its old conn_ids, which no stream has here."""
    old, new = reference_server(start=1000), reference_server(start=2000)
    visitor, other = open_on_server(old), open_on_server(new)
    (event,) = new.feed(raw(frames.DATA, visitor.conn_id, b"secret"))
    assert event == FrameIgnored("DATA for a stream that is not open", is_normal=True)
    assert other.receive_window.received == 0
    assert new.feed(raw(frames.CLOSE_CONN, visitor.conn_id))
    assert other.open
    assert visitor.open


@pytest.mark.parametrize("make", [extended_server, reference_server])
def test_new_conn_from_a_client(make) -> None:
    lone = make()
    (event,) = lone.feed(raw(frames.NEW_CONN, 5, b'{"tunnel":0}'), raw(frames.NEW_CONN, 6))
    kind = "an extended" if lone.link.is_extended else "a reference"
    assert event == FrameIgnored(f"NEW_CONN on {kind} link", is_normal=False)
    assert lone.link.streams == {}
    assert not lone.link.has_data_to_send


def test_new_conn_twice_for_one_stream() -> None:
    lone = extended_client()
    stream = open_on_client(lone)
    (event,) = lone.feed(raw(frames.NEW_CONN, 7, b'{"tunnel":0,"visitor":"x"}'))
    assert event == FrameIgnored("NEW_CONN for a stream that is open", is_normal=False)
    assert lone.link.streams == {7: stream}
    assert not lone.link.has_data_to_send


@pytest.mark.parametrize("make", [lone_client, reference_client, extended_client])
def test_new_conn_without_a_number(make) -> None:
    lone = make()
    lone.sent()
    events = lone.feed(raw(frames.NEW_CONN, 0, b'{"tunnel":0,"visitor":"x"}'))
    assert only(events, StreamOpened) == []
    assert lone.link.streams == {}


def test_an_id_may_be_used_again_after_its_end() -> None:
    lone = extended_client()
    first = open_on_client(lone)
    lone.feed(raw(frames.DATA, 7, b"abc"), raw(frames.FIN, 7, FIN.pack(3)))
    lone.link.finish(first)
    lone.sent()
    assert first.lingering
    second = open_on_client(lone)
    assert second is not first
    lone.link.delivered(first, 3)
    assert lone.link.streams == {7: second}
    assert lone.link.stream_count == 1


def test_an_id_used_again_does_not_send_what_the_old_stream_had() -> None:
    lone = extended_client()
    first = open_on_client(lone)
    lone.link.send(first, b"old")
    lone.feed(raw(frames.CLOSE_CONN, 7))
    second = open_on_client(lone)
    lone.link.send(second, b"new")
    assert lone.sent() == [(frames.DATA, 7, b"new")]


# ERROR of each scope


def test_error_scopes() -> None:
    lone = extended_server()
    lone.feed(raw(frames.INIT, 1, b"8080:127.0.0.1:80"))
    first, second = open_on_server(lone), open_on_server(lone)
    assert lone.feed(raw_error("stream", first.conn_id, "local-timeout", "slow")) == [
        StreamReset(first, "local-timeout", "slow")
    ]
    assert lone.feed(raw_error("tunnel", 1)) == [TunnelWithdrawn(1)]
    assert second.open
    assert lone.feed(raw_error("link", 5, "protocol-error", "bad")) == [
        LinkFailed("protocol-error", "bad", by_peer=True)
    ]
    assert lone.sent() == [], "an ERROR is never answered"


def test_error_at_a_client() -> None:
    lone = extended_client()
    stream = open_on_client(lone)
    assert lone.feed(raw_error("tunnel", 0, "port-in-use", "taken")) == [TunnelRefused(0, "port-in-use", "taken")]
    assert lone.feed(raw_error("stream", 7)) == [StreamReset(stream, "test", "a test")]
    assert lone.sent() == []


@pytest.mark.parametrize("make", [extended_server, extended_client])
def test_malformed_errors_are_few_kinds_however_they_are_malformed(make) -> None:
    """Ignored frames are counted by kind, and each kind is a line in the log, so the peer must not choose the kinds."""
    lone = make()
    told = []
    for number in range(300):
        for payload in (b" " * number + b"x", b"[" * number, b'{"scope":"%d"}' % number, b'"%d"' % number, b"\xff"):
            for frame_type in (frames.ERROR, frames.READY):
                told += lone.feed(raw(frame_type, 0, payload))
    assert all(isinstance(event, FrameIgnored) for event in told)
    assert len(told) == len(lone.link.ignored) < 10
    assert lone.link.ignored.total() == 3000


def test_kinds_are_few_whatever_the_types() -> None:
    lone = extended_server()
    for frame_type in range(256):
        for conn_id in (0, 5, 2**32 - 1):
            lone.feed(raw(frame_type, conn_id), raw(frame_type, conn_id, b"\0" * 16))
    assert len(lone.link.ignored) < 270


def test_ignored_frames_leave_honest_ones_alone() -> None:
    lone = extended_server()
    lone.feed(raw(frames.INIT, 0, b"8080:127.0.0.1:80"))
    stream = open_on_server(lone)
    for stray in STRAYS.values():
        lone.feed(stray)
    assert lone.feed(raw(frames.DATA, stream.conn_id, b"fine")) == [DataReceived(stream, b"fine")]
    assert lone.link.tunnels == {0: REQUEST}
