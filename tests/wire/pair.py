"""Links without a network: two of them back to back, or one against hand-written frames.

Frames are packed and parsed here with ``struct`` alone, so that the code under test does not check itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from struct import Struct
from typing import Generic, TypeVar

from rtunnel.wire import frames
from rtunnel.wire.client_link import WITHDRAW, ClientLink
from rtunnel.wire.events import Event, StreamOpened
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import Link, Mode
from rtunnel.wire.messages import Hello
from rtunnel.wire.server_link import ServerLink, StreamIds
from rtunnel.wire.stream import Stream
from rtunnel.wire.tunnel_request import TunnelRequest

HEADER = Struct("!BII")
CREDIT = Struct("!QQ")
FIN = Struct("!Q")
SESSION = "0123456789abcdef" * 2
NOW = 1000.0
LIMITS = LinkLimits()
REQUEST = TunnelRequest(8080, "127.0.0.1:80")

LinkT = TypeVar("LinkT", bound=Link)
EventT = TypeVar("EventT")


def raw(frame_type: int, conn_id: int = 0, payload: bytes = b"") -> bytes:
    """Encode one frame."""
    return HEADER.pack(frame_type, conn_id, len(payload)) + payload


def parse(data: bytes) -> list[frames.Frame]:
    """Parse *data*, which consists of whole frames."""
    found = []
    offset = 0
    while offset < len(data):
        frame_type, conn_id, length = HEADER.unpack_from(data, offset)
        payload = data[offset + HEADER.size : offset + HEADER.size + length]
        assert len(payload) == length, "a frame is cut short"
        found.append((frame_type, conn_id, payload))
        offset += HEADER.size + length
    return found


def hello(limits: LinkLimits = LIMITS, capabilities: Iterable[str] = (WITHDRAW,)) -> Hello:
    """Return the HELLO of an end with these *limits*."""
    return Hello(SESSION, limits.initial_credit, agent="test", capabilities=frozenset(capabilities))


def raw_hello(**changes: object) -> bytes:
    """Encode a HELLO frame by hand. A change to None leaves the key out."""
    value: dict[str, object] = {"version": 1, "session": SESSION, "initial_credit": 65536, **changes}
    return raw(frames.HELLO, 0, json.dumps({key: item for key, item in value.items() if item is not None}).encode())


def raw_error(scope: str, conn_id: int = 0, code: str = "test", message: str = "a test") -> bytes:
    """Encode an ERROR frame by hand."""
    return raw(frames.ERROR, conn_id, json.dumps({"scope": scope, "code": code, "message": message}).encode())


def only(events: Iterable[object], kind: type[EventT]) -> list[EventT]:
    """Return the events of this *kind*."""
    return [event for event in events if isinstance(event, kind)]


class Lone(Generic[LinkT]):
    """One link, against hand-written frames.

    :ivar now: the time in seconds; only the test moves it.
    """

    def __init__(self, link: LinkT) -> None:
        self.link = link
        self.now = NOW

    def feed(self, *data: bytes) -> list[Event]:
        """Hand in *data* at once, and return the link's events."""
        self.link.receive_data(b"".join(data), self.now)
        return self.link.take_events()

    def tick(self, seconds: float) -> list[Event]:
        """Let time pass, with a tick each second and one at the end. Return the link's events."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            self.link.tick(self.now)
        return self.link.take_events()

    def sent(self, budget: int = 1 << 20) -> list[frames.Frame]:
        """Return the frames that the link sends now."""
        return parse(b"".join(self.link.data_to_send(budget, self.now)))


def lone_server(limits: LinkLimits = LIMITS, start: int = 1) -> Lone[ServerLink]:
    """Return a server's link on which nothing has come. *start* is its first conn_id."""
    return Lone(ServerLink(hello(limits), limits, NOW, StreamIds(start)))


def extended_server(limits: LinkLimits = LIMITS, initial_credit: int = 65536) -> Lone[ServerLink]:
    """Return a server's link after a HELLO with this *initial_credit*. Its own HELLO has been sent."""
    lone = lone_server(limits)
    lone.feed(raw_hello(initial_credit=initial_credit, capabilities=[WITHDRAW]))
    lone.sent()
    return lone


def reference_server(start: int = 1) -> Lone[ServerLink]:
    """Return a server's link after the INIT of a reference client."""
    lone = lone_server(start=start)
    lone.feed(raw(frames.INIT, 0, b"8080:127.0.0.1:80"))
    return lone


def lone_client(limits: LinkLimits = LIMITS) -> Lone[ClientLink]:
    """Return a client's link that has asked for tunnel 0, before anything has come."""
    lone = Lone(ClientLink(hello(limits), limits, NOW))
    lone.link.request_tunnel(0, REQUEST)
    return lone


def extended_client(limits: LinkLimits = LIMITS, initial_credit: int = 65536) -> Lone[ClientLink]:
    """Return a client's link with tunnel 0, after the server's HELLO. Its own frames have been sent."""
    lone = lone_client(limits)
    lone.feed(raw_hello(initial_credit=initial_credit, capabilities=[WITHDRAW]))
    lone.sent()
    return lone


def reference_client() -> Lone[ClientLink]:
    """Return a client's link with tunnel 0 at a reference server, which has opened and closed a stream."""
    lone = lone_client()
    lone.feed(raw(frames.NEW_CONN, 99), raw(frames.CLOSE_CONN, 99))
    lone.sent()
    return lone


def open_on_client(lone: Lone[ClientLink], conn_id: int = 7) -> Stream:
    """Open a stream for a visitor of tunnel 0 at this client."""
    payload = b'{"tunnel":0,"visitor":"192.0.2.1:5000"}' if lone.link.is_extended else b""
    (event,) = lone.feed(raw(frames.NEW_CONN, conn_id, payload))
    assert isinstance(event, StreamOpened)
    return event.stream


def open_on_server(lone: Lone[ServerLink]) -> Stream:
    """Open a stream for a visitor of tunnel 0 at this server. NEW_CONN has been sent."""
    stream = lone.link.open_stream(0, "192.0.2.1:5000")
    lone.sent()
    return stream


class Pair:
    """A client's and a server's link back to back.

    :param reference: drop both HELLOs, so that the ends take each other for reference programs.
    :param piece: hand in so many bytes at a time; 0: all at once.
    """

    def __init__(
        self, client: LinkLimits = LIMITS, server: LinkLimits = LIMITS, *, reference: bool = False, piece: int = 0
    ) -> None:
        self.now = NOW
        self.piece = piece
        self.ids = StreamIds(1)
        self.client = ClientLink(hello(client), client, NOW)
        self.server = ServerLink(hello(server), server, NOW, self.ids)
        self.client.request_tunnel(0, REQUEST)
        if reference:
            self.client.data_to_send(0, NOW)
            self.server.receive_data(raw(frames.INIT, 0, b"8080:127.0.0.1:80"), NOW)
            self.client.receive_data(raw(frames.CLOSE_CONN, 99), NOW)
        self.settle()
        assert self.client.mode is self.server.mode is (Mode.REFERENCE if reference else Mode.EXTENDED)
        self.client.take_events()
        self.server.take_events()

    def other(self, link: Link) -> Link:
        """Return the other end of *link*."""
        return self.server if link is self.client else self.client

    def carry(self, source: Link, budget: int = 65536) -> bytes:
        """Hand what *source* has to send to the other end at once."""
        data = b"".join(source.data_to_send(budget, self.now))
        target = self.other(source)
        for offset in range(0, len(data), self.piece or len(data) or 1):
            target.receive_data(data[offset : offset + (self.piece or len(data))], self.now)
        return data

    def settle(self) -> None:
        """Carry bytes both ways until neither end has any."""
        while self.client.has_data_to_send or self.server.has_data_to_send:
            self.carry(self.client)
            self.carry(self.server)

    def hop(self, seconds: float) -> None:
        """Hand what both ends have to send now to the other end, after *seconds*."""
        under_way = [(link, b"".join(link.data_to_send(1 << 30, self.now))) for link in (self.client, self.server)]
        self.now += seconds
        for source, data in under_way:
            self.other(source).receive_data(data, self.now)

    def open(self) -> tuple[Stream, Stream]:
        """Open a stream for a visitor. Return it at the server and at the client."""
        at_server = self.server.open_stream(0, "192.0.2.1:5000")
        self.settle()
        (event,) = only(self.client.take_events(), StreamOpened)
        return at_server, event.stream
