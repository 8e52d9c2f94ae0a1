"""``rtc-client`` in this process: local connections that wait, hosts that come and go, and what hosts can say to it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytest_twisted

from rtunnel.addresses import DialAddress
from rtunnel.rtc import client as client_module
from rtunnel.rtc.aiortc import checks, peer_connection
from rtunnel.rtc.aiortc.sessions import consent
from rtunnel.rtc.settings import ForwardSettings, ServiceSettings
from rtunnel.wire.limits import ChannelLimits
from rtunnel.wire.webrtc.signaling import ANSWER, CANDIDATE, ERROR, OFFER, Candidate, Signal, candidate_payload
from tests.ports import free_port
from tests.reverse.net import HOST, Peer, turns, until
from tests.rtc.aiortc.ice_parts import open_sockets
from tests.rtc.fakes import FakeChannelUser
from tests.rtc.host_parts import PAYLOADS, forward
from tests.rtc.udp.parts import Program
from tests.rtc.world import ID, World, attempts, udp


@pytest_twisted.ensureDeferred
async def test_a_host_that_does_not_exist_is_asked_for_again_and_said_once(rtc: World) -> None:
    rtc.client(rtc.signal())
    await until(lambda: attempts(rtc) >= 4, "four attempts")
    assert rtc.lines.text.count("#warn] host") == 1
    await rtc.lines.wait_for(f"host '{ID}' cannot be reached: there is no '{ID}'; next attempt in ")


@pytest_twisted.ensureDeferred
async def test_local_connections_wait_for_a_host_that_comes_later(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.service()
    client = rtc.client(server)
    visitors = [await rtc.visitor(client) for _ in range(5)]
    for number, visitor in enumerate(visitors):
        visitor.send(b"%d" % number)
    visitors[1].half_close()
    await until(lambda: len(client._waiting) == 5, "them to wait")
    rtc.host(server, service.port)
    await until(lambda: len(service.peers) == 5, "all of them")
    await until(lambda: sorted(bytes(peer.received) for peer in service.peers) == [b"0", b"1", b"2", b"3", b"4"])
    ended = next(peer for peer in service.peers if peer.received == b"1")
    await until(lambda: ended.eof, "the end of one direction")
    ended.send(b"answer")
    await visitors[1].has(b"answer")
    assert not client._waiting


def has_something(peer: Peer) -> bool:
    return bool(peer.received) or peer.over


@pytest_twisted.ensureDeferred
async def test_who_goes_away_while_waiting_leaves_nothing(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.service()
    client = rtc.client(server)
    closed, reset, stays = [await rtc.visitor(client) for _ in range(3)]
    for visitor in (closed, reset, stays):
        visitor.send(b"x")
    await until(lambda: len(client._waiting) == 3, "them to wait")
    closed.close()
    reset.abort()
    await turns(10)
    host = rtc.host(server, service.port)
    await rtc.connected(client)
    await until(lambda: len(service.peers) >= 2, "those that are not reset")
    for peer in service.peers:
        await until(partial(has_something, peer), "what they sent")

    def one_is_left() -> bool:
        # The service closes when its caller has: as it would without a tunnel.
        for peer in service.peers:
            if peer.eof:
                peer.close()
        return len(client.visitors) == 1

    await until(one_is_left, "one to be left")
    await until(lambda: len(host.visitors) == 1 and host.streams_left() == 1, "one to be left at the host")
    assert not stays.lost


@pytest_twisted.ensureDeferred
async def test_services_that_the_host_does_not_offer_or_cannot_reach(rtc: World) -> None:
    closed = free_port()
    server, echo = rtc.signal(), await rtc.echo()
    rtc.host(
        server, ServiceSettings("ours", udp(echo.port)), ServiceSettings("gone", DialAddress.parse(f"{HOST}:{closed}"))
    )
    ports = {name: free_port() for name in ("", "ours")}
    udp_forwards = [ForwardSettings(name, udp(port)) for name, port in ports.items()]
    client = rtc.client(server, *(forward(name) for name in ("other", "ours", "", "gone")), *udp_forwards)
    await rtc.connected(client)
    for number, why in enumerate(
        (
            "it does not offer the service 'other' over tcp",
            "it does not offer the service 'ours' over tcp",
            "it does not offer a service without a name over tcp",
            "it cannot reach the service 'gone'",
        )
    ):
        visitor = await rtc.visitor(client, number)
        await visitor.ends()
        assert visitor.was_reset
        await rtc.lines.wait_for(f"host '{ID}' refuses a connection: {why}")
    assert rtc.lines.text.count("refuses a connection") == 4
    program = Program()
    try:
        program.send(b"x", (HOST, ports[""]))
        why = "the host refuses them: it does not offer a service without a name over udp"
        await rtc.lines.wait_for(f"UDP datagrams at {HOST}:{ports['']} are dropped: {why}")
    finally:
        program.close()


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_ever(rtc: World) -> None:
    client = rtc.client(rtc.signal(), wait_timeout=0.3)
    visitor = await rtc.visitor(client)
    await visitor.ends()
    assert visitor.was_reset
    assert not client._waiting
    await until(lambda: not client.visitors, "it to be forgotten")
    await rtc.lines.wait_for(f"a local connection is closed: host '{ID}' is not connected")


@pytest_twisted.ensureDeferred
async def test_no_more_wait_than_there_may_be_streams(rtc: World) -> None:
    client = rtc.client(rtc.signal(), limits=ChannelLimits(max_streams=2))
    visitors = [await rtc.visitor(client) for _ in range(3)]
    await until(lambda: any(visitor.lost for visitor in visitors), "one to be refused")
    await turns(5)
    assert sum(visitor.lost is not None for visitor in visitors) == 1
    assert len(client._waiting) == 2


@pytest_twisted.ensureDeferred
async def test_who_waits_does_not_sit_out_the_back_off(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "KNOCK", 0.1)
    server, service = rtc.signal(), await rtc.echo()
    client = rtc.client(server)
    await until(lambda: attempts(rtc) == 1, "an attempt")
    # As after an outage.
    assert client._retry is not None
    client._retry.reset(1000.0)
    host = rtc.host(server, service.port)
    await rtc.registered(host)
    visitor = await rtc.visitor(client)
    visitor.send(b"x")
    await visitor.has(b"x")


@pytest_twisted.ensureDeferred
async def test_a_host_that_goes_and_comes_back(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.echo()
    host = rtc.host(server, service.port)
    client = rtc.client(server)
    await rtc.connected(client)
    visitor = await rtc.visitor(client)
    visitor.send(b"x")
    await visitor.has(b"x")
    await rtc.stop(host)
    await visitor.ends()
    assert visitor.was_reset
    await rtc.lines.wait_for("host 'cottage' lost: the peer closed the connection")
    waits = await rtc.visitor(client)
    waits.send(b"y")
    rtc.host(server, service.port)
    await waits.has(b"y")
    assert rtc.lines.text.count("connected to host 'cottage': direct, 127.0.0.1:") == 2


@pytest_twisted.ensureDeferred
async def test_a_host_that_falls_silent(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "DEAD_AFTER", 1)
    server, service = rtc.signal(), await rtc.echo()
    host = rtc.host(server, service.port)
    client = rtc.client(server)
    await rtc.connected(client)
    await until(lambda: host._peers and all(peer.is_connected for peer in host._peers.values()), "the host")
    visitor = await rtc.visitor(client)
    (peer,) = host._peers.values()
    for protocol in peer.connection._ice._protocols:
        monkeypatch.setattr(protocol, "datagram_received", lambda data, addr: None)
    await visitor.ends()
    assert visitor.was_reset
    await rtc.lines.wait_for("host 'cottage' lost: the peer no longer answers")
    late = await rtc.visitor(client)
    late.send(b"x")
    await late.has(b"x")


@pytest_twisted.ensureDeferred
async def test_a_host_whose_answer_leads_nowhere(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.2)
    server, service = rtc.signal(), await rtc.echo()
    host = rtc.host(server, service.port)
    take = host.signal_received
    deaf = True

    def received(signal: Any) -> None:
        take(signal)
        if deaf:
            for peer in list(host._peers.values()):
                peer.connection._ice.request_received = lambda *message: None  # type: ignore[method-assign]

    monkeypatch.setattr(host, "signal_received", received)
    before = open_sockets()
    client = rtc.client(server)
    await until(lambda: attempts(rtc) >= 3, "three attempts")
    deaf = False
    await rtc.connected(client)
    await until(lambda: not client._leaving and not host._leaving, "the others to be closed")
    # One at each end.
    await until(lambda: open_sockets() <= before + 2, "their sockets to be closed")


@pytest_twisted.ensureDeferred
async def test_no_signal_raises(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.echo()
    client = rtc.client(server)
    await rtc.registered(client)
    for sender in (ID, "somebody", ""):
        for kind in (ANSWER, CANDIDATE, ERROR, OFFER, "register-host"):
            for payload in PAYLOADS:
                client.signal_received(Signal(kind, payload, "", sender))
    rtc.host(server, service.port)
    await rtc.connected(client)
    peer = client._peer
    for sender in (ID, "somebody", ""):
        for kind in (ANSWER, CANDIDATE, ERROR, OFFER):
            for payload in PAYLOADS:
                client.signal_received(Signal(kind, payload, "", sender))
    for port in range(1, 1000):
        candidate = Candidate(f"candidate:1 1 udp 1 192.0.2.1 {port} typ host")
        client.signal_received(Signal(CANDIDATE, candidate_payload(candidate), "", ID))
    assert client._peer is peer
    visitor = await rtc.visitor(client)
    visitor.send(b"x")
    await visitor.has(b"x")
    assert peer is not None
    assert len(peer.connection._ice.remote_candidates) <= checks.MAX_REMOTE_CANDIDATES


@pytest_twisted.ensureDeferred
async def test_nobody_but_the_host_is_listened_to(rtc: World) -> None:
    server = rtc.signal()
    client = rtc.client(server)
    await rtc.registered(client)
    await until(lambda: client._peer is not None, "an attempt")
    peer = client._peer
    client.signal_received(Signal(ERROR, "gone", "", "somebody"))
    client.signal_received(Signal(ANSWER, None, "", "somebody"))
    assert client._peer is peer
    client.signal_received(Signal(ERROR, "gone\nfor ever", "", ID))
    assert client._peer is None
    await rtc.lines.wait_for("cannot be reached: gone.*for ever; next attempt")
    assert "gone\nfor" not in rtc.lines.text


@pytest_twisted.ensureDeferred
async def test_channels_that_a_host_opens_are_closed(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.echo()
    host = rtc.host(server, service.port)
    client = rtc.client(server)
    await rtc.connected(client)
    await until(lambda: any(peer.is_connected for peer in host._peers.values()), "the host")
    (peer,) = host._peers.values()
    users = [FakeChannelUser() for _ in range(20)]
    for user in users:
        peer.connection.open_channel("tcp-back", "").use(user)
    await until(lambda: all(user.told[-1:] == ["closed"] for user in users), "all to be closed")
    await until(lambda: client._peer is not None and not client._peer.connection._channels._channels, "none left")


@pytest_twisted.ensureDeferred
async def test_a_service_that_the_host_does_not_have(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.echo()
    rtc.host(server, service.port)
    client = rtc.client(server, forward(""), forward("none"), ForwardSettings("", udp(0)))
    await rtc.connected(client)
    visitor = await rtc.visitor(client, 1)
    await visitor.ends()
    assert visitor.was_reset
    await rtc.lines.wait_for("was reset: unknown-service")
    # Datagrams for a service of TCP: the flow is refused, each time anew, and nothing else happens.
    program, where = Program(), int(client.forwards.udp[0].listener.local_address.rpartition(":")[2])
    try:
        for _ in range(3):
            program.send(b"x", (HOST, where))
            await until(lambda: client.forwards.udp[0]._flows == {}, "no flow")
            await turns(5)
    finally:
        program.close()
    good = await rtc.visitor(client, 0)
    good.send(b"x")
    await good.has(b"x")


@pytest_twisted.ensureDeferred
async def test_signaling_that_comes_later(rtc: World) -> None:
    service, port = await rtc.echo(), free_port()
    client = rtc.client(port)
    visitor = await rtc.visitor(client)
    visitor.send(b"x")
    await rtc.lines.wait_for("cannot reach signaling server")
    rtc.signal(port)
    rtc.host(port, service.port)
    await visitor.has(b"x")


@pytest_twisted.ensureDeferred
async def test_signaling_that_is_lost_while_both_connect(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server, service = rtc.signal(), await rtc.echo()
    port = rtc.port_of(server)
    rtc.host(server, service.port)
    client = rtc.client(server)
    await until(lambda: client._peer is not None and client._peer.is_answered, "an answer")
    await rtc.stop(server)
    # Host candidates are in the descriptions: that is all it takes.
    await rtc.connected(client)
    rtc.signal(port)
    await rtc.registered(client)
    await rtc.lines.wait_for("connected to host 'cottage'")
    assert rtc.lines.text.count("connected to host 'cottage'") == 1


@pytest_twisted.ensureDeferred
async def test_a_client_that_stops_lets_connections_finish(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.service()
    rtc.host(server, service.port)
    client = rtc.client(server)
    await rtc.connected(client)
    visitor = await rtc.visitor(client)
    visitor.send(b"request")
    there = await service.peer()
    await there.has(b"request")
    port = rtc.local_port(client)
    stopping = client.stopService()
    rtc._services.remove(client)
    await rtc.lines.wait_for("waiting up to 5 s for 1 visitors")
    there.send(b"response")
    there.close()
    await visitor.has(b"response")
    visitor.close()
    await stopping
    assert not await can_connect(port)


async def can_connect(port: int) -> bool:
    from twisted.internet.error import ConnectionRefusedError

    from tests.reverse.net import connect

    try:
        peer = await connect(port, Peer())
    except ConnectionRefusedError:
        return False
    peer.abort()
    return True
