"""Which protocol a link speaks, and what is sent before that is known."""

from __future__ import annotations

import pytest

from rtunnel.errors import Code, Refused
from rtunnel.wire import frames
from rtunnel.wire.client_link import WITHDRAW
from rtunnel.wire.events import (
    Established,
    FrameIgnored,
    LinkFailed,
    StreamOpened,
    TunnelReady,
    TunnelRefused,
    TunnelRequested,
)
from rtunnel.wire.link import Mode
from rtunnel.wire.messages import Hello, decode_hello, encode_hello
from rtunnel.wire.tunnel_request import TunnelRequest
from tests.wire.pair import (
    REQUEST,
    SESSION,
    Pair,
    extended_client,
    extended_server,
    hello,
    lone_client,
    lone_server,
    only,
    raw,
    raw_error,
    raw_hello,
    reference_client,
    reference_server,
)

INIT = raw(frames.INIT, 0, b"8080:127.0.0.1:80")
MALFORMED_HELLOS = [
    raw(frames.HELLO),
    raw(frames.HELLO, 0, b"xy"),
    raw(frames.HELLO, 0, b"[" * 4096),
    raw(frames.HELLO, 0, b"{" + b" " * 4096 + b"}"),
    raw_hello(version=0),
    raw_hello(session=None),
    raw_hello(initial_credit=True),
]


@pytest.mark.parametrize("piece", [0, 1, 7])
def test_two_of_ours(piece: int) -> None:
    pair = Pair(piece=piece)
    assert pair.client.peer == pair.server.hello
    assert pair.server.peer == pair.client.hello
    assert pair.client.capabilities == pair.server.capabilities == {WITHDRAW}
    assert pair.server.tunnels == pair.client.tunnels == {0: REQUEST}


def test_the_server_answers_with_hello_before_anything_else() -> None:
    lone = lone_server()
    assert lone.sent() == []
    events = lone.feed(raw_hello(), INIT, raw(frames.PING, 0, b"x"))
    assert events == [Established(Hello(SESSION, 65536)), TunnelRequested(0, REQUEST)]
    lone.link.accept_tunnel(0, "192.0.2.1:8080")
    first, *others = lone.sent()
    assert first == (frames.HELLO, 0, encode_hello(hello()))
    assert [frame[0] for frame in others] == [frames.READY, frames.PONG]


def test_capabilities_are_those_that_both_name() -> None:
    lone = lone_server()
    lone.feed(raw_hello(capabilities=["future", WITHDRAW, "\ud800"]))
    assert lone.link.capabilities == {WITHDRAW}
    lone = lone_server()
    lone.feed(raw_hello(capabilities=["future"]))
    assert lone.link.capabilities == frozenset()


def test_a_later_version_is_spoken_to() -> None:
    lone = lone_server()
    assert lone.feed(raw_hello(version=7)) == [Established(Hello(SESSION, 65536, version=7))]
    ((_, _, payload),) = lone.sent()
    assert decode_hello(payload).version == 1


@pytest.mark.parametrize("malformed", MALFORMED_HELLOS)
def test_a_malformed_hello_leaves_the_server_in_reference_mode(malformed: bytes) -> None:
    lone = lone_server()
    ignored, established, requested = lone.feed(malformed, INIT)
    assert isinstance(ignored, FrameIgnored)
    assert ignored.what.startswith("malformed HELLO (")
    assert not ignored.is_normal
    assert established == Established(None)
    assert requested == TunnelRequested(0, REQUEST)
    lone.link.accept_tunnel(0, "192.0.2.1:8080")
    lone.feed(raw(frames.PING, 0, b"x"))
    assert lone.sent() == [], "a reference peer is never sent an extension frame"


@pytest.mark.parametrize("malformed", MALFORMED_HELLOS)
def test_a_malformed_hello_leaves_the_client_in_reference_mode(malformed: bytes) -> None:
    lone = lone_client()
    lone.sent()
    ignored, established = lone.feed(malformed)
    assert isinstance(ignored, FrameIgnored)
    assert established == Established(None)
    assert lone.sent() == []


@pytest.mark.parametrize(
    "first", [INIT, raw(frames.CLOSE_CONN, 5), raw(frames.DATA, 5, b"x"), raw(0x77), raw_error("link")]
)
def test_a_late_hello_is_ignored(first: bytes) -> None:
    lone = lone_server()
    events = lone.feed(first, raw_hello(), raw_hello())
    assert Established(None) in events
    assert events[-1] == FrameIgnored("HELLO on a reference link", is_normal=False)
    assert lone.link.mode is Mode.REFERENCE
    assert lone.link.ignored["HELLO on a reference link"] == 2
    assert lone.sent() == []


@pytest.mark.parametrize("make", [extended_server, extended_client])
def test_a_second_hello_is_ignored(make) -> None:
    lone = make(initial_credit=100)
    events = lone.feed(raw_hello(initial_credit=5, session="f" * 32), raw_hello(initial_credit=5))
    assert events == [FrameIgnored("HELLO on an extended link", is_normal=False)]
    assert lone.link.peer.initial_credit == 100
    assert lone.sent() == []


def test_a_visitor_before_the_first_frame_makes_it_a_reference_link() -> None:
    """The I/O does that after a second of silence: the client wants the shared port."""
    lone = lone_server()
    stream = lone.link.open_stream(0, "192.0.2.1:5000")
    assert lone.link.take_events() == [Established(None)]
    assert lone.sent() == [(frames.NEW_CONN, stream.conn_id, b"")]
    assert lone.feed(raw_hello()) == [FrameIgnored("HELLO on a reference link", is_normal=False)]


def test_extension_frames_mean_nothing_on_a_reference_link() -> None:
    extended = [*range(frames.HELLO, frames.TICKETS + 1), 0x00, 0x05, 0xFF]
    for lone in (reference_server(), reference_client()):
        before = lone.link.ignored.total()
        for frame_type in extended:
            (event,) = lone.feed(raw(frame_type, 0, bytes(16)), raw(frame_type, 0, b"{}"))
            assert event == FrameIgnored(f"{frames.frame_name(frame_type)} on a reference link", is_normal=False)
        assert lone.link.ignored.total() - before == 2 * len(extended)
        assert lone.sent() == []
        assert lone.link.mode is Mode.REFERENCE


# What the client holds back


def test_until_the_answer_only_hello_and_the_init_of_tunnel_0() -> None:
    lone = lone_client()
    lone.link.request_tunnel(2, TunnelRequest(82, "b"))
    lone.link.request_tunnel(1, TunnelRequest(0, "a"))
    assert lone.sent() == [(frames.HELLO, 0, encode_hello(hello())), (frames.INIT, 0, b"8080:127.0.0.1:80")]
    assert not lone.link.withdraw_tunnel(1)
    assert lone.feed(raw_hello()) == [Established(Hello(SESSION, 65536))]
    assert lone.sent() == [(frames.INIT, 2, b"82:b"), (frames.INIT, 1, b"0:a")]
    lone.link.request_tunnel(3, TunnelRequest(83, "c"))
    assert lone.sent() == [(frames.INIT, 3, b"83:c")]


def test_port_0_is_asked_for_by_silence_until_the_server_shows_itself() -> None:
    lone = lone_client()
    lone.sent()
    lone.link.request_tunnel(0, TunnelRequest(0, "a"))
    assert lone.sent() == []
    lone.feed(raw_hello())
    assert lone.sent() == [(frames.INIT, 0, b"0:a")]


def test_a_reference_server_serves_the_silent_client() -> None:
    lone = lone_client()
    lone.sent()
    lone.link.request_tunnel(0, TunnelRequest(0, "a"))
    established, opened = lone.feed(raw(frames.NEW_CONN, 1))
    assert established == Established(None)
    assert isinstance(opened, StreamOpened)
    assert lone.sent() == []


def test_a_reference_server_serves_one_tunnel() -> None:
    lone = lone_client()
    lone.link.request_tunnel(1, TunnelRequest(81, "a"))
    lone.link.request_tunnel(2, TunnelRequest(0, "b"))
    lone.sent()
    events = lone.feed(raw(frames.NEW_CONN, 1))
    refused = only(events, TunnelRefused)
    assert [(event.number, event.code) for event in refused] == [(1, Code.NOT_SUPPORTED), (2, Code.NOT_SUPPORTED)]
    assert len(only(events, StreamOpened)) == 1
    assert lone.link.tunnels == {0: REQUEST}
    lone.link.request_tunnel(3, TunnelRequest(83, "c"))
    assert [event.number for event in only(lone.link.take_events(), TunnelRefused)] == [3]
    assert lone.sent() == []


# Ends of a link


@pytest.mark.parametrize("make", [extended_server, extended_client])
def test_close_tells_an_extended_peer_why(make) -> None:
    lone = make()
    lone.link.close(Code.SHUTTING_DOWN, "bye")
    assert lone.sent() == [(frames.ERROR, 0, b'{"scope":"link","code":"shutting-down","message":"bye"}')]
    assert lone.link.is_closed
    assert lone.link.take_events() == []
    assert lone.feed(raw(frames.PING), raw(frames.INIT, 5, b"1:x"), b"\xff" * 100) == []
    lone.link.fail(Code.PROTOCOL, "again")
    assert lone.link.take_events() == []
    assert not lone.link.has_data_to_send


@pytest.mark.parametrize("make", [lone_server, reference_server, reference_client])
def test_close_tells_a_reference_peer_nothing(make) -> None:
    lone = make()
    lone.link.close(Code.SHUTTING_DOWN, "bye")
    assert lone.link.is_closed
    assert lone.sent() == []


@pytest.mark.parametrize("make", [lone_server, reference_server, extended_server])
def test_a_closed_link_takes_no_visitor(make) -> None:
    lone = make()
    lone.link.close(Code.SHUTTING_DOWN, "bye")
    with pytest.raises(Refused, match=r"^the link is closed$"):
        lone.link.open_stream(0, "")
    assert lone.link.streams == {}


@pytest.mark.parametrize("make", [extended_server, extended_client])
def test_the_peer_closes(make) -> None:
    lone = make()
    events = lone.feed(raw_error("link", 0, "taken-over", "a\nb"), raw(frames.PING, 0, b"x"), raw(0x99))
    assert events == [LinkFailed("taken-over", "a?b", by_peer=True)]
    assert lone.link.is_closed
    assert lone.sent() == []


@pytest.mark.parametrize("make", [lone_server, reference_server, extended_server, lone_client, extended_client])
def test_a_length_that_cannot_be(make) -> None:
    lone = make()
    lone.sent()
    (event,) = lone.feed(b"\x02\0\0\0\1\xff\xff\xff\xff", b"x" * 1000)
    assert event == LinkFailed(Code.PROTOCOL, "DATA of 4294967295 bytes; the limit is 65536", by_peer=False)
    assert lone.link.is_closed
    assert lone.feed(INIT) == []


def test_ready_is_for_extended_clients() -> None:
    lone = extended_client()
    assert lone.feed(raw(frames.READY, 0, b'{"address":"192.0.2.1:80"}')) == [TunnelReady(0, "192.0.2.1:80")]
