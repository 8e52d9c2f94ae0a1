"""``rtc-host`` in this process: how many clients there may be, and what those that come and go leave."""

from __future__ import annotations

import asyncio
import re

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from rtunnel.errors import Code
from rtunnel.rtc import host as host_module, offers
from rtunnel.rtc.aiortc import addresses as local, peer_connection
from rtunnel.rtc.offers import MAX_CONNECTING, OFFERS_AT_ONCE
from rtunnel.wire.limits import ChannelLimits
from rtunnel.wire.webrtc.channel_messages import decode_control
from rtunnel.wire.webrtc.signaling import (
    ANSWER,
    CANDIDATE,
    ERROR,
    OFFER,
    Candidate,
    Description,
    Signal,
    candidate_payload,
    description_payload,
)
from tests.reverse.net import reactor, turns, until
from tests.rtc.aiortc.ice_parts import open_sockets
from tests.rtc.fakes import log_limiter
from tests.rtc.host_parts import PAYLOADS, ByHand
from tests.rtc.world import ID, World


@pytest_twisted.ensureDeferred
async def test_more_clients_on_their_way_than_there_may_be_connected(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port, max_clients=1)
    await rtc.registered(host)
    peers = [ByHand(host, name) for name in ("one", "two", "three")]
    for peer in peers:
        peer.connection.offer()
    await until(lambda: all(peer.told for peer in peers), "their offers")
    await rtc.lines.wait_for(r"lost: there is no room for it \(--max-clients\)")
    await until(lambda: len(host._peers) == 1, "one that stays")
    assert (host.history.connected["direct"], host.history.failed["limit"]) == (1, 2)
    assert next(iter(host._peers.values())).is_connected
    for peer in peers:
        await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_a_client_that_stays_silent_gives_way(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "SILENT_FOR", 0.05)
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    host._places = 2
    # Nobody says that ghosts do not exist.
    monkeypatch.setattr(host.signaling, "send", lambda signal: True)
    peer = ByHand(host)
    peer.connection.offer()
    await until(lambda: ("connected",) in peer.told, "a client that is connected")
    offer = description_payload(OFFER, Description(str(peer.told[0][1]), None))
    for number in range(3):
        host.signal_received(Signal(OFFER, offer, ID, f"ghost {number}"))
    assert list(host._peers) == [peer.name, "ghost 0", "ghost 1"]
    another = await ByHand(host, "another").connect()
    await rtc.lines.wait_for("client ghost 0 lost: it gives way to others that want to connect")
    await rtc.lines.wait_for("client ghost 1 lost: it gives way to others that want to connect")
    assert (host.history.connected["direct"], host.history.failed["limit"]) == (2, 2)
    await peer.open()
    await another.open()
    for one in (peer, another):
        await one.connection.close()


@pytest_twisted.ensureDeferred
async def test_an_offer_that_waits_is_forgotten_when_its_client_leaves(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    host._places = 0
    peer = ByHand(host)
    peer.connection.offer()
    await until(lambda: len(host._turns.waiting), "an offer that waits")
    candidate = Candidate("candidate:1 1 udp 1 127.0.0.1 5000 typ host")
    host.signal_received(Signal(CANDIDATE, candidate_payload(candidate), ID, peer.name))
    waiting = host._turns.waiting.get(peer.name)
    assert waiting is not None
    assert waiting.candidates == [candidate]
    assert not host._early
    host.signal_received(Signal(ERROR, "gone", "", peer.name))
    await until(lambda: not len(host._turns.waiting) and host._turns._next is None, "nobody to wait")
    assert not host._peers
    # And whatever waits when the host stops is forgotten too.
    peer.description_ready(OFFER, str(peer.told[0][1]))
    assert len(host._turns.waiting) == 1
    await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_with_few_descriptors_few_are_on_their_way(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "descriptor_limit", lambda: 64)
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    assert host._places == 8


@pytest_twisted.ensureDeferred
async def test_all_clients_are_shown_one_certificate(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    peers = [await ByHand(host, name).connect() for name in ("one", "two")]
    prints = [re.findall("a=fingerprint:.*", peer.answers[0].sdp) for peer in peers]
    assert prints[0] == prints[1] != []
    for peer in peers:
        await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_clients_that_come_and_go_cannot_fill_the_log(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    host.log_limiter = log_limiter(most=1)
    await rtc.registered(host)
    for number in range(3):
        peer = await ByHand(host, f"guest {number}").connect()
        await peer.connection.close()
        await until(lambda: not host._peers, "it to be forgotten")
    text = rtc.log.text()
    assert (text.count("client guest 0 connected"), text.count("client guest 0 lost")) == (1, 1)
    assert "guest 1" not in text


@pytest_twisted.ensureDeferred
async def test_another_offer_of_a_client_replaces_the_first(rtc: World) -> None:
    service = await rtc.echo()
    host = rtc.host(rtc.signal(), service.port)
    await rtc.registered(host)
    one = await ByHand(host).connect()
    _, user = await one.open()
    await service.peer()
    again = await ByHand(host).connect()
    await until(lambda: user.told[-1] == "closed", "the end of the first")
    await until(lambda: service.peers[0].lost, "the service to know")
    assert len(host._peers) == 1
    await again.open()
    for peer in (one, again):
        await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_offers_one_after_the_other_leave_no_socket(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(local, "_all_addresses", lambda: iter([("lo", f"127.0.0.{number}") for number in range(1, 5)]))
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    peer = ByHand(host)
    monkeypatch.setattr(peer, "got", lambda signal: None)
    peer.connection.offer()
    await until(lambda: peer.told, "an offer")
    before = open_sockets()
    for number in range(30):
        peer.description_ready(OFFER, str(peer.told[0][1]))
        await turns(number % 3)
    host.signal_received(Signal(ERROR, "gone", "", peer.name))
    await until(lambda: not host._peers and not host._leaving, "the end of the last")
    await until(lambda: open_sockets() <= before, "all sockets to be closed")
    await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_a_host_that_stops_waits_for_peers_that_never_came_about(
    rtc: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    peer = ByHand(host)
    monkeypatch.setattr(peer, "got", lambda signal: None)
    peer.connection.offer()
    await until(lambda: peer.told, "an offer")
    peer.description_ready(OFFER, str(peer.told[0][1]))
    assert len(host._leaving) == 1
    await host._leaving.closed()
    assert not host._leaving
    await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_a_hundred_clients_that_vanish(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.5)
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    peer = ByHand(host, "offers")
    peer.connection.offer()
    await until(lambda: ("connected",) in peer.told, "one that does not vanish")
    before = open_sockets()
    offer = description_payload(OFFER, Description(str(peer.told[0][1]), None))
    for number in range(150):
        host.signal_received(Signal(OFFER, offer, ID, f"ghost {number}"))
    assert OFFERS_AT_ONCE <= len(host._peers) <= 1 + MAX_CONNECTING
    assert len(host._peers) + len(host._turns.waiting) == 1 + 150
    await until(lambda: len(host._peers) == 1 and not len(host._turns.waiting), "all of them to be given up")
    await until(lambda: open_sockets() <= before and not host._leaving, "their sockets to be closed")
    await peer.open()
    await peer.connection.close()
    left = [task for task in asyncio.all_tasks(reactor._asyncioEventloop) if "ghost" in repr(task)]
    assert not left


@pytest_twisted.ensureDeferred
async def test_an_error_about_a_client_ends_only_what_is_not_connected(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    one = await ByHand(host, "one").connect()
    two = ByHand(host, "two")
    two.got = lambda signal: None  # type: ignore[method-assign]
    two.connection.offer()
    await until(lambda: len(host._peers) == 2, "both")
    for name in ("one", "two", "three", ""):
        host.signal_received(Signal(ERROR, "'x' is gone", "", name))
    assert list(host._peers) == ["one"]
    await until(lambda: host._peers["one"].is_connected, "the first")
    host.signal_received(Signal(ERROR, "'one' is gone", "", "one"))
    await one.open()
    for peer in (one, two):
        await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_candidates_of_clients_that_never_offer_are_bounded(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    for number in range(500):
        for port in range(1, 50):
            candidate = Candidate(f"candidate:1 1 udp 1 127.0.0.1 {port} typ host")
            host.signal_received(Signal(CANDIDATE, candidate_payload(candidate), ID, f"ghost {number}"))
    assert len(host._early) <= host_module.EARLY_CLIENTS
    assert all(len(kept) <= host_module.EARLY_CANDIDATES for kept in host._early.values())
    host.signal_received(Signal(CANDIDATE, {"candidate": {"candidate": "x" * 60_000}}, ID, "large"))
    host.signal_received(Signal(CANDIDATE, {"candidate": [[]] * 60_000}, ID, "large"))
    assert "large" not in host._early


@pytest_twisted.ensureDeferred
async def test_candidates_before_their_offer_are_used(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    peer = ByHand(host)
    ready = peer.description_ready

    def without_candidates(kind: str, sdp: str) -> None:
        lines = sdp.split("\r\n")
        for line in lines:
            if line.startswith("a=candidate:"):
                peer.tell(CANDIDATE, candidate_payload(Candidate(line[2:])))
        ready(kind, "\r\n".join(line for line in lines if not line.startswith("a=candidate:")))

    peer.description_ready = without_candidates  # type: ignore[method-assign]
    await peer.connect()
    assert not host._early
    await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_no_signal_raises_and_all_of_it_costs_nothing(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    peer = await ByHand(host, "fine").connect()
    for kind in (OFFER, ANSWER, CANDIDATE, ERROR, "register-host"):
        for sender in ("fresh", "", "x" * 128):
            for payload in PAYLOADS:
                host.signal_received(Signal(kind, payload, ID, sender))
    assert list(host._peers) == ["fine"]
    assert not host._leaving, "nothing is made for an offer that cannot be used"
    assert not len(host._turns.waiting)
    for payload in PAYLOADS:
        host.signal_received(Signal(CANDIDATE, payload, ID, "fine"))
        host.signal_received(Signal(ANSWER, payload, ID, "fine"))
    await peer.open()
    await peer.connection.close()
    await rtc.lines.wait_for("client fresh sent an unusable message: ")


@pytest_twisted.ensureDeferred
async def test_signaling_that_is_lost_costs_no_client(rtc: World) -> None:
    server, echo = rtc.signal(), await rtc.echo()
    host = rtc.host(server, echo.port)
    client = rtc.client(server)
    await rtc.connected(client)
    visitor = await rtc.visitor(client)
    visitor.send(b"before")
    await visitor.has(b"before")
    port = rtc.port_of(server)
    await rtc.stop(server)
    await until(lambda: not host.signaling.up and not client.signaling.up, "signaling to be lost")
    visitor.send(b" after")
    await visitor.has(b"before after")
    late = await rtc.visitor(client)
    late.send(b"new")
    await late.has(b"new")
    rtc.signal(port)
    await rtc.registered(host)
    other = rtc.client(port)
    await rtc.connected(other)


@pytest_twisted.ensureDeferred
async def test_a_host_id_that_is_taken(rtc: World) -> None:
    server, echo = rtc.signal(), await rtc.echo()
    first = rtc.host(server, echo.port)
    await rtc.registered(first)
    second = rtc.host(server, echo.port)
    await rtc.lines.wait_for(f"the ID '{ID}' is in use")
    assert not second.signaling.up
    await rtc.stop(first)
    await rtc.registered(second)


@pytest_twisted.ensureDeferred
async def test_a_host_that_stops_lets_streams_finish_and_takes_no_new_ones(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.service()
    host = rtc.host(server, service.port)
    await rtc.registered(host)
    peer = await ByHand(host).connect()
    channel, user = await peer.open()
    there = await service.peer()
    stopping = host.stopService()
    await until(lambda: not server.switchboard.hosts, "the ID to be free")
    peer.tell(OFFER, None)
    _, refused = await peer.open("tcp-late")
    await until(lambda: refused.told[-1] == "closed", "a refusal")
    assert decode_control(refused.told[1].encode()).reset == Code.SHUTTING_DOWN
    channel.send(b"last words")
    await there.has(b"last words")
    there.send(b"answer")
    await until(lambda: b"answer" in user.told, "an answer")
    channel.send_text('{"fin": 10}')
    await until(lambda: there.eof, "our end")
    there.close()
    await until(lambda: user.told[-1] == "closed", "the end of the stream")
    await stopping
    await until(lambda: peer.told[-1][0] == "lost", "the end")
    rtc._services.remove(host)
    await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_more_streams_than_there_may_be(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.echo()
    host = rtc.host(server, service.port, limits=ChannelLimits(max_streams=2))
    client = rtc.client(server)
    await rtc.connected(client)
    visitors = [await rtc.visitor(client) for _ in range(2)]
    for visitor in visitors:
        visitor.send(b"x")
        await visitor.has(b"x")
    third = await rtc.visitor(client)
    await third.ends()
    assert third.was_reset
    visitors[0].close()
    await until(lambda: host.streams_left() == 1, "room")
    await deferLater(reactor, 0)
    fourth = await rtc.visitor(client)
    fourth.send(b"y")
    await fourth.has(b"y")
