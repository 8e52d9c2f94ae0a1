"""Host names on a link: who may ask for a tunnel of one."""

from __future__ import annotations

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.client_link import WITHDRAW, ClientLink
from rtunnel.wire.events import TunnelRefused, TunnelRequested
from rtunnel.wire.messages import HOSTS, UDP
from rtunnel.wire.server_link import ServerLink, StreamIds
from rtunnel.wire.tunnel_request import TunnelRequest
from tests.wire.pair import LIMITS, NOW, REQUEST, Lone, hello, only, raw, raw_hello

ALL = (WITHDRAW, UDP, HOSTS)
APP = TunnelRequest(0, ":3000", "http", "app.example.org", "/api", {"redirect-https": True})
PAYLOAD = b'http/app.example.org/api::3000\n{"redirect-https":true}'


def client() -> Lone[ClientLink]:
    return Lone(ClientLink(hello(capabilities=ALL), LIMITS, NOW))


def server_of(*capabilities: str) -> Lone[ServerLink]:
    """Return the link of a server that knows all, with a client that has these capabilities."""
    lone = Lone(ServerLink(hello(capabilities=ALL), LIMITS, NOW, StreamIds(1)))
    lone.feed(raw_hello(capabilities=capabilities))
    lone.sent()
    return lone


def test_a_server_is_asked_once_it_has_said_that_it_can() -> None:
    lone = client()
    lone.link.request_tunnel(0, APP)
    assert [kind for kind, _, _ in lone.sent()] == [frames.HELLO]
    lone.feed(raw_hello(capabilities=ALL))
    assert (frames.INIT, 0, PAYLOAD) in lone.sent()


def test_a_server_without_host_names_is_not_asked() -> None:
    lone = client()
    lone.link.request_tunnel(0, APP)
    lone.link.request_tunnel(1, REQUEST)
    events = lone.feed(raw_hello(capabilities=[WITHDRAW, UDP]))
    assert only(events, TunnelRefused) == [
        TunnelRefused(0, Code.NOT_SUPPORTED, "the server knows no tunnels for host names")
    ]
    assert [number for kind, number, _ in lone.sent() if kind == frames.INIT] == [1]
    assert set(lone.link.tunnels) == {1}


def test_a_reference_server_is_not_asked() -> None:
    lone = client()
    lone.link.request_tunnel(0, APP)
    (refused,) = only(lone.feed(raw(frames.NEW_CONN, 1)), TunnelRefused)
    assert (refused.number, refused.code) == (0, Code.NOT_SUPPORTED)
    assert frames.INIT not in [kind for kind, _, _ in lone.sent()]


def test_a_client_that_agreed_gets_its_tunnel() -> None:
    events = server_of(HOSTS).feed(raw(frames.INIT, 0, PAYLOAD))
    assert only(events, TunnelRequested) == [TunnelRequested(0, APP)]


def test_a_client_that_did_not_agree_gets_no_tunnel() -> None:
    server = server_of(WITHDRAW, UDP)
    assert only(server.feed(raw(frames.INIT, 0, PAYLOAD)), TunnelRequested) == []
    ((kind, number, payload),) = server.sent()
    assert (kind, number) == (frames.ERROR, 0)
    assert b'"not-supported"' in payload


def test_a_bad_name_ends_only_that_tunnel() -> None:
    server = server_of(HOSTS)
    for payload in (b"http/*:x", b"https/a/b:x", b"http/a:x\n[]"):
        assert only(server.feed(raw(frames.INIT, 0, payload)), TunnelRequested) == []
        ((kind, number, said),) = server.sent()
        assert (kind, number) == (frames.ERROR, 0)
        assert b'"bad-request"' in said
    assert only(server.feed(raw(frames.INIT, 0, PAYLOAD)), TunnelRequested) == [TunnelRequested(0, APP)]


def test_a_reference_client_gets_no_host_name() -> None:
    lone = Lone(ServerLink(hello(capabilities=ALL), LIMITS, NOW, StreamIds(1)))
    assert only(lone.feed(raw(frames.INIT, 0, PAYLOAD)), TunnelRequested) == []
