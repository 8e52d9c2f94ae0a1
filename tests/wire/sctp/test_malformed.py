"""Packets and chunks that are malformed, or out of place."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.sctp import chunks
from rtunnel.wire.sctp.chunks import Sack
from rtunnel.wire.sctp.codec import chunk, encode_init, encode_sack, parameter
from rtunnel.wire.sctp.events import StreamsReset
from tests.wire.sctp.by_hand import BINARY, Attack, Waiting, kinds, send, values

INTERLEAVED = pytest.mark.parametrize("interleaved", [False, True])

INTERLEAVED = pytest.mark.parametrize("interleaved", [False, True])


@pytest.mark.parametrize("kind", [2, 4, 5, 6, 9, 10, 130])
@pytest.mark.parametrize(
    "parameters", [bytes(4), struct.pack("!HH", 7, 6) + b"ab" + bytes(6), struct.pack("!HHHH", 7, 4, 9, 0)]
)
def test_a_parameter_without_a_length_does_not_hang_us(kind: int, parameters: bytes) -> None:
    peer = Attack()
    body = bytes(16) + parameters if kind == 2 else parameters
    peer.put(chunk(kind, body))
    if kind == chunks.ABORT:
        assert peer.why == ""
    elif kind == chunks.RE_CONFIG:
        assert peer.why
    else:
        peer.still_works()


@pytest.mark.parametrize("length", [0, 1, 3, 65535])
def test_a_chunk_that_is_cut_off_is_the_end(length: int) -> None:
    peer = Attack()
    peer.put(struct.pack("!BBH", 0, 3, length) + bytes(8))
    peer.is_cut_off()


@pytest.mark.parametrize(
    ("kind", "reported", "goes_on"), [(63, False, False), (100, True, False), (150, False, True), (200, True, True)]
)
def test_chunks_of_unknown_types(kind: int, reported: bool, goes_on: bool) -> None:
    peer = Attack()
    peer.put(chunk(kind, b"1234"), peer.data(4, BINARY, b"behind"))
    peer.wait(1)
    errors = list(values(peer.sent, chunks.ERROR))
    assert errors == ([struct.pack("!HHBBH", 6, 8, kind, 0, 4)] if reported else [])
    assert peer.messages == ([(4, BINARY, b"behind")] if goes_on else [])
    assert peer.why is None


@pytest.mark.parametrize("kind", [0, 64])
def test_chunks_with_data_that_were_not_agreed_are_ignored(kind: int) -> None:
    peer = Attack(interleaved=kind == 0)
    peer.interleaved = kind == 64
    tsn = peer.tsn
    peer.put(peer.data(4, BINARY, b"x"))
    peer.put(peer.forward(tsn))
    assert not peer.messages
    peer.tsn, peer.interleaved = tsn, kind == 0
    peer.still_works()


@pytest.mark.parametrize(
    "some",
    [
        chunk(chunks.COOKIE_ACK),
        chunk(chunks.INIT_ACK, struct.pack("!IIHHI", 1, 1, 1, 1, 1)),
        chunk(chunks.INIT_ACK),
        chunk(chunks.ERROR),
        chunk(chunks.ERROR, parameter(6, b"1234")),
        chunk(chunks.SHUTDOWN_ACK),
        chunk(chunks.SHUTDOWN_COMPLETE),
        chunk(chunks.HEARTBEAT_ACK, parameter(1, struct.pack("!I", 2**32 - 1))),
        chunk(chunks.HEARTBEAT_ACK, parameter(1, b"")),
        chunk(chunks.HEARTBEAT_ACK, bytes(4)),
        chunk(chunks.FORWARD_TSN, struct.pack("!I", 2**32 - 1000)),
        chunk(chunks.PAD, bytes(100)),
        chunk(chunks.RE_CONFIG, parameter(16, struct.pack("!LL", 7, 1))),
        chunk(chunks.RE_CONFIG, parameter(17, struct.pack("!LHH", 7, 65535, 0))),
        chunk(chunks.RE_CONFIG, parameter(99, b"new")),
    ],
)
def test_chunks_out_of_place_are_ignored(some: bytes) -> None:
    peer = Attack(largest_packet=16_384)
    peer.put(some)
    # What the peer says of its path concerns nobody else, within what sockets take.
    assert peer.victim.path.size <= 16_384
    peer.still_works()


@pytest.mark.parametrize(
    "body",
    [
        parameter(13, b""),
        parameter(13, bytes(11)),
        parameter(13, bytes(13)),
        parameter(16, b"\0"),
        parameter(17, b"\0\0"),
        bytes(4),
    ],
)
def test_a_reset_that_is_malformed_is_the_end(body: bytes) -> None:
    peer = Attack()
    if body == parameter(13, bytes(13)):
        # Half a stream in the request that is next.
        body = parameter(13, struct.pack("!LLL", peer._request, 0, peer.tsn - 1) + b"\0")
    peer.put(chunk(chunks.RE_CONFIG, body))
    peer.is_cut_off()


@pytest.mark.parametrize("kind", [chunks.SACK, chunks.FORWARD_TSN])
def test_a_number_that_is_cut_off_is_the_end(kind: int) -> None:
    peer = Attack()
    peer.put(chunk(kind, b"\0\0\0"))
    peer.is_cut_off()
    for gaps, duplicates in (1, 0), (0, 1), (65535, 65535):
        peer = Attack()
        peer.put(chunk(chunks.SACK, struct.pack("!IIHH", peer.first_tsn - 1, 1, gaps, duplicates)))
        peer.is_cut_off()


def test_packets_of_others_are_dropped() -> None:
    peer = Attack()
    whole = peer.packet(peer.data(4, BINARY, b"x", tsn=peer.tsn))
    count = len(peer.sent)
    source = random.Random(7)
    for at in range(12):
        broken = bytearray(whole)
        broken[at] ^= 1 << source.randrange(8)
        peer.deliver([bytes(broken)])
    for size in (0, 1, 11, 12, 15, 16, 100, 1189):
        peer.deliver([source.randbytes(size), whole[: min(size, 31)], bytes(size)])
    assert not peer.messages
    assert len(peer.sent) == count
    peer.still_works()


def test_a_packet_without_a_checksum_is_taken_unless_it_begins_an_association() -> None:
    peer = Attack()
    whole = peer.packet(peer.data(4, BINARY, b"x"))
    peer.deliver([whole[:8] + bytes(4) + whole[12:]])
    assert peer.messages == [(4, BINARY, b"x")]
    peer = Waiting()
    init = peer.envelope.seal_for(0, encode_init(chunks.INIT, peer.init))
    peer.deliver([init[:8] + bytes(4) + init[12:]])
    assert not peer.sent


KINDS = st.sampled_from([*range(15), 63, 64, 130, 132, 192, 193, 194])
CHUNKS = st.lists(st.tuples(KINDS, st.integers(0, 255), st.binary(max_size=60)), max_size=6)


@given(st.booleans(), st.lists(CHUNKS, max_size=4))
def test_no_chunk_raises(interleaved: bool, packets: list[list[tuple[int, int, bytes]]]) -> None:
    peer = Attack(interleaved=interleaved)
    send(peer, 100, 3000)
    for some in packets:
        peer.put(*(chunk(kind, body, flags) for kind, flags, body in some))
    peer.wait(5)
    assert len(peer.victim.events) - sum(isinstance(each, StreamsReset) for each in peer.victim.events) <= 2
    assert peer.why is None or peer.why.isprintable()
    if peer.why is None:
        assert kinds(peer.sent[-1]) != [chunks.ABORT]


@INTERLEAVED
@pytest.mark.parametrize("seed", range(20))
def test_chunks_with_numbers_that_are_nearly_right(interleaved: bool, seed: int) -> None:
    """What is malformed is found out soon. What is well formed and near to what is right goes deeper."""
    source = random.Random(seed)
    peer = Attack(interleaved=interleaved, max_open=20)
    send(peer, *[1000] * 20)
    for _ in range(300):
        near = peer.tsn + source.randint(-3, 12)
        acked = peer.highest - source.randint(0, 12)
        kind = source.randrange(8)
        if kind < 4:
            peer.put(
                peer.data(source.randrange(12), BINARY, bytes(source.randint(1, 9)), source.randrange(16), tsn=near)
            )
        elif kind == 4:
            peer.put(peer.forward(near, [(source.randrange(12), source.randrange(4)) for _ in range(3)]))
            peer.tsn = max(peer.tsn, near)
        elif kind == 5:
            first = source.randint(1, 9)
            peer.put(encode_sack(Sack(acked, source.randrange(5000), ((first, first + source.randint(-1, 3)),))))
        elif kind == 6:
            peer.reset(source.randrange(12), again=source.random() < 0.5)
        else:
            peer.wait(source.random())
        if peer.why is not None:
            break
    peer.wait(100)
    assert peer.why is None or peer.why.isprintable()
