"""Two associations over thousands of paths: all that must arrive does, once, in order, and without a needless wait."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings, strategies as st

from rtunnel.wire.sctp.events import ResetDone
from rtunnel.wire.sctp.path.losses import RTO_MAX
from tests.examples import examples
from tests.wire.sctp.bed import Bed, Link, both_ways
from tests.wire.sctp.ends import UP_IN, Pair, is_up, make, seen
from tests.wire.sctp.ledger import Promise

RARELY = st.one_of(st.just(0.0), st.floats(0, 0.05), st.floats(0, 0.3))
LINKS = st.builds(
    Link,
    delay=st.one_of(st.just(0.0), st.floats(0, 0.3)),
    jitter=st.one_of(st.just(0.0), st.floats(0, 0.1)),
    loss=RARELY,
    copies=RARELY,
    rate=st.one_of(st.just(float("inf")), st.floats(2e4, 1e8)),
    queue=st.integers(5000, 200_000),
    mtu=st.integers(1200, 17_000),
)
PROMISES = (
    Promise(),
    Promise(),
    Promise(ordered=False),
    Promise(most_sends=1, ordered=False),
    Promise(most_sends=3),
)
SIZES = st.one_of(st.integers(1, 100), st.integers(1000, 1300), st.integers(1, 70_000))
#: Seconds before, by which end, on which stream, how long.
SENDS = st.tuples(st.sampled_from([0.0, 0.0, 0.001, 0.05, 2.0]), st.integers(0, 1), st.integers(0, 4), SIZES)
#: A round trip counts at least so many seconds, and so many seconds more until what is lost is sent again.
LEAST_WAIT = 1.05


def longest_wait(*links: Link) -> float:
    """The seconds until an end that hears nothing must send again; each loss in a row doubles them."""
    there = sum(link.delay + link.jitter + min(link.queue, 1 << 20) / link.rate for link in links)
    return LEAST_WAIT + 3 * there


@settings(max_examples=examples(2000))
@given(
    seed=st.integers(0, 1 << 32),
    there=LINKS,
    back=LINKS,
    sends=st.lists(SENDS, max_size=30),
    busy=st.booleans(),
    plain=st.booleans(),
)
def test_what_must_arrive_arrives_once_and_in_order(
    seed: int, there: Link, back: Link, sends: list[Any], busy: bool, plain: bool
) -> None:
    pair = Pair(there, back, seed, plain=plain)
    if busy:
        pair.one.batching = pair.two.batching = 0.005
    for books in pair.books:
        for stream, promise in enumerate(PROMISES):
            books.open(stream, promise)
    for wait, end, stream, size in sends:
        pair.bed.run(wait)
        pair.books[end].send(stream, size)
        pair.turn()
    pair.all_arrives(3600)
    most = longest_wait(there, back)
    is_lossy = there.loss or back.loss
    for silence, lost in pair.bed.silences:
        # On a lossy path something else may have arrived between two losses of the same packet.
        longest = most + RTO_MAX if is_lossy else min(most * 2**lost, 61)
        assert silence <= longest, f"{silence} s of silence after {lost} losses in a row"
    pair.is_calm()


@settings(max_examples=examples(500))
@given(
    seed=st.integers(0, 1 << 32),
    lost=st.tuples(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5))),
    delay=st.sampled_from([0.0, 0.02, 0.4, 1.5]),
    after=st.sampled_from([0.0, 0.01, 1.0]),
)
def test_the_handshake_survives_losses(seed: int, lost: tuple[set[int], set[int]], delay: float, after: float) -> None:
    """Both ends begin, as browsers do, at different moments."""
    links = [Link(delay=delay, jitter=0.01, drops=lambda number, packet, lost=each: number in lost) for each in lost]  # type: ignore[misc]
    bed = Bed(seed)
    one, two = bed.pair(make, *links)
    bed.connect(one)
    bed.run(after)
    bed.connect(two)
    assert bed.run(UP_IN, lambda: is_up(one, two))


@settings(max_examples=examples(1000))
@given(
    seed=st.integers(0, 1 << 32),
    loss=RARELY,
    jitter=st.sampled_from([0.0, 0.03]),
    plain=st.booleans(),
    plan=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), SIZES), max_size=25),
)
def test_what_was_sent_before_a_stream_ends_arrives_before_its_end(
    seed: int, loss: float, jitter: float, plain: bool, plan: list[Any]
) -> None:
    """Streams are ended with messages on their way, and used again when both ends are through with them."""
    pair = Pair(*both_ways(delay=0.02, jitter=jitter, loss=loss, copies=loss), seed=seed, plain=plain)
    books = pair.there
    ended: set[int] = set()
    ends = Counter[int]()

    def done(stream: int) -> int:
        return sum(stream in event.streams for event in seen(pair.one, ResetDone))

    for action, stream, size in plan:
        if stream in ended:
            if action == 0:
                assert pair.bed.run(600, lambda: done(stream) == books.resets.count(stream) == ends[stream])  # noqa: B023
                ended.discard(stream)
                books.open(stream)
            continue
        if stream not in books.streams:
            books.open(stream)
        books.send(stream, size)
        if action == 1:
            books.reset(stream)
            ended.add(stream)
            ends[stream] += 1
        if action == 2:
            pair.turn()
            pair.bed.run(0.01)
    pair.turn()
    pair.all_arrives(3600)
    assert pair.bed.run(600, lambda: ends == Counter(books.resets))
    pair.is_calm()
