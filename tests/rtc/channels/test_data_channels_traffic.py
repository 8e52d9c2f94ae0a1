"""What the channels of a connection count: bytes both ways, and packets that were lost."""

from __future__ import annotations

import pytest_twisted

from rtunnel.rtc.traffic import EVERY, Lately, Traffic
from rtunnel.wire.sctp.chunks import DATA, I_DATA
from tests.reverse.net import until
from tests.rtc.channels.channels_parts import Pair, ended, is_acknowledged
from tests.wire.sctp.by_hand import kinds


class EveryNth:
    """Of the packets with data, one in so many is lost.

    :ivar seen: how many chunks with data there were.
    :ivar lost: how many of them were lost.
    """

    def __init__(self, nth: int) -> None:
        self._nth = nth
        self._packets = self.seen = self.lost = 0

    def __call__(self, packet: bytes) -> bool:
        chunks = sum(kind in (DATA, I_DATA) for kind in kinds(packet))
        if not chunks:
            return True
        self.seen += chunks
        self._packets += 1
        passes = self._packets % self._nth != 0
        self.lost += 0 if passes else chunks
        return passes


@pytest_twisted.ensureDeferred
async def test_bytes_both_ways() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, user, other = await pair.open()
        flow, _, other_flow = await pair.open(reliable=False)
        channel.send(bytes(100_000))
        flow.send(bytes(500))
        pair.users[1].channels[0].send(bytes(3000))
        await until(lambda: len(other.received) == 100_000 and len(other_flow.received) == 500, "data")
        await until(lambda: len(user.received) == 3000, "an answer")
        one, two = pair.one.traffic, pair.two.traffic
        assert (one.bytes_sent, one.bytes_received) == (two.bytes_received, two.bytes_sent) == (100_500, 3000)
        assert one.packets_missed == two.packets_missed == 0
        assert 100_500 / 1200 <= one.packets_sent == two.packets_received < 120


@pytest_twisted.ensureDeferred
async def test_one_packet_in_twenty_is_lost() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, other = await pair.open()
        pair.wires[0].passes = lossy = EveryNth(20)
        total = 2_000_000
        for _ in range(100):
            channel.send(bytes(total // 100))
        await until(lambda: len(other.received) == total, "all of it")
        one, two = pair.one.traffic, pair.two.traffic
        # Bytes that were sent again are counted once.
        assert one.bytes_sent == two.bytes_received == total
        assert lossy.lost > 50
        # What is lost a second time counts once, and a time-out sends again what may have arrived.
        for share in (Lately(lambda: one).lost, Lately(lambda: two).missed):
            assert share is not None
            assert 0.035 < share < 0.065
        assert one.packets_sent == two.packets_received
        # Each that was lost is sent again once, whatever acknowledgements were on their way.
        again = lossy.seen - one.packets_sent
        assert 0.9 * lossy.lost <= again <= 1.1 * lossy.lost


@pytest_twisted.ensureDeferred
async def test_datagrams_that_are_lost_are_never_sent_again() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        flow, _, other = await pair.open(reliable=False)
        await until(lambda: is_acknowledged(pair.one), "quiet")
        before = pair.one.traffic.packets_sent
        pair.wires[0].passes = lossy = EveryNth(10)
        for number in range(95):
            flow.send(b"%04d" % number + bytes(996))
        await until(lambda: len(other.told) == 95 - lossy.lost and lossy.lost == 9, "the others")
        await until(lambda: is_acknowledged(pair.one), "acknowledgements")
        assert pair.one.traffic.packets_sent == before + 95
        assert pair.one.traffic.packets_lost == pair.two.traffic.packets_missed == 9


def test_lately_is_the_last_seconds() -> None:
    traffic = Traffic()
    lately = Lately(lambda: traffic)
    assert (lately.lost, lately.missed) == (None, None)
    traffic.packets_sent, traffic.packets_lost = 100, 50
    traffic.packets_received, traffic.packets_missed = 10, 20
    assert (lately.lost, lately.missed) == (0.5, 1.0)
    for _ in range(2 * EVERY):
        lately.tick()
    assert (lately.lost, lately.missed) == (None, None)
    traffic.packets_sent += 10
    assert lately.lost == 0
    for _ in range(2 * EVERY):
        lately.tick()
    traffic.packets_sent += 10
    traffic.packets_lost += 1
    assert lately.lost == 0.1
