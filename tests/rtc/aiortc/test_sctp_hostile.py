"""Whatever a peer sends ends as nothing, as a channel's event, or as the one end of the association.

The peer of these tests has come through DTLS, so it can send any SCTP packet. Errors that are logged, tasks that end by
an exception, and timers that stay are found by ``ended`` and by tests/leftovers.py.
"""

from __future__ import annotations

import asyncio
import hmac
import random
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
import pytest_twisted
from aiortc import rtcsctptransport
from aiortc.rtcsctptransport import (
    AbortChunk,
    Chunk,
    CookieEchoChunk,
    ErrorChunk,
    ForwardTsnChunk,
    HeartbeatChunk,
    InitChunk,
    ReconfigChunk,
    SackChunk,
    ShutdownChunk,
    ShutdownCompleteChunk,
    serialize_packet,
)
from hypothesis import given, strategies as st

from rtunnel.rtc.aiortc.inbound import (
    MAX_AHEAD,
    MAX_CONTROL,
    MAX_KEPT,
    MAX_MISORDERED,
    RECEIVE_WINDOW,
    WINDOW_SLACK,
    parameters_are_sound,
)
from rtunnel.rtc.aiortc.sctp import MAX_FLIGHT
from tests.reverse.net import turns, until
from tests.rtc.aiortc.sctp_parts import (
    BINARY,
    DCEP,
    FIRST,
    LAST,
    STRING,
    UNORDERED,
    ChannelTold,
    Hostile,
    Pair,
    RawChunks,
    ended,
    kinds,
)

RECONFIG = 130


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


# Channels

BAD_OPENINGS = {
    "empty": b"\x03",
    "cut off in its header": opening()[:11],
    "label longer than the message": opening(b"ab", lengths=(3, 0)),
    "protocol longer than the message": opening(b"ab", b"cd", lengths=(2, 3)),
    "lengths that are absurd": opening(lengths=(65535, 65535)),
    "a label that is no UTF-8": opening(b"\xff\xfe"),
    "a protocol that is no UTF-8": opening(b"x", b"\xc3"),
    "a label that is too long": opening(b"x" * 1025),
    "a protocol that is too long": opening(b"x", b"y" * 1025),
}


async def put_opening(peer: Hostile, message: bytes) -> None:
    for begin in range(0, len(message), 1000):
        flags = (FIRST if not begin else 0) | (LAST if begin + 1000 >= len(message) else 0)
        await peer.put(peer.data(4, DCEP, message[begin : begin + 1000], flags))


@pytest.mark.parametrize("message", BAD_OPENINGS.values(), ids=BAD_OPENINGS.keys())
@pytest_twisted.ensureDeferred
async def test_an_open_that_is_malformed_closes_that_channel(message: bytes) -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        resets: list[bytes] = []

        def passes(packet: bytes) -> bool:
            if RECONFIG in kinds(packet):
                resets.append(packet)
            return True

        pair.wires[1].passes = passes
        await put_opening(peer, message)
        await peer.put(peer.data(4, BINARY, b"for nobody"))
        await until(lambda: resets, "the reset of its stream")
        # A request to reset outgoing streams, and the last of its body is the number of the stream.
        assert (resets[0][16:18], resets[0][-4:-2]) == (struct.pack("!H", 13), struct.pack("!H", 4))
        assert not peer.user.channels
        await still_works(peer)
        # The peer closes its direction, too, as it should. Then the stream can be used again.
        sequence = (pair.two._reconfig_response_seq + 1) % 2**32
        await peer.put(reset(sequence, (peer.end._local_tsn - 1) % 2**32, 4))
        await until(lambda: set(pair.two._data_channels) == {100}, "the end of the channel")
        peer.begin_anew(4)
        await still_works(peer, stream=4)


@pytest_twisted.ensureDeferred
async def test_names_as_long_as_they_may_be() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        message = opening(b"x" * 1024, "ü".encode() * 512)
        await peer.put(peer.data(4, DCEP, message[:1100], FIRST))
        await peer.put(peer.data(4, DCEP, message[1100:], LAST))
        await until(lambda: peer.user.channels, "a channel")
        assert peer.user.channels[0].protocol == "ü" * 512


@pytest_twisted.ensureDeferred
async def test_a_channel_that_is_open_already_is_closed() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await still_works(peer, stream=4)
        await peer.put(peer.data(4, DCEP, opening()))
        await until(lambda: not peer.user.channels[0].is_open, "its end")
        await still_works(peer)


@pytest_twisted.ensureDeferred
async def test_more_channels_than_there_may_be_are_the_end() -> None:
    with ended(Pair(max_channels=20)) as pair:
        peer = await hostile(pair)
        for number in range(21):
            await peer.put(peer.data(2 * number, DCEP, opening()))
        await until(lambda: peer.user.broken, "the end")
        assert len(peer.user.channels) == 20


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DCEP, b"\x02"),
        (DCEP, b"\x63 unknown"),
        (DCEP, b"\x00"),
        (BINARY, b"for no channel"),
        (STRING, b"\xff"),
        (56, b"\0"),
        (57, b"\0"),
        (52, b"a kind of old"),
        (0xFFFFFFFF, b"x"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_messages_on_a_stream_without_a_channel_are_ignored(kind: int, message: bytes) -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, kind, message))
        await still_works(peer)


@pytest_twisted.ensureDeferred
async def test_odd_messages_on_a_channel() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, DCEP, opening()))
        for kind, message in (
            (DCEP, b"\x02"),
            (DCEP, b"\x99"),
            (STRING, b"\xff\xfe no UTF-8"),
            (77, b"x"),
            (56, b"\0"),
        ):
            await peer.put(peer.data(4, kind, message))
        await until(lambda: peer.user.users and len(peer.user.users[0].told) == 2, "texts")
        assert peer.user.users[0].told == [("text", b"\xff\xfe no UTF-8"), ("text", b"")]
        await still_works(peer)


@pytest_twisted.ensureDeferred
async def test_a_channel_behind_the_end_of_the_association_does_not_arrive() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put_raw(bytes(AbortChunk()), bytes(peer.data(4, DCEP, opening())))
        await until(lambda: "down" in peer.user.told, "the end")
        await peer.settle()
        assert peer.user.told == ["up", "down"]
        assert not peer.user.channels
        assert pair.two._sack_timer is None


@pytest_twisted.ensureDeferred
async def test_a_channel_behind_the_break_does_not_arrive() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        chunks = [peer.data(4, BINARY, b""), peer.data(6, DCEP, opening())]
        await peer.put_raw(*map(bytes, chunks))
        await until(lambda: peer.user.broken, "the end")
        assert not peer.user.channels


# Resets


def reset(sequence: int, last_tsn: int, *streams: int, extra: bytes = b"") -> ReconfigChunk:
    chunk = ReconfigChunk()
    body = struct.pack("!LLL", sequence, 0, last_tsn) + b"".join(struct.pack("!H", one) for one in streams) + extra
    chunk.params.append((13, body))
    return chunk


@pytest_twisted.ensureDeferred
async def test_a_reset_of_streams_that_are_none_is_ignored() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        sequence = (pair.two._reconfig_response_seq + 1) % 2**32
        await peer.put(reset(sequence, pair.one._last_sacked_tsn, *range(0, 1000, 2)))
        await peer.put(reset(sequence, pair.one._last_sacked_tsn, 4))
        await still_works(peer)


@pytest_twisted.ensureDeferred
async def test_a_late_copy_of_a_reset_does_not_close_the_next_channel() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        sequence = (pair.two._reconfig_response_seq + 1) % 2**32
        first = reset(sequence, (peer.end._local_tsn - 1) % 2**32, 4)
        await peer.put(first)
        await peer.put(reset((sequence + 1) % 2**32, (peer.end._local_tsn - 1) % 2**32, 6))
        await peer.put(peer.data(4, DCEP, opening()))
        await peer.settle()
        assert pair.two._data_channels[4].readyState == "open"
        await peer.put(first)
        await peer.settle()
        assert pair.two._data_channels[4].readyState == "open"


@pytest.mark.parametrize(
    "parameter",
    [(13, b""), (13, bytes(11)), (13, bytes(13)), (16, b"\0"), (17, b"\0\0")],
)
@pytest_twisted.ensureDeferred
async def test_a_reset_that_is_malformed_is_the_end(parameter: tuple[int, bytes]) -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        chunk = ReconfigChunk()
        chunk.params.append(parameter)
        await peer.put(chunk)
        await is_cut_off(peer)


@pytest_twisted.ensureDeferred
async def test_an_answer_to_no_reset_is_ignored() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        for kind, body in ((16, struct.pack("!LL", 7, 1)), (17, struct.pack("!LHH", 7, 65535, 0)), (99, b"new")):
            chunk = ReconfigChunk()
            chunk.params.append((kind, body))
            await peer.put(chunk)
        await still_works(peer)


# Acknowledgements


def sack(tsn: int, gaps: list[tuple[int, int]] | None = None, window: int = 100_000) -> SackChunk:
    chunk = SackChunk()
    chunk.cumulative_tsn, chunk.advertised_rwnd, chunk.gaps = tsn % 2**32, window, gaps or []
    return chunk


@pytest.mark.parametrize("ahead", [0, 1, 1000, 2**31 - 1])
@pytest_twisted.ensureDeferred
async def test_an_acknowledgement_of_what_was_not_sent_is_the_end(ahead: int) -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(sack(pair.two._local_tsn + ahead))
        await is_cut_off(peer)


@pytest_twisted.ensureDeferred
async def test_old_acknowledgements_are_ignored() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await still_works(peer, stream=6)
        for behind in (2, 1000, 2**31 - 5):
            await peer.put(sack(pair.two._local_tsn - behind, [(1, 65535)]))
        await still_works(peer)


class CountedSet(set[int]):
    """How often something was put into any of them: the steps of the loop that a hostile SACK could make long."""

    steps = 0

    def add(self, element: int) -> None:
        CountedSet.steps += 1
        super().add(element)


@pytest_twisted.ensureDeferred
async def test_gaps_that_are_absurd_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, DCEP, opening()))
        await until(lambda: peer.user.channels and not pair.two._flight_size, "a channel")
        pair.wires[1].passes = lambda packet: False
        peer.user.channels[0].send(bytes(100_000))
        await until(lambda: len(pair.two._sent_queue) > 1, "something in flight")
        outstanding = (pair.two._local_tsn - pair.two._last_sacked_tsn) % 2**32
        assert outstanding > 80
        CountedSet.steps = 0
        monkeypatch.setattr(rtcsctptransport, "set", CountedSet, raising=False)
        for gaps in (
            [(1, 65535)] * 250,
            [(2, outstanding - 1)] * 250,
            [(5, 2), (0, 0), (0, 65535), (3, 3)],
            [(1 + 2 * number, 65535) for number in range(200)],
        ):
            await peer.put(sack(pair.two._last_sacked_tsn, gaps))
        await peer.settle()
        assert 0 < CountedSet.steps <= 8 * outstanding
        assert peer.user.told == ["up"]


@pytest_twisted.ensureDeferred
async def test_a_window_that_stays_shut_costs_one_message_in_flight() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, DCEP, opening()))
        await until(lambda: peer.user.channels and not pair.two._flight_size, "a channel")
        await peer.put(sack(pair.two._local_tsn - 1, window=0))
        await peer.settle()
        pair.wires[1].passes = lambda packet: False
        for _ in range(20):
            peer.user.channels[0].send(bytes(1000))
        await peer.settle()
        assert pair.two._flight_size == 1000
        assert pair.two.buffered == 19_000


# Numbers and the receive window


@pytest_twisted.ensureDeferred
async def test_an_init_in_the_middle_changes_nothing() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await still_works(peer, stream=6)
        chunk = InitChunk()
        chunk.initiate_tag, chunk.advertised_rwnd, chunk.initial_tsn = 1, 1, 12345
        tag, pair.one._remote_verification_tag = pair.one._remote_verification_tag, 0
        for _ in range(3):
            await peer.put(chunk)
        pair.one._remote_verification_tag = tag
        await still_works(peer)


@pytest_twisted.ensureDeferred
async def test_bytes_beyond_the_window_are_not_kept() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, DCEP, opening()))
        # Never a last one.
        for number in range(4000):
            await peer.put(peer.data(4, BINARY, bytes(1000), 0 if number else FIRST))
            if not number % 50:
                await turns(1)
        await peer.settle()
        assert kept(pair) <= RECEIVE_WINDOW + WINDOW_SLACK
        assert pair.two._advertised_rwnd <= 0
        assert peer.user.told == ["up"]


def kept(pair: Pair) -> int:
    return sum(len(chunk.user_data) for chunk in pair.two._reassembly._chunks.values())


def kept_chunks(pair: Pair) -> int:
    return len(pair.two._reassembly)


@pytest_twisted.ensureDeferred
async def test_chunks_out_of_order_are_bounded() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, DCEP, opening()))
        first = peer.end._local_tsn
        for number in range(1, MAX_MISORDERED + 500):
            await peer.put(peer.data(4, BINARY, b"x", tsn=(first + number) % 2**32))
            if not number % 100:
                await turns(1)
        await peer.settle()
        assert len(pair.two._sack_misordered) == MAX_MISORDERED
        assert peer.user.told == ["up"]
        # The one that was missing sets them free.
        await peer.put(peer.data(4, BINARY, b"y"))
        await until(lambda: not pair.two._sack_misordered, "order")


@pytest_twisted.ensureDeferred
async def test_an_acknowledgement_of_many_gaps_fits_into_a_packet() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        first = peer.end._local_tsn
        for number in range(600):
            await peer.put(peer.data(4, BINARY, b"x", tsn=(first + 1 + 2 * number) % 2**32))
        await peer.settle()
        # The stand-in for DTLS asserts that.
        assert len(pair.two._sack_misordered) == 600
        assert peer.user.told == ["up"]


@pytest.mark.parametrize("ahead", [MAX_AHEAD + 1, 100_000, 2**31 - 1])
@pytest_twisted.ensureDeferred
async def test_a_number_far_ahead_is_dropped(ahead: int) -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        first = (peer.end._local_tsn - 1) % 2**32
        await peer.put(peer.data(4, BINARY, b"x", tsn=(first + ahead) % 2**32))
        await peer.put(peer.data(4, BINARY, b"x", FIRST, tsn=(first + MAX_AHEAD) % 2**32))
        await until(lambda: len(pair.two._sack_misordered) == 1, "the chunk that is near enough")
        assert not pair.two._sack_duplicates
        await still_works(peer)


@pytest_twisted.ensureDeferred
async def test_a_forward_tsn_far_ahead_leaves_nothing_behind() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        first = peer.end._local_tsn
        for number in range(600):
            await peer.put(peer.data(4 + number % 8, BINARY, b"x" * 100, FIRST, tsn=(first + 2 * number) % 2**32))
        await peer.settle()
        assert kept_chunks(pair) == 600
        chunk = ForwardTsnChunk()
        chunk.cumulative_tsn = (first + 2**30) % 2**32
        await peer.put(chunk)
        await peer.settle()
        assert kept_chunks(pair) == len(pair.two._sack_misordered) == 0
        assert pair.two._advertised_rwnd == RECEIVE_WINDOW
        peer.end._local_tsn = (chunk.cumulative_tsn + 1) % 2**32
        await still_works(peer)


@pytest_twisted.ensureDeferred
async def test_many_small_fragments_are_the_end() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        sent = 0
        while not peer.user.broken and sent < 10 * MAX_KEPT:
            await peer.put_raw(*(bytes(peer.data(4, BINARY, b"x", FIRST if not sent else 0)) for _ in range(50)))
            sent += 50
            await turns(1)
        assert peer.user.broken
        assert kept_chunks(pair) == MAX_KEPT + 1


@pytest_twisted.ensureDeferred
async def test_fragments_on_more_streams_than_there_can_be_are_the_end() -> None:
    with ended(Pair(max_channels=200)) as pair:
        peer = await hostile(pair)
        for stream in range(300):
            await peer.put(peer.data(stream, BINARY, b"x", FIRST | UNORDERED))
        await until(lambda: peer.user.broken, "the end")
        assert len(pair.two._inbound_streams) <= 200


@pytest_twisted.ensureDeferred
async def test_streams_named_only_by_forward_tsn_are_bounded() -> None:
    with ended(Pair(max_channels=200)) as pair:
        peer = await hostile(pair)
        chunk = ForwardTsnChunk()
        chunk.cumulative_tsn = peer.end._local_tsn
        chunk.streams = [(stream, 5) for stream in range(300)]
        await peer.put(chunk)
        await is_cut_off(peer)
        assert len(pair.two._inbound_streams) <= 200


@pytest_twisted.ensureDeferred
async def test_a_chunk_without_a_byte_is_the_end() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, BINARY, b""))
        await is_cut_off(peer)


@pytest_twisted.ensureDeferred
async def test_duplicates_are_ignored() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, DCEP, opening()))
        chunk = bytes(peer.data(4, BINARY, b"once"))
        for _ in range(20):
            await peer.put_raw(*[chunk] * 30)
        await until(lambda: peer.user.users and peer.user.users[0].told, "the message")
        assert peer.user.users[0].told == [("binary", b"once")]
        await still_works(peer)


# Whatever else


@pytest.mark.parametrize("kind", [1, 2, 4, 5, 6, 9, 130])
@pytest_twisted.ensureDeferred
async def test_a_parameter_without_a_length_does_not_hang_us(kind: int) -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        before = bytes(16) if kind in (1, 2) else b""
        for parameters in (bytes(4), struct.pack("!HH", 7, 6) + b"ab" + bytes(6), struct.pack("!HHHH", 7, 4, 9, 0)):
            body = before + parameters
            await peer.put_raw(struct.pack("!BBH", kind, 0, 4 + len(body)) + body)
        await peer.settle()
        if kind == 1:
            assert peer.user.told == ["up"]
        await still_works(peer)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, 6, 9, 130, 192]), st.binary(max_size=40)), max_size=5))
def test_what_is_found_sound_can_be_read(chunks: list[tuple[int, bytes]]) -> None:
    packet = bytes(12) + b"".join(
        struct.pack("!BBH", kind, 0, 4 + len(body)) + body + bytes(-len(body) % 4) for kind, body in chunks
    )
    looks = 0

    def counted(body: bytes) -> list[tuple[int, bytes]]:
        nonlocal looks
        found, at = [], 0
        while at <= len(body) - 4:
            looks += 1
            assert looks < 1000, "it does not end"
            kind, length = struct.unpack_from("!HH", body, at)
            found.append((kind, body[at + 4 : at + length]))
            at += length + (-length % 4)
        return found

    if parameters_are_sound(packet):
        for kind, body in chunks:
            if kind in (4, 5, 6, 9, 130):
                counted(body)
            elif kind in (1, 2):
                counted(body[16:])


@pytest_twisted.ensureDeferred
async def test_garbage_is_ignored() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        source = random.Random(7)
        for size in (0, 1, 11, 12, 15, 16, 100, 1189):
            pair.two.transport.arrives(source.randbytes(size))  # type: ignore[attr-defined]
        for length in (0, 1, 3, 65535):
            await peer.put_raw(struct.pack("!BBH", 0, 3, length) + bytes(8))
        await peer.put_raw(struct.pack("!BBH", 200, 0, 8) + bytes(4))
        await peer.settle()
        await still_works(peer)


@pytest_twisted.ensureDeferred
async def test_no_chunk_raises() -> None:
    source = random.Random(1)
    for _ in range(150):
        with ended(Pair()) as pair:
            peer = await hostile(pair)
            for _ in range(source.randint(1, 6)):
                kind, body = source.choice([*range(15), 130, 192, 193]), source.randbytes(source.randint(0, 60))
                header = struct.pack("!BBH", kind, source.randrange(256), 4 + len(body))
                await peer.put_raw(header + body + bytes(-len(body) % 4))
            await turns(1)
            assert len(peer.user.told) <= 2


@pytest.mark.parametrize(
    "send",
    [
        lambda: CookieEchoChunk(body=b"x" * 24),
        lambda: CookieEchoChunk(body=b""),
        lambda: HeartbeatChunk(body=struct.pack("!HH", 1, 8) + b"1234"),
        ErrorChunk,
        ShutdownCompleteChunk,
        ForwardTsnChunk,
    ],
    ids=["cookie", "no cookie", "heartbeat", "error", "shutdown complete", "forward"],
)
@pytest_twisted.ensureDeferred
async def test_chunks_out_of_place_are_ignored(send: Callable[[], Any]) -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        chunk = send()
        if isinstance(chunk, ForwardTsnChunk):
            chunk.cumulative_tsn = (pair.one._local_tsn - 1000) % 2**32
        await peer.put(chunk)
        await still_works(peer)


@pytest_twisted.ensureDeferred
async def test_a_shutdown_ends_it() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await still_works(peer)
        shutdown = ShutdownChunk()
        for _ in range(5):
            await peer.put(shutdown)
        await peer.put(ShutdownCompleteChunk())
        await until(lambda: "down" in peer.user.told, "the end")
        assert peer.user.told == ["up", "down"]
        assert peer.user.users[-1].told[-1] == "closed"


@pytest_twisted.ensureDeferred
async def test_channels_of_a_peer_that_resets_nothing_do_not_pile_up_for_ever() -> None:
    with ended(Pair(max_channels=50)) as pair:
        peer = await hostile(pair)
        pair.wires[1].passes = lambda packet: packet[12] != 130
        peer.user.on_room = lambda: None
        for number in range(51):
            await peer.put(peer.data(2 * number, DCEP, opening()))
            await peer.settle()
            peer.user.channels[-1].close()
        await until(lambda: peer.user.broken, "the end")


@pytest_twisted.ensureDeferred
async def test_what_waits_for_a_peer_that_acknowledges_nothing_is_bounded() -> None:
    """It opens channels and resets them, over and over."""
    with ended(Pair(max_channels=50)) as pair:
        peer = await hostile(pair)
        pair.wires[1].passes = lambda packet: False
        sequence = pair.two._reconfig_response_seq
        waiting = 0
        for number in range(150):
            stream = 2 * (number % 40)
            await peer.put(peer.data(stream, DCEP, opening()))
            await peer.put(peer.data(stream, BINARY, b"x"))
            sequence = (sequence + 1) % 2**32
            await peer.put(reset(sequence, pair.one._last_sacked_tsn, stream))
            await peer.settle()
            two = pair.two
            queued = sum(map(len, two._queue._queues)) + len(two._outbound_queue) + len(two._reconfig_queue)
            waiting = max(waiting, queued)
        assert waiting <= 100


@pytest_twisted.ensureDeferred
async def test_nothing_is_logged_when_the_way_out_is_gone() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, user, _ = await pair.open()
        pair.wires[0].state = "closed"
        channel.send(b"x")
        channel.close()
        told = ChannelTold()
        pair.one.open_channel("tcp-y", "", reliable=True).use(told)
        await turns(5)
        await pair.one.stop()
        assert user.told == ["opened", "closed"]
        assert told.told == ["closed"]
        await until(lambda: not [task for task in asyncio.all_tasks() if "sctp" in repr(task)], "no task is left")


# What a byte of the peer costs


class Calls:
    """Counts the calls of Python functions in a ``with`` block: work, whatever else the machine does."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Calls:
        sys.setprofile(self._note)
        return self

    def _note(self, _frame: object, event: str, _argument: object) -> None:
        self.count += event == "call"

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


def packed(chunks: Iterable[Chunk | bytes], each: int) -> list[bytes]:
    """The bodies of packets with so many of these chunks."""
    packed = list(map(bytes, chunks))
    return [b"".join(packed[at : at + each]) for at in range(0, len(packed), each)]


def tiny(peer: Hostile) -> list[bytes]:
    return packed((peer.data(4, BINARY, b"x") for _ in range(1000)), 50)


def out_of_order(peer: Hostile) -> list[bytes]:
    first = peer.end._local_tsn
    return packed((peer.data(4, BINARY, b"x", tsn=(first + 1 + 2 * one) % 2**32) for one in range(1000)), 50)


def always_before_the_last(peer: Hostile) -> list[bytes]:
    first = peer.end._local_tsn
    order = [1020, *range(1, 1000)]
    return packed((peer.data(4, BINARY, b"x", 0, tsn=(first + one) % 2**32) for one in order), 50)


def one_message(peer: Hostile) -> list[bytes]:
    return packed((peer.data(4, BINARY, b"x", 0 if number else FIRST) for number in range(1500)), 50)


def behind_incomplete_ones(peer: Hostile) -> list[bytes]:
    flags = [UNORDERED] * 1500 + [UNORDERED | FIRST | LAST] * 1000
    return packed((peer.data(4, BINARY, b"x", one) for one in flags), 50)


def forward(tsn: int, streams: Iterable[tuple[int, int]] = ()) -> ForwardTsnChunk:
    chunk = ForwardTsnChunk()
    chunk.cumulative_tsn, chunk.streams = tsn % 2**32, list(streams)
    return chunk


def forward_with_many_streams(peer: Hostile) -> list[bytes]:
    opened = packed((peer.data(stream, BINARY, b"x") for stream in range(1000)), 50)
    first = peer.end._local_tsn
    return opened + packed((forward(first + number) for number in range(500)), 50)


def forward_of_one_stream(peer: Hostile) -> list[bytes]:
    kept = packed((peer.data(4, BINARY, b"x", UNORDERED) for _ in range(1500)), 50)
    first = peer.end._local_tsn
    return kept + packed((forward(first + number, [(4, 0)] * 280) for number in range(3)), 1)


def forward_behind_many(peer: Hostile) -> list[bytes]:
    first = peer.end._local_tsn
    ahead = [peer.data(4, BINARY, b"x", UNORDERED, tsn=(first + 2000 + 2 * one) % 2**32) for one in range(1000)]
    return packed(ahead, 50) + packed((forward(first + number) for number in range(500)), 1)


def heartbeats(_peer: Hostile) -> list[bytes]:
    return packed([HeartbeatChunk(body=struct.pack("!HH", 1, 8) + b"1234")] * 900, 90)


def resets(peer: Hostile) -> list[bytes]:
    chunks = []
    sequence = peer.victim._reconfig_response_seq
    for number in range(20):
        chunks.append(reset((sequence + 70 * number) % 2**32, (peer.end._local_tsn - 1) % 2**32))
        kind, body = chunks[-1].params[0]
        for other in range(1, 70):
            chunks[-1].params.append((kind, struct.pack("!L", (sequence + 70 * number + other) % 2**32) + body[4:]))
    return packed(chunks, 1)


def cookies(peer: Hostile) -> list[bytes]:
    stamp = struct.pack("!L", peer.victim._get_timestamp())
    cookie = CookieEchoChunk(body=stamp + hmac.digest(peer.victim._hmac_key, stamp, "sha1"))
    opened = packed((peer.data(2 * one, DCEP, opening()) for one in range(500)), 30)
    return opened + packed([cookie] * 300, 40)


@pytest.mark.parametrize(
    "attack",
    [
        tiny,
        out_of_order,
        always_before_the_last,
        one_message,
        behind_incomplete_ones,
        forward_with_many_streams,
        forward_of_one_stream,
        forward_behind_many,
        heartbeats,
        resets,
        cookies,
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_byte_costs_little(attack: Callable[[Hostile], list[bytes]]) -> None:
    """What an honest peer can send that costs most, messages of one byte each, costs one call for a byte."""
    with ended(Pair(max_channels=2000)) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, DCEP, opening()))
        await peer.settle()
        packets = attack(peer)
        pair.wires[1].passes = lambda packet: False
        tag = pair.two._local_verification_tag
        raw = [serialize_packet(5000, 5000, tag, cast(Chunk, RawChunks(packet))) for packet in packets]
        with Calls() as calls:
            for packet in raw:
                await pair.two._handle_data(packet)
        per_byte = calls.count / sum(map(len, raw))
        print(f"{per_byte:.2f} calls for a byte")
        assert per_byte < 5 * 1.0
        assert peer.user.told == ["up"]


@pytest_twisted.ensureDeferred
async def test_of_many_control_chunks_in_a_packet_few_are_answered() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        answers: list[int] = []

        def passes(packet: bytes) -> bool:
            answers.extend(kinds(packet))
            return True

        pair.wires[1].passes = passes
        heartbeat = bytes(HeartbeatChunk(body=struct.pack("!HH", 1, 8) + b"1234"))
        await peer.put_raw(*[heartbeat] * 90)
        await peer.settle()
        assert answers == [5] * MAX_CONTROL
        await peer.put_raw(heartbeat)
        await peer.settle()
        assert answers == [5] * (MAX_CONTROL + 1)


@pytest_twisted.ensureDeferred
async def test_a_cookie_that_comes_again_brings_nothing_back() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        states: list[object] = []
        stamp = struct.pack("!L", pair.two._get_timestamp())
        cookie = CookieEchoChunk(body=stamp + hmac.digest(pair.two._hmac_key, stamp, "sha1"))
        answers: list[int] = []

        def passes(packet: bytes) -> bool:
            answers.extend(kinds(packet))
            return True

        pair.wires[1].passes = passes
        await peer.put(ShutdownChunk())
        await peer.settle()
        states.append(pair.two._association_state)
        await peer.put(cookie)
        await peer.settle()
        states.append(pair.two._association_state)
        # It is answered, because an answer may be lost.
        assert 11 in answers
        assert states == [pair.two.State.SHUTDOWN_ACK_SENT] * 2


@pytest_twisted.ensureDeferred
async def test_an_init_behind_data_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the association is up, too."""
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, BINARY, b"x", tsn=(peer.end._local_tsn + 1) % 2**32))
        await peer.settle()
        last = pair.two._last_received_tsn
        monkeypatch.setattr(pair.two, "_up", False)
        chunk = InitChunk()
        chunk.initiate_tag, chunk.advertised_rwnd, chunk.initial_tsn = 1, 1, (pair.one._local_tsn + 2**31) % 2**32
        tag, pair.one._remote_verification_tag = pair.one._remote_verification_tag, 0
        await peer.put(chunk)
        await peer.settle()
        pair.one._remote_verification_tag = tag
        monkeypatch.setattr(pair.two, "_up", True)
        assert pair.two._last_received_tsn == last


@pytest_twisted.ensureDeferred
async def test_bytes_of_a_stream_that_is_reset_are_free_again() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        for _ in range(500):
            await peer.put(peer.data(4, BINARY, bytes(1000), FIRST | UNORDERED))
        await peer.settle()
        assert pair.two._advertised_rwnd == RECEIVE_WINDOW - 500_000
        sequence = (pair.two._reconfig_response_seq + 1) % 2**32
        await peer.put(reset(sequence, (peer.end._local_tsn - 1) % 2**32, 4))
        await peer.settle()
        assert pair.two._advertised_rwnd == RECEIVE_WINDOW
        assert not kept_chunks(pair)


@pytest_twisted.ensureDeferred
async def test_what_is_in_flight_is_bounded_whatever_the_peer_claims() -> None:
    with ended(Pair()) as pair:
        peer = await hostile(pair)
        await peer.put(peer.data(4, DCEP, opening()))
        await until(lambda: peer.user.channels and not pair.two._flight_size, "a channel")
        await peer.put(sack(pair.two._local_tsn - 1, window=2**32 - 1))
        await peer.settle()
        pair.wires[1].passes = lambda packet: False
        # It has acknowledged a lot, and fast.
        pair.two._cwnd = 2**30
        for _ in range(300):
            peer.user.channels[0].send(bytes(16_000))
        for _ in range(4000):
            await pair.two._transmit()
            await pair.two._data_channel_flush()
        assert MAX_FLIGHT <= pair.two._flight_size <= MAX_FLIGHT + 16_000


@pytest_twisted.ensureDeferred
async def test_an_error_of_any_kind_is_the_end_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_data: bytes) -> None:
        raise RuntimeError("none that anybody has thought of")

    with ended(Pair()) as pair:
        peer = await hostile(pair)
        monkeypatch.setattr(rtcsctptransport, "parse_packet", refuse)
        await peer.put(ErrorChunk())
        await until(lambda: peer.user.broken, "the end")
        assert peer.user.told[1] == "broken: an invalid SCTP packet (RuntimeError)"
