"""A chunk that was sent and is not acknowledged."""

from __future__ import annotations

from collections.abc import Mapping

from rtunnel.wire.sctp.scheduler import Message

#: Bytes of memory that a chunk takes beside its own.
CHUNK_COST = 512
#: A chunk that was sent so often may be too large for the path.
BLACK_HOLE = 4
#: How many streams a FORWARD TSN names at most; they fit into the smallest packet.
MAX_SKIPPED = 100


class Chunk:
    """A DATA or I-DATA chunk that has been sent.

    :ivar wire: the chunk, with its padding.
    :ivar number: of the packet in which it was last sent; packets are numbered as they are sent.
    :ivar sent_at: when that was.
    :ivar sends: how often it was sent.
    """

    __slots__ = ("message", "number", "sends", "sent_at", "size", "tsn", "wire")

    def __init__(self, tsn: int, wire: bytes, message: Message) -> None:
        self.tsn = tsn
        self.wire = wire
        self.size = len(wire)
        self.message = message
        self.number = -1
        self.sent_at = 0.0
        self.sends = 0


def are_all_in(number: int, in_flight: Mapping[int, Chunk]) -> bool:
    """Whether all chunks were sent in the packet of this number, the last one.

    :param in_flight: one at least, in the order of sending.
    """
    return next(iter(in_flight.values())).number == number


def skipped(
    chunks: Mapping[int, Chunk], acked_to: int, given_up_to: int, interleaved: bool
) -> tuple[int, dict[tuple[int, bool], int]]:
    """Return what a FORWARD TSN says: up to which TSN, and the last number given up on each stream that has numbers."""
    last, found = acked_to, dict[tuple[int, bool], int]()
    for tsn in range(acked_to + 1, given_up_to + 1):
        message = chunks[tsn].message
        if message.abandoned and (message.ordered or interleaved):
            key = message.stream, message.ordered
            if key not in found and len(found) == MAX_SKIPPED:
                break
            found[key] = max(found.get(key, 0), message.number)
        last = tsn
    return last, found
