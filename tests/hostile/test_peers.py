"""A hostile client that is connected to ``rtc-host``, and strangers at its ports, beside a client that works."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator, Sequence

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from rtunnel.rtc.aiortc.peer_connection import PeerConnection
from rtunnel.rtc.client import RtcClient
from rtunnel.wire.sctp.chunks import ABORT, UNORDERED
from tests.hostile.harness import LOOPBACK, Honest, gauge
from tests.leftovers import TestLog
from tests.process import rtc
from tests.process.harness import Process
from tests.process.rtc import RtcTunnel
from tests.reverse.net import reactor, turns, until
from tests.rtc import world
from tests.rtc.world import World
from tests.wire.sctp.by_hand import BINARY, HEARTBEAT, WHOLE, Speaker, kinds, packed

COST = 3e-6
"""Seconds of processor time that the host may take for a byte of an attacker, five times what was seen."""


@pytest.fixture
def client(_nothing_left_behind: TestLog, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], RtcClient]]:
    """``client(port)``: a client in this process, at the signaling server on that port."""
    monkeypatch.setattr(world, "ID", rtc.ID)
    made = World(_nothing_left_behind)
    yield made.client
    pytest_twisted.blockon(Deferred.fromCoroutine(made.end()))


class Attacker:
    """The connection of a client that is hostile.

    :ivar bytes: how many it has sent.
    :ivar peer: makes chunks.
    """

    def __init__(self, client: RtcClient) -> None:
        assert client._peer is not None
        assert isinstance(client._peer.connection, PeerConnection)
        self._connection = connection = client._peer.connection
        association = connection._channels._association
        assert association is not None
        assert association._halves is not None
        assert connection._path is not None
        self._path = connection._path
        self._is_cut_off = False
        # The association says and hears nothing from now on: it knows nothing of what the attacker sends.
        self._path._received = self._hear
        tsn = association._halves.transmitter.sending._next_tsn
        self.peer = Speaker(association._envelope, tsn, association.interleaved)
        selected = connection._ice.selected
        assert selected is not None
        self.where = selected.remote_addr
        self.bytes = 0

    @property
    def is_connected(self) -> bool:
        return self._path._is_open and not self._is_cut_off

    def _hear(self, packets: list[bytes]) -> None:
        self._is_cut_off |= any(ABORT in kinds(packet) for packet in packets)

    async def put(self, bodies: Sequence[bytes]) -> None:
        """Send packets of these chunks, slowly enough that none is lost on the way."""
        for number, body in enumerate(bodies):
            self._path.send([self.peer.packet(body)])
            self.bytes += len(body)
            if not number % 20:
                await turns(1)

    async def put_records(self, *records: bytes) -> None:
        """Send one packet of these DTLS records."""
        connection = self._connection._dtls._ssl
        assert connection is not None
        for record in records:
            connection.send(record)
        packet = connection.bio_read(60_000)
        self.bytes += len(packet)
        await self._connection._ice.send(packet)


async def connect(client: RtcClient) -> Attacker:
    await until(lambda: client._peer is not None and client._peer.is_connected, "a client that is connected")
    return Attacker(client)


async def rest(process: Process) -> None:
    """Wait until a process has dealt with what was sent, and has nothing to do."""
    before = -1.0
    while (now := process.cpu_seconds()) - before > 0.01:
        before = now
        await deferLater(reactor, 0.1)


@pytest_twisted.ensureDeferred
async def test_a_connected_peer_that_sends_chunks_of_every_bad_kind(
    start_rtc: Callable[..., RtcTunnel], echo: str, client: Callable[[int], RtcClient]
) -> None:
    tunnel = start_rtc(echo)
    with Honest(tunnel.local) as honest:
        attacker = await connect(client(tunnel.port))
        peer = attacker.peer
        with honest.rests(), gauge(tunnel.host) as used:
            # Messages that are never complete, and whole ones behind them.
            flags = [UNORDERED] * 1500 + [UNORDERED | WHOLE] * 1500
            await attacker.put(packed((peer.data(4, BINARY, b"x", one) for one in flags), 50))
            # Many streams, each with a message, and then what goes through all streams.
            await attacker.put(packed((peer.data(stream, BINARY, b"x") for stream in range(2000)), 50))
            first, peer.tsn = peer.tsn, peer.tsn + 3000
            await attacker.put(packed((peer.forward(first + number) for number in range(3000)), 50))
            # A thousand gaps.
            first = peer.tsn
            order = random.Random(1).sample(range(1, 2000, 2), 1000)
            await attacker.put(
                packed((peer.data(4, BINARY, b"x", tsn=first + one) for one in order), 50),
            )
            # Far ahead, and the numbers that none should have.
            far = (peer.data(4, BINARY, b"x", tsn=first + 2**30 + one) for one in range(1000))
            await attacker.put(packed(far, 50))
            await attacker.put(packed([HEARTBEAT] * 5000, 90))
            await rest(tunnel.host)
        honest.go_on()
        assert attacker.is_connected
        assert used.cpu_seconds < attacker.bytes * COST
        assert used.log_bytes < 2000
        assert used.rss_bytes < 16 * 1024 * 1024


@pytest_twisted.ensureDeferred
async def test_many_records_in_a_packet_stay_nowhere(
    start_rtc: Callable[..., RtcTunnel], echo: str, client: Callable[[int], RtcClient]
) -> None:
    """Each of these is no SCTP packet, and is dropped. Four megabytes of them leave nothing."""
    tunnel = start_rtc(echo)
    with Honest(tunnel.local) as honest:
        attacker = await connect(client(tunnel.port))
        record = bytes(220)
        with honest.rests(), gauge(tunnel.host) as used:
            for number in range(2500):
                await attacker.put_records(*[record] * 7)
                if not number % 20:
                    await turns(2)
            await rest(tunnel.host)
        honest.go_on()
        assert attacker.is_connected
        assert attacker.bytes > 4_000_000
        assert used.rss_bytes < 1_500_000
        assert used.cpu_seconds < attacker.bytes * COST


@pytest_twisted.ensureDeferred
async def test_strangers_at_the_ports_of_a_connection(
    start_rtc: Callable[..., RtcTunnel], echo: str, client: Callable[[int], RtcClient]
) -> None:
    """DTLS records and STUN messages of somebody else are dropped, and none is answered."""
    tunnel = start_rtc(echo)
    with Honest(tunnel.local) as honest, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        port = int(tunnel.client.wait_for(r"to 127\.0\.0\.1:(\d+) \(")[1])
        stranger.bind((LOOPBACK, 0))
        record = b"\x16\xfe\xfd" + bytes(8) + b"\0\x2f" + bytes(47)
        stun = [struct.pack("!HHI12s", kind, 0, 0x2112A442, bytes(12)) for kind in (0x0001, 0x0011, 0x0101, 0x0111)]
        sent = 0
        with honest.rests(), gauge(tunnel.host) as used:
            for _ in range(600):
                for packet in (record, *stun):
                    sent += stranger.sendto(packet, (LOOPBACK, port))
            await rest(tunnel.host)
        honest.go_on()
        with pytest.raises(BlockingIOError):
            stranger.recv(100, socket.MSG_DONTWAIT)
        # Each is a packet of its own.
        assert used.cpu_seconds < 5 * sent * COST
        assert used.log_bytes == 0
