"""A host and a client in this process, over loopback, and whoever runs the signaling server between them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from rtunnel.access.identities import ephemeral_identity
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.peers.rights import ClientRights
from rtunnel.access.trust import Verdict
from rtunnel.control.rtc import client as client_view, host as host_view
from rtunnel.errors import Code
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.settings import ForwardSettings, IdentitySettings, ServiceSettings
from rtunnel.wire.webrtc.seal_control import LABEL
from rtunnel.wire.webrtc.signaling import ANSWER, OFFER, Signal
from tests.ports import free_port
from tests.reverse.net import HOST, Peer, until
from tests.rtc.host_parts import ByHand, forward
from tests.rtc.sealed.middle import Middle, change_what_comes, without
from tests.rtc.sealed.parts import Says
from tests.rtc.test_host import web
from tests.rtc.test_restarts import silence
from tests.rtc.udp.parts import Echo, Program
from tests.rtc.world import ID, World, udp

GROUP = "X25519MLKEM768, ML-DSA-65, "


class Both:
    """A host with a service that echoes, and a client; they are not connected until both are made.

    :param closed: which of them says that it accepts nobody but whom it knows.
    """

    def __init__(self, rtc: World, host: RtcHost, client: RtcClient, service: Any) -> None:
        self.rtc = rtc
        self.host, self.client = host, client
        self.service = service

    @classmethod
    async def make(cls, rtc: World, *closed: str) -> Both:
        service = await rtc.echo()
        server = rtc.signal()
        host = rtc.host(server, service.port)
        await rtc.registered(host)
        client = rtc.client(server)
        for name, end in (("host", host), ("client", client)):
            if name in closed:
                end.sealing.trust = Says()
        return cls(rtc, host, client, service)

    async def echo(self, text: bytes = b"hello") -> Peer:
        visitor = await self.rtc.visitor(self.client)
        visitor.send(text)
        await visitor.has(text)
        return visitor


@pytest_twisted.ensureDeferred
async def test_both_ends_say_how_they_are_sealed(rtc: World) -> None:
    both = await Both.make(rtc)
    await rtc.connected(both.client)
    await both.echo()
    names = [show_fingerprint(end.sealing.identity.fingerprint) for end in (both.host, both.client)]
    await rtc.lines.wait_for(f"connected to host '{ID}': direct, .*; sealed {GROUP}{names[0]}")
    await rtc.lines.wait_for(f"client .* connected: direct, .*; sealed {GROUP}{names[1]}")
    assert "does not seal" not in rtc.lines.text
    at_host, at_client = host_view.look(both.host)["peers"][0], client_view.look(both.client)["peer"]
    for shown, end in ((at_host, both.client), (at_client, both.host)):
        fingerprint = end.sealing.identity.fingerprint
        name = show_fingerprint(fingerprint)
        sealed = {"group": "X25519MLKEM768", "hedge": [], "signature": "ML-DSA-65", "name": name}
        assert shown["sealed"] == {**sealed, "fingerprint": fingerprint}


@pytest_twisted.ensureDeferred
async def test_udp(rtc: World) -> None:
    echo, program = Echo(), Program()
    server = rtc.signal()
    rtc.host(server, ServiceSettings("dns", udp(echo.address[1])))
    client = rtc.client(server, replace(forward("dns"), local=udp(0)))
    try:
        await rtc.connected(client)
        [flows] = client.forwards.udp
        host, _, port = flows.listener.local_address.rpartition(":")
        for size in (0, 1, 1200, 9000):
            program.send(bytes(size), (host, int(port)))
            data, _ = await program.gets()
            assert data == bytes(size)
        assert client._peer is not None
        assert client._peer.sealed is not None
        assert client._peer.sealed.channels.datagrams_forged == 0
    finally:
        program.close()
        await echo.close()


@pytest_twisted.ensureDeferred
async def test_an_ice_restart_keeps_it(rtc: World) -> None:
    both = await Both.make(rtc)
    await rtc.connected(both.client)
    visitor = await both.echo(b"before")
    assert both.client._peer is not None
    sealed = both.client._peer.sealed
    for end in (both.client, both.host):
        silence(end)
    visitor.send(b"after")
    await visitor.has(b"beforeafter")
    await both.echo()
    assert both.client._peer.sealed is sealed
    assert rtc.lines.text.count("connected to host") == 1


@pytest.mark.parametrize("extended", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_seal(rtc: World, extended: bool) -> None:
    """An open host serves it, and says so; a closed one refuses it."""
    service = await rtc.echo()
    host = rtc.host(rtc.signal(), service.port)
    await rtc.registered(host)
    peer = await ByHand(host, extended=extended).connect()
    try:
        channel, user = await peer.open()
        channel.send(b"hello")
        await until(lambda: b"hello" in user.told, "an echo")
        await rtc.lines.wait_for(
            "client by hand does not seal its channels: whoever runs the signaling server can read and change what "
            "they carry; update it, or refuse all such clients with --authorized-clients"
        )
        assert host_view.look(host)["peers"][0]["sealed"] is None
        host.sealing.trust = Says()
        await rtc.lines.wait_for("client by hand lost: its channels are not sealed, and are not accepted any more")
    finally:
        await peer.connection.close()
    refused = ByHand(host, extended=extended)
    refused.got = lambda signal: refused.told.append((signal.type, signal.payload))  # type: ignore[method-assign]
    refused.connection.offer()
    try:
        await rtc.lines.wait_for("client by hand is refused: its offer does not say that it seals its channels; ")
        [answer] = [line[1] for line in refused.told if line[0] == ANSWER]
        assert isinstance(answer, dict)
        assert answer["refused"] == "unauthorized"
        assert "sdp" not in answer
    finally:
        await refused.connection.close()


@pytest_twisted.ensureDeferred
async def test_a_host_that_is_closed_while_a_client_comes_that_does_not_seal(rtc: World) -> None:
    """It was answered while the host was open, and carries nothing, not even for a second."""
    service = await rtc.echo()
    host = rtc.host(rtc.signal(), service.port)
    await rtc.registered(host)
    peer = ByHand(host)
    answered = peer.got

    def got(signal: Signal) -> None:
        host.sealing.trust = Says()
        answered(signal)

    peer.got = got  # type: ignore[method-assign]
    await peer.connect()
    try:
        channel = peer.connection.open_channel("tcp-x", "", True)
        channel.send(b"secret")
        await rtc.lines.wait_for("client by hand lost: its channels are not sealed, and are not accepted any more")
    finally:
        await peer.connection.close()
    assert not service.peers
    assert "client by hand connected" not in rtc.lines.text


# Room


@pytest_twisted.ensureDeferred
async def test_a_client_with_all_connections_gives_way_to_another(rtc: World, tmp_path: Path) -> None:
    """Whoever may use a host cannot keep others out of it, under however many IDs he comes."""
    tmp_path.chmod(0o700)
    service, server = await rtc.echo(), rtc.signal()
    host = rtc.host(server, service.port, max_clients=2)
    await rtc.registered(host)

    def client(name: str) -> RtcClient:
        return rtc.client(server, identity=IdentitySettings(tmp_path / name))

    crowd = [client("greedy"), client("greedy")]
    for each in crowd:
        await rtc.connected(each)
    third = client("greedy")
    await rtc.lines.wait_for(r"2 clients, the limit \(--max-clients\): others are not answered")
    await rtc.stop(third)
    modest = client("modest")
    await rtc.connected(modest)
    await rtc.lines.wait_for("client .* lost: it gives way to another client, as this one has several connections")
    visitor = await rtc.visitor(modest)
    visitor.send(b"hello")
    await visitor.has(b"hello")
    other = client("other")
    await rtc.lines.wait_for(r"2 clients, the limit \(--max-clients\)", rtc.lines.text.count("the limit (--max"))
    await rtc.stop(other)
    assert modest.peer is not None
    assert modest.peer.is_connected


# Refusals


@pytest.mark.parametrize("side", ["host", "client"])
@pytest_twisted.ensureDeferred
async def test_whoever_is_not_known_is_refused(rtc: World, side: str) -> None:
    both = await Both.make(rtc)
    end = both.host if side == "host" else both.client
    end.sealing.trust = Says("nobody knows it")
    if side == "host":
        await rtc.lines.wait_for("client .* lost: it is refused: nobody knows it")
        await rtc.lines.wait_for(f"host '{ID}' cannot be reached: the host refuses this client: nobody knows it; next")
    else:
        await rtc.lines.wait_for(f"host '{ID}' cannot be reached: it is refused: nobody knows it; next attempt")
        await rtc.lines.wait_for("client .* lost: the client refuses this host: nobody knows it")
    assert not both.service.peers
    assert "connected to host" not in rtc.lines.text
    assert " connected: " not in rtc.lines.text


@pytest_twisted.ensureDeferred
async def test_files_of_the_ends(rtc: World, tmp_path: Path) -> None:
    """What the settings say: a host whose clients are listed, and a client that has another key than the pin."""
    service = await rtc.echo()
    server = rtc.signal()
    clients = tmp_path / "authorized_clients"
    clients.write_text("")
    clients.chmod(0o600)
    host = rtc.host(server, service.port, identity=IdentitySettings(authorized_clients=clients))
    await rtc.registered(host)
    pin = ephemeral_identity().fingerprint
    rtc.client(server, identity=IdentitySettings(host_keys=(pin,)))
    await rtc.lines.wait_for("THE HOST HAS ANOTHER IDENTITY")
    client = rtc.client(server, identity=IdentitySettings(host_keys=(host.sealing.identity.fingerprint,)))
    short = show_fingerprint(client.sealing.identity.fingerprint)
    await rtc.lines.wait_for(f"the host refuses this client: .*{short}, is not in authorized_clients")
    assert not service.peers


@pytest_twisted.ensureDeferred
async def test_both_ends_say_that_datagrams_are_not_allowed(rtc: World) -> None:
    server, port = rtc.signal(), free_port()
    host = rtc.host(server, ServiceSettings("dns", udp(port)))
    trust = host.sealing.trust = Says()
    trust.verdict = Verdict(name="laptop", rights=ClientRights(services=frozenset({"web"})))
    local = free_port()
    client = rtc.client(server, ForwardSettings("dns", udp(local)))
    await rtc.connected(client)
    program = Program()
    try:
        program.send(b"x", (HOST, local))
        await rtc.lines.wait_for("client .* is refused a connection: this client may not use the service dns")
        why = "the host refuses them: this client may not use the service dns"
        await rtc.lines.wait_for(f"UDP datagrams at {HOST}:{local} are dropped: {why}")
    finally:
        program.close()


@pytest_twisted.ensureDeferred
async def test_rights_hold_for_each_channel(rtc: World) -> None:
    service = await rtc.echo()
    server = rtc.signal()
    host = rtc.host(server, web("one", service.port), web("two", service.port))
    trust = host.sealing.trust = Says()
    trust.verdict = Verdict(name="laptop", rights=ClientRights(services=frozenset({"one"}), streams=2))
    client = rtc.client(server, forward("one"), forward("two"))
    await rtc.connected(client)
    visitors = [await rtc.visitor(client, 0) for _ in range(2)]
    for visitor in visitors:
        visitor.send(b"hello")
        await visitor.has(b"hello")
    refused = await rtc.visitor(client, 1)
    await refused.ends()
    await rtc.lines.wait_for("client .* is refused a connection: this client may not use the service two")
    await rtc.lines.wait_for(f"host '{ID}' refuses a connection: this client may not use the service two")
    third = await rtc.visitor(client, 0)
    await third.ends()
    await rtc.lines.wait_for("client .* is refused a connection: this client may have 2 connections at once")
    assert len(service.peers) == 2
    # Within a second of it, what it may not have any more ends, and nothing else.
    trust.verdict = Verdict(name="laptop", rights=ClientRights(services=frozenset({"two"})))
    for visitor in visitors:
        await visitor.ends()
    visitor = await rtc.visitor(client, 1)
    visitor.send(b"hello")
    await visitor.has(b"hello")
    trust.verdict = Verdict("it is not a friend any more", Code.UNAUTHORIZED, "laptop")
    await visitor.ends()
    await rtc.lines.wait_for(f"host '{ID}' lost: the host refuses this client: it is not a friend any more")


# Whoever runs the signaling server


@pytest.mark.parametrize("closed", ["", "host", "client"])
@pytest_twisted.ensureDeferred
async def test_somebody_between_the_ends(rtc: World, closed: str) -> None:
    """He has certificates of DTLS for both ends, and passes all on. Both ends see it, also if they trust everybody."""
    both = await Both.make(rtc, closed)
    middle = Middle(both.host, both.client)
    try:
        visitor = await rtc.visitor(both.client)
        visitor.send(b"secret")
        await rtc.lines.wait_for("client .* lost: .*somebody sits between this end and the (client|host)", 20)
        await rtc.lines.wait_for(f"host '{ID}' (cannot be reached|lost): .*somebody sits between this end and the ")
        assert not both.service.peers
    finally:
        await rtc.stop(both.client)
        await middle.close()


@pytest.mark.parametrize("key", ["seal", ""])
@pytest.mark.parametrize("closed", ["host", "client"])
@pytest_twisted.ensureDeferred
async def test_an_announcement_that_is_stripped(rtc: World, key: str, closed: str) -> None:
    """Both ends refuse where one of them is closed."""
    both = await Both.make(rtc, closed)
    for end in (both.host, both.client):
        change_what_comes(end, without(key))
    visitor = await rtc.visitor(both.client)
    visitor.send(b"secret")
    if closed == "host":
        await rtc.lines.wait_for("client .* is refused: its offer does not say that it seals its channels; .*somebody")
        await rtc.lines.wait_for(
            f"host '{ID}' cannot be reached: it refuses this client: it takes sealed connections only"
        )
    else:
        await rtc.lines.wait_for(
            f"host '{ID}' cannot be reached: the answer does not say that it seals its channels, and"
        )
    assert not both.service.peers
    assert "connected to host" not in rtc.lines.text


@pytest_twisted.ensureDeferred
async def test_an_offer_that_is_stripped(rtc: World) -> None:
    """The host believes that the client does not seal; the client knows from the answer that the host does."""
    both = await Both.make(rtc)
    change_what_comes(both.host, without("seal"))
    visitor = await rtc.visitor(both.client)
    visitor.send(b"secret")
    await rtc.lines.wait_for("client .* lost: it seals its channels, and its offer did not say so: somebody on the way")
    await rtc.lines.wait_for(f"host '{ID}' cannot be reached: ")
    assert not both.service.peers


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_stripped(rtc: World) -> None:
    """The client believes that the host does not seal; the host knows from the offer that the client does."""
    both = await Both.make(rtc)
    change_what_comes(both.client, without("seal"))
    visitor = await rtc.visitor(both.client)
    visitor.send(b"secret")
    await rtc.lines.wait_for(f"host '{ID}' does not seal its channels: whoever runs the signaling server can read")
    await rtc.lines.wait_for(f"host '{ID}' refuses a connection: this connection is to be sealed, and a channel is not")
    await rtc.lines.wait_for("client .* lost: it is refused: this connection is to be sealed, and a channel is not")
    assert not both.service.peers


@pytest_twisted.ensureDeferred
async def test_offers_and_answers_that_are_reflected_repeated_and_out_of_order(rtc: World) -> None:
    """It ends in attempts that fail, and goes on when he has had enough."""
    both = await Both.make(rtc, "host", "client")
    kept: list[Signal] = []
    is_over = False

    def confuse(signal: Signal) -> list[Signal]:
        if is_over:
            return [signal]
        kept.append(signal)
        return [*kept[::-1], *kept[:3]]

    for end in (both.host, both.client):
        change_what_comes(end, confuse)
    await rtc.visitor(both.client)
    await until(lambda: len(kept) > 4, "some signals")
    is_over = True
    await until(lambda: both.client._peer is not None and both.client._peer.is_connected, "a connection")
    await both.echo()
    assert {signal.type for signal in kept} >= {OFFER}


@pytest_twisted.ensureDeferred
async def test_a_client_that_opens_channels_first(rtc: World) -> None:
    """It announces to seal, and does not: nothing reaches the service."""
    service = await rtc.echo()
    host = rtc.host(rtc.signal(), service.port)
    await rtc.registered(host)
    peer = ByHand(host)
    assert peer.extension is not None
    peer.extension = replace(peer.extension, seal=True)
    await peer.connect()
    try:
        channel, user = await peer.open()
        channel.send(b"secret")
        await until(lambda: user.told[-1] == "closed", "a refusal")
        assert "somebody on the way" in str(user.told[1])
        await rtc.lines.wait_for(
            "client by hand lost: it is refused: this connection is to be sealed, and a channel is not"
        )
    finally:
        await peer.connection.close()
    assert not service.peers


@pytest.mark.parametrize("what", [b"", b"\x16\x03\x01", b"\1" * 1217, bytes(100_000)], ids=len)
@pytest_twisted.ensureDeferred
async def test_a_client_that_speaks_no_tls(rtc: World, what: bytes) -> None:
    service = await rtc.echo()
    host = rtc.host(rtc.signal(), service.port)
    await rtc.registered(host)
    peer = ByHand(host)
    assert peer.extension is not None
    peer.extension = replace(peer.extension, seal=True)
    await peer.connect()
    try:
        channel, user = await peer.open(LABEL, "seal")
        for _ in range(3):
            channel.send(what)
        why = "TLS with the client failed" if len(what) == 1217 else "the client broke the protocol of sealed channels"
        await rtc.lines.wait_for(f"client by hand lost: {why}: ")
        await until(lambda: user.told[-1] == "closed", "the end")
    finally:
        await peer.connection.close()
    assert not host.peers
