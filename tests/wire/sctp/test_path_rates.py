"""How fast an association is on known paths, how fair, and how long its own queues make a datagram wait."""

from __future__ import annotations

from math import sqrt

import pytest

from tests.wire.sctp.bed import Bed, Link, both_ways, share
from tests.wire.sctp.ends import Pair
from tests.wire.sctp.ledger import Promise

#: 100 Mbit/s, 50 ms there and back, and a queue of what is on its way then.
RATE, ROUND_TRIP = 12.5e6, 0.05
QUEUE = int(RATE * ROUND_TRIP)
MTU = 1392
DATAGRAMS = Promise(ordered=False, most_sends=1)


def bottleneck(**settings: float) -> Link:
    return Link(delay=ROUND_TRIP / 2, rate=RATE, queue=QUEUE, mtu=MTU, **settings)  # type: ignore[arg-type]


def way_back() -> Link:
    return Link(delay=ROUND_TRIP / 2, rate=RATE, mtu=MTU)


@pytest.mark.parametrize(
    ("loss", "seconds", "least"),
    [
        (0.0, 4.0, 0.9),
        # Of the rate that Reno and CUBIC have under random loss, by Mathis' formula; thick losses cost more.
        (0.001, 10.0, 0.8),
        (0.01, 15.0, 0.8),
        (0.05, 20.0, 0.5),
    ],
)
def test_goodput(loss: float, seconds: float, least: float) -> None:
    pair = Pair(bottleneck(loss=loss), way_back(), seed=1)
    pair.there.open(1)
    possible = min(RATE, 1.22 * (MTU - 28) / ROUND_TRIP / sqrt(loss)) if loss else RATE
    for _ in range(int(possible * (seconds + 2) * 2 / 16_384)):
        pair.there.send(1, 16_384)
    pair.turn()
    pair.bed.run(1)
    before = pair.there.received
    pair.bed.run(seconds)
    goodput = (pair.there.received - before) / seconds
    print(f"{loss:.1%} loss: {goodput * 8e-6:.2f} of {possible * 8e-6:.2f} Mbit/s")
    assert goodput >= least * possible
    assert pair.one.link.longest_queue <= QUEUE / RATE


def test_two_associations_share_a_bottleneck() -> None:
    bed, rate, seconds = Bed(1), 1.25e6, 60
    there = Link(delay=0.01, rate=rate, queue=int(rate * 0.02), mtu=MTU, jitter=0.0005)
    pairs = []
    for _ in range(2):
        pairs.append(Pair(there, Link(delay=0.01), bed=bed))
        pairs[-1].there.open(1)
        for _ in range(int(rate * (seconds + 10) / 16_384)):
            pairs[-1].there.send(1, 16_384)
        pairs[-1].turn()
        # The second one finds a full bottleneck.
        bed.run(1)
    bed.run(4)
    before = [pair.there.received for pair in pairs]
    bed.run(seconds)
    rates = [(pair.there.received - was) / seconds for pair, was in zip(pairs, before, strict=True)]
    print(f"{rates[0] * 8e-6:.2f} and {rates[1] * 8e-6:.2f} Mbit/s")
    assert max(rates) <= 1.2 * min(rates)
    assert sum(rates) >= 0.85 * rate


def waits(pair: Pair, stream: int, size: int, count: int) -> list[float]:
    """The seconds that each of some messages waits in our own queues, sorted."""
    bed, waiting, found = pair.bed, dict[bytes, float](), list[float]()

    def look(packet: bytes) -> None:
        for message in [each for each in waiting if each in packet]:
            found.append(bed.now - waiting.pop(message))

    pair.one.sending = look
    for _ in range(count):
        waiting[pair.there.send(stream, size)] = bed.now
        pair.turn()
        bed.run(0.01)
    assert bed.run(10, lambda: not waiting)
    return sorted(found)


@pytest.mark.parametrize("rate", [RATE, RATE / 10, RATE / 50])
def test_a_datagram_does_not_wait_for_the_bulk_beside_it(rate: float) -> None:
    there = Link(delay=ROUND_TRIP / 2, rate=rate, queue=int(rate * ROUND_TRIP), mtu=MTU)
    pair = Pair(there, way_back())
    pair.there.open(1)
    pair.there.open(2, DATAGRAMS)
    for _ in range(2500):
        pair.there.send(1, 16_384)
    pair.turn()
    pair.bed.run(1)
    found = waits(pair, 2, 200, 300)
    print(f"{rate * 8e-6:g} Mbit/s: median {found[150] * 1000:.2f} ms, p99 {found[-4] * 1000:.2f} ms")
    assert found[-4] <= 0.02


def test_a_flood_of_datagrams_leaves_streams_a_third() -> None:
    pair = Pair(bottleneck(), way_back())
    there = pair.there
    there.open(1)
    there.open(2, DATAGRAMS)
    for _ in range(3000):
        there.send(2, 1000)
        there.send(1, 1000)
    pair.turn()
    pair.bed.run(20, lambda: there.streams[2].bytes_received >= 2_000_000)
    assert there.streams[1].bytes_received >= 600_000
    pair.all_arrives(20)


def test_streams_take_turns_by_bytes() -> None:
    pair = Pair(*both_ways(delay=0.01, rate=1.25e6, queue=50_000))
    there = pair.there
    sizes = {1: 16_000, 2: 1000, 3: 100}
    for stream, size in sizes.items():
        there.open(stream)
        for _ in range(1_000_000 // size):
            there.send(stream, size)
    pair.turn()
    pair.bed.run(10, lambda: sum(each.bytes_received for each in there.streams.values()) >= 900_000)
    received = [each.bytes_received for each in there.streams.values()]
    assert share(received) > 0.95, received
    pair.all_arrives(30)


def test_a_page_does_not_wait_for_the_bulk_beside_it() -> None:
    """A small message on a stream of its own overtakes what waits in another one."""
    pair = Pair(bottleneck(), way_back())
    pair.there.open(1)
    pair.there.open(2)
    for _ in range(2500):
        pair.there.send(1, 60_000)
    pair.turn()
    pair.bed.run(1)
    found = waits(pair, 2, 500, 100)
    print(f"median {found[50] * 1000:.2f} ms, longest {found[-1] * 1000:.2f} ms")
    assert found[-1] <= 0.03
