"""What a byte of a hostile peer costs, whatever is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import pytest

from rtunnel.wire.sctp.chunks import BEGIN, UNORDERED
from rtunnel.wire.sctp.reassembly import WHOLE
from rtunnel.wire.sctp.receiving import Inbound
from tests.wire.sctp.hostile_parts import FIRST_TSN, Step, data, forward, i_data, i_forward
from tests.wire.sctp.inbound_parts import WINDOW


def tiny() -> Iterator[Step]:
    for tsn in range(1000):
        yield data(tsn, number=tsn)


def out_of_order() -> Iterator[Step]:
    for tsn in range(2, 4000, 2):
        yield data(tsn, number=tsn)


def backwards() -> Iterator[Step]:
    for tsn in range(2000, 0, -1):
        yield data(tsn, BEGIN * (tsn == 0), 0)


def between() -> Iterator[Step]:
    """Each joins two runs."""
    for tsn in [*range(1, 2000, 2), *range(2, 2000, 2)]:
        yield data(tsn, 0)


def always_before_the_last() -> Iterator[Step]:
    for tsn in [1020, *range(1, 1000)]:
        yield data(tsn, 0)


def one_message() -> Iterator[Step]:
    for tsn in range(2000):
        yield data(tsn, 0 if tsn else BEGIN)


def behind_incomplete_ones() -> Iterator[Step]:
    for tsn in range(1, 1000):
        yield data(tsn, UNORDERED | BEGIN)
    for tsn in range(1000, 3000):
        yield data(tsn, UNORDERED | WHOLE)


def behind_messages_that_wait() -> Iterator[Step]:
    for tsn in range(1, 1000):
        yield data(tsn, WHOLE, 2 * tsn)
    for tsn in range(1000, 3000):
        yield data(tsn, WHOLE, 0, stream=5)


def duplicates() -> Iterator[Step]:
    yield from out_of_order()
    for _ in range(10):
        for tsn in range(0, 2000, 7):
            yield data(tsn)


def forward_with_many_streams() -> Iterator[Step]:
    for stream in range(1000):
        yield data(stream, WHOLE, 1, stream=stream)
    for tsn in range(1000, 1500):
        yield forward(tsn)


def forward_of_one_stream() -> Iterator[Step]:
    for tsn in range(1, 1000):
        yield data(tsn, WHOLE, 30_000 - tsn)
    for tsn in range(1000, 1010):
        yield forward(tsn, [(4, number) for number in range(300)])


def forward_behind_many() -> Iterator[Step]:
    for tsn in range(2000, 4000, 2):
        yield data(tsn, UNORDERED | BEGIN)
    for tsn in range(500):
        yield forward(tsn)


def forward_past_messages_that_wait() -> Iterator[Step]:
    for tsn in range(1000):
        yield data(tsn, WHOLE, 20_000 + tsn)
    for tsn in range(1000, 1500):
        yield forward(tsn, [(4, tsn)])


def interleaved_in_one_stream() -> Iterator[Step]:
    for tsn in range(2000):
        yield i_data(tsn, BEGIN, 5000 - tsn)


def interleaved_out_of_order() -> Iterator[Step]:
    for tsn in range(1000):
        yield i_data(tsn, BEGIN | UNORDERED, (tsn * 7919) % 1000)
    for tsn in range(1000, 2000):
        yield i_data(tsn, UNORDERED, 3, 2 + (tsn * 7919) % 1000)


def i_forward_behind_many() -> Iterator[Step]:
    for tsn in range(1000):
        yield i_data(tsn, BEGIN | UNORDERED, 100_000 + tsn)
    for tsn in range(1000, 2000):
        yield i_data(tsn, BEGIN, 100_000 + tsn)
    for tsn in range(2000, 2500):
        yield i_forward(tsn, [(4, True, tsn), (4, False, tsn)] * 10)


def resets() -> Iterator[Step]:
    yield from forward_of_one_stream()
    yield from behind_incomplete_ones()
    for _ in range(1000):
        yield 20, lambda inbound: inbound.reset([6])


class Work:
    """Counts the instructions of Python code in a ``with`` block, whatever else the machine does."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Work:
        sys.settrace(self._note)
        return self

    def _note(self, frame: FrameType, event: str, _argument: Any) -> Any:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        self.count += event == "opcode"
        return self._note

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


def run(steps: Iterable[Step], inbound: Inbound) -> tuple[int, Work]:
    """Take the chunks. Return how many bytes they were, and the work for them."""
    steps = list(steps)
    with Work() as work:
        for _, step in steps:
            step(inbound)
            inbound.messages.clear()
    return sum(size for size, _ in steps), work


@pytest.mark.parametrize(
    "attack",
    [
        tiny,
        out_of_order,
        backwards,
        between,
        always_before_the_last,
        one_message,
        behind_incomplete_ones,
        behind_messages_that_wait,
        duplicates,
        forward_with_many_streams,
        forward_of_one_stream,
        forward_behind_many,
        forward_past_messages_that_wait,
        interleaved_in_one_stream,
        interleaved_out_of_order,
        i_forward_behind_many,
        resets,
    ],
)
def test_a_byte_costs_little(attack: Callable[[], Iterator[Step]]) -> None:
    """What an honest peer can send that costs most are messages of one byte each."""
    size, work = run(tiny(), Inbound(FIRST_TSN, WINDOW, 2000, False))
    honest = work.count / size
    size, work = run(attack(), Inbound(FIRST_TSN, WINDOW, 2000, "i_" in attack.__name__ or "inter" in attack.__name__))
    print(f"{work.count / size:.1f} instructions for a byte, {honest:.1f} of an honest peer")
    assert work.count / size < 4 * honest


def test_an_acknowledgement_costs_no_more_than_its_gaps() -> None:
    """128 gaps are told at most, 4 bytes each, and nothing is sorted."""
    inbound = Inbound(FIRST_TSN, WINDOW, 10, False)
    run(out_of_order(), inbound)
    with Work() as work:
        gaps = inbound.take_sack(128)[2]
    assert len(gaps) == 128
    assert work.count < 128 * 20 + 100
