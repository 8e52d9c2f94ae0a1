"""Whatever a peer sends ends as nothing, as a channel's event, or as the one end of the association.

The peer of these tests has come through DTLS, so it can send any SCTP packet. Errors that are logged, tasks that end by
an exception, and timers that stay are found by ``ended`` and by tests/leftovers.py.
"""

from __future__ import annotations

import struct

import pytest
import pytest_twisted
from aiortc import rtcsctptransport
from aiortc.rtcsctptransport import (
    AbortChunk,
    ReconfigChunk,
)

from tests.reverse.net import until
from tests.rtc.aiortc.hostile_parts import hostile, is_cut_off, opening, reset, sack, still_works
from tests.rtc.aiortc.sctp_parts import (
    BINARY,
    DCEP,
    FIRST,
    LAST,
    STRING,
    Hostile,
    Pair,
    ended,
    kinds,
)

RECONFIG = 130


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
