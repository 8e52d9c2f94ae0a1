"""Visitors on data connections of their own, under TLS."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

import pytest
import pytest_twisted
from OpenSSL import SSL
from pytest_twisted import ensureDeferred

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.relay.dial import Dial
from rtunnel.relay.direct import DirectRelay
from rtunnel.relay.sockets import PROBE_AFTER
from rtunnel.reverse import public
from rtunnel.reverse.carriers import data_connections as data_server
from rtunnel.reverse.carriers.raw_stream import RawStream
from rtunnel.reverse.carriers.sockets import Taker
from rtunnel.reverse.client import visits
from rtunnel.reverse.client.tls_dialler import TlsDialler
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.tls.engine import TlsEngine
from rtunnel.upkeep import listening
from rtunnel.wire import frames
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.data import Full
from tests.reverse.net import HOST, LocalService, Peer, connect, reactor, turns, until
from tests.tls.parts import Authority, Ends, Lines

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
        self, at_server: Mapping[str, Any] | None = None, at_client: Mapping[str, Any] | None = None, **more: Any
    ) -> Tunnel:
        await self.service.listen(self.service.port)
        authority = self.authority
        there = {"data_plane": "direct", **more, **(at_server or {})}
        self.server = self.ends.start_server(authority.trusts(authority.server()), **there)
        settings: dict[str, Any] = {"remote_port": self.port, "local": self.service.port, "data_plane": "direct"}
        self.client = self.ends.start_client(authority.trusts(self.holder), **(settings | more | dict(at_client or {})))
        await self.ends.lines.wait_for("is published")
        await until(lambda: self.pool is not None and self.pool._idle, "a data connection that waits")
        return self

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
        assert not self.server.ids._live

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
    assert [type(used) for used in tunnel.pool._used] == [DirectRelay]
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
    assert "a whole handshake" not in lines.text


@pytest.mark.parametrize("how", ["resumed", "a whole handshake"])
@ensureDeferred
async def test_one_line_for_each_link_whatever_its_data_connections_cost(
    tunnel: Tunnel, lines: Lines, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how != "resumed":
        monkeypatch.setattr(TlsEngine, "session", None)
    await tunnel.start()
    await until(lambda: len(tunnel.pool._idle) == data_server.AT_FIRST)
    said: dict[str, list[str]] = {"link": [], "data connection": []}
    for event in lines.events:
        kind = str(event.get("log_format")).partition(" {peer}: TLS 1.3")[0]
        if kind in said:
            said[kind].append(event["log_level"].name)
            assert kind == "link" or event["how"] == how
    assert said == {"link": ["info"] * 2, "data connection": ["debug"] * 2 * data_server.AT_FIRST}


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


class Intruder:
    """Shows a ticket on a connection of its own."""

    def __init__(self, ticket: str) -> None:
        self.ticket = ticket
        self.said = b""
        self.over = False

    def connected(self, wire: Any) -> None:
        self.wire = wire
        wire.send(frames.encode_frame(frames.ATTACH, 0, self.ticket.encode()))

    def received(self, data: bytes) -> None:
        self.said += data

    def lost(self, _why: str) -> None:
        self.over = True


@pytest.mark.parametrize("own", [True, False])
@ensureDeferred
async def test_ticket_is_good_for_the_certificate_of_its_link_only(tunnel: Tunnel, own: bool, lines: Lines) -> None:
    await tunnel.start()
    pool = tunnel.pool
    # Otherwise its own connections would be taken for this one.
    await until(lambda: len(pool._idle) == pool._fewest)
    (ticket,) = tunnel.server.tickets.issue(pool, 1, reactor.seconds())
    authority = tunnel.authority
    holder = tunnel.holder if own else authority.client("intruder")
    settings = authority.trusts(holder, server_name=HOST)
    dialler = TlsDialler(reactor, settings, 5.0)
    endpoint = DialAddress.parse(f"{HOST}:{tunnel.ends.control}").endpoint(reactor, 5.0)
    user = Intruder(ticket)
    before = len(pool._idle)
    await dialler.connect_data(endpoint, lambda: Taker(tunnel.client.link.poller, user))
    if own:
        await until(lambda: len(pool._idle) + len(pool._asked) > before)
        user.wire.cut()
        return
    await until(lambda: user.over)
    assert user.said == b""
    await lines.wait_for("its ticket was given to another client")
    assert len(pool._idle) + len(pool._asked) <= before
    assert not tunnel.server.tickets.outstanding(pool, reactor.seconds())
    assert "'intruder'" not in "".join(str(session.peer_name) for session in tunnel.server.sessions)


@ensureDeferred
async def test_plain_connection_with_a_good_ticket(tunnel: Tunnel) -> None:
    await tunnel.start()
    (ticket,) = tunnel.server.tickets.issue(tunnel.pool, 1, reactor.seconds())
    peer = Peer()
    await connect(tunnel.ends.control, peer)
    peer.send(frames.encode_frame(frames.ATTACH, 0, ticket.encode()))
    await until(lambda: peer.over)
    peer.abort()
    assert tunnel.server.tickets.outstanding(tunnel.pool, reactor.seconds()) == 1


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
    """The system has no more for it; the data connection goes with it."""
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
    for data in kept:
        # By PINGs, and only so: the kernel would cut one whose reader stalls.
        below = data.wire._socket._socket
        assert below.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        assert below.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PROBE_AFTER
    await turns(800)
    assert {*tunnel.pool._idle, *tunnel.pool._asked} == kept
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    (used,) = tunnel.pool._used
    assert isinstance(used, DirectRelay)
    below = used._left.socket._socket  # type: ignore[attr-defined]
    assert below.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 1, "as on the link, to the next second"
    visitor.close()
    peer.close()
    await tunnel.is_empty()


class HeldDial(Dial):
    """One to a service that takes its time, until :attr:`held` is empty again."""

    __slots__ = ()
    held: ClassVar[list[Callable[[], None]]] = []

    def start(self, family: int, address: Any) -> None:
        start = super().start
        self.held.append(lambda: start(family, address))


@pytest.mark.parametrize("relayed_by", ["kernel", "Twisted"])
@pytest.mark.parametrize("request_", [b"", b"request"])
@ensureDeferred
async def test_visitor_who_ends_before_the_service_is_there(
    tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch, request_: bytes, relayed_by: str
) -> None:
    monkeypatch.setattr(visits, "Dial", HeldDial)
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
    await until(lambda: not visit.is_watched)
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
    assert [type(used) for used in tunnel.pool._used] == [RawStream]
    await peer.has(sent)
    peer.send(answer)
    await visitor.has(answer)
    visitor.close()
    await peer.ends()
    peer.close()
    await tunnel.is_empty()


@ensureDeferred
async def test_nothing_of_openssl_waits_for_the_garbage_collector(tunnel: Tunnel) -> None:
    """It sees only what Python holds, and so would let hundreds of megabytes of it lie."""

    def connections() -> int:
        return sum(isinstance(each, SSL.Connection) for each in gc.get_objects())

    await tunnel.start()
    await until(lambda: len(tunnel.pool._idle) == data_server.AT_FIRST)
    gc.collect()
    gc.disable()
    try:
        before = connections()
        for _ in range(10):
            visitor, peer = await tunnel.visit()
            visitor.send(b"x")
            await peer.has(b"x")
            visitor.close()
            await peer.ends()
            peer.close()
        await tunnel.is_empty()
        await until(lambda: len(tunnel.pool._idle) == data_server.AT_FIRST)
        await until(lambda: connections() == before)
    finally:
        gc.enable()
