"""A hostile end of SCTP: its numbers, the receive window, and whatever else it may send."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from aiortc.rtcsctptransport import (
    CookieEchoChunk,
    ErrorChunk,
    ForwardTsnChunk,
    HeartbeatChunk,
    InitChunk,
    ShutdownChunk,
    ShutdownCompleteChunk,
)
from hypothesis import given, strategies as st

from rtunnel.rtc.aiortc.inbound import (
    MAX_AHEAD,
    MAX_KEPT,
    MAX_MISORDERED,
    RECEIVE_WINDOW,
    WINDOW_SLACK,
    parameters_are_sound,
)
from tests.reverse.net import turns, until
from tests.rtc.aiortc.hostile_parts import hostile, is_cut_off, kept_chunks, opening, reset, still_works
from tests.rtc.aiortc.sctp_parts import (
    BINARY,
    DCEP,
    FIRST,
    UNORDERED,
    ChannelTold,
    Pair,
    ended,
)


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
