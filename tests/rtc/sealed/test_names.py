"""Offers in the name of a client that is connected: whoever runs the signaling server can make them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.settings import IdentitySettings
from rtunnel.rtc.signaling.server import SignalServer
from rtunnel.wire.webrtc.signaling import (
    CANDIDATE,
    ERROR,
    OFFER,
    Candidate,
    Signal,
    candidate_payload,
)
from tests.reverse.net import Peer, until
from tests.rtc.host_parts import ByHand
from tests.rtc.sealed.middle import change_what_comes
from tests.rtc.sealed.parts import Says
from tests.rtc.world import ID, World

STAYS = "client .* stays connected; another connection in its name came to nothing: "


class Named:
    """A host that is closed, and a client with a visitor; others come in the name of this client.

    :ivar name: under which the host knows the client.
    """

    def __init__(self, rtc: World, host: RtcHost, client: RtcClient, server: SignalServer, home: Path) -> None:
        self.rtc = rtc
        self.host, self.client, self.server, self.home = host, client, server, home
        self.name = next(iter(host.peers)).name
        self.offer: Any = None

    @classmethod
    async def make(cls, rtc: World, home: Path) -> Named:
        home.chmod(0o700)
        service, server = await rtc.echo(), rtc.signal()
        host = rtc.host(server, service.port)
        host.sealing.trust = Says()
        await rtc.registered(host)
        came: list[Signal] = []

        def keep(signal: Signal) -> list[Signal]:
            came.append(signal)
            return [signal]

        change_what_comes(host, keep)
        client = rtc.client(server, identity=IdentitySettings(home / "one"))
        await rtc.connected(client)
        await until(lambda: all(peer.is_connected for peer in host.peers), "the host")
        named = cls(rtc, host, client, server, home)
        named.offer = next(signal for signal in came if signal.type == OFFER)
        return named

    async def visitor(self, client: RtcClient | None = None) -> Peer:
        visitor = await self.rtc.visitor(client or self.client)
        await self.echo(visitor)
        return visitor

    async def echo(self, visitor: Peer) -> None:
        before = bytes(visitor.received)
        visitor.send(b"hello")
        await visitor.has(before + b"hello")

    def other(self, identity: str) -> RtcClient:
        """Another client, whose messages come in the name of the first."""
        receive, send = self.host.signal_received, self.host.signaling.send
        first = self.client.signaling.identity
        others = self.rtc.client(self.server, identity=IdentitySettings(self.home / identity))
        ids: list[str] = []

        def received(signal: object) -> None:
            assert isinstance(signal, Signal)
            if signal.sender_id != self.name and signal.sender_id not in ids:
                ids.append(signal.sender_id)
            receive(replace(signal, sender_id=self.name))

        def sent(signal: Signal) -> bool:
            return send(replace(signal, target_id=ids[-1]) if ids else signal)

        assert first != others.signaling.identity
        self.host.signal_received = received  # type: ignore[method-assign]
        self.host.signaling.send = sent  # type: ignore[method-assign]
        return others

    def by_hand(self) -> ByHand:
        """A client that says that it seals, and never begins."""
        peer = ByHand(self.host, self.name)
        assert peer.extension is not None
        peer.extension = replace(peer.extension, seal=True)
        return peer


@pytest_twisted.ensureDeferred
async def test_somebody_who_proves_nothing(rtc: World, tmp_path: Path) -> None:
    """He gets a connection without anything on it, and the client keeps its own. There is one of his at most."""
    named = await Named.make(rtc, tmp_path)
    visitor = await named.visitor()
    [before] = named.host.peers
    strangers: list[ByHand] = []
    try:
        for _ in range(3):
            strangers.append(named.by_hand())
            await strangers[-1].connect()
            assert len(named.host.peers) == 2
        await named.echo(visitor)
        strangers[-1].connection.open_channel("tcp-x").send(b"secret")
        await rtc.lines.wait_for(STAYS + "it is refused: this connection is to be sealed, and a channel is not")
        assert named.host.peers == [before]
        await named.echo(visitor)
    finally:
        for stranger in strangers:
            await stranger.connection.close()


@pytest_twisted.ensureDeferred
async def test_an_offer_that_leads_nowhere(rtc: World, tmp_path: Path) -> None:
    """It is forgotten when the server says that its sender is gone."""
    named = await Named.make(rtc, tmp_path)
    visitor = await named.visitor()
    stranger = named.by_hand()
    stranger.got = lambda signal: None  # type: ignore[method-assign]
    stranger.connection.offer()
    try:
        await until(lambda: len(named.host.peers) == 2, "both")
        named.host.signal_received(Signal(ERROR, "gone", "", named.name))
        await rtc.lines.wait_for(STAYS + "it has left the signaling server")
        await named.echo(visitor)
    finally:
        await stranger.connection.close()


@pytest_twisted.ensureDeferred
async def test_another_client_that_the_host_knows(rtc: World, tmp_path: Path) -> None:
    """It is let in for itself, not in the place of another one."""
    named = await Named.make(rtc, tmp_path)
    visitor = await named.visitor()
    other = named.other("two")
    await rtc.lines.wait_for(STAYS + "it is refused: another client with the same ID at the signaling server is conn")
    await rtc.lines.wait_for(f"host '{ID}' lost: the host refuses this client: another client with the same ID at the")
    await named.echo(visitor)
    await rtc.stop(named.client)
    await until(lambda: other.peer is not None and other.peer.is_connected, "the other, now that the first has gone")
    await named.visitor(other)


@pytest_twisted.ensureDeferred
async def test_the_same_client_again(rtc: World, tmp_path: Path) -> None:
    """It takes the place of its earlier connection once it has proved who it is."""
    named = await Named.make(rtc, tmp_path)
    visitor = await named.visitor()
    [before] = named.host.peers
    other = named.other("one")
    await rtc.connected(other)
    await visitor.ends()
    [after] = named.host.peers
    assert after is not before
    await named.visitor(other)
    assert "stays connected" not in rtc.lines.text


@pytest_twisted.ensureDeferred
async def test_a_newcomer_outlives_the_earlier_connection(rtc: World, tmp_path: Path) -> None:
    named = await Named.make(rtc, tmp_path)
    stranger = await named.by_hand().connect()
    try:
        before, after = named.host.peers
        before.give_up("for a test")
        assert named.host.peers == [after]
        await rtc.lines.wait_for(f"client {re.escape(named.name)} lost: for a test")
    finally:
        await stranger.connection.close()


@pytest_twisted.ensureDeferred
async def test_an_offer_that_goes_on_with_the_connection(rtc: World, tmp_path: Path) -> None:
    """Whoever has seen the client's offer can ask for another path in its name; the present one stays in use."""
    named = await Named.make(rtc, tmp_path)
    visitor = await named.visitor()
    [peer] = named.host.peers
    named.host.signal_received(replace(named.offer, payload=changed(named.offer.payload)))
    await until(lambda: peer.connection._sessions.next is not None, "another path to be looked for")
    await named.echo(visitor)
    assert named.host.peers == [peer]
    assert "lost" not in rtc.lines.text


@pytest_twisted.ensureDeferred
async def test_candidates_are_for_both(rtc: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So somebody who comes in a client's name does not keep its candidates from its own connection."""
    named = await Named.make(rtc, tmp_path)
    stranger = await named.by_hand().connect()
    try:
        taken: list[object] = []
        for peer in named.host.peers:
            monkeypatch.setattr(peer.connection, "take_candidate", taken.append)
        stranger.tell(CANDIDATE, candidate_payload(Candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host")))
        assert len(taken) == 2
    finally:
        await stranger.connection.close()


def changed(payload: Any) -> dict[str, Any]:
    """An offer with other words for ICE, so that no check of its sender is answered."""
    description = payload["sdp"]
    sdp = re.sub(r"a=ice-(ufrag|pwd):(.*?)\r\n", r"a=ice-\1:x\2\r\n", description["sdp"])
    return {**payload, "sdp": {**description, "sdp": sdp}}
