"""Tunnels of a link: requested, served, refused, requested again, withdrawn."""

from __future__ import annotations

import json

import pytest

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.events import (
    FrameIgnored,
    LinkFailed,
    StreamOpened,
    TunnelReady,
    TunnelRefused,
    TunnelRequested,
    TunnelWithdrawn,
)
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.server_link import MAX_ANSWER
from rtunnel.wire.tunnel_request import TunnelRequest
from tests.wire.pair import (
    REQUEST,
    Pair,
    extended_client,
    extended_server,
    lone_client,
    lone_server,
    open_on_client,
    open_on_server,
    raw,
    raw_error,
    raw_hello,
    reference_client,
    reference_server,
)

BAD_INITS = [b"", b"http:x", b"-1:x", b"65536:x", b"8080", b"\xff\xfe"]


def test_ready() -> None:
    pair = Pair()
    pair.server.accept_tunnel(0, "192.0.2.1:8080")
    pair.settle()
    assert pair.client.take_events() == [TunnelReady(0, "192.0.2.1:8080")]
    assert pair.client.tunnels == {0: REQUEST}


def test_many_tunnels() -> None:
    pair = Pair()
    for number in (1, 500, 2**32 - 1):
        pair.client.request_tunnel(number, TunnelRequest(number % 65536, "x"))
        pair.settle()
        assert pair.server.take_events() == [TunnelRequested(number, TunnelRequest(number % 65536, "x"))]
        pair.server.accept_tunnel(number, "a")
        stream = pair.server.open_stream(number, "192.0.2.1:5000")
        pair.settle()
        ready, opened = pair.client.take_events()
        assert ready == TunnelReady(number, "a")
        assert isinstance(opened, StreamOpened)
        assert (opened.tunnel, opened.visitor) == (number, "192.0.2.1:5000")
        assert opened.stream.conn_id == stream.conn_id


def test_refused_and_asked_for_again() -> None:
    pair = Pair()
    for _ in range(3):
        pair.server.refuse_tunnel(0, Code.PORT_IN_USE, "somebody has it")
        assert pair.server.tunnels == {}
        pair.settle()
        assert pair.client.take_events() == [TunnelRefused(0, "port-in-use", "somebody has it")]
        assert pair.client.tunnels == {}
        pair.client.request_tunnel(0, REQUEST)
        pair.settle()
        assert pair.server.take_events() == [TunnelRequested(0, REQUEST)]
    pair.server.accept_tunnel(0, "192.0.2.1:8080")
    pair.settle()
    assert pair.client.take_events() == [TunnelReady(0, "192.0.2.1:8080")]


@pytest.mark.parametrize("make", [extended_server, reference_server])
def test_a_repeated_init_is_ignored(make) -> None:
    lone = make()
    lone.feed(raw(frames.INIT, 0, b"8080:127.0.0.1:80"))
    tunnels = dict(lone.link.tunnels)
    before = lone.link.ignored["INIT for a tunnel that exists already"]
    lone.feed(raw(frames.INIT, 0, b"9999:other"), raw(frames.INIT, 0, b"nonsense"))
    assert lone.link.ignored["INIT for a tunnel that exists already"] == before + 2
    assert lone.link.tunnels == tunnels == {0: REQUEST}
    assert not lone.link.is_closed


def test_a_reference_link_has_one_tunnel() -> None:
    lone = lone_server()
    lone.feed(raw(frames.INIT, 0, b"8080:127.0.0.1:80"))
    lone.feed(raw(frames.INIT, 1, b"9999:other"))
    assert lone.link.tunnels == {0: REQUEST}
    assert lone.link.ignored["INIT for a tunnel that exists already"] == 1


@pytest.mark.parametrize("payload", BAD_INITS)
def test_a_bad_init_refuses_that_tunnel_only(payload: bytes) -> None:
    lone = extended_server()
    refused, requested = lone.feed(raw(frames.INIT, 3, payload), raw(frames.INIT, 4, b"84:x"))
    assert isinstance(refused, TunnelRefused)
    assert (refused.number, refused.code) == (3, Code.BAD_REQUEST)
    assert requested == TunnelRequested(4, TunnelRequest(84, "x"))
    ((frame_type, number, answer),) = lone.sent()
    assert (frame_type, number) == (frames.ERROR, 3)
    assert json.loads(answer) == {"scope": "tunnel", "code": "bad-request", "message": refused.message}
    assert lone.feed(raw(frames.INIT, 3, b"83:x")) == [TunnelRequested(3, TunnelRequest(83, "x"))]


@pytest.mark.parametrize("payload", BAD_INITS)
def test_a_bad_init_closes_a_reference_link(payload: bytes) -> None:
    lone = lone_server()
    _, refused, failed = lone.feed(raw(frames.INIT, 0, payload), raw(frames.INIT, 0, b"84:x"))
    assert isinstance(refused, TunnelRefused)
    assert failed == LinkFailed(Code.BAD_REQUEST, refused.message, by_peer=False)
    assert lone.sent() == []


def test_a_refusal_closes_a_reference_link() -> None:
    lone = reference_server()
    lone.link.refuse_tunnel(0, Code.PORT_IN_USE, "somebody has it")
    assert lone.link.take_events() == [LinkFailed(Code.PORT_IN_USE, "somebody has it", by_peer=False)]
    assert lone.sent() == []
    assert lone.link.is_closed


def test_too_many_tunnels() -> None:
    lone = extended_server(LinkLimits(max_tunnels=2))
    lone.feed(raw(frames.INIT, 0, b"80:x"), raw(frames.INIT, 1, b"81:x"))
    (refused,) = lone.feed(raw(frames.INIT, 2, b"82:x"))
    assert refused == TunnelRefused(2, Code.LIMIT, "the link has 2 tunnels, its limit")
    ((frame_type, number, _),) = lone.sent()
    assert (frame_type, number) == (frames.ERROR, 2)
    lone.link.refuse_tunnel(0, Code.PORT_IN_USE, "")
    assert lone.feed(raw(frames.INIT, 2, b"82:x")) == [TunnelRequested(2, TunnelRequest(82, "x"))]


def test_withdraw() -> None:
    pair = Pair()
    at_server, at_client = pair.open()
    assert pair.client.withdraw_tunnel(0) is True
    assert pair.client.tunnels == {}
    pair.settle()
    assert pair.server.take_events() == [TunnelWithdrawn(0)]
    assert pair.server.tunnels == {}
    assert at_server.open
    assert at_client.open, "its streams go on"
    assert pair.client.withdraw_tunnel(0) is True, "it is not there, as was wished"
    assert not pair.client.has_data_to_send
    pair.client.request_tunnel(0, REQUEST)
    pair.settle()
    assert pair.server.take_events() == [TunnelRequested(0, REQUEST)]


def test_withdraw_needs_a_server_that_understands_it() -> None:
    lone = lone_client()
    lone.feed(raw_hello(capabilities=[]))
    lone.sent()
    assert lone.link.withdraw_tunnel(0) is False
    assert lone.link.tunnels == {0: REQUEST}
    reference = reference_client()
    assert reference.link.withdraw_tunnel(0) is False
    assert lone.sent() == reference.sent() == []


def test_answers_that_cross_a_withdrawal_are_normal() -> None:
    pair = Pair()
    pair.server.accept_tunnel(0, "192.0.2.1:8080")
    pair.client.withdraw_tunnel(0)
    pair.settle()
    assert pair.client.take_events() == [FrameIgnored("READY for a tunnel that was not asked for", is_normal=True)]
    pair.client.request_tunnel(0, REQUEST)
    pair.settle()
    pair.server.take_events()
    pair.server.refuse_tunnel(0, Code.PORT_IN_USE, "")
    pair.client.withdraw_tunnel(0)
    pair.settle()
    assert pair.client.take_events() == [FrameIgnored("ERROR for a tunnel that was not asked for", is_normal=True)]
    assert pair.server.take_events() == [FrameIgnored("ERROR for a tunnel that does not exist", is_normal=True)]


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"address":5}', b"\xff"])
def test_a_malformed_ready_is_ignored(payload: bytes) -> None:
    lone = extended_client()
    (event,) = lone.feed(raw(frames.READY, 0, payload))
    assert isinstance(event, FrameIgnored)
    assert event.what.startswith("malformed READY (")
    assert lone.link.tunnels == {0: REQUEST}


def test_ready_at_the_server_means_nothing() -> None:
    lone = extended_server()
    assert lone.feed(raw(frames.READY, 0, b'{"address":"x"}')) == [
        FrameIgnored("READY on an extended link", is_normal=False)
    ]


def test_init_at_the_client_means_nothing() -> None:
    lone = extended_client()
    assert lone.feed(raw(frames.INIT, 0, b"80:x")) == [FrameIgnored("INIT on an extended link", is_normal=False)]


def test_an_error_for_one_tunnel_leaves_the_others() -> None:
    lone = extended_client()
    lone.link.request_tunnel(1, TunnelRequest(81, "x"))
    stream = open_on_client(lone)
    assert lone.feed(raw_error("tunnel", 0, "no-shared-port", "none")) == [TunnelRefused(0, "no-shared-port", "none")]
    assert lone.link.tunnels == {1: TunnelRequest(81, "x")}
    assert stream.open


@pytest.mark.parametrize("payload", [b"{}", b'{"tunnel":true}', b"", b"[1]", b"[" * 5000, b'{"tunnel":5}'])
def test_a_visitor_of_a_tunnel_that_is_not_ours(payload: bytes) -> None:
    """The client dials only the services in its configuration."""
    lone = extended_client()
    assert lone.feed(raw(frames.NEW_CONN, 9, payload)) == []
    ((frame_type, conn_id, answer),) = lone.sent()
    assert (frame_type, conn_id) == (frames.ERROR, 9)
    error = json.loads(answer)
    assert error["scope"] == "stream"
    assert error["code"] == ("unknown-tunnel" if payload == b'{"tunnel":5}' else "protocol-error")
    assert lone.link.streams == {}


def test_a_reference_visitor_without_tunnel_0() -> None:
    lone = reference_client()
    del lone.link.tunnels[0]
    assert lone.feed(raw(frames.NEW_CONN, 9)) == []
    assert lone.sent() == [(frames.CLOSE_CONN, 9, b"")]


@pytest.mark.parametrize("payload", [b"nonsense", b"80:x"])
def test_a_client_that_asks_and_does_not_read_is_not_read(payload: bytes) -> None:
    """So little of it waits, and the client is dead in the end. No other frames, and no data, have this effect."""
    lone = extended_server(LinkLimits(max_tunnels=8))

    def is_read() -> bool:
        return not lone.link.reading_paused

    for number in range(8):
        lone.feed(raw(frames.INIT, number, b"80:x"))
        lone.link.refuse_tunnel(number, Code.PORT_IN_USE, "x" * 150)
        open_on_server(lone)
        lone.link.send(next(iter(lone.link.streams.values())), bytes(100_000))
    assert is_read(), "an honest client asks for all its tunnels at once"
    for _ in range(100):
        lone.feed(raw(frames.INIT, 1, payload))
        lone.link.refuse_tunnel(1, Code.PORT_IN_USE, "no")
        if not is_read():
            break
    assert 8 * MAX_ANSWER < lone.link._outbox.control_waiting < 12 * MAX_ANSWER
    lone.sent()
    assert is_read()


def test_a_client_always_reads() -> None:
    """If both ends stopped when their answers waited, both might wait for ever."""
    lone = extended_client(LinkLimits(max_streams=1))
    for number in range(1, 1000):
        lone.feed(raw(frames.NEW_CONN, number, b'{"tunnel":5}'))
    assert lone.link._outbox.control_waiting > 60_000
    assert not lone.link.reading_paused


def test_events_of_an_unread_flood_are_bounded_by_the_link() -> None:
    """A client that asks again and again without reading the answers loses its link. Little waits for it."""
    lone = extended_server(LinkLimits(max_streams=0))
    init = raw(frames.INIT, 1, b"nonsense")
    failed = []
    for _ in range(2000):
        failed += [event for event in lone.feed(init * 100) if isinstance(event, LinkFailed)]
        assert lone.link._outbox.control_waiting < 1024 * 1024 + 1024
    assert failed == [LinkFailed(Code.LIMIT, "our answers are not read", by_peer=False)]
    assert lone.link.is_closed
    assert sum(9 + len(payload) for _, _, payload in lone.sent()) <= 1024 * 1024
    assert not lone.link.has_data_to_send
