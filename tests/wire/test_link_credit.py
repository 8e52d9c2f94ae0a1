"""Credit on a link: never exceeded, granted in time, grown with rate and round trip, bounded per stream and link."""

from __future__ import annotations

import re

import pytest

from rtunnel.errors import Code, Refused
from rtunnel.wire import frames
from rtunnel.wire.events import DataReceived, StreamFinished, StreamReset
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import Link
from rtunnel.wire.stream import Stream
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
)

KIB = 1024
SMALL = LinkLimits(initial_credit=100)


def deliver_all(link: Link) -> int:
    """Deliver everything that came. Return how many bytes that was."""
    found = only(link.take_events(), DataReceived)
    for event in found:
        link.delivered(event.stream, len(event.data))
    return sum(len(event.data) for event in found)


def test_the_initial_credit_is_the_receivers() -> None:
    pair = Pair(client=LinkLimits(initial_credit=30), server=LinkLimits(initial_credit=50))
    at_server, at_client = pair.open()
    pair.server.send(at_server, bytes(1000))
    pair.client.send(at_client, bytes(1000))
    pair.settle()
    assert sum(len(event.data) for event in only(pair.client.take_events(), DataReceived)) == 30
    assert sum(len(event.data) for event in only(pair.server.take_events(), DataReceived)) == 50
    assert at_server.queued == 970


def test_credit_is_given_when_half_is_delivered_and_in_one_frame() -> None:
    lone = extended_client(SMALL)
    stream, other = open_on_client(lone, 7), open_on_client(lone, 8)
    lone.feed(raw(frames.DATA, 7, bytes(100)), raw(frames.DATA, 8, bytes(49)))
    lone.link.delivered(stream, 49)
    lone.link.delivered(other, 49)
    assert lone.sent() == []
    for _ in range(20):
        lone.link.delivered(stream, 1)
    assert lone.sent() == [(frames.CREDIT, 7, CREDIT.pack(169, 69))]
    assert lone.sent() == []


def test_one_stream_without_a_reader_does_not_hold_up_another() -> None:
    pair = Pair()
    stalled, _ = pair.open()
    other, at_client = pair.open()
    pair.server.send(stalled, bytes(1000 * KIB))
    for _ in range(20):
        pair.server.send(other, bytes(64 * KIB))
        pair.settle()
        arrived = only(pair.client.take_events(), DataReceived)
        for event in arrived:
            if event.stream is at_client:
                pair.client.delivered(at_client, len(event.data))
    pair.settle()
    assert other.send_window.sent == 20 * 64 * KIB
    assert stalled.send_window.sent == 64 * KIB
    assert not pair.client.reading_paused


# What a peer may not do


@pytest.mark.parametrize("make", [extended_server, extended_client])
def test_data_beyond_credit_resets_only_that_stream(make) -> None:
    lone = make(SMALL)
    opener = open_on_server if make is extended_server else None
    first = opener(lone) if opener else open_on_client(lone, 1)
    second = opener(lone) if opener else open_on_client(lone, 2)
    assert len(lone.feed(raw(frames.DATA, 1, bytes(100)))) == 1, "exactly the credit is right"
    data, reset, other = lone.feed(raw(frames.DATA, 2, b"a"), raw(frames.DATA, 1, b"x"), raw(frames.DATA, 2, b"b"))
    assert data == DataReceived(second, b"a")
    assert reset == StreamReset(first, Code.FLOW_CONTROL, "more DATA than credit")
    assert other == DataReceived(second, b"b")
    ((frame_type, conn_id, payload),) = lone.sent()
    assert (frame_type, conn_id) == (frames.ERROR, 1)
    assert payload == b'{"scope":"stream","code":"flow-control","message":"more DATA than credit"}'
    assert list(lone.link.streams) == [2]
    assert lone.link._granted == 100


@pytest.mark.parametrize(
    "payload",
    [
        CREDIT.pack(200, 51),
        CREDIT.pack(2**62, 0),
        CREDIT.pack(2**64 - 1, 0),
        CREDIT.pack(0, 2**64 - 1),
        b"",
        bytes(8),
        bytes(15),
        bytes(17),
    ],
)
def test_credit_that_cannot_be_resets_only_that_stream(payload: bytes) -> None:
    lone = extended_server(initial_credit=50)
    first, second = open_on_server(lone), open_on_server(lone)
    lone.link.send(first, bytes(90))
    lone.sent()
    (reset,) = lone.feed(raw(frames.CREDIT, 1, payload))
    assert isinstance(reset, StreamReset)
    assert (reset.stream, reset.code) == (first, Code.FLOW_CONTROL)
    assert [frame[:2] for frame in lone.sent()] == [(frames.ERROR, 1)]
    assert list(lone.link.streams.values()) == [second]


@pytest.mark.parametrize("limit", [0, 49, 50])
def test_credit_that_goes_backwards_is_ignored(limit: int) -> None:
    lone = extended_server(initial_credit=50)
    stream = open_on_server(lone)
    lone.link.send(stream, bytes(90))
    lone.sent()
    assert lone.feed(raw(frames.CREDIT, 1, CREDIT.pack(limit, 50))) == []
    assert lone.sent() == []
    assert lone.feed(raw(frames.CREDIT, 1, CREDIT.pack(60, 0))) == [], "what was delivered is only told for checking"
    assert lone.sent() == [(frames.DATA, 1, bytes(10))]


@pytest.mark.parametrize("payload", [FIN.pack(2), FIN.pack(4), FIN.pack(2**64 - 1), b"", bytes(7), bytes(16)])
def test_fin_with_the_wrong_total_resets(payload: bytes) -> None:
    lone = extended_client()
    stream, other = open_on_client(lone, 7), open_on_client(lone, 8)
    data, reset = lone.feed(raw(frames.DATA, 7, b"abc"), raw(frames.FIN, 7, payload))
    assert data == DataReceived(stream, b"abc")
    assert reset == StreamReset(stream, Code.PROTOCOL, "FIN does not fit the 3 bytes received")
    assert [frame[:2] for frame in lone.sent()] == [(frames.ERROR, 7)]
    assert other.open


def test_fin_twice_resets() -> None:
    lone = extended_client()
    stream = open_on_client(lone)
    finished, reset = lone.feed(raw(frames.FIN, 7, FIN.pack(0)), raw(frames.FIN, 7, FIN.pack(0)))
    assert finished == StreamFinished(stream)
    assert isinstance(reset, StreamReset)


def test_data_after_fin_resets() -> None:
    lone = extended_client()
    stream = open_on_client(lone)
    events = lone.feed(raw(frames.DATA, 7, b"abc"), raw(frames.FIN, 7, FIN.pack(3)), raw(frames.DATA, 7, b"d"))
    assert events[1:] == [StreamFinished(stream), StreamReset(stream, Code.PROTOCOL, "DATA after FIN or MOVE")]
    assert [frame[:2] for frame in lone.sent()] == [(frames.ERROR, 7)]
    assert lone.link._granted == 0


def test_no_credit_after_fin() -> None:
    lone = extended_client(SMALL)
    stream = open_on_client(lone)
    lone.feed(raw(frames.DATA, 7, bytes(80)), raw(frames.FIN, 7, FIN.pack(80)))
    lone.link.delivered(stream, 80)
    assert lone.sent() == []
    assert lone.link._granted == 0


def test_credit_that_was_due_before_fin_is_not_sent() -> None:
    lone = extended_client(SMALL)
    stream = open_on_client(lone)
    lone.feed(raw(frames.DATA, 7, bytes(80)))
    lone.link.delivered(stream, 80)
    lone.feed(raw(frames.FIN, 7, FIN.pack(80)))
    assert lone.sent() == []


def test_credit_that_was_due_before_a_reset_is_not_sent() -> None:
    lone = extended_client(SMALL)
    stream = open_on_client(lone)
    lone.feed(raw(frames.DATA, 7, bytes(80)))
    lone.link.delivered(stream, 80)
    lone.link.reset(stream, "test", "")
    assert [frame[0] for frame in lone.sent()] == [frames.ERROR]


# Growth


def measured(pair: Pair, round_trip: float) -> None:
    """Let both ends measure the round trip."""
    for link in (pair.client, pair.server):
        link.ping(pair.now)
    pair.hop(round_trip / 2)
    pair.hop(round_trip / 2)
    assert pair.client.liveness.round_trip == pytest.approx(round_trip)


def bulk(pair: Pair, streams: list[Stream], rounds: int, round_trip: float) -> None:
    """Let the server always have more to send than it may, and the client deliver at once."""
    for _ in range(rounds):
        for stream in streams:
            if stream.queued < stream.send_window.available:
                pair.server.send(stream, bytes(stream.send_window.available))
        pair.hop(round_trip / 2)
        deliver_all(pair.client)
        pair.hop(round_trip / 2)


def test_a_window_grows_up_to_its_bound() -> None:
    pair = Pair(client=LinkLimits(max_window=300 * KIB))
    at_server, at_client = pair.open()
    measured(pair, 0.1)
    sizes = []
    for _ in range(8):
        bulk(pair, [at_server], 1, 0.1)
        sizes.append(at_client.receive_window.size // KIB)
    assert sizes == [128, 256, 300, 300, 300, 300, 300, 300]
    assert pair.server.streams[at_server.conn_id].send_window.limit == at_client.receive_window.limit


def test_a_window_does_not_grow_before_the_round_trip_is_known() -> None:
    pair = Pair()
    at_server, at_client = pair.open()
    bulk(pair, [at_server], 10, 0.1)
    assert at_client.receive_window.size == 64 * KIB


def test_a_slow_reader_needs_no_larger_window() -> None:
    pair = Pair()
    at_server, at_client = pair.open()
    measured(pair, 0.1)
    for _ in range(10):
        pair.now += 1
        bulk(pair, [at_server], 1, 0.1)
    assert at_client.receive_window.size == 64 * KIB


def test_growth_leaves_half_of_the_link_for_new_streams() -> None:
    """This holds even if all streams are delivered when the grants are made, so that nothing seems to be granted."""
    limits = LinkLimits(initial_credit=64 * KIB, link_buffer=1024 * KIB)
    pair = Pair(client=limits)
    streams = [pair.open() for _ in range(4)]
    measured(pair, 0.1)
    for _ in range(12):
        bulk(pair, [at_server for at_server, _ in streams], 1, 0.1)
        windows = [at_client.receive_window for _, at_client in streams]
        assert sum(window.size for window in windows) <= 512 * KIB
        assert sum(window.limit - window.delivered for window in windows) <= 512 * KIB
    assert sum(window.size for window in windows) == 512 * KIB
    more = [pair.open() for _ in range(8)]
    refused = pair.server.open_stream(0, "")
    pair.settle()
    (reset,) = only(pair.server.take_events(), StreamReset)
    assert reset == StreamReset(refused, "limit", "the link may come to hold 1048576 bytes, near its limit")
    for at_server, _ in [*streams, *more]:
        pair.server.reset(at_server, "test", "")
    pair.settle()
    assert pair.client._granted == pair.server._granted == 0


def test_a_link_that_is_full_takes_no_visitor() -> None:
    limits = LinkLimits(initial_credit=100, link_buffer=250)
    pair = Pair(server=limits)
    first, _ = pair.open()
    second, at_client = pair.open()
    with pytest.raises(Refused, match=r"^the link may come to hold 200 bytes, near its limit$"):
        pair.server.open_stream(0, "")
    pair.client.send(at_client, bytes(70))
    pair.client.finish(at_client)
    pair.server.finish(second)
    pair.settle()
    with pytest.raises(Refused):
        pair.server.open_stream(0, "")
    pair.server.delivered(second, 20)
    pair.open()
    assert first.open


def test_a_link_that_holds_too_much_of_the_memory_takes_no_visitor() -> None:
    pair = Pair()
    pair.client.windows.is_full = True
    refused, why = pair.server.open_stream(0, ""), "this link holds too much of the process's memory (--memory)"
    pair.settle()
    (reset,) = only(pair.server.take_events(), StreamReset)
    assert reset == StreamReset(refused, "limit", why)
    pair.client.windows.is_full = False
    pair.server.windows.is_full = True
    with pytest.raises(Refused, match=re.escape(why)):
        pair.server.open_stream(0, "")
    pair.server.windows.is_full = False
    pair.open()


def test_while_memory_is_short_a_stream_goes_on_with_a_small_window() -> None:
    limits = LinkLimits(initial_credit=64 * KIB)
    pair = Pair(client=limits)
    at_server, at_client = pair.open()
    measured(pair, 0.1)
    bulk(pair, [at_server], 8, 0.1)
    before = at_client.receive_window.size
    assert before > 64 * KIB
    pair.client.windows.is_short = True
    bulk(pair, [at_server], 12, 0.1)
    assert at_client.receive_window.size == pair.client._granted == 16 * KIB
    pair.client.windows.is_short = False
    bulk(pair, [at_server], 12, 0.1)
    assert at_client.receive_window.size > 64 * KIB


def test_a_turn_brings_control_and_credit_first() -> None:
    lone = extended_client(SMALL)
    stream = open_on_client(lone)
    lone.feed(raw(frames.DATA, 7, bytes(60)))
    lone.link.send(stream, b"data")
    lone.link.delivered(stream, 60)
    lone.feed(raw(frames.PING, 0, b"x"))
    assert [frame[0] for frame in lone.sent()] == [frames.PONG, frames.CREDIT, frames.DATA]
