"""Whatever a peer sends, cut anywhere: no method raises, and what the link keeps is bounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.wire import frames
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.events import (
    DataReceived,
    LinkFailed,
    StreamClosed,
    StreamMoved,
    StreamOpened,
    StreamReset,
    TunnelRequested,
)
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import REFERENCE_MAX_WAITING, Link
from rtunnel.wire.messages import RULES
from rtunnel.wire.server_link import ServerLink
from tests.examples import examples
from tests.wire.pair import (
    CREDIT,
    FIN,
    SESSION,
    Lone,
    extended_client,
    extended_server,
    lone_client,
    lone_server,
    open_on_client,
    open_on_server,
    raw,
    raw_hello,
    reference_client,
    reference_server,
)
from tests.wire.test_link_direct import TICKETS, direct_client, direct_server
from tests.wire.test_link_rules import client_of as rules_client_of, server_of as rules_server_of

LIMITS = LinkLimits(max_frame=2000, initial_credit=100, link_buffer=1000, max_streams=6, max_tunnels=4)


def server_with_streams() -> Lone[ServerLink]:
    lone = extended_server(LIMITS, initial_credit=50)
    for _ in range(3):
        lone.link.send(open_on_server(lone), bytes(200))
    return lone


def client_with_streams() -> Lone[ClientLink]:
    lone = extended_client(LIMITS, initial_credit=50)
    for conn_id in (1, 2, 3):
        lone.link.send(open_on_client(lone, conn_id), bytes(200))
    return lone


def reference_server_with_streams() -> Lone[ServerLink]:
    lone = reference_server()
    for _ in range(3):
        lone.link.send(open_on_server(lone), bytes(200))
    return lone


def reference_client_with_streams() -> Lone[ClientLink]:
    lone = reference_client()
    for conn_id in (1, 2, 3):
        lone.link.send(open_on_client(lone, conn_id), bytes(200))
    return lone


MAKERS: dict[str, Callable[[], Lone[Any]]] = {
    "server": lambda: lone_server(LIMITS),
    "client": lambda: lone_client(LIMITS),
    "extended-server": server_with_streams,
    "extended-client": client_with_streams,
    "reference-server": reference_server_with_streams,
    "reference-client": reference_client_with_streams,
    "direct-server": lambda: direct_server(LIMITS),
    "direct-client": direct_client,
    "rules-server": lambda: rules_server_of(RULES),
    "rules-client": lambda: rules_client_of(RULES),
}
# Drawn, not parametrized: pytest-twisted cannot run one function under both hypothesis and parametrize.
STATES = st.sampled_from(list(MAKERS))

U64 = st.sampled_from([0, 1, 50, 100, 200, 2**32, 2**62 - 1, 2**62, 2**64 - 1]) | st.integers(0, 2**64 - 1)
TEXTS = st.sampled_from(["link", "tunnel", "stream", "x", SESSION])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-1, 5), TEXTS, st.lists(TEXTS, max_size=2))
OBJECTS = st.dictionaries(
    st.sampled_from(["scope", "code", "message", "address", "tunnel", "visitor", "version", "session", "ready"]), VALUES
)
HELLO = raw_hello()[9:]
PAYLOADS = st.one_of(
    st.just(b""),
    st.just(HELLO),
    st.just(TICKETS[9:]),
    st.binary(max_size=30),
    st.builds(CREDIT.pack, U64, U64),
    st.builds(FIN.pack, U64),
    st.builds(b"%d:x".__mod__, st.integers(-1, 70000)),
    st.builds(lambda value: json.dumps(value).encode(), OBJECTS),
    st.integers(0, 2000).map(bytes),
)
TYPES = st.sampled_from(list(frames.NAMES)) | st.integers(0, 255)
IDS = st.sampled_from([0, 1, 2, 3, 3, 4, 2**32 - 1]) | st.integers(0, 2**32 - 1)
FRAMES = st.builds(raw, TYPES, IDS, PAYLOADS)


def check(link: Link) -> None:
    """Check that what a peer can make the link keep is bounded."""
    assert link._outbox.control_waiting <= link._outbox.max_control
    assert link.stream_count <= link.limits.max_streams
    assert link._granted <= link.limits.link_buffer
    assert len(getattr(link, "tunnels", ())) <= link.limits.max_tunnels
    assert len(link.ignored) < 300
    for stream in link.streams.values():
        window = stream.receive_window
        if link.is_extended:
            assert window.waiting <= window.limit - window.delivered <= link.limits.max_window
        else:
            assert window.waiting < REFERENCE_MAX_WAITING + 100_000


def live(lone: Lone[Any], chunks: list[bytes], reads: bool) -> None:
    """Hand in the chunks, and handle the events as the I/O does."""
    link = lone.link
    over = False
    for number, chunk in enumerate(chunks):
        lone.now += 0.1
        for event in lone.feed(chunk):
            assert not over, f"{event} after the end of the link"
            if isinstance(event, LinkFailed):
                over = True
            elif isinstance(event, DataReceived):
                link.delivered(event.stream, len(event.data) if number % 2 else len(event.data) // 2)
            elif isinstance(event, StreamClosed | StreamReset):
                link.reset(event.stream, "test", "nobody takes the rest")
            elif isinstance(event, StreamMoved):
                link.move(event.stream)
            elif isinstance(event, StreamOpened):
                link.send(event.stream, b"hello")
            elif isinstance(event, TunnelRequested):
                if number % 2:
                    link.accept_tunnel(event.number, "192.0.2.1:80")
                else:
                    link.refuse_tunnel(event.number, "test", "a test")
        link.tick(lone.now)
        check(link)
        if reads:
            lone.sent()
        over = link.is_closed
        link.take_events()
    for stream in [*link.streams.values(), *link.lingering]:
        link.reset(stream, "test", "the end")
    assert link._granted == 0
    for _ in range(3):
        lone.sent()
    assert not link.has_data_to_send


@given(state=STATES, chunks=st.lists(st.binary(max_size=60), max_size=20), reads=st.booleans())
@settings(max_examples=examples(120))
def test_any_bytes(state: str, chunks: list[bytes], reads: bool) -> None:
    live(MAKERS[state](), chunks, reads)


@given(STATES, st.lists(FRAMES, max_size=40), st.lists(st.integers(0, 3000), max_size=10), st.booleans())
@settings(max_examples=examples(300))
def test_any_frames(state: str, found: list[bytes], cuts: list[int], reads: bool) -> None:
    data = b"".join(found)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    live(MAKERS[state](), [data[start:end] for start, end in pairwise(places)], reads)


@given(state=STATES, found=st.lists(FRAMES, max_size=40))
@settings(max_examples=examples(120))
def test_any_frames_after_hello(state: str, found: list[bytes]) -> None:
    live(MAKERS[state](), [raw_hello(initial_credit=50), *found], reads=True)


@pytest.mark.parametrize("state", MAKERS)
def test_the_same_frame_for_ever(state: str) -> None:
    """Floods of each kind of frame, from a peer that reads nothing, run into a bound."""
    payloads = [b"", b"{}", b'{"tunnel":0}', b'{"tunnel":9}', b"8080:x", b"x:x", bytes(16), FIN.pack(0)]
    for frame_type in range(0x20):
        for payload in payloads:
            lone = MAKERS[state]()
            flood = b"".join(raw(frame_type, conn_id, payload) for conn_id in range(60))
            for _ in range(4):
                lone.feed(flood)
                check(lone.link)
