"""What a byte of a hostile end of SCTP costs."""

from __future__ import annotations

import hmac
import struct
import sys
from collections.abc import Callable
from typing import cast

import pytest
import pytest_twisted
from aiortc import rtcsctptransport
from aiortc.rtcsctptransport import (
    Chunk,
    CookieEchoChunk,
    ErrorChunk,
    HeartbeatChunk,
    InitChunk,
    ShutdownChunk,
    serialize_packet,
)

from rtunnel.rtc.aiortc.inbound import (
    MAX_CONTROL,
    RECEIVE_WINDOW,
)
from rtunnel.rtc.aiortc.sctp import MAX_FLIGHT
from tests.reverse.net import until
from tests.rtc.aiortc.hostile_parts import hostile, kept_chunks, opening, reset, sack
from tests.rtc.aiortc.sctp_parts import (
    BINARY,
    DCEP,
    FIRST,
    LAST,
    UNORDERED,
    Hostile,
    Pair,
    RawChunks,
    ended,
    forward,
    kinds,
    packed,
)


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
        for _ in range(300):
            peer.user.channels[0].send(bytes(16_000))
        most = 0
        for _ in range(4000):
            # It has acknowledged a lot, and fast. On a busy machine, packets may have been given up in the meantime.
            pair.two._cwnd = 2**30
            await pair.two._transmit()
            await pair.two._data_channel_flush()
            most = max(most, pair.two._flight_size)
        assert MAX_FLIGHT <= most <= MAX_FLIGHT + 16_000


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
