"""The beginning and the end: which visitors a link accepts, and what a closed link still does."""

from __future__ import annotations

import pytest

from rtunnel.errors import Code, Refused
from rtunnel.wire import frames
from rtunnel.wire.events import DataReceived, LinkFailed, StreamReset
from rtunnel.wire.limits import LinkLimits
from tests.wire.pair import (
    CREDIT,
    Pair,
    extended_client,
    extended_server,
    lone_server,
    open_on_client,
    open_on_server,
    raw,
    raw_error,
    reference_server,
)


def test_ids_are_given_one_after_the_other() -> None:
    lone = lone_server(start=41)
    lone.feed(raw(frames.CLOSE_CONN, 1))
    assert [lone.link.open_stream(0, "").conn_id for _ in range(3)] == [41, 42, 43]


def test_new_conn_tells_tunnel_and_visitor() -> None:
    lone = extended_server()
    lone.link.open_stream(3, "192.0.2.1:5000")
    assert lone.sent() == [(frames.NEW_CONN, 1, b'{"tunnel":3,"visitor":"192.0.2.1:5000"}')]


def test_too_many_streams() -> None:
    pair = Pair(client=LinkLimits(max_streams=2), server=LinkLimits(max_streams=3))
    first, _ = pair.open()
    pair.open()
    refused = pair.server.open_stream(0, "")
    pair.settle()
    assert pair.server.take_events() == [StreamReset(refused, "limit", "the link has 2 streams, its limit")]
    third = pair.server.open_stream(0, "")
    with pytest.raises(Refused, match=r"^the link has 3 streams, its limit$"):
        pair.server.open_stream(0, "")
    pair.server.reset(third, "test", "")
    pair.server.reset(first, "test", "")
    pair.settle()
    pair.open()


def test_streams_that_linger_count() -> None:
    pair = Pair(client=LinkLimits(max_streams=1))
    at_server, at_client = pair.open()
    pair.server.send(at_server, b"x")
    pair.server.finish(at_server)
    pair.client.finish(at_client)
    pair.settle()
    refused = pair.server.open_stream(0, "")
    pair.settle()
    assert pair.server.take_events()[-1] == StreamReset(refused, "limit", "the link has 1 streams, its limit")
    pair.client.delivered(at_client, 1)
    pair.client.take_events()
    pair.open()


def test_no_visitor_for_a_client_that_does_not_read() -> None:
    """NEW_CONN is a control frame. Visitors alone must not make the link fail."""
    lone = lone_server(LinkLimits(max_streams=1))
    lone.feed(raw(frames.CLOSE_CONN, 1))
    for _ in range(lone.link._outbox.max_control // 2 // 18 + 1):
        lone.link.reset(lone.link.open_stream(0, ""), "connection-lost", "the visitor is gone")
    with pytest.raises(Refused, match=r"^the client does not read$"):
        lone.link.open_stream(0, "")
    assert not lone.link.is_closed
    lone.sent()
    lone.link.open_stream(0, "")


def test_all_visitors_may_break_while_the_connection_is_stuck() -> None:
    lone = extended_server()
    streams = [lone.link.open_stream(0, "192.0.2.123:65535") for _ in range(LinkLimits().max_streams)]
    for stream in streams:
        lone.link.reset(stream, Code.CONNECTION_LOST, "Connection to the other side was lost in a non-clean fashion.")
    assert not lone.link.is_closed
    assert len(lone.sent()) == 2 * len(streams)


# The end of the link


@pytest.mark.parametrize("make", [extended_server, extended_client])
def test_a_link_that_failed_sends_no_more_of_its_streams(make) -> None:
    """A loop that sends while there is data to send must end, although streams still have bytes queued."""
    lone = make(initial_credit=4)
    stream = open_on_server(lone) if make is extended_server else open_on_client(lone)
    lone.link.send(stream, b"queued")
    lone.sent()
    credit = raw(frames.CREDIT, stream.conn_id, CREDIT.pack(100, 0))
    data = raw(frames.DATA, stream.conn_id, b"x" * 65536)
    events = lone.feed(data, credit, raw_error("link", 0, "shutting-down", "bye"), data)
    assert [type(event) for event in events] == [DataReceived, LinkFailed]
    lone.link.delivered(stream, 65536)
    assert not lone.link.has_data_to_send
    assert lone.sent() == []


def test_nothing_is_told_after_the_end_of_the_link() -> None:
    """The same holds if the link ends at one of many frames that came at once."""
    lone = extended_server(LinkLimits(initial_credit=10))
    first, second = open_on_server(lone), open_on_server(lone)
    while lone.link._outbox.max_control - lone.link._outbox.control_waiting > 80:
        lone.link.accept_tunnel(0, "a")
    too_much = raw(frames.DATA, first.conn_id, bytes(11))
    events = lone.feed(too_much, raw(frames.DATA, second.conn_id, b"x"), raw(frames.INIT, 5, b"85:x"))
    assert [type(event) for event in events] == [LinkFailed, StreamReset]
    assert events[0] == LinkFailed(Code.LIMIT, "our answers are not read", by_peer=False)


@pytest.mark.parametrize("make", [extended_server, reference_server])
def test_a_link_that_is_closed_says_no_more(make) -> None:
    """This holds for its streams, which the I/O then resets, and for its tunnels."""
    lone = make()
    streams = [open_on_server(lone) for _ in range(2)]
    lone.link.close(Code.SHUTTING_DOWN, "bye")
    lone.sent()
    for stream in streams:
        lone.link.send(stream, b"data")
        lone.link.finish(stream)
        lone.link.reset(stream, Code.CONNECTION_LOST, "")
    lone.link.accept_tunnel(0, "a")
    lone.link.refuse_tunnel(0, Code.PORT_IN_USE, "")
    lone.link.ping(lone.now)
    assert lone.tick(100) == []
    assert lone.sent() == []
    assert not lone.link.has_data_to_send
    assert lone.link.stream_count == lone.link._granted == 0
