"""A hostile peer: what it sends takes little memory, or ends the association."""

from __future__ import annotations

import random
import re
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import permutations, product

import pytest

from rtunnel.wire.sctp.chunks import BEGIN, END, UNORDERED, ProtocolError
from rtunnel.wire.sctp.reassembly import WHOLE
from rtunnel.wire.sctp.receiving import CHUNK_ROOM, MAX_AHEAD, MAX_GAPS, WINDOW_SLACK, Inbound
from tests.wire.sctp.hostile_parts import FIRST_TSN, Step, data, forward, i_data, i_forward, put
from tests.wire.sctp.inbound_parts import BINARY, WINDOW

MAX_CHUNKS = (WINDOW + WINDOW_SLACK) // CHUNK_ROOM


def memory(steps: Iterable[Step], interleaved: bool) -> tuple[Inbound, int]:
    """What remains of the chunks, and how many bytes of memory it takes."""
    inbound = Inbound(FIRST_TSN, WINDOW, 10, interleaved)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for step in steps:
            put(inbound, step)
            inbound.messages.clear()
        return inbound, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 1200, 16_000])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("flags", [0, BEGIN, WHOLE, WHOLE | UNORDERED])
@pytest.mark.parametrize("step", [1, 2])
def test_memory_is_bounded_and_known(size: int, interleaved: bool, flags: int, step: int) -> None:
    """Never the next one. As large as the window lets them be, and as small as can be."""

    def flood() -> Iterator[Step]:
        for number in range(1, 5000):
            if interleaved:
                kind = BINARY if flags & BEGIN else 2 * number
                yield i_data(step * number, flags, 3 * number, kind, bytes([number % 256]) * size)
            else:
                yield data(step * number, flags, 3 * number, bytes([number % 256]) * size)

    inbound, taken = memory(flood(), interleaved)
    # The gaps, and streams, take a little more.
    assert taken < inbound.kept + 100_000
    assert inbound.kept < 2 * WINDOW
    assert inbound.take_sack(0)[1] >= 0


def test_bytes_beyond_the_window_are_not_kept() -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 10, False)
    # Never a last one.
    endless = [data(tsn, 0 if tsn else BEGIN, payload=bytes(1000)) for tsn in range(4000)]
    with pytest.raises(ProtocolError, match="fill the receive window"):
        put(inbound, *endless)
    assert WINDOW + WINDOW_SLACK - 1000 < inbound.kept < (WINDOW + WINDOW_SLACK) * 2
    assert inbound.take_sack(0)[1] == 0


def test_bytes_beyond_a_window_that_a_reader_fills_are_dropped() -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 10, False)
    for tsn in range(4000):
        put(inbound, data(tsn, number=tsn, payload=bytes(1000)))
        inbound.hold(sum(len(payload) for _, _, payload in inbound.messages))
        inbound.messages.clear()
    taken = inbound.cumulative - FIRST_TSN + 1
    assert WINDOW + WINDOW_SLACK - 1000 < taken * 1000 <= WINDOW + WINDOW_SLACK
    assert inbound.sack_now


def test_chunks_out_of_order_are_bounded() -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 10, False)
    for tsn in range(1, MAX_CHUNKS):
        put(inbound, data(tsn, number=tsn))
    assert inbound.take_sack(10)[2] == [(2, MAX_CHUNKS // 2 + 1)]
    # The one that was missing sets them free.
    put(inbound, data(0))
    assert len(inbound.messages) == MAX_CHUNKS // 2 + 1
    assert inbound.kept == 0


def test_gaps_are_bounded() -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 10, False)
    for tsn in range(1, 6 * MAX_GAPS, 2):
        put(inbound, data(tsn, WHOLE | UNORDERED))
    assert len(inbound.take_sack(10_000)[2]) == MAX_GAPS
    # One that makes no gap more is taken.
    for tsn in (2 * MAX_GAPS, 2):
        put(inbound, data(tsn, WHOLE | UNORDERED))
    assert inbound.take_sack(10_000)[2][0] == (2, 4)
    assert len(inbound.messages) == MAX_GAPS + 2


@pytest.mark.parametrize("ahead", [MAX_AHEAD + 1, 100_000, 2**31 - 1])
def test_a_number_far_ahead_is_dropped(ahead: int) -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 10, False)
    put(inbound, data(ahead - 1))
    assert inbound.take_sack(10)[2:] == ([], [])
    put(inbound, data(MAX_AHEAD - 1, WHOLE | UNORDERED))
    assert inbound.take_sack(10)[2:] == ([(MAX_AHEAD, MAX_AHEAD)], [])


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_forward_tsn_far_ahead_leaves_nothing_behind(interleaved: bool) -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 10, interleaved)
    for number in range(600):
        one = (2 * number + 1, BEGIN, number)
        put(inbound, (i_data if interleaved else data)(*one, stream=4 + number % 8))
    assert inbound.kept
    if interleaved:
        put(inbound, i_forward(2**30, [(4 + stream, False, 1000) for stream in range(8)]))
    else:
        put(inbound, forward(2**30))
    assert inbound.kept == 0
    assert inbound.take_sack(10)[1:] == (WINDOW, [], [])
    put(inbound, (i_data if interleaved else data)(2**30 + 1, WHOLE | UNORDERED))
    assert inbound.messages == [(4, BINARY, b"x")]


@pytest.mark.parametrize("interleaved", [False, True])
def test_many_small_fragments_are_the_end(interleaved: bool) -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 10, interleaved)
    places = range(2 * MAX_CHUNKS)
    if interleaved:
        steps = [i_data(number, BEGIN, number) for number in places]
    else:
        steps = [data(number, 0 if number else BEGIN) for number in places]
    with pytest.raises(ProtocolError, match="too many fragments"):
        put(inbound, *steps)
    assert inbound.chunks_received == MAX_CHUNKS + 1


@pytest.mark.parametrize("interleaved", [False, True])
def test_messages_whose_number_is_never_next_are_the_end(interleaved: bool) -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 10, interleaved)
    steps = [(i_data if interleaved else data)(number, WHOLE, 5 + number) for number in range(2 * MAX_CHUNKS)]
    with pytest.raises(ProtocolError, match="too many messages"):
        put(inbound, *steps)
    assert inbound.chunks_received == MAX_CHUNKS + 1


@pytest.mark.parametrize("flags", [WHOLE, WHOLE | UNORDERED])
def test_more_streams_than_there_can_be_are_the_end(flags: int) -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 200, False)
    steps = [data(stream, flags, stream=stream) for stream in range(300)]
    with pytest.raises(ProtocolError, match="more streams"):
        put(inbound, *steps)
    assert len(inbound.messages) == 200


@pytest.mark.parametrize("unordered", [None, False, True])
def test_streams_named_only_by_forward_tsn_are_bounded(unordered: bool | None) -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 200, unordered is not None)
    if unordered is None:
        step = forward(0, [(stream, 5) for stream in range(300)])
    else:
        step = i_forward(0, [(stream, unordered, 5) for stream in range(300)])
    with pytest.raises(ProtocolError, match="more streams"):
        put(inbound, step)


@pytest.mark.parametrize("tsn", [0, 5, -1, 2**31])
def test_a_chunk_without_a_byte_is_the_end(tsn: int) -> None:
    inbound = Inbound(FIRST_TSN, WINDOW, 10, False)
    with pytest.raises(ProtocolError, match="without data"):
        put(inbound, data(tsn, payload=b""))


@pytest.mark.parametrize(("names", "count"), [("a", 4), ("abc", 3)])
def test_fragments_that_do_not_go_together(names: str, count: int) -> None:
    """Messages are those from a first to a last fragment with nothing else between, in whatever order they come."""
    kinds = {"a": (UNORDERED, 4), "b": (UNORDERED, 5), "c": (0, 4)}
    for sent in product(product((0, END, BEGIN, WHOLE), names), repeat=count):
        expected = {}
        for name in kinds:
            text = "".join("mlfw"[flags] if one == name else "." for flags, one in sent)
            found = [range(*one.span()) for one in re.finditer("fm*l|w", text)]
            expected[name] = [b"".join(b"%d" % tsn for tsn in tsns) for tsns in found]
        steps = [
            data(tsn, flags | kinds[name][0], 0, b"%d" % tsn, kinds[name][1]) for tsn, (flags, name) in enumerate(sent)
        ]
        for mixed in permutations(steps):
            inbound = Inbound(FIRST_TSN, WINDOW, 10, False)
            put(inbound, *mixed)
            got = {name: [one[2] for one in inbound.messages if one[2] in expected[name]] for name in kinds}
            assert sorted(got["a"]) == expected["a"]
            assert sorted(got["b"]) == expected["b"]
            # Of several ordered ones, which all have the number 0, the first to come is taken.
            assert len(got["c"]) == min(len(expected["c"]), 1)
            assert len(inbound.messages) == sum(map(len, got.values()))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_nothing_else_comes_of_it(seed: int, interleaved: bool) -> None:
    """Anything goes: it is taken, or it is a breach."""
    source = random.Random(seed)
    for _ in range(30):
        inbound = Inbound(FIRST_TSN, 4096, 20, interleaved)
        try:
            for _ in range(200):
                tsn = source.choice([source.randrange(-3, 40), source.randrange(2**32)])
                number = source.choice([source.randrange(6), source.randrange(2**32)])
                flags, stream = source.randrange(16), source.randrange(5)
                if source.random() < 0.1:
                    inbound.reset([stream] if source.random() < 0.9 else None)
                elif source.random() < 0.1:
                    skip = [(stream, bool(flags & UNORDERED), number)]
                    put(inbound, i_forward(tsn, skip) if interleaved else forward(tsn, [(stream, number)]))
                elif interleaved:
                    put(inbound, i_data(tsn, flags, number, source.randrange(5), bytes(source.randint(1, 100)), stream))
                else:
                    put(inbound, data(tsn, flags, number, bytes(source.randint(1, 100)), stream))
                cumulative, window, gaps, _ = inbound.take_sack(10)
                assert inbound.kept >= 4096 - window
                assert gaps == sorted(gaps)
                assert all(1 < first <= last <= MAX_AHEAD for first, last in gaps)
                assert cumulative == inbound.cumulative
        except ProtocolError:
            pass
