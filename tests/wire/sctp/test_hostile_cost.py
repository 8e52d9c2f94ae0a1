"""What a byte of a hostile peer costs the whole of an association."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable

import pytest

from rtunnel.wire.sctp import chunks
from rtunnel.wire.sctp.chunks import BEGIN, UNORDERED, Init, Sack
from rtunnel.wire.sctp.codec import chunk, encode_init, encode_sack, parameter
from tests.wire.sctp.by_hand import BINARY, HEARTBEAT, WHOLE, Attack, packed, reset

#: What IP, UDP and DTLS add to a packet, in bytes.
OVERHEAD = 65


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


def tiny(peer: Attack) -> list[bytes]:
    return packed((peer.data(4, BINARY, b"x") for _ in range(1000)), 50)


def out_of_order(peer: Attack) -> list[bytes]:
    return packed((peer.data(4, BINARY, b"x", tsn=peer.tsn + 1 + 2 * one) for one in range(1000)), 50)


def always_before_the_last(peer: Attack) -> list[bytes]:
    order = [1020, *range(1, 1000)]
    return packed((peer.data(4, BINARY, b"x", 0, tsn=peer.tsn + one) for one in order), 50)


def one_message(peer: Attack) -> list[bytes]:
    return packed((peer.data(4, BINARY, b"x", 0 if number else BEGIN) for number in range(1500)), 50)


def behind_incomplete_ones(peer: Attack) -> list[bytes]:
    flags = [UNORDERED] * 1500 + [UNORDERED | WHOLE] * 1000
    return packed((peer.data(4, BINARY, b"x", one) for one in flags), 50)


def forward_with_many_streams(peer: Attack) -> list[bytes]:
    opened = packed((peer.data(stream, BINARY, b"x") for stream in range(1000)), 50)
    return opened + packed((peer.forward(peer.tsn + number) for number in range(500)), 50)


def forward_of_one_stream(peer: Attack) -> list[bytes]:
    kept = packed((peer.data(4, BINARY, b"x", UNORDERED) for _ in range(1500)), 50)
    return kept + packed((peer.forward(peer.tsn + number, [(4, 0)] * 140) for number in range(3)), 1)


def forward_behind_many(peer: Attack) -> list[bytes]:
    first = peer.tsn + 2000
    ahead = [peer.data(4, BINARY, b"x", UNORDERED, tsn=first + 2 * one) for one in range(1000)]
    return packed(ahead, 50) + packed((peer.forward(peer.tsn + number) for number in range(500)), 1)


def heartbeats(_peer: Attack) -> list[bytes]:
    return packed([HEARTBEAT] * 900, 90)


def resets(peer: Attack) -> list[bytes]:
    return packed((reset(peer.tsn + one, peer.tsn - 1, *range(500)) for one in range(20)), 1)


def many_requests_in_a_chunk(peer: Attack) -> list[bytes]:
    requests = [parameter(13, struct.pack("!LLL", (peer.tsn + one) % 2**32, 0, peer.tsn - 1)) for one in range(70)]
    return [chunk(chunks.RE_CONFIG, b"".join(requests))] * 20


def resets_that_wait(peer: Attack) -> list[bytes]:
    requests = packed((reset(peer.tsn + one, peer.tsn + 900, *range(one, 500)) for one in range(40)), 1)
    return requests + packed((peer.data(4, BINARY, b"x") for _ in range(1000)), 50)


def cookies(peer: Attack) -> list[bytes]:
    opened = packed((peer.data(2 * one, BINARY, b"x") for one in range(500)), 30)
    return opened + packed([chunk(chunks.COOKIE_ECHO, peer.cookie)] * 300, 8)


def forged_cookies(_peer: Attack) -> list[bytes]:
    return packed([chunk(chunks.COOKIE_ECHO, bytes(20 + number)) for number in range(300)], 8)


def acknowledgements_of_gaps(peer: Attack) -> list[bytes]:
    for _ in range(200):
        peer.victim.send(1, BINARY, bytes(1000), True, None, peer.now)
    for _ in range(2):
        peer.hear()
        peer.acknowledge()
        peer.wait(0.02)
    halves = peer.victim._halves
    assert halves is not None
    below = halves.transmitter.sending.acked_to
    left = peer.highest - below
    assert left > 20
    gaps = tuple((number, number) for number in range(2, left + 1, 2))
    return [encode_sack(Sack(below, 100_000, gaps[number % 2 :])) for number in range(300)]


def in_flight(peer: Attack) -> int:
    """Have 4 MiB in flight, and return the last TSN that is acknowledged."""
    halves = peer.victim._halves
    assert halves is not None
    sending = halves.transmitter.sending
    for _ in range(70):
        peer.victim.send(1, BINARY, bytes(60_000), True, None, peer.now)
    while peer.victim.buffered:
        halves.transmitter._congestion.window = 1 << 23
        peer.hear()
        peer.now += 0.0005
    assert sending.flight > 1 << 22
    return sending.acked_to


def gaps_that_come_and_go(peer: Attack) -> list[bytes]:
    below = in_flight(peer)
    gaps = ((2, peer.highest - below),)
    return [encode_sack(Sack(below, 10_000)) + encode_sack(Sack(below, 10_000, gaps)) for _ in range(300)]


def a_window_that_opens_and_shuts(peer: Attack) -> list[bytes]:
    below = in_flight(peer)
    return [encode_sack(Sack(below, 0)) + encode_sack(Sack(below, 10_000)) for _ in range(300)]


def closed_channels(peer: Attack) -> list[bytes]:
    """It closes many channels while datagrams wait, and does not answer our requests to reset them."""
    for _ in range(1500):
        peer.victim.send(1, BINARY, b"x", True, 1, peer.now)
    for stream in range(2, 1500):
        peer.victim.reset(stream)
    peer.hear()
    return [HEARTBEAT] * 20


def empty_gaps(peer: Attack) -> list[bytes]:
    return [encode_sack(Sack(peer.first_tsn - 1, 100_000, ((0, 0),) * 250)) for _ in range(100)]


def unknown(_peer: Attack) -> list[bytes]:
    return packed([chunk(200)] * 3000, 250)


@pytest.mark.parametrize("interleaved", [False, True])
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
        many_requests_in_a_chunk,
        resets_that_wait,
        cookies,
        forged_cookies,
        acknowledgements_of_gaps,
        gaps_that_come_and_go,
        a_window_that_opens_and_shuts,
        closed_channels,
        empty_gaps,
        unknown,
    ],
)
def test_a_byte_costs_little(attack: Callable[[Attack], list[bytes]], interleaved: bool) -> None:
    """Messages of one byte each, the most that an honest peer can cause, cost a quarter of a call for a byte."""
    peer = Attack(interleaved=interleaved, max_open=2000, window=1 << 30)
    peer.put(peer.data(4, BINARY, b"x"))
    packets = [peer.packet(body) for body in attack(peer)]
    peer.deliver = lambda packets: None
    with Calls() as calls:
        for packet in packets:
            peer.victim.receive([packet], peer.now)
            while peer.victim.transmit(peer.now):
                pass
    per_byte = calls.count / sum(len(packet) + OVERHEAD for packet in packets)
    print(f"{per_byte:.2f} calls for a byte")
    assert per_byte < 4 * 0.25
    assert peer.why is None


def test_an_init_costs_little() -> None:
    peer = Attack()
    init = peer.envelope.seal_for(0, encode_init(chunks.INIT, Init(1, 1, 1, 1, 1)))
    with Calls() as calls:
        for _ in range(500):
            peer.victim.receive([init], peer.now)
    print(f"{calls.count / 500 / len(init):.2f} calls for a byte")
    assert calls.count < 500 * len(init)
