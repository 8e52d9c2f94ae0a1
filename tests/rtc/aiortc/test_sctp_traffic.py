"""What an association counts: bytes both ways, and packets that were lost."""

from __future__ import annotations

import pytest
import pytest_twisted
from aiortc.rtcsctptransport import SCTP_TSN_MODULO

from rtunnel.rtc.traffic import EVERY, Lately, Traffic
from tests.reverse.net import until
from tests.rtc.aiortc.hostile_parts import hostile
from tests.rtc.aiortc.sctp_parts import BINARY, DATA, FIRST, LAST, UNORDERED, Pair, ended, kinds


class EveryNth:
    """Of the packets with data, one in so many is lost.

    :ivar seen: how many there were.
    :ivar lost: how many of them were lost.
    """

    def __init__(self, nth: int) -> None:
        self._nth = nth
        self.seen = self.lost = 0

    def __call__(self, packet: bytes) -> bool:
        if DATA not in kinds(packet):
            return True
        self.seen += 1
        passes = self.seen % self._nth != 0
        self.lost += not passes
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
        assert one.packets_lost == two.packets_lost == one.packets_missed == two.packets_missed == 0
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
        for share in (Lately(one).lost, Lately(two).missed):
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
        before = pair.one.traffic.packets_sent
        pair.wires[0].passes = lossy = EveryNth(10)
        for number in range(95):
            flow.send(b"%04d" % number + bytes(996))
        await until(lambda: len(other.told) == 95 - lossy.lost and lossy.lost == 9, "the others")
        await until(lambda: not pair.one._sent_queue, "acknowledgements")
        assert pair.one.traffic.packets_sent == before + 95
        assert pair.one.traffic.packets_lost == pair.two.traffic.packets_missed == 9


@pytest.mark.parametrize("start", [5, SCTP_TSN_MODULO - 3], ids=["small", "around 0"])
@pytest.mark.parametrize(
    ("order", "missed"),
    [([1, 2, 3], 0), ([1, 3, 2], 1), ([3, 1, 2], 2), ([2, 4, 6, 1, 3, 5], 3), ([1, 9, 5, 6], 7), ([1, 2, 2, 1, 3], 0)],
)
@pytest_twisted.ensureDeferred
async def test_packets_that_are_overtaken(order: list[int], missed: int, start: int) -> None:
    """Each is counted once, when a later one comes, and numbers begin again after the last."""
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        peer.victim._last_received_tsn = start
        for number in order:
            tsn = (start + number) % SCTP_TSN_MODULO
            await peer.victim._receive_data_chunk(peer.data(0, BINARY, b"x", FIRST | LAST | UNORDERED, tsn))
        assert peer.victim.traffic.packets_missed == missed
        assert peer.victim.traffic.packets_received == len(set(order))


def test_lately_is_the_last_seconds() -> None:
    traffic = Traffic()
    lately = Lately(traffic)
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
