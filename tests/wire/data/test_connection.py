"""One end of a data connection against records written by hand; and both ends in every order in which they can act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import Code
from rtunnel.wire.data.connection import LAST, DataConnection, Ended, Opened, WasReset
from rtunnel.wire.data.frozen import Fields
from rtunnel.wire.data.records import SealedReader
from rtunnel.wire.halves import BROKEN_MAX_STALL
from rtunnel.wire.limits import LinkLimits
from tests.wire.data.connection_parts import REFUSED, after_both_ends, client, fresh, receive, server, takes_next
from tests.wire.data.ends import (
    ALIVE,
    DATA,
    DONE,
    END,
    LIMITS,
    NOW,
    OPEN,
    RESET,
    feed,
    opening,
    parse,
    raw,
    seals,
)

# Open


def test_opening() -> None:
    for end in (server(), client()):
        assert (end.number, end.is_free, end.can_open, end.takes_data) == (1, False, False, True)


def test_a_stream_that_moves_to_the_connection() -> None:
    end = fresh(is_server=True)
    assert parse(end.open(3, "x", 77)) == [(OPEN, 1, opening(3, 77, b"x"))]
    assert receive(fresh(is_server=False), OPEN, 1, opening(3, 77, b"x")) == Opened(3, 77, "x")


def test_who_may_open_and_when() -> None:
    for end in (server(), client(), fresh(is_server=False)):
        with pytest.raises(RuntimeError):
            end.open(0, "")


def test_the_last_number() -> None:
    end = fresh(is_server=True)
    end.number = LAST - 1
    end.open(0, "")
    receive(end, RESET, LAST, REFUSED)
    assert end.is_free
    assert not end.can_open
    with pytest.raises(RuntimeError):
        end.open(0, "")
    other = fresh(is_server=False)
    other.number = LAST
    for number in (0, 1, LAST):
        with pytest.raises(ValueError, match=r"^OPEN of stream"):
            receive(other, OPEN, number, opening(0))


# Ends


def test_the_visitor_ends_first() -> None:
    at_server, at_client = server(), client()
    assert parse(at_server.end()) == [(END, 1, b"")]
    assert receive(at_client, END, 1) == Ended()
    assert not at_client.takes_data
    assert parse(at_client.end()) == [(DONE, 1, b"")]
    assert at_client.is_free
    assert not at_server.is_free
    assert receive(at_server, DONE, 1) == Ended()
    assert takes_next(at_server)
    assert takes_next(at_client)


def test_the_service_ends_first() -> None:
    at_server, at_client = server(), client()
    assert parse(at_client.end()) == [(END, 1, b"")]
    assert receive(at_server, END, 1) == Ended()
    assert parse(at_server.end()) == [(END, 1, b"")]
    assert not at_server.is_free, "the client may be slow to read what came before"
    event = receive(at_client, END, 1)
    assert isinstance(event, Ended)
    assert parse(event.answer) == [(DONE, 1, b"")]
    assert receive(at_server, DONE, 1) is None, "it has said its end"
    assert takes_next(at_server)
    assert takes_next(at_client)


def test_ends_that_cross() -> None:
    at_server, at_client = server(), client()
    at_server.end()
    at_client.end()
    assert receive(at_server, END, 1) == Ended()
    assert receive(at_client, END, 1) == Ended(raw(DONE, 1))
    assert (at_server.is_free, at_client.is_free) == (False, True)
    assert receive(at_server, DONE, 1) is None
    assert (at_server.is_free, at_client.is_free) == (True, True)


@pytest.mark.parametrize("make", [server, client])
def test_an_end_is_sent_once(make: Callable[[], DataConnection]) -> None:
    end = make()
    assert end.end()
    assert end.end() == b""
    assert end.takes_data, "the other direction goes on"


# Resets


@pytest.mark.parametrize("make", [server, client])
def test_a_reset_is_answered(make: Callable[[], DataConnection]) -> None:
    end = make()
    event = receive(end, RESET, 1, REFUSED)
    assert event == WasReset("limit", "full", raw(RESET, 1, b"limit\0"))
    assert takes_next(end)


@pytest.mark.parametrize("make", [server, client])
def test_resets_that_cross_are_not_answered(make: Callable[[], DataConnection]) -> None:
    end = make()
    assert parse(end.reset(Code.LIMIT, "full")) == [(RESET, 1, REFUSED)]
    assert not end.is_free
    assert end.reset(Code.LIMIT, "full") == b""
    assert end.end() == b"", "nothing follows RESET"
    assert receive(end, RESET, 1, REFUSED) is None
    assert end.is_free


@pytest.mark.parametrize("make", [server, client])
@pytest.mark.parametrize("before", [[], [(END, 1)], [(DATA, 1), (END, 1)]])
def test_what_comes_before_the_answer_to_a_reset_is_dropped(
    make: Callable[[], DataConnection], before: list[tuple[int, int]]
) -> None:
    end = make()
    end.end()
    end.reset(Code.LIMIT, "full")
    assert not end.takes_data
    for kind, number in [*before, *([(DONE, 1)] if end.is_server else [])]:
        assert receive(end, kind, number, b"x" if kind == DATA else b"") is None
        assert not end.is_free, "the other end has not seen RESET yet"
    receive(end, RESET, 1)
    assert end.is_free


def test_a_reset_of_a_stream_that_is_over_to_the_client() -> None:
    """To the server it was not over yet. So it drops DONE, and waits for RESET."""
    at_server, at_client = server(), client()
    at_client.end()
    at_server.end()
    receive(at_client, END, 1)
    assert at_client.is_free
    at_server.reset(Code.STALLED, "too slow")
    event = receive(at_client, RESET, 1, b"stalled\0too slow")
    assert event == WasReset("stalled", "too slow", raw(RESET, 1, b"stalled\0"))
    assert receive(at_server, END, 1) is None
    assert receive(at_server, DONE, 1) is None
    assert not at_server.is_free
    receive(at_server, RESET, 1, b"stalled\0")
    assert takes_next(at_server)
    assert takes_next(at_client)


def test_nothing_is_sent_when_no_stream_is_open() -> None:
    for end in (fresh(is_server=True), fresh(is_server=False)):
        assert end.end() == end.reset(Code.LIMIT, "") == b""


# Sealed


def test_sealed_records_are_those_of_the_seal() -> None:
    for_server, for_client = seals()
    at_server = DataConnection(LIMITS, for_server[0], NOW, is_server=True)
    at_client = DataConnection(LIMITS, for_client[0], NOW, is_server=False)
    sent = at_server.open(3, "x") + at_server.pack(DATA, b"hello") + at_server.end() + at_server.alive()
    found = list(feed(SealedReader(for_client[1]), sent))
    assert found == [(OPEN, 1, opening(3, 0, b"x")), (DATA, 1, b"hello"), (END, 1, b""), (ALIVE, 1, b"")]
    for kind, number, payload in found:
        receive(at_client, kind, number, payload)
    assert list(feed(SealedReader(for_server[1]), at_client.end())) == [(DONE, 1, b"")]


# Life


def silent(end: DataConnection, seconds: int, start: float = NOW, *, is_reading: bool = True) -> list[int]:
    """Let time pass, with a tick each second. Return when signs of life were sent."""
    sent = []
    for second in range(1, seconds + 1):
        if record := end.tick(start + second, is_reading=is_reading, can_send=True):
            assert parse(record) == [(ALIVE, end.number, b"")]
            end.has_sent = True
            sent.append(second)
    return sent


def test_an_end_shows_life_when_it_sends_nothing_else() -> None:
    for end in (fresh(is_server=True), server(), client()):
        assert silent(end, 20) == [4, 9, 14, 19]


def test_an_end_that_sends_shows_life_by_that() -> None:
    end = server()
    for second in range(1, 20):
        end.has_sent = True
        assert end.tick(NOW + second, is_reading=True, can_send=True) == b""
    assert silent(end, 5, NOW + 19) == [4]


def test_what_waits_behind_other_bytes_is_due_at_once() -> None:
    end = server()
    for second in range(1, 10):
        assert end.tick(NOW + second, is_reading=True, can_send=False) == b""
    assert end.tick(NOW + 10, is_reading=True, can_send=True)


@given(st.lists(st.floats(0.9, 1.1), min_size=30, max_size=60))
def test_ticks_that_come_early_or_late(steps: list[float]) -> None:
    end = server()
    now = last = NOW
    for step in steps:
        now += step
        if end.tick(now, is_reading=True, can_send=True):
            assert 3 < now - last < 5.6
            last = now
            end.has_sent = True
    assert now - last < 5.6


def test_the_silence_of_the_other_end() -> None:
    end = client()
    silent(end, 14)
    assert (end.is_dead, end.silence) == (False, 14)
    silent(end, 1, NOW + 14)
    assert (end.is_dead, end.silence) == (True, 15)
    end.has_heard = True
    silent(end, 1, NOW + 15)
    assert (end.is_dead, end.silence) == (False, 0)


def test_an_end_that_does_not_read_hears_nothing() -> None:
    end = client()
    silent(end, 10)
    silent(end, 1000, NOW + 10, is_reading=False)
    assert not end.is_dead
    silent(end, 14, NOW + 1010)
    assert not end.is_dead
    silent(end, 1, NOW + 1024)
    assert end.is_dead


def test_a_stopped_process_is_not_the_silence_of_the_other_end() -> None:
    end = client()
    end.tick(NOW + 3600, is_reading=True, can_send=True)
    assert end.silence == 2
    assert end.tick(NOW + 3000, is_reading=True, can_send=True) == b"", "a clock that was set back"
    assert end.silence == 2


@pytest.mark.parametrize("has_sent", [False, True])
def test_a_process_that_was_stopped_has_been_silent_itself(has_sent: bool) -> None:
    """It says at once that it is there again, as it may be stopped once more before it has been silent for long."""
    end = client()
    end.has_sent = has_sent
    assert end.tick(NOW + 7, is_reading=True, can_send=True) == end.alive()
    end.has_sent = True
    assert end.tick(NOW + 8, is_reading=True, can_send=True) == b""


@pytest.mark.parametrize(("interval", "every"), [(5.0, 1.0), (2.0, 1.0), (1.0, 0.5), (0.2, 0.1), (60.0, 1.0)])
def test_how_often_to_look(interval: float, every: float) -> None:
    """Two ends with the same times keep each other alive."""
    limits = LinkLimits(keepalive_interval=interval, dead_after=interval * 1.6)
    ends = [DataConnection(limits, None, NOW, is_server=is_server) for is_server in (True, False)]
    assert {end.tick_every for end in ends} == {every}
    for number in range(1, 500):
        for end, other in (ends, ends[::-1]):
            if end.tick(NOW + number * every, is_reading=True, can_send=True):
                end.has_sent = other.has_heard = True
            assert not end.is_dead


@pytest.mark.parametrize("patience", [0.0, 1.0, 3.5, 15.0, 300.0])
@pytest.mark.parametrize("interval", [0.2, 1.0, 5.0, 60.0])
def test_life_as_often_as_the_other_end_wants_it(interval: float, patience: float) -> None:
    """But not more often than once a second because of that: the other end must not make us busy."""
    limits = LinkLimits(keepalive_interval=interval, dead_after=400.0)
    paced = limits.heard_within(patience)
    assert paced.keepalive_interval == min(interval, max(patience / 3, 1.0))
    assert replace(paced, keepalive_interval=interval) == limits == limits.heard_within(None)


def test_another_process_shows_life_as_often() -> None:
    """It does not know the other end yet."""
    limits = LinkLimits()
    before, after = (DataConnection(each, None, NOW, is_server=True) for each in (limits.heard_within(3.0), limits))
    after.thaw(Fields(before.freeze()))
    ticks = [[end.tick(NOW + n, is_reading=True, can_send=True) for n in range(1, 6)] for end in (before, after)]
    assert ticks[0] == ticks[1]
    assert any(ticks[1][:2])


def test_records_that_show_nothing_but_life() -> None:
    for end in (fresh(is_server=True), fresh(is_server=False), server(), client(), *after_both_ends()):
        before = end.number, end.is_free, end.takes_data
        for number in (0, 1, 2, LAST):
            assert receive(end, ALIVE, number) is None
        assert (end.number, end.is_free, end.takes_data) == before


@pytest.mark.parametrize("make", [server, client])
def test_a_reset_that_is_not_answered(make: Callable[[], DataConnection]) -> None:
    """Signs of life do not help, and progress of the bytes before RESET does."""
    end = make()
    silent(end, 100)
    end.reset(Code.LIMIT, "")
    for second in range(1, int(BROKEN_MAX_STALL) + 1):
        end.has_heard = True
        end.tick(NOW + 100 + second, is_reading=True, can_send=False)
        assert not end.is_stalled
    end.progressed()
    stalled = []
    for second in range(130, 162):
        silent(end, 1, NOW + second)
        stalled.append(end.is_stalled)
    assert stalled == [False] * 30 + [True] * 2
    receive(end, RESET, 1)
    silent(end, 1, NOW + 162)
    assert not end.is_stalled


@pytest.mark.parametrize("make", [server, client])
def test_a_stream_that_is_over_before_all_was_taken(make: Callable[[], DataConnection]) -> None:
    """Who ends it and does not read on is no longer waited for than who does not answer RESET."""
    end = make()
    receive(end, RESET, 1, b"connection-lost\0")
    assert end.is_free
    stalled = []
    for second in range(1, int(BROKEN_MAX_STALL) + 2):
        end.has_heard = True
        end.tick(NOW + second, is_reading=True, can_send=False)
        stalled.append(end.is_stalled)
    assert stalled == [False] * int(BROKEN_MAX_STALL) + [True]
    silent(end, 1, NOW + 32)
    assert not end.is_stalled
