"""Tickets on a link; ATTACH means nothing there, as what shows it is no link (see test_opening)."""

from __future__ import annotations

import json

import pytest

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.client_link import WITHDRAW, ClientLink
from rtunnel.wire.events import (
    Established,
    FrameIgnored,
    StreamOpened,
    TicketsReceived,
    TunnelRequested,
)
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import Mode
from rtunnel.wire.messages import DIRECT, MAX_TICKETS, MAX_TICKETS_PAYLOAD
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

TICKET = "00112233445566778899aabbccddeeff"
ATTACH = raw(frames.ATTACH, 0, TICKET.encode() + b":5000")
OURS = hello(capabilities=(WITHDRAW, DIRECT))
TICKETS = raw(frames.TICKETS, 0, json.dumps({"tickets": [TICKET], "expires": 30}).encode())


def direct_server(limits: LinkLimits = LIMITS) -> Lone[ServerLink]:
    """Return a server's link that knows data connections, and on which nothing has come."""
    return Lone(ServerLink(OURS, limits, NOW, StreamIds(1)))


def direct_client() -> Lone[ClientLink]:
    """Return a client's link with a server that knows data connections too."""
    lone = Lone(ClientLink(OURS, LIMITS, NOW))
    lone.feed(raw_hello(capabilities=[WITHDRAW, DIRECT]))
    lone.sent()
    return lone


def many(count: int) -> list[str]:
    """Return *count* tickets."""
    return [f"{number:032x}" for number in range(count)]


# TICKETS


def test_tickets_reach_a_client_that_knows_them() -> None:
    client, server = Lone(ClientLink(OURS, LIMITS, NOW)), direct_server()
    server.feed(*client.link.data_to_send(0, NOW))
    client.feed(*server.link.data_to_send(0, NOW))
    assert client.link.capabilities == server.link.capabilities == {WITHDRAW, DIRECT}
    client.link.take_events()
    server.link.send_tickets([TICKET], 30.0)
    server.link.send_tickets([], 30.0)
    assert client.feed(*server.link.data_to_send(0, NOW)) == [TicketsReceived([TICKET], 30.0)]


def test_many_tickets_are_several_frames() -> None:
    client, server = direct_client(), direct_server()
    server.feed(raw_hello(capabilities=[DIRECT]))
    server.sent()
    tickets = many(2 * MAX_TICKETS + 1)
    server.link.send_tickets(tickets, 30.0)
    events = client.feed(*server.link.data_to_send(0, NOW))
    assert [len(event.tickets) for event in only(events, TicketsReceived)] == [MAX_TICKETS, MAX_TICKETS, 1]
    assert [ticket for event in only(events, TicketsReceived) for ticket in event.tickets] == tickets


def server_of_an_old_client() -> Lone[ServerLink]:
    lone = direct_server()
    lone.feed(raw_hello(capabilities=[WITHDRAW]))
    lone.sent()
    return lone


def server_without_direct() -> Lone[ServerLink]:
    lone = lone_server()
    lone.feed(raw_hello(capabilities=[DIRECT]))
    lone.sent()
    return lone


def server_of_a_reference_client() -> Lone[ServerLink]:
    lone = direct_server()
    lone.feed(raw(frames.INIT, 0, b"8080:127.0.0.1:80"))
    return lone


@pytest.mark.parametrize(
    "make",
    [direct_server, server_of_an_old_client, server_without_direct, server_of_a_reference_client, extended_server],
)
def test_nobody_else_is_sent_tickets(make) -> None:
    lone = make()
    lone.link.send_tickets([TICKET], 30.0)
    assert lone.sent() == []


def test_a_closed_link_sends_none() -> None:
    lone = direct_server()
    lone.feed(raw_hello(capabilities=[DIRECT]))
    lone.link.close(Code.SHUTTING_DOWN, "bye")
    lone.sent()
    lone.link.send_tickets([TICKET], 30.0)
    assert lone.sent() == []


@pytest.mark.parametrize("make", [extended_client, reference_client])
def test_tickets_mean_nothing_to_a_client_that_did_not_agree(make) -> None:
    lone = make()
    kind = "an extended" if lone.link.is_extended else "a reference"
    assert lone.feed(TICKETS, TICKETS) == [FrameIgnored(f"TICKETS on {kind} link", is_normal=False)]


def test_tickets_mean_nothing_to_a_server() -> None:
    lone = direct_server()
    lone.feed(raw_hello(capabilities=[DIRECT]))
    assert lone.feed(TICKETS) == [FrameIgnored("TICKETS on an extended link", is_normal=False)]


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"tickets": [TICKET]},
        {"expires": 30},
        {"tickets": TICKET, "expires": 30},
        {"tickets": {TICKET: 1}, "expires": 30},
        {"tickets": [TICKET, 5], "expires": 30},
        {"tickets": [TICKET, TICKET[1:]], "expires": 30},
        {"tickets": [TICKET.upper()], "expires": 30},
        {"tickets": ["\u0660" * 32], "expires": 30},
        {"tickets": [[TICKET]], "expires": 30},
        {"tickets": [TICKET], "expires": 0},
        {"tickets": [TICKET], "expires": -1},
        {"tickets": [TICKET], "expires": True},
        {"tickets": [TICKET], "expires": "30"},
        {"tickets": [TICKET], "expires": 3601},
        {"tickets": [TICKET], "expires": 10**400},
        {"tickets": [TICKET], "expires": float("nan")},
        {"tickets": [TICKET], "expires": float("inf")},
        {"tickets": many(1000), "expires": 30},
    ],
)
def test_malformed_tickets_are_ignored(value: object) -> None:
    lone = direct_client()
    payload = json.dumps(value).encode()
    (event,) = lone.feed(*[raw(frames.TICKETS, 0, payload)] * 3)
    assert isinstance(event, FrameIgnored)
    assert event.what.startswith("malformed TICKETS (")
    assert not event.is_normal
    assert lone.feed(TICKETS) == [TicketsReceived([TICKET], 30.0)]


def test_tickets_beyond_the_bound_of_a_frame_are_dropped() -> None:
    lone = direct_client()
    payload = json.dumps({"tickets": many(100), "expires": 0.5, "future": 1}, separators=(",", ":")).encode()
    assert len(payload) <= MAX_TICKETS_PAYLOAD
    assert lone.feed(raw(frames.TICKETS, 0, payload)) == [TicketsReceived(many(MAX_TICKETS), 0.5)]
    assert lone.feed(raw(frames.TICKETS, 0, b'{"tickets":[],"expires":1}')) == []


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
