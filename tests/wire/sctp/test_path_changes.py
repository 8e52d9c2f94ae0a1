"""Paths that change under an association: the largest packet, a black hole, a pause, and a receiver that is slow."""

from __future__ import annotations

from functools import partial

import pytest

from rtunnel.wire.sctp import association, chunks
from rtunnel.wire.sctp.path.losses import PEER_DELAY, RTO_MIN
from tests.wire.sctp.bed import Bed, Link, both_ways
from tests.wire.sctp.ends import LARGEST, Pair, is_up, make
from tests.wire.sctp.ledger import Promise
from tests.wire.sctp.packets import chunks_of

#: 16 MiB, more than any window.
MESSAGES = 1024


@pytest.mark.parametrize("mtu", [1200, 1280, 1392, 1452, 4000, 8952, 16_300])
def test_the_largest_packet_of_the_path_is_found(mtu: int) -> None:
    pair = Pair(*both_ways(delay=0.01, mtu=mtu))
    pair.there.open(1)
    for _ in range(60):
        pair.there.send(1, 20_000)
        pair.turn()
        pair.bed.run(0.5)
    pair.all_arrives(10)
    size = pair.one.association.path.size
    assert size <= mtu
    assert size >= mtu - 24


def test_a_black_hole_is_left() -> None:
    """A router with a smaller packet size comes onto the path, and says nothing."""
    links = both_ways(delay=0.01, rate=1.25e6, queue=60_000, mtu=1452)
    pair = Pair(*links)
    pair.there.open(1)
    for _ in range(600):
        pair.there.send(1, 16_384)
    pair.turn()
    pair.bed.run(3)
    assert pair.one.association.path.size > 1400
    for link in links:
        link.mtu = 1250
    pair.all_arrives(30)
    assert pair.one.association.path.size <= 1250


def test_a_packet_that_the_socket_refuses_is_sent_in_smaller_ones() -> None:
    pair = Pair(*both_ways(delay=0.01, mtu=9000))
    pair.one.largest = 1300
    pair.there.open(1)
    for _ in range(60):
        pair.there.send(1, 20_000)
        pair.turn()
        pair.bed.run(0.2)
    pair.all_arrives(10)
    assert 1200 <= pair.one.association.path.size <= 1300


def test_a_pause_is_over_soon_after_the_path_is_back() -> None:
    links = both_ways(delay=0.02, rate=1.25e6, queue=60_000)
    pair = Pair(*links)
    pair.there.open(1)
    for _ in range(100):
        pair.there.send(1, 16_384)
    pair.turn()
    pair.bed.run(0.5)
    for link in links:
        link.loss = 1.0
    pair.bed.run(8)
    before = pair.there.received
    for link in links:
        link.loss = 0.0
    # It was sent again after 1, 3, 7 and 15 s at the latest.
    assert pair.bed.run(8, lambda: pair.there.received > before)
    pair.all_arrives(5)


def test_a_slow_receiver_is_not_flooded_and_goes_on_at_once() -> None:
    pair = Pair(*both_ways(delay=0.02))
    there, receiver = pair.there, pair.two.association
    there.open(1)
    held = 0
    take = pair.two.take_message

    def hold(stream: int, kind: int, data: bytes) -> None:
        nonlocal held
        take(stream, kind, data)
        held += len(data)
        receiver.hold(len(data))

    pair.two.take_message = hold
    for _ in range(MESSAGES):
        there.send(1, 16_384)
    pair.turn()
    pair.bed.run(20)
    stalled = there.received
    assert 0 < stalled < MESSAGES * 16_384
    packets = pair.one.packets
    pair.bed.run(300)
    assert there.received <= stalled + 16_384
    assert pair.one.packets - packets < 120, "a closed window is probed now and then, not all the time"
    began = pair.bed.now
    pair.two.take_message = take
    receiver.release(held)
    pair.turn()
    assert pair.bed.run(1, lambda: there.received > stalled + 50_000), "it was not told that there is room"
    assert pair.bed.now - began < 0.2
    pair.all_arrives(20)


def test_datagrams_are_given_up_and_the_stream_beside_them_goes_on() -> None:
    pair = Pair(*both_ways(delay=0.02, loss=0.3), seed=5)
    pair.there.open(1, Promise(ordered=False, most_sends=1))
    pair.there.open(2)
    for number in range(500):
        pair.there.send(1, 300)
        if number % 10 == 0:
            pair.there.send(2, 3000)
        pair.turn()
        pair.bed.run(0.01)
    pair.all_arrives(120)
    arrived = len(pair.there.streams[1].delays)
    assert 250 < arrived < 450
    pair.is_calm()


def test_datagrams_that_are_given_up_do_not_add_up() -> None:
    """More of them are lost in a round trip than one."""
    pair = Pair(Link(delay=0.05, loss=0.05), Link(delay=0.05), seed=1)
    pair.there.open(1, Promise(ordered=False, most_sends=1))
    for _ in range(3000):
        pair.there.send(1, 300)
        pair.turn()
        pair.bed.run(0.001)
    pair.bed.run(1.5)
    assert pair.one.association.kept == 0
    assert pair.two.association.kept == 0
    # Not more, as such losses count as congestion.
    assert len(pair.there.streams[1].delays) > 1500


def test_a_lost_forward_tsn_is_sent_again_while_data_flows() -> None:
    """A datagram is lost, and then what tells the receiver not to wait for it. Bulk data goes on all the time."""
    link = Link(delay=0.02, rate=1.25e6, queue=60_000)
    pair = Pair(link, Link(delay=0.02))
    pair.there.open(1, Promise(ordered=False, most_sends=1))
    pair.there.open(2)
    for _ in range(1000):
        pair.there.send(2, 16_384)
    pair.turn()
    pair.bed.run(3)
    dropped: list[int] = []

    def drops(_: int, packet: bytes) -> bool:
        for kind, _, begin, _ in chunks_of(packet):
            is_datagram = kind == chunks.I_DATA and packet[begin + 4 : begin + 6] == b"\0\1"
            if kind not in dropped and (is_datagram or kind == chunks.I_FORWARD_TSN):
                dropped.append(kind)
                return True
        return False

    link.drops = drops
    pair.there.send(1, 300)
    pair.turn()
    pair.bed.run(0.5)
    assert dropped == [chunks.I_DATA, chunks.I_FORWARD_TSN]
    sending = pair.one.association._halves.transmitter.sending
    assert sending.acked_to > sending._next_tsn - 50, "the receiver still waits for the datagram"
    pair.all_arrives(30)


def test_a_new_path_is_filled_though_all_has_to_be_sent_again() -> None:
    """Many chunks were in flight, and no round trip of the new path is known until the last of them has arrived."""
    links = both_ways(delay=0.05, rate=12.5e6, queue=1_250_000)
    pair = Pair(*links)
    pair.there.open(1)
    for _ in range(MESSAGES):
        pair.there.send(1, 16_384)
    pair.turn()
    pair.bed.run(1)
    for link in links:
        link.loss = 1.0
    pair.bed.run(0.5)
    for link in links:
        link.loss = 0.0
    for end in (pair.one, pair.two):
        end.association.path_changed(LARGEST, pair.bed.now)
    pair.all_arrives(3)


def test_the_path_may_change_before_the_handshake_is_over() -> None:
    bed = Bed()
    one, two = bed.pair(partial(make, largest_packet=1188), *both_ways(delay=0.02))
    bed.connect(one)
    for end in (one, two):
        end.association.path_changed(LARGEST, bed.now)
    assert bed.run(1, lambda: is_up(one, two))
    bed.run(5)
    assert one.association.path.size > 9000


def test_the_last_packets_that_fill_the_window_are_probed_for() -> None:
    """More waits to be sent, but the receiver's window has no room for it."""
    links = both_ways(delay=0.02, mtu=1200)
    pair = Pair(*links)
    receiver = pair.two.association
    pair.there.open(1)
    pair.there.send(1, 100_000)
    pair.all_arrives(5)
    receiver.hold(receiver._limits.interleaved_window - 10_000)
    pair.there.send(1, 100)
    pair.all_arrives(5)
    pair.bed.run(2)
    before = links[0].sent
    links[0].drops = lambda number, _: before + 6 <= number < before + 9
    pair.there.send(1, 20_000)
    pair.bed.silences.clear()
    pair.all_arrives(5)
    assert max(pair.bed.silences)[0] < RTO_MIN


def test_a_delayed_acknowledgement_of_one_packet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Browsers delay it by 0.2 s. It makes no difference how many messages are in the packet."""
    monkeypatch.setattr(association, "SACK_DELAY", PEER_DELAY)
    pair = Pair(*both_ways(delay=0.001, rate=12.5e6))
    pair.there.open(1)
    pair.there.send(1, 2_000_000)
    pair.all_arrives(5)
    pair.bed.run(1)
    packets = pair.one.packets
    for _ in range(10):
        pair.there.send(1, 100)
        pair.there.send(1, 100)
        pair.turn()
        pair.bed.run(0.5)
    assert pair.one.packets == packets + 10


@pytest.mark.parametrize("ordered", [False, True])
def test_a_datagram_that_is_given_up_before_it_was_sent_whole_leaves_nothing(ordered: bool) -> None:
    """All arrives that was sent of it, so that no TSN is missing."""
    pair = Pair(*both_ways(delay=0.1, mtu=1200))
    pair.there.open(1, Promise(ordered, most_sends=1))
    pair.there.send(1, 60_000)
    pair.turn()
    pair.bed.run(0.15)
    pair.one.association.path_changed(LARGEST, pair.bed.now)
    pair.one.turn()
    assert pair.one.association._scheduler.has_some is False
    pair.there.send(1, 100)
    pair.turn()
    pair.bed.run(5)
    assert pair.one.association.kept == pair.two.association.kept == 0
    assert pair.there.received == 100


def test_a_long_and_steady_path_needs_no_time_out() -> None:
    """The acknowledgement of what is sent again comes after a round trip, and is delayed by the peer."""
    links = both_ways(delay=0.25, mtu=1200)
    pair = Pair(*links)
    pair.there.open(1)
    for _ in range(200):
        pair.there.send(1, 3000)
        pair.turn()
        pair.bed.run(0.05)
    pair.all_arrives(5)
    repeated, before = pair.one.association.counts.repeated, links[0].sent
    links[0].drops = lambda number, _: number == before
    pair.there.send(1, 1000)
    for _ in range(100):
        pair.there.send(1, 1000)
        pair.turn()
        pair.bed.run(0.01)
    pair.all_arrives(5)
    assert pair.one.association.counts.repeated == repeated + 1


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_on_a_short_path_a_lost_acknowledgement_costs_no_time_out(lost: int) -> None:
    """A busy end sends one for all that has come. If that is lost, and those of the first probes, more follow soon."""
    there, back = both_ways(delay=0.0005, mtu=1392)
    pair = Pair(there, back)
    pair.two.batching = 0.001
    pair.there.open(1)
    pair.there.send(1, 10_000)
    pair.all_arrives(1)
    pair.bed.run(1)
    until, began, before = back.sent + lost, pair.bed.now, back.lost
    back.drops = lambda number, packet: number < until
    pair.there.send(1, 10_000)
    pair.turn()
    assert pair.bed.run(10, lambda: pair.one.association.kept == 0)
    # A time-out takes 0.4 seconds at least, from the first probe on.
    assert pair.bed.now - began < 0.2
    assert back.lost == before + lost


def test_a_datagram_that_is_given_up_by_a_probe_is_told_at_once() -> None:
    there, back = both_ways(delay=0.01)
    pair = Pair(there, back)
    pair.there.open(1, Promise(ordered=False, most_sends=1))
    pair.there.send(1, 100)
    pair.turn()
    pair.bed.run(1)
    lost, began = there.sent, pair.bed.now
    there.drops = lambda number, _: number == lost
    pair.there.send(1, 100)
    pair.turn()
    assert pair.bed.run(5, lambda: not pair.one.association.kept)
    # The probe comes after two round trips, and the 0.2 s by which a peer may delay its acknowledgement.
    assert pair.bed.now - began < 0.2 + RTO_MIN
