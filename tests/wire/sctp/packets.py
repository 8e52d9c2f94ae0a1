"""What is in a packet."""

from __future__ import annotations

from collections.abc import Iterator

from rtunnel.wire.sctp.chunks import COMMON_HEADER, ProtocolError
from rtunnel.wire.sctp.codec import HEAD


def chunks_of(packet: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield each chunk of *packet*: type, flags, and where its value begins and ends.

    :raises ProtocolError: a chunk is cut off.
    """
    at, end = COMMON_HEADER, len(packet)
    unpack = HEAD.unpack_from
    while at + 4 <= end:
        kind, flags, length = unpack(packet, at)
        last = at + length
        if length < 4 or last > end:
            raise ProtocolError("a chunk that is cut off")
        yield kind, flags, at + 4, last
        at = (last + 3) & ~3
