"""Peer connections whose peer never comes, falls silent or breaks the protocol."""

from __future__ import annotations

import socket
import struct

import pytest
import pytest_twisted

from rtunnel.rtc.aiortc import peer_connection
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.sessions import consent
from rtunnel.wire.sctp.chunks import RE_CONFIG
from rtunnel.wire.sctp.codec import chunk, parameter
from tests.reverse.net import HOST, turns, until
from tests.rtc.aiortc.peer_connection_parts import Ends, ends
from tests.rtc.fakes import FakeChannelUser

__all__ = ["ends"]


@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_no_dtls_is_given_up(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.5)
    one, two = ends.make(), ends.make()
    monkeypatch.setattr(one.connection._ice, "data_received", lambda *packet: None)
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    assert await two.ends() == (
        "the peer did not answer over the path within 0 s "
        "(DTLS: it sends nothing; it may speak DTLS 1.3 only, and this end speaks 1.2)"
    )
    assert await one.ends()


NOTHING_IN_COMMON = "it has no cipher suite of DTLS 1.2, or no kind of certificate, in common with this end"


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!HH", kind, len(data)) + data


def hello_1_3() -> bytes:
    """A ClientHello for DTLS 1.3 alone (RFC 9147): with its versions, cipher suites and key shares."""
    extensions = (
        extension(43, b"\x02\xfe\xfc"),
        extension(10, b"\x00\x02\x00\x1d"),
        extension(13, b"\x00\x04\x04\x03\x08\x04"),
        extension(51, b"\x00\x24\x00\x1d\x00\x20" + bytes(range(32))),
    )
    length = sum(map(len, extensions))
    suites = b"\x00\x04\x13\x01\x13\x02"
    body = b"\xfe\xfd" + bytes(32) + bytes(2) + suites + b"\x01\x00" + length.to_bytes(2) + b"".join(extensions)
    size = len(body).to_bytes(3)
    return record(22, b"\x01" + size + bytes(5) + size + body)


def record(kind: int, data: bytes) -> bytes:
    """The first plain record of DTLS."""
    return bytes([kind]) + b"\xfe\xfd" + bytes(8) + len(data).to_bytes(2) + data


@pytest.mark.parametrize(
    ("is_server", "says", "why"),
    [
        (
            *(False, hello_1_3()),
            f"{NOTHING_IN_COMMON}; it may speak DTLS 1.3 only, and this end speaks 1.2",
        ),
        (True, record(21, b"\x02\x46"), "it does not speak DTLS 1.2, the only version here"),
        (True, record(21, b"\x02\x28"), NOTHING_IN_COMMON),
        (True, record(21, b"\x02\x50"), "it sent the alert 80"),
    ],
    ids=["client", "server", "server without a suite", "server with a fault"],
)
@pytest_twisted.ensureDeferred
async def test_a_peer_that_speaks_dtls_1_3_only(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, is_server: bool, says: bytes, why: str
) -> None:
    one, two = ends.make(), ends.make()
    (peer, ours) = (one, two) if is_server else (two, one)

    async def handshake(_parameters: object) -> None:
        if is_server:
            await peer.connection._ice.recv()
        await peer.connection._ice.send(says)

    monkeypatch.setattr(peer.connection._dtls, "start", handshake)
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    assert await ours.ends() == f"the DTLS handshake failed: {why}"


@pytest_twisted.ensureDeferred
async def test_a_peer_that_falls_silent_is_dead(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await ends.pair()
    monkeypatch.setattr(consent, "DEAD_AFTER", 1)
    channel, user = one.connection.open_channel("tcp-x"), FakeChannelUser()
    channel.use(user)
    await until(lambda: user.told, "a channel")
    # As if its process was stopped: nothing is received, nothing sent.
    protocol = two.connection._ice._protocols[0]
    monkeypatch.setattr(protocol, "datagram_received", lambda data, addr: None)
    order: list[object] = []
    monkeypatch.setattr(one.peer, "lost", lambda reason: order.extend([list(user.told), reason]))
    await until(lambda: order, "the end")
    assert order == [["opened", "closed"], "the peer no longer answers"]


@pytest_twisted.ensureDeferred
async def test_a_peer_that_breaks_the_protocol_is_cut_off(ends: Ends) -> None:
    one, two = await ends.pair()
    association, path = one.connection._channels._association, one.connection._path
    assert association is not None
    assert path is not None
    path.send([association._envelope.seal(chunk(RE_CONFIG, parameter(13)))])
    assert await two.ends() == "the peer broke the protocol: a parameter of RE-CONFIG that is too short"
    assert await one.ends() == "the peer closed the connection"
    await turns(5)
    assert len(two.told) == 3


@pytest_twisted.ensureDeferred
async def test_packets_of_strangers_end_no_connection(ends: Ends) -> None:
    one, two = await ends.pair()
    candidate = one.connection._ice.local_candidates[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for packet in (b"", b"\0", b"\x16", b"\x16\xfe\xfd" + bytes(10), b"\x80" * 50, bytes(1400), b"\x17" * 1400):
            stranger.sendto(packet, (candidate.host, candidate.port))
    channel, user = one.connection.open_channel("tcp-x"), FakeChannelUser()
    channel.use(user)
    await until(lambda: user.told == ["opened"] or one.lost, "a channel")
    await turns(10)
    assert not one.lost
    assert not two.lost


@pytest_twisted.ensureDeferred
async def test_packets_of_strangers_end_no_handshake(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = ends.make(), ends.make()
    start = IceAgent.connect

    async def connect(agent: IceAgent) -> None:
        await start(agent)
        for packet in (b"", b"\0\1", b"\x80" * 50):
            agent._protocols[0].datagram_received(packet, (HOST, 9))

    monkeypatch.setattr(IceAgent, "connect", connect)
    one.connection.offer()
    two.connection.take_offer(await one.description())
    one.connection.take_answer(await two.description())
    await ends.connected(one, two)
