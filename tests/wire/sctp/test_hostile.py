"""Whatever a peer sends ends as nothing, or as the one end of the association."""

from __future__ import annotations

import struct

import pytest

from rtunnel.wire.sctp import chunks
from rtunnel.wire.sctp.association import MAX_ANSWERS, MAX_CONTROL
from rtunnel.wire.sctp.chunks import BEGIN, UNORDERED, Init, Sack
from rtunnel.wire.sctp.codec import chunk, encode_init, encode_sack, parameter, parameters_of
from rtunnel.wire.sctp.events import StreamsReset, Up
from rtunnel.wire.sctp.handshake import COOKIE_LIFE
from rtunnel.wire.sctp.transmitting import MAX_FLIGHT
from tests.wire.sctp.by_hand import BINARY, HEARTBEAT, WHOLE, Attack, Waiting, kinds, send, values

INTERLEAVED = pytest.mark.parametrize("interleaved", [False, True])


# The handshake


def test_the_end_that_does_not_begin_sends_nothing_of_its_own() -> None:
    peer = Attack()
    assert [kinds(packet) for packet in peer.sent] == [[chunks.INIT_ACK], [chunks.COOKIE_ACK]]
    assert peer.victim.events == [Up()]


def test_an_init_in_the_middle_changes_nothing() -> None:
    peer = Attack()
    peer.still_works()
    for tag, tsn in (1, 12345), (peer.tag, peer.tsn + 2**31), (2**32 - 1, 0):
        init = encode_init(chunks.INIT, Init(tag, 1, 1, 1, tsn % 2**32))
        for _ in range(3):
            peer.deliver([peer.envelope.seal_for(0, init)])
        peer.still_works()
    assert len(peer.victim.events) == 1


def test_a_cookie_that_comes_again_is_answered_and_changes_nothing() -> None:
    peer = Attack()
    peer.still_works()
    count = len(peer.sent)
    for _ in range(3):
        peer.put(chunk(chunks.COOKIE_ECHO, peer.cookie))
    assert [kinds(packet) for packet in peer.sent[count:]] == [[chunks.COOKIE_ACK]] * 3
    peer.still_works()
    assert len(peer.victim.events) == 1


def test_cookies_of_other_kinds_are_not_answered() -> None:
    peer = Attack()
    count = len(peer.sent)
    for cookie in (b"", b"x" * 24, peer.cookie[:-1], bytes(16) + peer.cookie[16:], peer.cookie + b"\0" * 4):
        peer.put(chunk(chunks.COOKIE_ECHO, cookie))
    assert len(peer.sent) == count
    # One that this end made for somebody else, or for an earlier attempt.
    other = encode_init(chunks.INIT, Init(78, 1, 1, 1, 5))
    peer.deliver([peer.envelope.seal_for(0, other)])
    cookie = list(values(peer.sent, chunks.INIT_ACK))[-1].partition(struct.pack("!H", 7))[2][2:]
    count = len(peer.sent)
    peer.put(chunk(chunks.COOKIE_ECHO, cookie))
    assert len(peer.sent) == count
    peer.still_works()


def test_a_cookie_is_good_for_some_time() -> None:
    for age in COOKIE_LIFE - 1, COOKIE_LIFE + 1:
        peer = Waiting()
        answer = peer.begin()
        peer.envelope.address(answer.tag)
        peer.wait(age)
        peer.put(chunk(chunks.COOKIE_ECHO, answer.cookie))
        assert peer.victim.is_up == (age < COOKIE_LIFE)


def test_an_init_costs_nothing_but_its_answer() -> None:
    peer = Waiting()
    before = repr(vars(peer.victim._handshake))
    init = peer.envelope.seal_for(0, encode_init(chunks.INIT, peer.init))
    for _ in range(1000):
        peer.victim.receive([init], peer.now)
    assert repr(vars(peer.victim._handshake)) == before
    assert len(peer.victim.transmit(peer.now)) == MAX_ANSWERS


def test_data_before_the_handshake_is_dropped() -> None:
    peer = Waiting()
    answer = peer.begin()
    peer.envelope.address(answer.tag)
    peer.put(peer.data(4, BINARY, b"x", tsn=peer.tsn))
    peer.put(encode_sack(Sack(answer.tsn - 1, 1000)))
    assert not peer.messages
    # With the cookie it is taken.
    peer.put(chunk(chunks.COOKIE_ECHO, answer.cookie), peer.data(6, BINARY, b"y"))
    assert peer.messages == [(6, BINARY, b"y")]


@pytest.mark.parametrize(
    "init",
    [
        b"",
        bytes(15),
        bytes(16),
        struct.pack("!IIHHI", 0, 1, 1, 1, 1),
        struct.pack("!IIHHI", 1, 1, 0, 1, 1),
        struct.pack("!IIHHI", 1, 1, 1, 0, 1),
        struct.pack("!IIHHI", 1, 1, 1, 1, 1) + bytes(4),
        struct.pack("!IIHHI", 1, 1, 1, 1, 1) + struct.pack("!HH", 7, 200),
    ],
)
def test_an_init_that_is_malformed_is_the_end(init: bytes) -> None:
    peer = Waiting()
    peer.deliver([peer.envelope.seal_for(0, chunk(chunks.INIT, init))])
    assert peer.why
    assert not list(values(peer.sent, chunks.INIT_ACK))


def test_an_init_that_is_too_long_is_not_answered() -> None:
    peer = Waiting()
    body = struct.pack("!IIHHI", 1, 1, 1, 1, 1) + parameter(0x8123, bytes(1100))
    peer.deliver([peer.envelope.seal_for(0, chunk(chunks.INIT, body))])
    assert not peer.sent
    peer.begin()


def test_unknown_parameters_of_an_init_are_reported_if_that_is_asked_for() -> None:
    peer = Waiting()
    body = struct.pack("!IIHHI", 1, 1, 1, 1, 1)
    body += parameter(0xC123, b"abcd") + parameter(0x8123, b"efgh") + parameter(0x4123, b"ijkl") + parameter(0xC124)
    peer.deliver([peer.envelope.seal_for(0, chunk(chunks.INIT, body))])
    (answer,) = values(peer.sent, chunks.INIT_ACK)
    # Nothing behind the one at which to stop.
    reported = [value for kind, value in parameters_of(answer, 16) if kind == 8]
    assert reported == [parameter(0xC123, b"abcd"), parameter(0x4123, b"ijkl")]


# Acknowledgements


@INTERLEAVED
@pytest.mark.parametrize("ahead", [0, 1, 1000, 2**31 - 3])
def test_an_acknowledgement_of_what_was_not_sent_is_the_end(ahead: int, interleaved: bool) -> None:
    peer = Attack(interleaved=interleaved)
    send(peer, 100)
    peer.put(encode_sack(Sack(peer.highest + 1 + ahead, 1000)))
    peer.is_cut_off()


def test_a_gap_block_of_what_was_not_sent_is_the_end() -> None:
    peer = Attack()
    send(peer, 100)
    peer.put(encode_sack(Sack(peer.first_tsn - 1, 1000, ((2, 2),))))
    peer.is_cut_off()


def test_old_acknowledgements_are_ignored() -> None:
    peer = Attack()
    send(peer, 5000)
    peer.acknowledge()
    for behind in (1, 2, 1000, 2**31 - 5):
        peer.put(encode_sack(Sack(peer.highest - behind, 1000, ((1, 65535),))))
    peer.still_works()


@INTERLEAVED
def test_gaps_that_are_absurd_cost_nothing(interleaved: bool) -> None:
    peer = Attack(interleaved=interleaved)
    send(peer, *[1000] * 2000)
    while (outstanding := peer.highest - peer.first_tsn + 1) < 300:
        peer.acknowledge()
        peer.wait(0.01)
    halves = peer.victim._halves
    assert halves is not None
    sending = halves.transmitter.sending
    looked: list[int] = []
    early = sending._arrived_early

    def counted(tsn: int, highest: int) -> object:
        looked.append(tsn)
        return early(tsn, highest)

    sending._arrived_early = counted  # type: ignore[method-assign, assignment]
    below = sending.acked_to
    left = peer.highest - below
    for gaps in (
        [(2, left)] * 250,
        [(2, left - 1)] * 250,
        [(5, 2), (0, 0), (3, 3)],
        [(2 + number, left) for number in range(200)],
    ):
        peer.put(encode_sack(Sack(below, 100_000, tuple(gaps))))
    assert 0 < len(looked) <= 8 * outstanding
    assert peer.why is None


def test_gap_blocks_that_take_back_what_they_said() -> None:
    """A peer may drop what it has reported as received out of order. This end sends it again, or not for ever."""
    peer = Attack()
    send(peer, *[1000] * 8)
    below = peer.first_tsn - 1
    for _ in range(50):
        peer.put(encode_sack(Sack(below, 100_000, ((3, 5),))))
        peer.put(encode_sack(Sack(below, 100_000)))
    for _ in range(100):
        peer.wait(5)
    peer.acknowledge()
    peer.wait(10)
    assert peer.victim.buffered == 0
    assert peer.victim._halves is not None
    assert not peer.victim._halves.transmitter.sending.kept
    assert peer.why is None


def test_what_the_peer_took_back_is_sent_again_though_nothing_is_in_flight() -> None:
    peer = Attack()
    send(peer, *[1000] * 8)
    first = peer.first_tsn
    peer.put(encode_sack(Sack(first - 1, 100_000, ((2, 8),))))
    peer.wait(0.1)
    peer.put(encode_sack(Sack(first, 100_000)))
    before = len(peer.sent)
    peer.wait(5)
    assert len(peer.sent) - before >= 7


@INTERLEAVED
def test_a_peer_that_acknowledges_nothing_is_asked_less_and_less_often(interleaved: bool) -> None:
    peer = Attack(interleaved=interleaved)
    send(peer, *[1000] * 100)
    peer.wait(30)
    count = len(peer.sent)
    peer.wait(300)
    assert 0 < len(peer.sent) - count <= 300


def test_a_window_that_is_shut_costs_one_chunk_in_flight() -> None:
    peer = Attack(window=0)
    send(peer, *[1000] * 20)
    peer.wait(60)
    assert peer.victim.buffered == 19_000
    assert peer.highest == peer.first_tsn
    for number in range(20):
        peer.acknowledge(window=0)
        peer.wait(0.001)
        # Each that is acknowledged allows one more.
        assert peer.highest == min(peer.first_tsn + number + 1, peer.first_tsn + 19)
    peer.acknowledge()
    assert peer.victim.buffered == 0


def test_what_is_in_flight_is_bounded_whatever_the_peer_claims() -> None:
    peer = Attack(window=2**32 - 1)
    halves = peer.victim._halves
    assert halves is not None
    # More waits than may be in flight, and the peer has acknowledged a lot, and fast.
    send(peer, *[60_000] * (3 * MAX_FLIGHT // 60_000))
    halves.transmitter._congestion.window = 2**30
    peer.acknowledge(window=2**32 - 1)
    for _ in range(200):
        peer.hear()
        peer.now += 0.0005
    assert MAX_FLIGHT - 16_384 <= halves.transmitter.sending.flight <= MAX_FLIGHT + 16_384
    assert peer.victim.buffered > 0


# Storms


def test_of_many_control_chunks_in_a_packet_few_are_answered() -> None:
    peer = Attack()
    count = len(peer.sent)
    peer.put(*[HEARTBEAT] * 90)
    answers = [kind for packet in peer.sent[count:] for kind in kinds(packet)]
    assert answers == [chunks.HEARTBEAT_ACK] * MAX_CONTROL
    peer.put(HEARTBEAT)
    answers = [kind for packet in peer.sent[count:] for kind in kinds(packet)]
    assert answers == [chunks.HEARTBEAT_ACK] * (MAX_CONTROL + 1)


def test_answers_that_are_not_sent_do_not_pile_up() -> None:
    peer = Attack()
    packet = peer.packet(*[HEARTBEAT] * 8)
    peer.victim.receive([packet] * 1000, peer.now)
    count = len(peer.sent)
    peer.hear()
    answers = [kind for packet in peer.sent[count:] for kind in kinds(packet)]
    assert len(answers) == MAX_ANSWERS
    peer.still_works()


@INTERLEAVED
def test_duplicates_are_ignored(interleaved: bool) -> None:
    peer = Attack(interleaved=interleaved)
    once = peer.data(4, BINARY, b"once")
    for _ in range(20):
        peer.put(*[once] * 30)
    assert peer.messages == [(4, BINARY, b"once")]
    assert max(len(sack.duplicates) for sack in peer.sacks()) <= 128
    peer.still_works()


@INTERLEAVED
def test_an_acknowledgement_of_many_gaps_fits_into_a_packet(interleaved: bool) -> None:
    peer = Attack(interleaved=interleaved)
    first = peer.tsn
    for number in range(600):
        peer.put(peer.data(4, BINARY, b"x", WHOLE | UNORDERED, tsn=first + 1 + 2 * number))
    assert max(map(len, peer.sent)) <= peer.victim.path.size
    assert max(len(sack.gaps) for sack in peer.sacks()) > 100
    peer.tsn += 1200
    peer.put(peer.forward(peer.tsn - 1))
    peer.still_works()


@INTERLEAVED
def test_bytes_of_a_stream_that_is_reset_are_free_again(interleaved: bool) -> None:
    whole = 2 * 2**20
    peer = Attack(interleaved=interleaved, interleaved_window=whole)
    for number in range(500):
        peer.put(peer.data(4, BINARY, bytes(1000), 0 if number else BEGIN))
    peer.wait(1)
    window = peer.sacks()[-1].window
    assert window < whole - 400_000
    peer.reset(4)
    assert peer.victim.events[1:] == [StreamsReset((4,))]
    peer.begin_anew(4)
    peer.still_works()
    peer.wait(1)
    assert peer.sacks()[-1].window == whole
    assert peer.victim.kept == 0


# The end


@pytest.mark.parametrize("last", [chunks.ABORT, chunks.SHUTDOWN])
def test_nothing_behind_the_end_is_taken(last: int) -> None:
    peer = Attack()
    send(peer, 1000)
    peer.put(peer.data(4, BINARY, b"before"), chunk(last, bytes(4)), peer.data(4, BINARY, b"behind"))
    peer.put(peer.data(4, BINARY, b"later"))
    assert peer.messages == [(4, BINARY, b"before")]
    assert peer.why == ""
    assert kinds(peer.sent[-1]) == ([chunks.SHUTDOWN_ACK] if last == chunks.SHUTDOWN else [chunks.DATA])
    count = len(peer.sent)
    peer.put(chunk(chunks.COOKIE_ECHO, peer.cookie))
    peer.wait(100)
    assert len(peer.sent) == count
    assert peer.victim.next_time() is None
    assert peer.victim.buffered == 0


def test_a_break_is_told_once_and_nothing_behind_it_is_taken() -> None:
    peer = Attack()
    peer.put(peer.data(4, BINARY, b"before"), peer.data(4, BINARY, b""), peer.data(4, BINARY, b"behind"))
    assert peer.messages == [(4, BINARY, b"before")]
    peer.is_cut_off()
