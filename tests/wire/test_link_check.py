"""INIT that only asks, and the server's time, on a link."""

from __future__ import annotations

import json

import pytest

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.events import FrameIgnored, TunnelReady, TunnelRefused, TunnelRequested
from rtunnel.wire.messages import CHECK, decode_hello, encode_ready
from rtunnel.wire.server_link import ServerLink, StreamIds
from rtunnel.wire.tunnel_request import TunnelRequest
from tests.wire.pair import LIMITS, NOW, Lone, hello, only, raw, raw_error, raw_hello

ASKED = TunnelRequest(8080, ":80", only_check=True)
PAYLOAD = b'8080::80\n{"only-check":true}'


def client_of(*capabilities: str) -> Lone[ClientLink]:
    lone = Lone(ClientLink(hello(capabilities=[CHECK]), LIMITS, NOW))
    lone.link.request_tunnel(0, ASKED)
    assert [kind for kind, _, _ in lone.sent()] == [frames.HELLO], "a reference server would publish it"
    return lone


def server_of(*capabilities: str) -> Lone[ServerLink]:
    lone = Lone(ServerLink(hello(capabilities=[CHECK]), LIMITS, NOW, StreamIds(1), lambda: 1796000000.12345))
    lone.feed(raw_hello(capabilities=capabilities))
    return lone


def test_allowed() -> None:
    client = client_of()
    client.feed(raw_hello(capabilities=[CHECK]))
    assert (frames.INIT, 0, PAYLOAD) in client.sent()
    ready = raw(frames.READY, 0, encode_ready(""))
    assert client.feed(ready) == [TunnelReady(0, "")]
    assert client.link.tunnels == {}
    assert len(only(client.feed(ready), FrameIgnored)) == 1


def test_refused() -> None:
    client = client_of()
    client.feed(raw_hello(capabilities=[CHECK]))
    assert client.feed(raw_error("tunnel", 0, Code.LIMIT, "no")) == [TunnelRefused(0, Code.LIMIT, "no")]
    assert client.link.tunnels == {}


def test_a_server_that_does_not_know_it_is_not_asked() -> None:
    client = client_of()
    (refused,) = only(client.feed(raw_hello()), TunnelRefused)
    assert refused.code == Code.NOT_SUPPORTED
    assert client.sent() == []


def test_the_server_keeps_nothing() -> None:
    server = server_of(CHECK)
    for _ in range(2):
        assert server.feed(raw(frames.INIT, 0, PAYLOAD)) == [TunnelRequested(0, ASKED)]
        assert server.link.tunnels == {}


@pytest.mark.parametrize("capabilities", [[], ["rules"]])
def test_a_client_that_did_not_agree(capabilities: list[str]) -> None:
    (refused,) = only(server_of(*capabilities).feed(raw(frames.INIT, 0, PAYLOAD)), TunnelRefused)
    assert refused.code == Code.NOT_SUPPORTED


def test_only_the_server_tells_the_time() -> None:
    (_, _, said), *_ = server_of().sent()
    assert decode_hello(said).time == 1796000000.123
    (_, _, said), *_ = Lone(ClientLink(hello(), LIMITS, NOW)).sent()
    assert "time" not in json.loads(said)
