"""Resets of streams: between two honest ends over a bad path, and with peers that are odd or hostile."""

from __future__ import annotations

import struct

import pytest

from rtunnel.wire.sctp.chunks import ProtocolError
from rtunnel.wire.sctp.reset import (
    ADD_INCOMING,
    ADD_OUTGOING,
    ALREADY_IN_PROGRESS,
    ASSOCIATION_RESET,
    BAD_NUMBER,
    DENIED,
    IN_PROGRESS,
    INCOMING_RESET,
    MAX_ANSWERS,
    MAX_DEFERRED,
    MAX_REMEMBERED,
    MAX_STREAMS,
    NOTHING_TO_DO,
    OUTGOING_RESET,
    PERFORMED,
    RESPONSE,
    WRONG_STREAM,
    Resets,
)

# Close to the end of the 32 bits, so that numbers wrap.
OURS, THEIRS = 2**32 - 2, 2**32 - 1
TIMEOUT = 0.5


def parameter(kind: int, content: bytes) -> bytes:
    return struct.pack("!HH", kind, 4 + len(content)) + content + bytes(-len(content) % 4)


def outgoing(number: int, last_tsn: int, *streams: int, answers: int = 0) -> bytes:
    head = struct.pack("!III", number % 2**32, answers % 2**32, last_tsn % 2**32)
    return parameter(OUTGOING_RESET, head + struct.pack(f"!{len(streams)}H", *streams))


def response(number: int, result: int) -> bytes:
    return parameter(RESPONSE, struct.pack("!II", number % 2**32, result))


def decoded(bodies: list[bytes]) -> list[tuple[int, ...]]:
    """The type and the numbers of each parameter sent."""
    found = []
    for body in bodies:
        kind, length = struct.unpack_from("!HH", body)
        assert length == len(body)
        if kind == OUTGOING_RESET:
            streams = struct.unpack(f"!{(length - 16) // 2}H", body[16:])
            found.append((kind, *struct.unpack_from("!III", body, 4), *streams))
        else:
            found.append((kind, *struct.unpack("!II", body[4:])))
    return found


def resets(streams: int = 1000) -> Resets:
    return Resets(OURS, THEIRS, streams)


def sent(end: Resets, now: float = 0.0) -> list[tuple[int, ...]]:
    return decoded(end.take(set().__contains__, 100, TIMEOUT, now))


def due(end: Resets) -> float | None:
    return end.next_time


# Ours


def test_a_request_is_confirmed() -> None:
    end = resets()
    end.request(4)
    end.request(6)
    end.request(4)
    assert sent(end) == [(OUTGOING_RESET, OURS, THEIRS - 1, 100, 4, 6)]
    assert due(end) == TIMEOUT
    assert sent(end) == []
    end.receive(response(OURS, PERFORMED), 0)
    assert due(end) is None
    assert end.confirmed == [4, 6]
    end.confirmed.clear()
    # The number that follows, and the same stream anew.
    end.request(4)
    assert sent(end) == [(OUTGOING_RESET, OURS + 1, THEIRS - 1, 100, 4)]
    end.receive(response(OURS + 1, NOTHING_TO_DO), 0)
    assert end.confirmed == [4]


def test_a_stream_on_which_something_waits_is_not_reset_yet() -> None:
    end = resets()
    for stream in 2, 4, 6:
        end.request(stream)
    assert decoded(end.take({2, 6}.__contains__, 100, TIMEOUT, 0.0)) == [(OUTGOING_RESET, OURS, THEIRS - 1, 100, 4)]
    assert list(end.waiting) == [2, 6]
    # One request at a time.
    assert end.take(set().__contains__, 100, TIMEOUT, 0.1) == []
    end.receive(response(OURS, PERFORMED), 0)
    assert decoded(end.take({2}.__contains__, 200, TIMEOUT, 0.2)) == [(OUTGOING_RESET, OURS + 1, THEIRS - 1, 200, 6)]


def test_a_request_names_no_more_streams_than_fit_in_a_packet() -> None:
    end = resets()
    for stream in range(2 * MAX_STREAMS + 1):
        end.request(stream)
    sizes = []
    for number in range(3):
        [(_, _, _, _, *streams)] = sent(end)
        sizes.append(len(streams))
        end.receive(response(OURS + number, PERFORMED), 0)
    assert sizes == [MAX_STREAMS, MAX_STREAMS, 1]
    assert end.confirmed == list(range(2 * MAX_STREAMS + 1))
    assert sent(end) == []


def test_a_request_without_an_answer_is_sent_again_less_and_less_often() -> None:
    end = resets()
    end.request(4)
    times, now = [], 0.0
    first = sent(end)
    while now < 100.0:
        assert end.next_time is not None
        now = end.next_time
        times.append(now)
        assert sent(end, now - 0.001) == []
        assert sent(end, now) == first
    assert times[:5] == [0.5, 1.5, 3.5, 6.5, 9.5]


@pytest.mark.parametrize("result", [IN_PROGRESS, ALREADY_IN_PROGRESS])
def test_a_request_that_is_put_off_is_repeated_without_back_off(result: int) -> None:
    end = resets()
    end.request(4)
    first = sent(end)
    for number in range(1, 100):
        end.receive(response(OURS, result), 0)
        end.receive(response(OURS, result), 0)
        assert end.next_time == number * TIMEOUT
        assert sent(end, end.next_time - 0.01) == []
        assert sent(end, end.next_time) == first
    end.receive(response(OURS, PERFORMED), 0)
    assert end.confirmed == [4]
    assert end.next_time is None


@pytest.mark.parametrize("result", [DENIED, WRONG_STREAM, BAD_NUMBER, 99])
def test_a_request_that_is_refused_is_not_repeated(result: int) -> None:
    end = resets()
    end.request(4)
    sent(end)
    end.receive(response(OURS, result), 0)
    assert (end.refused, end.confirmed, end.next_time) == ([4], [], None)
    assert sent(end, 100.0) == []


@pytest.mark.parametrize("number", [OURS - 1, OURS + 1, OURS + 2**31, 0])
def test_an_answer_to_no_request_is_ignored(number: int) -> None:
    end = resets()
    end.receive(response(number, PERFORMED), 0)
    end.request(4)
    sent(end)
    end.receive(response(number, PERFORMED), 0)
    assert end.confirmed == end.refused == []
    end.receive(response(OURS, PERFORMED), 0)
    assert end.confirmed == [4]


def test_a_channel_on_a_stream_shows_that_its_reset_was_performed() -> None:
    end = resets()
    end.request(4)
    end.confirm(4)
    assert end.confirmed == []
    sent(end)
    end.confirm(6)
    assert end.confirmed == []
    end.confirm(4)
    assert end.confirmed == [4]
    end.receive(response(OURS, PERFORMED), 0)
    assert end.confirmed == [4]


# The peer's


def test_the_peer_resets_streams() -> None:
    end = resets()
    end.receive(outgoing(THEIRS, 50, 3, 5, 3), 50)
    assert (end.by_peer, end.all_by_peer) == ([3, 5], False)
    assert sent(end) == [(RESPONSE, THEIRS, PERFORMED)]
    assert sent(end) == []
    # Our next request says which of the peer's was the last.
    end.request(4)
    assert sent(end) == [(OUTGOING_RESET, OURS, THEIRS, 100, 4)]


def test_the_peer_resets_all_streams() -> None:
    end = resets()
    end.receive(outgoing(THEIRS, 50), 50)
    assert (end.by_peer, end.all_by_peer) == ([], True)
    assert sent(end) == [(RESPONSE, THEIRS, PERFORMED)]


def test_a_reset_waits_for_the_data_before_it() -> None:
    end = resets()
    end.receive(outgoing(THEIRS, 60, 3), 50)
    assert (end.by_peer, end.deferred_to) == ([], 60)
    assert sent(end) == [(RESPONSE, THEIRS, IN_PROGRESS)]
    end.receive(outgoing(THEIRS, 60, 3), 55)
    assert sent(end) == [(RESPONSE, THEIRS, IN_PROGRESS)]
    end.arrived(59)
    assert end.by_peer == []
    end.arrived(60)
    assert (end.by_peer, end.deferred_to) == ([3], None)
    # The peer learns it at once, and again if it asks again.
    assert sent(end) == [(RESPONSE, THEIRS, PERFORMED)]
    end.receive(outgoing(THEIRS, 60, 3), 60)
    assert sent(end) == [(RESPONSE, THEIRS, PERFORMED)]
    assert end.by_peer == [3]


@pytest.mark.parametrize("is_late", [False, True])
def test_a_reset_that_waited_is_not_repeated_under_a_new_number(is_late: bool) -> None:
    """Chromium before 2025 numbers the copy anew. By then the stream may carry the next channel."""
    end = resets()
    end.receive(outgoing(THEIRS, 60, 3), 50)
    sent(end)
    if is_late:
        end.arrived(60)
        assert end.by_peer == [3]
        end.receive(outgoing(THEIRS + 1, 60, 3), 60)
        assert sent(end) == [(RESPONSE, THEIRS, PERFORMED), (RESPONSE, 0, PERFORMED)]
        end.receive(outgoing(THEIRS + 2, 60, 3), 60)
        assert sent(end) == [(RESPONSE, 1, PERFORMED)]
    else:
        end.receive(outgoing(THEIRS + 1, 60, 3), 55)
        end.receive(outgoing(THEIRS + 2, 60, 3), 55)
        assert sent(end) == [(RESPONSE, 0, IN_PROGRESS), (RESPONSE, 1, IN_PROGRESS)]
        end.arrived(60)
        assert sent(end) == [(RESPONSE, 1, PERFORMED)]
    assert end.by_peer == [3]
    # A new one is a new one.
    end.receive(outgoing(THEIRS + 3, 61, 3), 61)
    assert end.by_peer == [3, 3]
    end.receive(outgoing(THEIRS + 4, 61, 3), 61)
    assert end.by_peer == [3, 3, 3]


def test_a_late_copy_changes_nothing() -> None:
    end = resets()
    end.receive(outgoing(THEIRS, 50, 3), 50)
    end.receive(outgoing(THEIRS + 1, 50, 5), 50)
    sent(end)
    end.by_peer.clear()
    end.receive(outgoing(THEIRS, 50, 3), 50)
    assert end.by_peer == []
    assert sent(end) == [(RESPONSE, THEIRS, PERFORMED)]


@pytest.mark.parametrize("ahead", [1, 70, 2**31 - 1, -1, -(2**31)])
def test_a_request_out_of_turn_is_not_performed_and_not_answered(ahead: int) -> None:
    """Pion has several under way, which come out of order; an error would be its last word on one."""
    end = resets()
    end.receive(outgoing(THEIRS + ahead, 50, 3), 50)
    assert (end.by_peer, sent(end)) == ([], [])
    end.receive(outgoing(THEIRS, 50, 5), 50)
    assert end.by_peer == [5]


def test_a_reset_of_a_stream_that_does_not_exist_is_refused() -> None:
    end = resets(streams=10)
    end.receive(outgoing(THEIRS, 50, 9, 10), 50)
    assert end.by_peer == []
    assert sent(end) == [(RESPONSE, THEIRS, WRONG_STREAM)]


@pytest.mark.parametrize(
    "request_",
    [
        parameter(INCOMING_RESET, struct.pack("!IH", THEIRS, 3)),
        parameter(ASSOCIATION_RESET, struct.pack("!I", THEIRS)),
        parameter(ADD_OUTGOING, struct.pack("!IHH", THEIRS, 60_000, 0)),
        parameter(ADD_INCOMING, struct.pack("!IHH", THEIRS, 60_000, 0)),
    ],
)
def test_other_requests_are_denied(request_: bytes) -> None:
    end = resets()
    end.receive(request_, 50)
    end.receive(request_, 50)
    assert sent(end) == [(RESPONSE, THEIRS, DENIED)]
    assert (end.by_peer, end.all_by_peer, end.deferred_to) == ([], False, None)
    # They have numbers too, and stand between a reset and a copy of it.
    end.receive(outgoing(THEIRS + 1, 60, 3), 50)
    end.receive(parameter(ADD_INCOMING, struct.pack("!IHH", (THEIRS + 2) % 2**32, 1, 0)), 50)
    end.receive(outgoing(THEIRS + 3, 60, 3), 50)
    assert [result for _, _, result in sent(end)] == [IN_PROGRESS, DENIED, IN_PROGRESS]


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("!HH", OUTGOING_RESET, 3),
        struct.pack("!HH", OUTGOING_RESET, 0),
        struct.pack("!HHI", OUTGOING_RESET, 16, THEIRS),
        struct.pack("!HHI", OUTGOING_RESET, 8, THEIRS),
        struct.pack("!HHI", RESPONSE, 8, OURS),
        struct.pack("!HH", INCOMING_RESET, 4),
        parameter(OUTGOING_RESET, struct.pack("!IIIB", THEIRS, 0, 0, 3)),
    ],
)
def test_what_is_malformed_breaks_the_protocol(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        resets().receive(body, 0)


def test_unknown_parameters_and_too_many_of_them_are_left_out() -> None:
    end = resets()
    end.receive(parameter(99, b"abc") + outgoing(THEIRS, 50, 3), 50)
    assert end.by_peer == [3]
    end.receive(outgoing(THEIRS + 1, 50, 5) + outgoing(THEIRS + 2, 50, 7) + outgoing(THEIRS + 3, 50, 9), 50)
    assert end.by_peer == [3, 5, 7]


def test_a_storm_of_requests_costs_few_answers_and_little_memory() -> None:
    end = resets(2**16)
    for number in range(1000):
        end.receive(outgoing(THEIRS + number, 50, 3), 50)
    assert len(end.take(set().__contains__, 50, TIMEOUT, 0.0)) == MAX_ANSWERS
    for number in range(1000, 2000):
        end.receive(outgoing(THEIRS + number, 2**30 + number, *range(5000)), 50)
    assert len(end._deferred) == MAX_DEFERRED
    assert len(end._remembered) == MAX_REMEMBERED
    assert sum(len(streams) for _, streams in end._deferred.values()) <= MAX_DEFERRED * 10_000
