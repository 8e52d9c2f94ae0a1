"""Visitors on data connections of their own, under TLS."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.relay.dial import Dial
from rtunnel.relay.local_socket import LocalSocket
from rtunnel.reverse import public
from rtunnel.reverse.carriers import data_connections as data_server
from rtunnel.reverse.carriers.record_stream import RecordStream
from rtunnel.reverse.client import visits
from rtunnel.reverse.client.data_connections import DataConnections
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.upkeep import listening
from rtunnel.wire.data.keys import Ticket, connection_seals
from rtunnel.wire.data.tickets import MAX_ATTEMPTS
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.data import ATTACH, R_ALIVE, R_DATA, R_END, RANDOM, RECORD, Full, RawData, record
from tests.reverse.net import HOST, LocalService, Peer, connect, frame, turns, until
from tests.tls.parts import Authority, Ends, Holder, Lines

MIB = 1024 * 1024


class Tunnel:
    """A server and a client over TLS, whose visitors wait for data connections."""

    def __init__(self, ends: Ends, authority: Authority) -> None:
        self.ends = ends
        self.authority = authority
        self.holder = authority.client()
        self.port = free_port()
        self.service = LocalService(Peer)
        self.visitors: list[Peer] = []
        self.server: Any = None
        self.client: Any = None

    async def start(
        self,
        at_server: Mapping[str, Any] | None = None,
        at_client: Mapping[str, Any] | None = None,
        *,
        by_hand: bool = False,
        server: Holder | None = None,
        **more: Any,
    ) -> Tunnel:
        """Wait until there are data connections; if they are made *by hand*, until there are tickets for them."""
        await self.service.listen(self.service.port)
        authority = self.authority
        there = {"data_plane": "direct", **more, **(at_server or {})}
        self.server = self.ends.start_server(authority.trusts(server or authority.server()), **there)
        settings: dict[str, Any] = {"remote_port": self.port, "local": self.service.port, "data_plane": "direct"}
        self.client = self.ends.start_client(authority.trusts(self.holder), **(settings | more | dict(at_client or {})))
        await self.ends.lines.wait_for("is published")
        if by_hand:
            await until(lambda: len(self.server.tickets) == data_server.AT_FIRST, "tickets")
        else:
            await until(lambda: self.pool is not None and self.pool._idle, "a data connection that waits")
        return self

    @property
    def tickets(self) -> list[Ticket]:
        """Those that are out, from the oldest."""
        return [issued.ticket for issued in self.server.tickets._issued.values()]

    async def attach(self, ticket: Ticket, random: bytes = b"") -> RawData:
        """A data connection by hand."""
        data = RawData()
        random = random or os.urandom(RANDOM)
        cipher = self.pool._cipher
        data.agree = lambda theirs: connection_seals(ticket.key, random, theirs, cipher, is_client=True)
        self.visitors.append(data)
        await connect(self.ends.control, data)
        data.attach(ticket.id, random)
        return data

    async def stranger(self, said: bytes) -> Peer:
        """Somebody who says something on the control port."""
        peer = Peer()
        self.visitors.append(peer)
        await connect(self.ends.control, peer)
        peer.send(said)
        return peer

    @property
    def pool(self) -> Any:
        return next((session.carriers[0] for session in self.server.sessions if len(session.carriers) > 1), None)

    async def visit(self, **options: Any) -> tuple[Peer, Peer]:
        """A visitor, and its connection to the service."""
        count = len(self.service.peers)
        visitor = Peer(**options)
        self.visitors.append(visitor)
        await connect(self.port, visitor)
        return visitor, await self.service.peer(count)

    async def is_empty(self) -> None:
        """Nobody is relayed any more, and nothing is kept of those who were."""
        await until(lambda: not self.server.visitors and not self.client.visitors)
        await until(lambda: all(not session.link.stream_count for session in self.server.sessions))
        session = self.client.link.session
        await until(lambda: session is None or not session.link.stream_count)

    async def stop(self) -> None:
        for peer in (*self.service.peers, *self.visitors):
            if peer.connected:
                peer.abort()
        if self.service.listening is not None:
            await self.service.stop()


@pytest_twisted.async_yield_fixture
async def tunnel(ends: Ends, authority: Authority) -> AsyncIterator[Tunnel]:
    tunnel = Tunnel(ends, authority)
    yield tunnel
    await tunnel.stop()


@ensureDeferred
async def test_visitor_has_a_connection_of_its_own(tunnel: Tunnel, lines: Lines) -> None:
    await tunnel.start()
    visitor, peer = await tunnel.visit()
    assert [type(used) for used in tunnel.pool._used] == [LocalSocket]
    up, down = os.urandom(5 * MIB), os.urandom(3 * MIB)
    visitor.send(up)
    visitor.half_close()
    await until(lambda: peer.eof)
    assert bytes(peer.received) == up
    peer.send(down)
    peer.close()
    await visitor.has(down)
    await until(lambda: visitor.over)
    assert not visitor.was_reset
    await tunnel.is_empty()
    for _ in range(10):
        other, peer = await tunnel.visit()
        other.send(b"x")
        await peer.has(b"x")
    assert lines.text.count(": TLS 1.3, ") == 2, "one handshake, for the link"


@ensureDeferred
async def test_service_ends_first_and_the_visitor_goes_on(tunnel: Tunnel) -> None:
    await tunnel.start()
    visitor, peer = await tunnel.visit()
    peer.send(b"that is all from me")
    peer.half_close()
    await until(lambda: visitor.eof)
    up = os.urandom(3 * MIB)
    visitor.send(up)
    visitor.close()
    await until(lambda: peer.eof)
    assert bytes(peer.received) == up
    peer.close()
    await tunnel.is_empty()


@pytest.mark.parametrize("who", ["visitor", "service"])
@ensureDeferred
async def test_reset_goes_through(tunnel: Tunnel, who: str) -> None:
    await tunnel.start()
    visitor, peer = await tunnel.visit()
    visitor.send(b"half a request")
    await peer.has(b"half a request")
    one, other = (visitor, peer) if who == "visitor" else (peer, visitor)
    one.abort()
    await until(lambda: other.was_reset)
    await tunnel.is_empty()


@ensureDeferred
async def test_service_that_is_down(tunnel: Tunnel, lines: Lines) -> None:
    await tunnel.start()
    await tunnel.service.stop()
    visitor = Peer()
    await connect(tunnel.port, visitor)
    await until(lambda: visitor.was_reset)
    await lines.wait_for(r"does not answer \(connection refused\)")
    await tunnel.is_empty()
    tunnel.service.listening = await _listen_again(tunnel.service)


async def _listen_again(service: LocalService) -> Any:
    port = service.port
    await service.listen(port)
    return service.listening


@ensureDeferred
async def test_stalled_reader_is_bounded_and_holds_up_nobody(tunnel: Tunnel) -> None:
    await tunnel.start()
    visitor, peer = await tunnel.visit(keep=False)
    visitor.stop_reading()
    sent = 0

    class Source:
        def resumeProducing(self) -> None:
            nonlocal sent
            if sent < 256 * MIB:
                sent += 65536
                peer.send(bytes(65536))

        def stopProducing(self) -> None:
            pass

    peer.transport.registerProducer(Source(), False)
    before = -1
    while sent != before:
        before = sent
        await turns(200)
    # What waits, waits in the kernels of four sockets.
    assert sent < 128 * MIB
    other, its_peer = await tunnel.visit()
    its_peer.send(b"here")
    await other.has(b"here")
    visitor.read_on()
    await until(lambda: visitor.count == sent == 256 * MIB)
    peer.transport.unregisterProducer()
    for each in (visitor, other, peer, its_peer):
        each.close()
    await tunnel.is_empty()


# What the ends prove to each other


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client makes no data connections itself."""
    monkeypatch.setattr(DataConnections, "_make", lambda _self: None)


@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_visitor_over_sealed_records(tunnel: Tunnel) -> None:
    await tunnel.start(by_hand=True)
    data = await tunnel.attach(tunnel.tickets[0])
    await data.is_taken()
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    await until(lambda: len(tunnel.server.visitors) == 1)
    await turns()
    assert data.visitor is None, "the client has proved nothing yet"
    assert not tunnel.pool._idle
    assert len(tunnel.tickets) >= data_server.AT_FIRST
    data.say(R_ALIVE)
    assert await data.is_used() == (0, visitor.name)
    visitor.send(b"GET /")
    await data.has_stream(b"GET /")
    answer = os.urandom(100_000)
    data.say(R_DATA, answer)
    await visitor.has(answer)
    data.say(R_END)
    await until(lambda: visitor.eof)


@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_connection_that_is_cut_is_a_reset_and_no_end(tunnel: Tunnel) -> None:
    await tunnel.start(by_hand=True)
    data = await tunnel.attach(tunnel.tickets[0])
    await data.is_taken()
    data.say(R_ALIVE)
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    await data.is_used()
    data.say(R_DATA, b"half an answer")
    await visitor.has(b"half an answer")
    data.close()
    await until(lambda: visitor.was_reset)


@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_replayed_attach_gets_nothing(tunnel: Tunnel, lines: Lines) -> None:
    """Anybody on the path sees it. He has so many attempts, and the client still has its connection."""
    await tunnel.start(by_hand=True)
    ticket = tunnel.tickets[0]
    random = os.urandom(RANDOM)
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    await until(lambda: len(tunnel.server.visitors) == 1)
    data = await tunnel.attach(ticket, random)
    await data.is_taken()
    strangers = [await tunnel.stranger(frame(ATTACH, 0, ticket.id + random)) for _ in range(MAX_ATTEMPTS - 1)]
    answer = RANDOM + RECORD.size + 16
    await until(lambda: all(stranger.count == answer for stranger in strangers))
    assert len({bytes(stranger.received) for stranger in strangers}) == len(strangers), "none is like another"
    one_more = await tunnel.stranger(frame(ATTACH, 0, ticket.id + random))
    await one_more.ends()
    assert not one_more.count
    await lines.wait_for("its ticket is unknown, was used, or has expired")
    assert not any(stranger.over for stranger in strangers)
    data.say(R_ALIVE)
    assert await data.is_used() == (0, visitor.name)
    # The ticket is spent: nothing is kept for who else has shown it.
    for stranger in strangers:
        await stranger.ends()
        assert stranger.count == answer
    assert not tunnel.pool._unproved


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_header_that_announces_much_counts(tunnel: Tunnel, is_used: bool, lines: Lines) -> None:
    """Eight bytes make the server take as much memory as the record will need, and its budget knows at once."""
    await tunnel.start(by_hand=True)
    data = await tunnel.attach(tunnel.tickets[0])
    await data.is_taken()
    data.say(R_ALIVE)
    await until(lambda: tunnel.pool._idle)
    if is_used:
        visitor = Peer()
        tunnel.visitors.append(visitor)
        await connect(tunnel.port, visitor)
        await data.is_used()
    memory = tunnel.server.memory
    assert sum(held for held, _ in tunnel.pool.holdings()) < MIB / 8
    memory.total, memory.look_at = MIB // 8, MIB // 4
    data.send(RECORD.pack(R_DATA << 24 | 256 * 1024 + 16, data.number))
    if is_used:
        await data.is_reset()
        memory.look()  # that was the stream; this is the connection
    await data.ends()
    await lines.wait_for("memory is used up")


@pytest.mark.parametrize(
    "said",
    [
        record(R_ALIVE),
        record(R_DATA, 1, b"x"),
        record(R_ALIVE, 0, bytes(16)),
        record(R_ALIVE, 0, bytes(64 + 16 + 1)),
        RECORD.pack(R_DATA << 24 | 0xFFFFFF, 1),
        b"",
    ],
)
@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_who_does_not_have_the_key(tunnel: Tunnel, said: bytes, lines: Lines) -> None:
    """Neither plain records nor made-up ones get anywhere; whoever says nothing is closed in the end."""
    limits = LinkLimits(keepalive_interval=0.1, dead_after=0.5)
    await tunnel.start({"limits": limits}, by_hand=True)
    pool, ticket = tunnel.pool, tunnel.tickets[0]
    stranger = await tunnel.stranger(frame(ATTACH, 0, ticket.id + bytes(RANDOM)))
    await until(lambda: stranger.count)
    stranger.send(said)
    await stranger.ends()
    assert not pool._idle
    assert not pool._busy
    assert ticket in tunnel.tickets, "the client can still use it"
    if said:
        await lines.wait_for("a data connection is closed: a (sealed record of|record that is not authentic)")
    data = await tunnel.attach(ticket)
    await data.is_taken()
    data.say(R_ALIVE)
    await until(lambda: pool._idle)


@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_plain_attach_where_records_are_sealed(tunnel: Tunnel, lines: Lines) -> None:
    await tunnel.start(by_hand=True)
    ticket = tunnel.tickets[0]
    stranger = await tunnel.stranger(frame(ATTACH, 0, ticket.id))
    await stranger.ends()
    assert not stranger.count
    await lines.wait_for("data connection from .* closed: one end seals its records, and the other does not")
    assert ticket in tunnel.tickets


@pytest.mark.parametrize("how", ["repeated", "changed", "left out", "plain"])
@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_record_that_somebody_on_the_path_has_touched(tunnel: Tunnel, how: str, lines: Lines) -> None:
    await tunnel.start(by_hand=True)
    data = await tunnel.attach(tunnel.tickets[0])
    await data.is_taken()
    data.say(R_ALIVE)
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    await data.is_used()
    sent: list[bytes] = []
    send, data.send = data.send, sent.append  # type: ignore[method-assign,assignment]
    data.say(R_DATA, b"one")
    data.say(R_DATA, b"two")
    first, second = sent
    send(first)
    await visitor.has(b"one")
    if how == "repeated":
        send(first)
    elif how == "changed":
        send(second[:-17] + bytes([second[-17] ^ 1]) + second[-16:])
    elif how == "left out":
        data.say(R_DATA, b"three")
        send(sent[-1])
    else:
        send(record(R_DATA, 1, b"forged by somebody"))
    await data.ends()
    await until(lambda: visitor.was_reset)
    assert visitor.received == b"one"
    await lines.wait_for("a data connection is closed: a record that is not authentic")


@pytest.mark.usefixtures("by_hand")
@ensureDeferred
async def test_ticket_of_another_client(tunnel: Tunnel, lines: Lines) -> None:
    """Who has a link of his own can do no more with it than a stranger."""
    await tunnel.start(by_hand=True)
    mine = tunnel.tickets
    other = tunnel.authority.client("other")
    tunnel.ends.start_client(tunnel.authority.trusts(other), remote_port=free_port(), data_plane="direct")
    await until(lambda: len(tunnel.tickets) == 2 * data_server.AT_FIRST)
    theirs = tunnel.tickets[-1]
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    random = os.urandom(RANDOM)
    intruder = await tunnel.stranger(frame(ATTACH, 0, mine[0].id + random))
    await until(lambda: intruder.count)
    answer = bytes(intruder.received[:RANDOM])
    seal, _ = connection_seals(theirs.key, random, answer, tunnel.pool._cipher, is_client=True)
    header, sealed = RECORD.pack(R_ALIVE << 24 | 16, 0), bytearray(16)
    seal.seal(header, b"", memoryview(sealed))
    intruder.send(header + sealed)
    await intruder.ends()
    await lines.wait_for("a data connection is closed: a record that is not authentic")
    assert not visitor.over


# What becomes of the link's certificate


@pytest.mark.parametrize("who", ["server", "client"])
@ensureDeferred
async def test_certificate_that_expires(tunnel: Tunnel, authority: Authority, who: str, lines: Lines) -> None:
    end = timedelta(seconds=4)
    if who == "client":
        tunnel.holder = authority.client(end=end)
    await tunnel.start(server=authority.server(end=end) if who == "server" else None)
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    name = "laptop" if who == "client" else "server"
    await lines.wait_for(f"closed by us: unauthorized: the certificate of '{name}' expired on ")
    await until(lambda: visitor.was_reset and peer.was_reset)
    await until(lambda: not tunnel.server.sessions)
    await tunnel.is_empty()


@ensureDeferred
async def test_client_that_has_lost_its_rights(tunnel: Tunnel, tmp_path: Path, lines: Lines) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop:\n")
    await tunnel.start({"admission": AdmissionSettings(clients)})
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    clients.write_text("phone:\n")
    await until(lambda: visitor.was_reset and peer.was_reset)
    await until(lambda: not tunnel.server.sessions)
    await tunnel.is_empty()


@ensureDeferred
async def test_revoked_client_loses_its_data_connections_too(tunnel: Tunnel, lines: Lines) -> None:
    await tunnel.start()
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    tunnel.authority.revoke(tunnel.holder)
    await lines.wait_for("the certificate of 'laptop' is revoked")
    await until(lambda: visitor.was_reset and peer.was_reset)
    await until(lambda: not tunnel.server.sessions)
    await tunnel.is_empty()


@pytest.mark.parametrize("who", ["server", "client"])
@ensureDeferred
async def test_end_that_goes_down_lets_running_visitors_finish(tunnel: Tunnel, who: str) -> None:
    await tunnel.start(drain=20.0)
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    stopped = tunnel.ends.stop(getattr(tunnel, who))
    down = os.urandom(4 * MIB)
    peer.send(down)
    peer.close()
    finishing = until(lambda: visitor.eof)
    await finishing
    visitor.close()
    await stopped
    assert bytes(visitor.received) == down


@ensureDeferred
async def test_visitor_who_cannot_be_watched(tunnel: Tunnel) -> None:
    """The system has no more for it; the data connection takes the next one."""
    await tunnel.start()
    await until(lambda: len(tunnel.pool._idle) == data_server.AT_FIRST)
    tunnel.server.poller = Full(poller := tunnel.server.poller)
    visitor = Peer()
    await connect(tunnel.port, visitor)
    await until(lambda: visitor.was_reset)
    await tunnel.is_empty()
    tunnel.server.poller = poller
    again = Peer()
    tunnel.visitors.append(again)
    await connect(tunnel.port, again)
    again.send(b"x")
    await until(lambda: any(peer.received == b"x" for peer in tunnel.service.peers))


@ensureDeferred
async def test_waiting_connections_are_kept_alive(tunnel: Tunnel) -> None:
    limits = LinkLimits(keepalive_interval=0.1, dead_after=0.5)
    await tunnel.start(limits=limits)
    await until(lambda: len(tunnel.pool._idle) == data_server.AT_FIRST)
    kept = set(tunnel.pool._idle)
    await turns(800)
    assert set(tunnel.pool._idle) == kept
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    await turns(800)
    assert not visitor.over
    visitor.close()
    peer.close()
    await tunnel.is_empty()


class HeldDial(Dial):
    """One to a service that takes its time, until :attr:`held` is empty again."""

    __slots__ = ()
    held: ClassVar[list[Callable[[], None]]] = []
    address: ClassVar[Any]

    def wait(self, sock: socket.socket) -> None:
        sock.close()
        self.held.append(lambda: self.start(*HeldDial.address))

    @classmethod
    def begin(cls, *address: Any) -> tuple[socket.socket, bool]:
        cls.address = address
        return socket.socket(), False


@pytest.mark.parametrize("relayed_by", ["kernel", "Twisted"])
@pytest.mark.parametrize("request_", [b"", b"request"])
@ensureDeferred
async def test_visitor_who_ends_before_the_service_is_there(
    tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch, request_: bytes, relayed_by: str
) -> None:
    monkeypatch.setattr(visits, "Dial", HeldDial)
    monkeypatch.setattr(visits, "begin", HeldDial.begin)
    await tunnel.start()
    if relayed_by == "Twisted":
        monkeypatch.setattr(visits, "has_socket", lambda _transport: False)
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    visitor.send(request_)
    visitor.half_close()
    await until(lambda: tunnel.client.visitors)
    (visit,) = tunnel.client.visitors._ends
    await until(lambda: visit.has_ended)
    start = HeldDial.held.pop()
    if relayed_by == "Twisted":
        tunnel.client.link.session.data._visits.dial_endpoint(visit)
    else:
        start()
    peer = await tunnel.service.peer()
    await until(lambda: peer.eof)
    assert bytes(peer.received) == request_
    answer = os.urandom(MIB)
    peer.send(answer)
    peer.close()
    await visitor.has(answer)
    await until(lambda: visitor.over)
    assert not visitor.was_reset
    await tunnel.is_empty()


@ensureDeferred
async def test_ends_whose_sockets_cannot_be_had(tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor and a service as below Twisted's TLS: Twisted has its part again."""
    monkeypatch.setattr(listening, "give_sockets", lambda _port, _factory: None)
    monkeypatch.setattr(public, "has_socket", lambda _transport: False)
    monkeypatch.setattr(visits, "has_socket", lambda _transport: False)
    tunnel.service.port = free_port()
    local = DialAddress.parse(f"localhost:{tunnel.service.port}")
    await tunnel.start(
        {"public_listen": ListenAddress.parse(f"{HOST}:0")},
        {"tunnels": (TunnelSettings(0, local),)},
    )
    tunnel.port = tunnel.server.shared._port.getHost().port
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    sent, answer = os.urandom(MIB), os.urandom(3 * MIB)
    visitor.send(sent)
    peer = await tunnel.service.peer()
    assert [type(used) for used in tunnel.pool._used] == [RecordStream]
    await peer.has(sent)
    peer.send(answer)
    await visitor.has(answer)
    visitor.close()
    await peer.ends()
    peer.close()
    await tunnel.is_empty()
