"""A hostile end of SCTP, and what it sends."""

from __future__ import annotations

import struct

from aiortc.rtcsctptransport import (
    AbortChunk,
    ReconfigChunk,
    SackChunk,
)

from tests.reverse.net import until
from tests.rtc.aiortc.sctp_parts import (
    BINARY,
    DCEP,
    Hostile,
    Pair,
)


def opening(
    label: bytes = b"tcp-x", protocol: bytes = b"", kind: int = 0, lengths: tuple[int, int] | None = None
) -> bytes:
    sizes = lengths or (len(label), len(protocol))
    return struct.pack("!BBHLHH", 3, kind, 0, 0, *sizes) + label + protocol


async def hostile(pair: Pair) -> Hostile:
    await pair.connect()
    return Hostile(pair)


async def still_works(peer: Hostile, stream: int = 100) -> None:
    """The victim takes a new channel and its messages."""
    count = len(peer.user.channels)
    await peer.put(peer.data(stream, DCEP, opening()))
    await peer.put(peer.data(stream, BINARY, b"still there"))
    await until(lambda: len(peer.user.channels) > count, "a channel")
    await until(lambda: peer.user.users[-1].received == b"still there", "a message")
    assert peer.user.told == ["up"]


async def is_cut_off(peer: Hostile) -> None:
    """The victim has said once that this peer broke the protocol, and is deaf from then on."""
    await until(lambda: peer.user.broken, "the end")
    count = len(peer.user.channels)
    await peer.put(peer.data(102, DCEP, opening()))
    await peer.put(AbortChunk())
    await peer.settle()
    assert len(peer.user.channels) == count
    assert len(peer.user.told) == 2
    assert "\n" not in peer.user.told[1]


def reset(sequence: int, last_tsn: int, *streams: int, extra: bytes = b"") -> ReconfigChunk:
    chunk = ReconfigChunk()
    body = struct.pack("!LLL", sequence, 0, last_tsn) + b"".join(struct.pack("!H", one) for one in streams) + extra
    chunk.params.append((13, body))
    return chunk


def sack(tsn: int, gaps: list[tuple[int, int]] | None = None, window: int = 100_000) -> SackChunk:
    chunk = SackChunk()
    chunk.cumulative_tsn, chunk.advertised_rwnd, chunk.gaps = tsn % 2**32, window, gaps or []
    return chunk


def kept_chunks(pair: Pair) -> int:
    return len(pair.two._reassembly)
