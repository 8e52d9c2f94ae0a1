"""Rules of ports on a link, and what the two ends tell each other of a tunnel: STATE and NOTICE."""

from __future__ import annotations

import pytest

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.client_link import WITHDRAW, ClientLink
from rtunnel.wire.events import FrameIgnored, TunnelNotice, TunnelRefused, TunnelRequested, TunnelState
from rtunnel.wire.messages import HOSTS, RULES, UDP
from rtunnel.wire.server_link import ServerLink, StreamIds
from rtunnel.wire.tunnel_request import TunnelRequest
from tests.wire.pair import LIMITS, NOW, REQUEST, Lone, hello, only, raw, raw_error, raw_hello

ALL = (WITHDRAW, UDP, HOSTS, RULES)
WEB = TunnelRequest(8080, ":80", rules={"deny": ["192.0.2.7"]})
PAYLOAD = b'8080::80\n{"deny":["192.0.2.7"]}'
GROUPED = TunnelRequest(0, ":80", "http", "app", rules={"group": "web"})
DENYING = TunnelRequest(0, ":80", "http", "app", rules={"deny": ["192.0.2.7"]})
DOWN = b'{"ready":false,"why":"connection refused"}'


def client_of(*capabilities: str, requests: tuple[TunnelRequest, ...] = (WEB,)) -> Lone[ClientLink]:
    """Return the link of a client that has asked for tunnels, with a server that has these capabilities."""
    lone = Lone(ClientLink(hello(capabilities=ALL), LIMITS, NOW))
    for number, request in enumerate(requests):
        lone.link.request_tunnel(number, request)
    assert [kind for kind, _, _ in lone.sent()] == [frames.HELLO], "a reference server would take it without its rules"
    lone.feed(raw_hello(capabilities=capabilities))
    return lone


def server_of(*capabilities: str) -> Lone[ServerLink]:
    """Return the link of a server that knows all, with a client that has these capabilities."""
    lone = Lone(ServerLink(hello(capabilities=ALL), LIMITS, NOW, StreamIds(1)))
    lone.feed(raw_hello(capabilities=capabilities))
    lone.sent()
    return lone


def served(*capabilities: str) -> Lone[ServerLink]:
    lone = server_of(*capabilities)
    lone.feed(raw(frames.INIT, 0, b"8080::80"))
    lone.sent()
    return lone


def kinds(lone: Lone[ClientLink]) -> list[int]:
    return [kind for kind, _, _ in lone.sent()]


def test_a_port_with_rules() -> None:
    assert (frames.INIT, 0, PAYLOAD) in client_of(RULES).sent()
    assert server_of(RULES).feed(raw(frames.INIT, 0, PAYLOAD)) == [TunnelRequested(0, WEB)]


def test_a_server_that_does_not_know_them_is_not_asked() -> None:
    lone = Lone(ClientLink(hello(capabilities=ALL), LIMITS, NOW))
    for number, request in enumerate((WEB, GROUPED, DENYING)):
        lone.link.request_tunnel(number, request)
    events = lone.feed(raw_hello(capabilities=[WITHDRAW, HOSTS]))
    why = "the server knows no rules for this kind of tunnel"
    assert only(events, TunnelRefused) == [TunnelRefused(number, Code.NOT_SUPPORTED, why) for number in (0, 1)]
    assert [number for kind, number, _ in lone.sent() if kind == frames.INIT] == [2], "host names had these before"


def test_a_reference_server_is_not_asked() -> None:
    lone = Lone(ClientLink(hello(capabilities=ALL), LIMITS, NOW))
    lone.link.request_tunnel(0, WEB)
    (refused,) = only(lone.feed(raw(frames.NEW_CONN, 1)), TunnelRefused)
    assert refused == TunnelRefused(
        0, Code.NOT_SUPPORTED, "the server speaks the reference protocol, which has no rules"
    )
    assert frames.INIT not in kinds(lone)


@pytest.mark.parametrize("payload", [PAYLOAD, b'http/app::80\n{"group":"web"}', b'udp/53::53\n{"deny":[]}'])
def test_a_client_that_did_not_agree_gets_no_tunnel(payload: bytes) -> None:
    server = server_of(WITHDRAW, UDP, HOSTS)
    assert only(server.feed(raw(frames.INIT, 0, payload)), TunnelRequested) == []
    ((kind, number, said),) = server.sent()
    assert (kind, number) == (frames.ERROR, 0)
    assert b'"not-supported"' in said


def test_a_reference_client_gets_no_rules() -> None:
    lone = Lone(ServerLink(hello(capabilities=ALL), LIMITS, NOW, StreamIds(1)))
    assert only(lone.feed(raw(frames.INIT, 0, PAYLOAD)), TunnelRequested) == []
    assert lone.link.is_closed


def test_state() -> None:
    client, server = client_of(RULES), served(RULES)
    client.sent()
    client.link.say_state(0, is_ready=False, why="connection refused")
    assert client.sent() == [(frames.STATE, 0, DOWN)]
    assert server.feed(raw(frames.STATE, 0, DOWN)) == [TunnelState(0, False, "connection refused")]
    client.link.say_state(0, is_ready=True)
    assert client.sent() == [(frames.STATE, 0, b'{"ready":true}')]
    assert server.feed(raw(frames.STATE, 0, b'{"ready":true}')) == [TunnelState(0, True, "")]


def test_state_to_a_server_that_does_not_know_it() -> None:
    lone = client_of(WITHDRAW, requests=(TunnelRequest(0, ":80"),))
    lone.sent()
    lone.link.say_state(0, is_ready=False)
    assert not kinds(lone)


def test_state_of_no_tunnel() -> None:
    client = client_of(RULES)
    client.sent()
    client.link.say_state(1, is_ready=False)
    assert not kinds(client)
    # It may cross a refusal.
    assert server_of(RULES).feed(raw(frames.STATE, 0, DOWN)) == [
        FrameIgnored("STATE of a tunnel that does not exist", is_normal=True)
    ]


@pytest.mark.parametrize("payload", [b"", b"not JSON", b"[]", b"{}", b'{"ready":1}', b"[" * 5000])
def test_malformed_state_is_ignored(payload: bytes) -> None:
    (event,) = served(RULES).feed(raw(frames.STATE, 0, payload))
    assert isinstance(event, FrameIgnored)
    assert event.what.startswith("malformed STATE (")


def test_notice() -> None:
    server, client = served(RULES), client_of(RULES)
    server.link.send_notice(0, "its quota is used up")
    ((kind, number, payload),) = server.sent()
    assert (kind, number, payload) == (frames.NOTICE, 0, b'{"message":"its quota is used up"}')
    assert client.feed(raw(kind, number, payload)) == [TunnelNotice(0, "its quota is used up")]
    client.feed(raw_error("tunnel", 0))
    assert client.feed(raw(kind, number, payload)) == [
        FrameIgnored("NOTICE for a tunnel that was not asked for", is_normal=True)
    ]


def test_notice_to_a_client_that_does_not_know_it() -> None:
    server = served(WITHDRAW)
    server.link.send_notice(0, "its quota is used up")
    assert not server.sent()


def test_notice_of_no_tunnel() -> None:
    server = served(RULES)
    server.link.send_notice(1, "its quota is used up")
    assert not server.sent()


@pytest.mark.parametrize("payload", [b"", b"not JSON", b"[]", b"{}", b'{"message":1}', b'{"message":""}', b"[" * 5000])
def test_malformed_notice_is_ignored(payload: bytes) -> None:
    (event,) = client_of(RULES).feed(raw(frames.NOTICE, 0, payload))
    assert isinstance(event, FrameIgnored)
    assert event.what.startswith("malformed NOTICE (")


def test_of_the_other_direction_or_without_the_capability() -> None:
    notice = raw(frames.NOTICE, 0, b'{"message":"x"}')
    for lone, frame, name in (
        (served(RULES), notice, "NOTICE"),
        (served(WITHDRAW), raw(frames.STATE, 0, DOWN), "STATE"),
        (client_of(RULES), raw(frames.STATE, 0, DOWN), "STATE"),
        (client_of(WITHDRAW, requests=(TunnelRequest(0, ":80"),)), notice, "NOTICE"),
    ):
        assert lone.feed(frame) == [FrameIgnored(f"{name} on an extended link", is_normal=False)]


def test_a_second_request_has_rules_of_its_own() -> None:
    client = client_of(RULES, requests=(WEB, REQUEST))
    assert [payload for kind, _, payload in client.sent() if kind == frames.INIT] == [PAYLOAD, b"8080:127.0.0.1:80"]
