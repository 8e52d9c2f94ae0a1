"""Chunks of a hostile peer, which chooses their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rtunnel.wire.sctp.reassembly import WHOLE
from rtunnel.wire.sctp.receiving import Inbound
from tests.wire.sctp.inbound_parts import BINARY

FIRST_TSN = 2**32 - 1000

#: A call of Inbound with a peer's chunk, and how many bytes that is on the wire.
Step = tuple[int, Callable[[Inbound], object]]


def data(tsn: int, flags: int = WHOLE, number: int = 0, payload: bytes = b"x", stream: int = 4) -> Step:
    size = 16 + (len(payload) + 3) // 4 * 4
    place = (FIRST_TSN + tsn) % 2**32
    return size, lambda inbound: inbound.data(place, flags, stream, number & 0xFFFF, BINARY, payload)


def i_data(
    tsn: int, flags: int = WHOLE, mid: int = 0, fsn: int = BINARY, payload: bytes = b"x", stream: int = 4
) -> Step:
    size = 20 + (len(payload) + 3) // 4 * 4
    place = (FIRST_TSN + tsn) % 2**32
    return size, lambda inbound: inbound.i_data(place, flags, stream, mid % 2**32, fsn, payload)


def forward(tsn: int, skipped: Iterable[tuple[int, int]] = ()) -> Step:
    skipped = [(stream, number & 0xFFFF) for stream, number in skipped]
    return 8 + 4 * len(skipped), lambda inbound: inbound.forward((FIRST_TSN + tsn) % 2**32, skipped)


def i_forward(tsn: int, skipped: Iterable[tuple[int, bool, int]] = ()) -> Step:
    skipped = [(stream, unordered, mid % 2**32) for stream, unordered, mid in skipped]
    return 8 + 8 * len(skipped), lambda inbound: inbound.i_forward((FIRST_TSN + tsn) % 2**32, skipped)


def put(inbound: Inbound, *steps: Step) -> None:
    for _, step in steps:
        step(inbound)
