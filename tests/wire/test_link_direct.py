"""KEYS and TICKETS on a link; ATTACH means nothing there, because it shows that this is no link (see test_opening)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rtunnel.errors import Code, Refused
from rtunnel.wire import frames
from rtunnel.wire.client_link import WITHDRAW, ClientLink
from rtunnel.wire.data.hedges import cut
from rtunnel.wire.data.keys import client_length
from rtunnel.wire.events import (
    Established,
    FrameIgnored,
    KeysReceived,
    LinkFailed,
    StreamOpened,
    TicketsReceived,
    TunnelRequested,
)
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import Mode
from rtunnel.wire.messages import DIRECT, MAX_TICKETS, MAX_TICKETS_PAYLOAD, encode_hello
from rtunnel.wire.server_link import ServerLink, StreamIds
from tests.wire.pair import (
    LIMITS,
    NOW,
    Lone,
    extended_client,
    extended_server,
    hello,
    lone_client,
    lone_server,
    only,
    raw,
    raw_hello,
    reference_client,
)

ATTACH = raw(frames.ATTACH, 0, bytes(range(16)))
KEYS = raw(frames.KEYS, 0, b"keys")
OURS = hello(capabilities=(WITHDRAW, DIRECT))
TICKETS = raw(frames.TICKETS, 0, b'{"first":3,"count":5,"expires":30}')


def direct_server(limits: LinkLimits = LIMITS) -> Lone[ServerLink]:
    """Return a server's link that knows data connections, and on which nothing has come."""
    return Lone(ServerLink(OURS, limits, NOW, StreamIds(1)))


def agreed_server() -> Lone[ServerLink]:
    """Return a server's link with a client that knows data connections too."""
    lone = direct_server()
    lone.feed(raw_hello(capabilities=[DIRECT]))
    lone.sent()
    return lone


def direct_client() -> Lone[ClientLink]:
    """Return a client's link with a server that knows data connections too."""
    lone = Lone(ClientLink(OURS, LIMITS, NOW))
    lone.feed(raw_hello(capabilities=[WITHDRAW, DIRECT]))
    lone.sent()
    return lone


# KEYS


def test_keys_go_out_right_behind_hello() -> None:
    lone = Lone(ClientLink(OURS, LIMITS, NOW))
    lone.link.send_keys(b"keys")
    (kind, _, _), keys = lone.sent()
    assert kind == frames.HELLO
    assert keys == (frames.KEYS, 0, b"keys")


@pytest.mark.parametrize("make", [agreed_server, direct_client])
def test_keys_are_handed_on_as_they_are(make) -> None:
    lone = make()
    assert lone.feed(KEYS, KEYS) == [KeysReceived(b"keys"), KeysReceived(b"keys")]
    lone.link.send_keys(b"others")
    assert lone.sent() == [(frames.KEYS, 0, b"others")]


def test_keys_in_one_read_with_hello() -> None:
    events = direct_server().feed(raw_hello(capabilities=[DIRECT]), KEYS, raw(frames.INIT, 0, b"80:x"))
    assert [type(event) for event in events] == [Established, KeysReceived, TunnelRequested]


@pytest.mark.parametrize("make", [extended_server, extended_client, reference_client])
def test_keys_are_nothing_unusual_where_data_connections_are_not_agreed_on(make) -> None:
    """A client does not know yet what its server wants when it sends them."""
    lone = make()
    kind = "an extended" if lone.link.is_extended else "a reference"
    assert lone.feed(KEYS, KEYS) == [FrameIgnored(f"KEYS on {kind} link", is_normal=True)]


# TICKETS


def test_tickets_reach_a_client() -> None:
    client, server = direct_client(), agreed_server()
    server.link.send_tickets(3, 5, 30.0)
    assert client.feed(*server.link.data_to_send(0, NOW)) == [TicketsReceived(3, 5, 30.0)]


def test_no_ticket_is_no_frame() -> None:
    server = agreed_server()
    server.link.send_tickets(3, 0, 30.0)
    assert server.sent() == []


def test_many_tickets_are_several_frames() -> None:
    client, server = direct_client(), agreed_server()
    server.link.send_tickets(7, 2 * MAX_TICKETS + 1, 30.0)
    events = client.feed(*server.link.data_to_send(0, NOW))
    assert events == [
        TicketsReceived(7, MAX_TICKETS, 30.0),
        TicketsReceived(7 + MAX_TICKETS, MAX_TICKETS, 30.0),
        TicketsReceived(7 + 2 * MAX_TICKETS, 1, 30.0),
    ]


def test_a_closed_link_sends_none() -> None:
    lone = agreed_server()
    lone.link.close(Code.SHUTTING_DOWN, "bye")
    lone.sent()
    lone.link.send_tickets(0, 1, 30.0)
    assert lone.sent() == []


@pytest.mark.parametrize("make", [extended_client, reference_client])
def test_tickets_mean_nothing_to_a_client_that_did_not_agree(make) -> None:
    lone = make()
    kind = "an extended" if lone.link.is_extended else "a reference"
    assert lone.feed(TICKETS, TICKETS) == [FrameIgnored(f"TICKETS on {kind} link", is_normal=False)]


def test_tickets_mean_nothing_to_a_server() -> None:
    assert agreed_server().feed(TICKETS) == [FrameIgnored("TICKETS on an extended link", is_normal=False)]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not JSON",
        b"[]",
        b"{}",
        b'{"first":0,"expires":30}',
        b'{"first":0,"count":1}',
        b'{"count":1,"expires":30}',
        b'{"first":-1,"count":1,"expires":30}',
        b'{"first":0,"count":0,"expires":30}',
        b'{"first":0,"count":65,"expires":30}',
        b'{"first":0,"count":1,"expires":0}',
        b'{"tickets":["00112233445566778899aabbccddeeff"],"expires":30}',
        TICKETS[9:].ljust(MAX_TICKETS_PAYLOAD + 1),
    ],
)
def test_malformed_tickets_end_the_link(payload: bytes) -> None:
    """This end could not derive the tickets that follow them."""
    lone = direct_client()
    (event,) = lone.feed(raw(frames.TICKETS, 0, payload), TICKETS)
    assert isinstance(event, LinkFailed)
    assert event.code == Code.PROTOCOL
    assert event.message.startswith("malformed TICKETS (")
    assert [kind for kind, _, _ in lone.sent()] == [frames.ERROR]


def test_unknown_keys_of_tickets_are_ignored() -> None:
    payload = json.dumps({"first": 2**40, "count": 1, "expires": 0.5, "future": [1]}).encode()
    assert direct_client().feed(raw(frames.TICKETS, 0, payload)) == [TicketsReceived(2**40, 1, 0.5)]


# ATTACH


@pytest.mark.parametrize("first", [raw_hello(capabilities=[DIRECT]), raw(frames.INIT, 0, b"80:x"), raw(0x99)])
def test_a_later_attach_means_nothing(first: bytes) -> None:
    lone = direct_server()
    lone.feed(first)
    mode = lone.link.mode
    kind = "an extended" if lone.link.is_extended else "a reference"
    assert lone.feed(ATTACH, ATTACH) == [FrameIgnored(f"ATTACH on {kind} link", is_normal=False)]
    assert lone.link.mode is mode is not Mode.CLOSED


def test_attach_behind_a_first_visitor_means_nothing() -> None:
    """The door waits a second for the first frame, then it may take the client for one that is silent."""
    lone = direct_server()
    lone.link.open_stream(0, "192.0.2.1:5000")
    assert lone.feed(ATTACH)[-1] == FrameIgnored("ATTACH on a reference link", is_normal=False)


def test_attach_means_nothing_to_a_server_without_data_connections() -> None:
    lone = lone_server()
    assert lone.feed(ATTACH, raw(frames.INIT, 0, b"80:x"))[:2] == [
        Established(None),
        FrameIgnored("ATTACH on a reference link", is_normal=False),
    ]


@pytest.mark.parametrize("make", [direct_client, lone_client, extended_client, reference_client])
def test_attach_means_nothing_to_a_client(make) -> None:
    lone = make()
    events = lone.feed(ATTACH)
    assert isinstance(events[-1], FrameIgnored)
    assert not lone.link.is_closed


def test_a_link_with_data_connections_is_otherwise_the_same() -> None:
    server = direct_server()
    assert len(only(server.feed(raw_hello(capabilities=[DIRECT]), raw(frames.INIT, 0, b"80:x")), TunnelRequested)) == 1
    client = direct_client()
    client.link.request_tunnel(0, server.link.tunnels[0])
    server.link.open_stream(0, "192.0.2.1:5000")
    (event,) = client.feed(*server.link.data_to_send(0, NOW)[1:])
    assert isinstance(event, StreamOpened)


# Hedges

HEDGED = replace(OURS, hedge=("FrodoKEM-1344-AES",))
THEIRS = raw(frames.HELLO, 0, encode_hello(HEDGED))


def test_no_visitor_goes_by_a_link_with_hedges() -> None:
    lone = Lone(ServerLink(HEDGED, LIMITS, NOW, StreamIds(1)))
    lone.feed(THEIRS, raw(frames.INIT, 0, b"80:x"))
    lone.sent()
    assert not lone.link.has_room
    with pytest.raises(Refused, match=r"^no visitor may go by the link \(--hedge\)$"):
        lone.link.open_stream(0, "192.0.2.1:5000")
    assert lone.sent() == []


def test_a_client_takes_no_visitor_by_a_link_with_hedges() -> None:
    lone = Lone(ClientLink(HEDGED, LIMITS, NOW))
    lone.feed(THEIRS)
    why = "NEW_CONN where no visitor may go by the link (--hedge)"
    assert lone.feed(raw(frames.NEW_CONN, 1, b'{"tunnel":0}')) == [LinkFailed(Code.PROTOCOL, why, by_peer=False)]
    assert not lone.link.streams


def test_keys_with_hedges_have_room_in_the_queue() -> None:
    hedge = ("Classic-McEliece-6688128", "FrodoKEM-1344-AES")
    lone = Lone(ClientLink(replace(OURS, hedge=hedge), replace(LIMITS, max_streams=1), NOW))
    lone.feed(raw(frames.HELLO, 0, encode_hello(replace(OURS, hedge=hedge))))
    pieces = cut(bytes(client_length(hedge)))
    for piece in pieces:
        lone.link.send_keys(piece)
    assert [payload for kind, _, payload in lone.sent() if kind == frames.KEYS] == pieces
    assert lone.link.mode is Mode.EXTENDED
