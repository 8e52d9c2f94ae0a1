"""Bytes that were recorded from the reference programs: we can read them, and we write the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rtunnel.wire import frames
from rtunnel.wire.events import DataReceived, Established, FrameIgnored, StreamClosed, StreamOpened, TunnelRequested
from rtunnel.wire.link import Mode
from rtunnel.wire.tunnel_request import TunnelRequest, decode_init, encode_init
from tests.wire.pair import HEADER, lone_client, lone_server, only, open_on_client, reference_client, reference_server

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "reverse-tunnel.json").read_text(encoding="utf-8")
)
CASES: dict[str, bytes] = {case["name"]: bytes.fromhex(case["hex"]) for case in VECTORS["cases"]}
MEANINGS = {
    "init_remote_port_18080_local_127.0.0.1:17080": (frames.INIT, 0, b"18080:127.0.0.1:17080"),
    "new_conn_1": (frames.NEW_CONN, 1, b""),
    "new_conn_2": (frames.NEW_CONN, 2, b""),
    "data_1_hello": (frames.DATA, 1, b"hello"),
    "data_1_GET": (frames.DATA, 1, b"GET"),
    "data_1_world": (frames.DATA, 1, b"world"),
    "close_1": (frames.CLOSE_CONN, 1, b""),
}
EXCHANGES = {
    "closed-thrice": "client answers CLOSE with CLOSE",
    "local-end": "local service ends its connection",
    "local-refusal": "local service refuses the connection",
    "visitor-end": "public visitor shuts down its sending side",
    "unknown-type": "a frame of an unknown type (0x10)",
}


def recorded(key: str, way: str) -> bytes:
    """Return the bytes that went this *way* in one of the exchanges."""
    (exchange,) = [one for one in VECTORS["exchanges"] if one["name"].startswith(EXCHANGES[key])]
    return bytes.fromhex(exchange[way])


def test_every_recording_is_used() -> None:
    assert set(CASES) == set(MEANINGS)
    assert len(VECTORS["exchanges"]) == len(EXCHANGES)


@pytest.mark.parametrize("name", CASES)
def test_frames(name: str) -> None:
    assert frames.FrameDecoder(65536).feed(CASES[name]) == [MEANINGS[name]]
    assert frames.encode_frame(*MEANINGS[name]) == CASES[name]


def test_init() -> None:
    payload = CASES["init_remote_port_18080_local_127.0.0.1:17080"][HEADER.size :]
    request = TunnelRequest(18080, "127.0.0.1:17080")
    assert decode_init(payload) == request
    assert encode_init(request) == payload


def test_our_server_takes_the_recorded_client() -> None:
    lone = lone_server()
    events = lone.feed(CASES["init_remote_port_18080_local_127.0.0.1:17080"])
    assert events == [Established(None), TunnelRequested(0, TunnelRequest(18080, "127.0.0.1:17080"))]
    lone.link.accept_tunnel(0, "192.0.2.1:18080")
    stream = lone.link.open_stream(0, "192.0.2.9:5000")
    lone.link.send(stream, b"GET")
    assert b"".join(lone.link.data_to_send(65536, 0)) == CASES["new_conn_1"] + CASES["data_1_GET"]
    assert lone.feed(CASES["data_1_world"]) == [DataReceived(stream, b"world")]
    assert lone.feed(CASES["close_1"]) == [StreamClosed(stream)]


def test_our_client_sends_hello_and_then_exactly_the_recorded_init() -> None:
    lone = lone_client()
    lone.sent()
    lone.link.request_tunnel(0, TunnelRequest(18080, "127.0.0.1:17080"))
    assert b"".join(lone.link.data_to_send(65536, 0)) == CASES["init_remote_port_18080_local_127.0.0.1:17080"]


def test_our_client_takes_the_recorded_server() -> None:
    lone = lone_client()
    lone.sent()
    established, opened, data = lone.feed(CASES["new_conn_1"], CASES["data_1_hello"])
    assert established == Established(None)
    assert isinstance(opened, StreamOpened)
    assert (opened.tunnel, opened.visitor) == (0, "")
    assert data == DataReceived(opened.stream, b"hello")
    lone.link.send(opened.stream, b"world")
    lone.link.finish(opened.stream)
    assert b"".join(lone.link.data_to_send(65536, 0)) == CASES["data_1_world"] + CASES["close_1"]


def test_a_stream_closed_three_times() -> None:
    """Our server closes, and the reference client answers with two CLOSE_CONN."""
    lone = reference_server()
    stream = lone.link.open_stream(0, "")
    lone.sent()
    lone.link.reset(stream, "test", "a test")
    assert b"".join(lone.link.data_to_send(65536, 0)) == recorded("closed-thrice", "s2c")
    (event,) = lone.feed(recorded("closed-thrice", "c2s"))
    assert isinstance(event, FrameIgnored)
    assert event.is_normal
    assert lone.link.ignored.total() == 2
    assert lone.link.mode is Mode.REFERENCE


def test_our_client_does_not_answer_a_close() -> None:
    lone = reference_client()
    stream = open_on_client(lone, 1)
    assert lone.feed(recorded("closed-thrice", "s2c")) == [StreamClosed(stream)]
    lone.link.finish(stream)
    lone.link.reset(stream, "test", "a test")
    assert lone.sent() == []


def test_the_local_service_ends() -> None:
    client = lone_client()
    client.sent()
    (opened,) = only(client.feed(recorded("local-end", "s2c")), StreamOpened)
    client.link.finish(opened.stream)
    assert b"".join(client.link.data_to_send(65536, 0)) == recorded("local-end", "c2s")

    server = reference_server(start=2)
    stream = server.link.open_stream(0, "")
    assert b"".join(server.link.data_to_send(65536, 0)) == recorded("local-end", "s2c")
    assert server.feed(recorded("local-end", "c2s")) == [StreamClosed(stream)]


def test_the_local_service_refuses() -> None:
    client = reference_client()
    (opened,) = only(client.feed(recorded("local-refusal", "s2c")), StreamOpened)
    client.link.reset(opened.stream, "local-unreachable", "nobody there")
    assert b"".join(client.link.data_to_send(65536, 0)) == recorded("local-refusal", "c2s")

    server = reference_server(start=3)
    stream = server.link.open_stream(0, "")
    assert b"".join(server.link.data_to_send(65536, 0)) == recorded("local-refusal", "s2c")
    assert server.feed(recorded("local-refusal", "c2s")) == [StreamClosed(stream)]


def test_a_visitor_that_shuts_down_its_side_closes_the_whole_stream() -> None:
    server = reference_server()
    stream = server.link.open_stream(0, "")
    server.sent()
    server.link.finish(stream)
    assert b"".join(server.link.data_to_send(65536, 0)) == recorded("visitor-end", "s2c")
    assert server.link.take_events() == [StreamClosed(stream)]
    assert server.link.streams == {}


@pytest.mark.parametrize("before", [True, False])
def test_an_unknown_type_is_ignored(before: bool) -> None:
    unknown = recorded("unknown-type", "any")
    init = CASES["init_remote_port_18080_local_127.0.0.1:17080"]
    server = lone_server()
    events = server.feed(unknown + init if before else init + unknown)
    assert len(only(events, TunnelRequested)) == 1
    client = lone_client()
    events = client.feed(unknown + CASES["new_conn_1"] if before else CASES["new_conn_1"] + unknown)
    assert len(only(events, StreamOpened)) == 1
    for link in (server.link, client.link):
        assert link.mode is Mode.REFERENCE
        assert link.ignored.total() == 1
