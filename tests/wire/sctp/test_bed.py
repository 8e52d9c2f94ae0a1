"""The bed itself, with an association that cannot be wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.examples import examples
from tests.wire.sctp.bed import Bed, End, Link, both_ways, share
from tests.wire.sctp.ledger import Ledger, ledgers
from tests.wire.sctp.toy import AGAIN, Toy


def pair(*links: Link, seed: int = 0) -> tuple[Bed, End, End]:
    bed = Bed(seed)
    return bed, *bed.pair(Toy, *links)


def test_a_packet_takes_its_delay() -> None:
    bed, one, two = pair(*both_ways(delay=0.25))
    there, _ = ledgers(one, two)
    there.open(1)
    there.send(1, 100)
    assert bed.run(1, lambda: not there.owed)
    assert there.streams[1].delays == [0.25]
    assert bed.run(10) is False
    assert bed.now == 1010.25


def test_a_bottleneck_delays_and_then_drops() -> None:
    link, random = Link(rate=1000, queue=2000), Bed().random
    assert [link.carry(bytes(1000), 5.0, random) for _ in range(3)] == [[6.0], [7.0], []]
    assert link.carry(bytes(1000), 6.5, random) == [8.0]
    assert link.longest_queue == 1.0
    assert (link.sent, link.lost, link.arrived_bytes) == (4, 1, 3000)


def test_a_link_drops_what_is_too_large_and_what_the_test_says() -> None:
    link, random = Link(mtu=100, drops=lambda number, packet: number == 1), Bed().random
    assert [bool(link.carry(bytes(size), 0.0, random)) for size in (100, 50, 50, 101)] == [True, False, True, False]


def test_losses_copies_and_jitter_come_as_often_as_they_should() -> None:
    link, random = Link(loss=0.2, copies=0.5, jitter=1.0), Bed(3).random
    found = [link.carry(b"x", 0.0, random) for _ in range(2000)]
    assert 300 < sum(not each for each in found) < 500
    assert 600 < sum(len(each) == 2 for each in found) < 1000
    times = [when for each in found for when in each]
    assert min(times) < 0.05
    assert max(times) > 0.95


def test_what_arrives_within_a_busy_moment_is_handed_over_at_once() -> None:
    bed, one, two = pair(*both_ways(delay=0.1, rate=10_000))
    two.batching = 0.05
    batches: list[int] = []
    two.association.receive = lambda packets, now: batches.append(len(packets))
    for _ in range(4):
        one._send(bytes(100))
    bed.run(1)
    assert batches == [4]


def test_silence_is_seen_with_the_losses_before_it() -> None:
    lossy = Link(drops=lambda number, packet: number < 2)
    bed, one, two = pair(lossy, Link())
    there, _ = ledgers(one, two)
    there.open(1)
    there.send(1, 10)
    assert bed.run(5, lambda: not there.owed)
    bed.run(100)
    assert [lost for _, lost in bed.silences] == [1, 2]
    assert [seconds for seconds, _ in bed.silences] == pytest.approx([AGAIN, AGAIN])


def test_a_stopped_end_says_nothing() -> None:
    bed, one, two = pair(Link(), Link())
    there, _ = ledgers(one, two)
    there.open(1)
    two.stop()
    there.send(1, 10)
    assert not bed.run(5, lambda: not there.owed)
    assert two.packets == 0
    assert one.packets >= 5 / AGAIN - 1


def test_an_association_that_spins_is_caught() -> None:
    class Spins(Toy):
        def next_time(self) -> float | None:
            return 1.0

    bed = Bed()
    bed.pair(Spins, Link(), Link())
    with pytest.raises(AssertionError, match="nothing to send"):
        bed.run(1)


def test_an_association_that_sends_without_end_is_caught() -> None:
    class Talks(Toy):
        def transmit(self, now: float) -> list[bytes]:
            return [b"x"]

    bed = Bed()
    bed.pair(Talks, Link(), Link())
    with pytest.raises(AssertionError, match="without end"):
        bed.run(1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda taken: [*taken, taken[1]], "twice"),
        (lambda taken: [taken[1]], "for"),
        (lambda taken: [(1, 53, b"?" * len(taken[0][2]))], "other bytes"),
        (lambda taken: [(1, 51, taken[0][2])], "for"),
    ],
)
def test_the_ledger_sees_what_is_wrong(change: Any, why: str) -> None:
    _, one, two = pair(Link(), Link())
    there, _ = ledgers(one, two)
    there.open(1)
    taken = [(1, 53, there.send(1, size)) for size in (100, 200)]
    *right, wrong = change(taken)
    for message in right:
        there.receiver.take_message(*message)
    with pytest.raises(AssertionError, match=why):
        there.receiver.take_message(*wrong)


def test_fairness() -> None:
    assert share([1, 1]) == 1
    assert share([1, 0]) == 0.5


@settings(max_examples=examples(50))
@given(
    seed=st.integers(0, 1 << 32),
    link=st.builds(
        Link,
        delay=st.floats(0, 0.5),
        jitter=st.floats(0, 0.2),
        loss=st.floats(0, 0.5),
        copies=st.floats(0, 0.5),
        rate=st.floats(1e3, 1e7),
    ),
    sizes=st.lists(st.integers(1, 1000), max_size=20),
)
def test_every_message_arrives_once(seed: int, link: Link, sizes: list[int]) -> None:
    bed, one, two = pair(link, Link(delay=0.01, loss=0.1), seed=seed)
    books: tuple[Ledger, ...] = ledgers(one, two)
    for each in books:
        each.open(7)
        for size in sizes:
            each.send(7, size)
    assert bed.run(1e6, lambda: not bed.owed())
