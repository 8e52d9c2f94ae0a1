"""UDP on a link: who may ask for a UDP tunnel, and PATH."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.client_link import WITHDRAW, ClientLink
from rtunnel.wire.events import (
    FrameIgnored,
    KeysReceived,
    PathOffered,
    TicketsReceived,
    TunnelRefused,
    TunnelRequested,
)
from rtunnel.wire.messages import DIRECT, UDP, decode_path, encode_path
from rtunnel.wire.server_link import ServerLink, StreamIds
from rtunnel.wire.tunnel_request import TunnelRequest
from tests.wire.pair import LIMITS, NOW, Lone, hello, only, raw, raw_error, raw_hello

ALL = (WITHDRAW, DIRECT, UDP)
GAME = TunnelRequest(27015, "127.0.0.1:27015", "udp")
INIT = raw(frames.INIT, 0, b"udp/27015:127.0.0.1:27015")
KEYS = raw(frames.KEYS, 0, b"keys")
PATH = raw(frames.PATH, 0, b'{"id":3405691582,"port":0}')
TICKETS = raw(frames.TICKETS, 0, b'{"first":0,"count":5,"expires":30}')


def client_of(*capabilities: str) -> Lone[ClientLink]:
    """Return the link of a client that knows all, with a server that has these capabilities."""
    lone = Lone(ClientLink(hello(capabilities=ALL), LIMITS, NOW))
    lone.feed(raw_hello(capabilities=capabilities))
    lone.sent()
    return lone


def server_of(*capabilities: str) -> Lone[ServerLink]:
    """Return the link of a server that knows all, with a client that has these capabilities."""
    lone = Lone(ServerLink(hello(capabilities=ALL), LIMITS, NOW, StreamIds(1)))
    lone.feed(raw_hello(capabilities=capabilities))
    lone.sent()
    return lone


# Tunnels


def test_a_tunnel() -> None:
    client, server = client_of(UDP), server_of(UDP)
    client.link.request_tunnel(0, GAME)
    assert client.sent() == [(frames.INIT, 0, INIT[9:])]
    assert server.feed(INIT) == [TunnelRequested(0, GAME)]


def test_a_server_that_carries_no_udp_is_not_asked() -> None:
    lone = Lone(ClientLink(hello(capabilities=ALL), LIMITS, NOW))
    lone.link.request_tunnel(0, GAME)
    assert [kind for kind, _, _ in lone.sent()] == [frames.HELLO]
    events = lone.feed(raw_hello(capabilities=[WITHDRAW, DIRECT]))
    assert only(events, TunnelRefused) == [TunnelRefused(0, Code.NOT_SUPPORTED, "the server carries no UDP")]
    assert frames.INIT not in [kind for kind, _, _ in lone.sent()]
    assert not lone.link.tunnels


def test_a_reference_server_is_not_asked() -> None:
    lone = Lone(ClientLink(hello(capabilities=ALL), LIMITS, NOW))
    lone.link.request_tunnel(0, GAME)
    (refused,) = only(lone.feed(raw(frames.NEW_CONN, 1)), TunnelRefused)
    assert (refused.number, refused.code) == (0, Code.NOT_SUPPORTED)


def test_a_client_that_did_not_agree_gets_no_tunnel() -> None:
    server = server_of(WITHDRAW, DIRECT)
    assert only(server.feed(INIT), TunnelRequested) == []
    ((kind, number, payload),) = server.sent()
    assert (kind, number) == (frames.ERROR, 0)
    assert b"not-supported" in payload


# Keys, and where packets go


def test_keys_and_path_for_udp_alone() -> None:
    client, server = client_of(UDP), server_of(UDP)
    assert server.feed(KEYS) == [KeysReceived(b"keys")]
    server.link.send_path(3405691582, 0)
    assert server.sent() == [(frames.PATH, 0, PATH[9:])]
    assert client.feed(KEYS, PATH) == [KeysReceived(b"keys"), PathOffered(3405691582, 0)]
    assert client.feed(TICKETS) == [FrameIgnored("TICKETS on an extended link", is_normal=False)]


def test_data_connections_without_udp() -> None:
    client = client_of(DIRECT)
    assert client.feed(TICKETS) == [TicketsReceived(0, 5, 30)]
    assert client.feed(PATH) == [FrameIgnored("PATH on an extended link", is_normal=False)]


def test_path_means_nothing_to_a_server() -> None:
    assert server_of(*ALL).feed(PATH) == [FrameIgnored("PATH on an extended link", is_normal=False)]


@given(st.integers(0, 2**32 - 1), st.integers(0, 65535))
def test_path_there_and_back(id: int, port: int) -> None:
    assert decode_path(encode_path(id, port)) == (id, port)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not JSON",
        b"[]",
        b"{}",
        b'{"id":1}',
        b'{"port":1}',
        b'{"id":-1,"port":1}',
        b'{"id":4294967296,"port":1}',
        b'{"id":1,"port":65536}',
        b'{"id":1,"port":-1}',
        b'{"id":true,"port":1}',
        b'{"id":1,"port":1.0}',
        b'{"id":"1","port":1}',
        b"[" * 5000,
    ],
)
def test_malformed_path_is_ignored(payload: bytes) -> None:
    (event,) = client_of(*ALL).feed(raw(frames.PATH, 0, payload))
    assert isinstance(event, FrameIgnored)
    assert event.what.startswith("malformed PATH (")


def test_a_tunnel_that_the_server_refuses() -> None:
    client = client_of(UDP)
    client.link.request_tunnel(0, GAME)
    events = client.feed(raw_error("tunnel", 0, "port-in-use", "somebody has it"))
    assert events == [TunnelRefused(0, "port-in-use", "somebody has it")]
