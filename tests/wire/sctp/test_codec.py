"""Packets, as this end and an independent implementation read them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from aiortc.rtcsctptransport import parse_packet
from hypothesis import given, strategies as st

from rtunnel.wire.sctp import chunks, codec
from rtunnel.wire.sctp.chunks import Init, ProtocolError, Sack
from rtunnel.wire.sctp.codec import Envelope
from tests.wire.sctp.packets import chunks_of

U16, U32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
INITS = st.builds(
    Init,
    *(st.integers(1, 2**32 - 1), U32, st.integers(1, 65535), st.integers(1, 65535), U32),
    st.binary(max_size=50),
    st.frozensets(st.integers(0, 255), max_size=6),
    st.booleans(),
    st.booleans(),
)
SACKS = st.builds(
    Sack,
    *(U32, U32, st.lists(st.tuples(U16, U16), max_size=9).map(tuple), st.lists(U32, max_size=9).map(tuple)),
)


def value_of(chunk: bytes) -> bytes:
    ((_, _, begin, end),) = chunks_of(bytes(12) + chunk)
    return (bytes(12) + chunk)[begin:end]


@given(INITS, st.sampled_from([chunks.INIT, chunks.INIT_ACK]))
def test_inits_come_back(init: Init, kind: int) -> None:
    assert codec.decode_init(value_of(codec.encode_init(kind, init))) == init


@given(SACKS)
def test_sacks_come_back(sack: Sack) -> None:
    assert codec.decode_sack(value_of(codec.encode_sack(sack))) == sack


@given(U32, st.lists(st.tuples(U16, U16), max_size=9))
def test_forward_tsns_come_back(tsn: int, skipped: list[tuple[int, int]]) -> None:
    chunk = codec.encode_forward_tsn(tsn, skipped)
    assert codec.decode_forward_tsn(value_of(chunk)) == (tsn, skipped)


@given(U32, st.lists(st.tuples(U16, st.booleans(), U32), max_size=9))
def test_i_forward_tsns_come_back(tsn: int, skipped: list[tuple[int, bool, int]]) -> None:
    chunk = codec.encode_i_forward_tsn(tsn, skipped)
    assert codec.decode_i_forward_tsn(value_of(chunk)) == (tsn, skipped)


@given(st.integers(12, 4000).map(lambda number: 4 * number))
def test_probes_have_their_size_and_their_information(size: int) -> None:
    probe = codec.encode_probe(b"1234", size)
    assert len(probe) == size
    (_, _, begin, end), *_ = chunks_of(bytes(12) + probe)
    assert codec.heartbeat_information((bytes(12) + probe)[begin:end]) == b"1234"


@pytest.mark.parametrize("size", range(1, 9))
def test_chunks_are_padded(size: int) -> None:
    made: list[bytes] = [
        codec.data_chunk(1, 3, 2, 3, 53, bytes(size)),
        codec.i_data_chunk(1, 3, 2, 3, 53, memoryview(bytes(size))),
        codec.chunk(4, bytes(size)),
        codec.parameter(7, bytes(size)),
    ]
    assert all(len(each) % 4 == 0 for each in made)


def aiortc(packet: bytes) -> Any:
    """The packet as aiortc reads it: ports, tag and chunks."""
    return parse_packet(packet)


@given(U32, U16, U16, st.integers(0, 15), st.binary(min_size=1, max_size=40))
def test_another_implementation_reads_the_same_data(
    tsn: int, stream: int, number: int, flags: int, payload: bytes
) -> None:
    envelope = Envelope(5000, 6000, 7)
    envelope.address(99)
    packet = envelope.seal(codec.data_chunk(tsn, flags, stream, number, 53, payload))
    source, target, tag, (chunk,) = aiortc(packet)
    assert (source, target, tag) == (5000, 6000, 99)
    assert (chunk.tsn, chunk.stream_id, chunk.stream_seq, chunk.flags) == (tsn, stream, number, flags)
    assert (chunk.protocol, chunk.user_data) == (53, payload)
    back = Envelope(6000, 5000, 99)
    assert back.is_ours(packet)
    assert not Envelope(6000, 5000, 98).is_ours(packet)
    assert not Envelope(6001, 5000, 99).is_ours(packet)


@given(SACKS, INITS)
def test_another_implementation_reads_the_same_numbers(sack: Sack, init: Init) -> None:
    envelope = Envelope(5000, 5000, 7)
    _, _, _, (one,) = aiortc(envelope.seal(codec.encode_sack(sack)))
    assert (one.cumulative_tsn, one.advertised_rwnd) == (sack.cumulative, sack.window)
    assert (tuple(one.gaps), tuple(one.duplicates)) == (sack.gaps, sack.duplicates)
    _, _, _, (two,) = aiortc(envelope.seal_for(0, codec.encode_init(chunks.INIT, init)))
    assert (two.initiate_tag, two.advertised_rwnd, two.initial_tsn) == (init.tag, init.window, init.tsn)
    assert (two.outbound_streams, two.inbound_streams) == (init.outbound, init.inbound)


def test_serial_numbers_wrap_on_the_wire() -> None:
    assert value_of(codec.data_chunk(2**32 + 5, 3, 2, 2**16 + 7, 53, b"x"))[:8] == bytes.fromhex("0000000500020007")
    body = value_of(codec.i_data_chunk(2**33 - 1, 3, 2, 2**32 + 7, 53, b"x"))
    assert body[:12] == bytes.fromhex("ffffffff0002000000000007")
    assert codec.decode_sack(value_of(codec.encode_sack(Sack(2**32, 2**40)))) == Sack(0, 2**32 - 1)


def test_a_checksum_may_be_left_out_if_that_is_agreed() -> None:
    envelope = Envelope(5000, 5000, 7)
    envelope.address(7)
    envelope.zero_checksum = True
    packet = envelope.seal(codec.chunk(chunks.COOKIE_ACK))
    assert packet[8:12] == bytes(4)
    assert envelope.is_ours(packet)
    assert not envelope.is_ours(packet[:8] + b"\0\0\0\1" + packet[12:])


DECODERS = (codec.decode_init, codec.decode_sack, codec.decode_forward_tsn, codec.decode_i_forward_tsn)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in DECODERS:
        with suppress(ProtocolError):
            decode(data)
    assert isinstance(codec.heartbeat_information(data), bytes)
    for read in (chunks_of, codec.parameters_of):
        with suppress(ProtocolError):
            assert len(list(read(data))) <= len(data) // 4


@given(INITS)
def test_parameters_about_addresses_are_passed_over(init: Init) -> None:
    """The life of cookies, and the types of addresses."""
    body = value_of(codec.encode_init(chunks.INIT, init))
    addresses = codec.parameter(9, bytes(4)) + codec.parameter(12, b"\0\5\0\6")
    assert codec.decode_init(body[:16] + addresses + body[16:]) == init
