"""A client and a host whose path fails, and what becomes of their streams."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from rtunnel.rtc.aiortc.sessions import consent
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.peers import host_peer
from rtunnel.rtc.peers.client_peer import ClientPeer
from rtunnel.rtc.peers.host_peer import HostPeer
from rtunnel.wire.webrtc.signaling import OFFER, Extension, Signal, description_payload
from tests.reverse.net import Peer, turns, until
from tests.rtc.host_parts import ByHand
from tests.rtc.signaling.reference_server import ReferenceSignalServer
from tests.rtc.world import World


def silence(end: RtcClient | RtcHost) -> None:
    """What comes to the present addresses of an end is lost from now on."""
    peers = end.peers if isinstance(end, RtcHost) else [end.peer]
    for peer in peers:
        assert peer is not None
        for protocol in peer.connection._ice._protocols:
            port: Any = protocol
            port.datagram_received = lambda data, addr: None
            port.records_received = lambda data, segment, addr: None


def silence_signaling(end: RtcClient | RtcHost) -> None:
    """Nothing comes or goes over its present connection to the signaling server, and nobody is told."""
    connection: Any = end.signaling.connection
    connection.dataReceived = lambda data: None
    connection.sendData = lambda *arguments, **named: None


class Ends:
    """A client with a visitor, and a host."""

    def __init__(self, client: RtcClient, host: RtcHost, visitor: Peer) -> None:
        self.client = client
        self.host = host
        self.visitor = visitor

    @classmethod
    async def make(cls, rtc: World, server: Any = None) -> Ends:
        server, service = server or rtc.signal(), await rtc.echo()
        host = rtc.host(server, service.port)
        client = rtc.client(server)
        await rtc.connected(client)
        await until(lambda: any(peer.is_connected for peer in host.peers), "the host")
        ends = cls(client, host, await rtc.visitor(client))
        await ends.echo(b"before")
        return ends

    async def echo(self, text: bytes) -> None:
        before = bytes(self.visitor.received)
        self.visitor.send(text)
        await self.visitor.has(before + text)


@pytest.mark.parametrize("without", ["", "client", "host"])
@pytest_twisted.ensureDeferred
async def test_streams_go_on_over_another_path(rtc: World, without: str) -> None:
    """Also when the signaling of an end has failed with it, and nothing says so."""
    ends = await Ends.make(rtc)
    identity = ends.client.signaling.identity
    for end in (ends.client, ends.host):
        silence(end)
    if without:
        silence_signaling(ends.client if without == "client" else ends.host)
    await ends.echo(b"after")
    await rtc.lines.wait_for("the path to host 'cottage' no longer works")
    await rtc.lines.wait_for("the path to host 'cottage' has changed: direct, ")
    await rtc.lines.wait_for(f"the path to client '{identity}' has changed: direct, ")
    assert " lost: the peer" not in rtc.lines.text
    assert rtc.lines.text.count("connected to host") == 1
    assert ("does not answer any more, and nor does a peer" in rtc.lines.text) == bool(without)


@pytest_twisted.ensureDeferred
async def test_signaling_that_was_lost_on_the_way_to_a_connection(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client comes back with its ID, so the host knows whose path has failed later."""
    take_answer = ClientPeer.take_answer
    cut: list[bool] = []

    def take_it_and_lose_signaling(peer: ClientPeer, payload: object) -> None:
        take_answer(peer, payload)
        if not cut:
            cut.append(peer.is_connected)
            peer._signaling.connection.transport.abortConnection()  # type: ignore[union-attr]

    monkeypatch.setattr(ClientPeer, "take_answer", take_it_and_lose_signaling)
    ends = await Ends.make(rtc)
    await until(lambda: ends.client.signaling.up, "signaling again")
    assert cut == [False]
    for end in (ends.client, ends.host):
        silence(end)
    await ends.echo(b"after")
    assert rtc.lines.text.count("connected to host") == 1


@pytest_twisted.ensureDeferred
async def test_without_signaling_the_connection_is_lost(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "DEAD_AFTER", 3)
    server = rtc.signal()
    port = rtc.port_of(server)
    ends = await Ends.make(rtc, server)
    await rtc.stop(server)
    silence(ends.client)
    await ends.visitor.ends()
    assert ends.visitor.was_reset
    await rtc.lines.wait_for("host 'cottage' lost: the peer no longer answers")
    rtc.signal(port)
    ends.visitor = await rtc.visitor(ends.client)
    await ends.echo(b"again")


@pytest_twisted.ensureDeferred
async def test_a_host_that_knows_no_restarts(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "DEAD_AFTER", 3)
    monkeypatch.setattr(HostPeer, "extension", Extension(65536, seal=True))
    ends = await Ends.make(rtc)
    silence(ends.host)
    await ends.visitor.ends()
    await rtc.lines.wait_for("host 'cottage' lost: the peer no longer answers")
    ends.visitor = await rtc.visitor(ends.client)
    await ends.echo(b"again")
    assert "has changed" not in rtc.lines.text


@pytest_twisted.ensureDeferred
async def test_a_reference_server(rtc: World) -> None:
    """It gives no ID to anybody a second time, so the client comes with another one, which the host does not know."""
    server = rtc.start(ReferenceSignalServer(rtc.visitor.__globals__["reactor"]))
    ends = await Ends.make(rtc, server.port)
    assert ends.client.signaling.is_reference
    before = ends.client.signaling.identity
    connection: Any = ends.client.signaling.connection
    connection.transport.abortConnection()
    await until(lambda: ends.client.signaling.identity != before, "another ID")
    assert ends.client.peer is not None
    assert not ends.client.peer.may_restart
    await ends.echo(b"after")


@pytest_twisted.ensureDeferred
async def test_a_host_that_has_given_the_connection_up(rtc: World) -> None:
    """It was stopped, say, or its machine slept. The client does not wait until it is sure that nobody answers."""
    ends = await Ends.make(rtc)
    silence(ends.client)
    silence(ends.host)
    for peer in list(ends.host.peers):
        peer.give_up("a test")
    await rtc.lines.wait_for("host 'cottage' lost: the peer has given this connection up")
    ends.visitor = await rtc.visitor(ends.client)
    await ends.echo(b"again")


@pytest_twisted.ensureDeferred
async def test_a_client_that_offers_again_and_again(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server, service = rtc.signal(), await rtc.echo()
    host = rtc.host(server, service.port)
    await rtc.registered(host)
    client = await ByHand(host).connect()
    offers: list[str] = []
    monkeypatch.setattr(client, "description_ready", lambda kind, sdp: offers.append(sdp))
    for number in range(30):
        client.connection.restart()
        await until(lambda: len(offers) > number, "an offer")  # noqa: B023
        client.tell(OFFER, description_payload(OFFER, host_parts_description(offers[-1])))
        client.connection._sessions.give_up_next()
    await turns(20)
    assert len(client.answers) <= 1 + host_peer.RESTARTS_AT_ONCE + 1
    (peer,) = host.peers
    assert len(list(peer.connection._sessions.agents)) <= 3
    assert peer.is_connected
    await client.connection.close()


def host_parts_description(sdp: str) -> Any:
    from rtunnel.wire.webrtc.signaling import Description

    return Description(sdp, Extension(65536))


@pytest_twisted.ensureDeferred
async def test_bad_messages_in_a_restart(rtc: World) -> None:
    ends = await Ends.make(rtc)
    peer = ends.client.peer
    assert peer is not None
    peer.connection.restart()
    for kind in ("answer", "candidate", "error"):
        for payload in (None, {"sdp": {"type": "answer", "sdp": "v=0"}}, {"candidate": {"candidate": "x"}}):
            ends.client.signal_received(Signal(kind, payload, "", "cottage"))
    await ends.echo(b"after")
    await rtc.lines.wait_for("the path to host 'cottage' has changed")


@pytest_twisted.ensureDeferred
async def test_an_address_that_is_gone(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits until something is not answered."""
    ends = await Ends.make(rtc)
    monkeypatch.setattr("rtunnel.rtc.aiortc.addresses._addresses", lambda: frozenset({"192.0.2.1"}))
    await rtc.lines.wait_for("signaling lost: this machine has no longer the address of the connection")
    await rtc.lines.wait_for("the path to host 'cottage' has changed")
    assert "no longer works" not in rtc.lines.text
    await ends.echo(b"after")
