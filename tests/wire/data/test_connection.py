"""One end of a data connection against records written by hand; and both ends in every order in which they can act."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import Code
from rtunnel.wire.data.connection import LAST, DataConnection, Ended, Opened, WasReset
from rtunnel.wire.data.records import SealedReader
from rtunnel.wire.halves import BROKEN_MAX_STALL
from rtunnel.wire.limits import LinkLimits
from tests.wire.data.ends import (
    ALIVE,
    DATA,
    DONE,
    END,
    LIMITS,
    NOW,
    OPEN,
    RESET,
    Record,
    feed,
    opening,
    parse,
    raw,
    seals,
)

REFUSED = b"limit\0full"


def receive(end: DataConnection, kind: int, number: int, payload: bytes = b"") -> Opened | Ended | WasReset | None:
    return end.receive(kind, number, memoryview(payload))


def fresh(*, is_server: bool) -> DataConnection:
    return DataConnection(LIMITS, None, NOW, is_server=is_server)


def server() -> DataConnection:
    """Return a server's end with stream 1 open."""
    end = fresh(is_server=True)
    assert parse(end.open(3, "192.0.2.1:5000")) == [(OPEN, 1, opening(3))]
    return end


def client() -> DataConnection:
    """Return a client's end with stream 1 open."""
    end = fresh(is_server=False)
    assert receive(end, OPEN, 1, opening(3)) == Opened(3, 0, "192.0.2.1:5000")
    return end


def takes_next(end: DataConnection) -> bool:
    """Return whether the next stream can be opened at this end."""
    number = end.number + 1
    if not end.is_free:
        return False
    if end.is_server:
        end.open(0, "")
    else:
        receive(end, OPEN, number, opening(0))
    return end.number == number and end.takes_data


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


# What no honest peer sends


@pytest.mark.parametrize("number", [0, 2, LAST])
@pytest.mark.parametrize("kind", [DATA, END, RESET, DONE])
@pytest.mark.parametrize("make", [server, client])
def test_another_stream(make: Callable[[], DataConnection], kind: int, number: int) -> None:
    with pytest.raises(ValueError, match=rf"^a record of stream {number} where 1 is the present one$"):
        receive(make(), kind, number)


@pytest.mark.parametrize("kind", [DATA, END, RESET, DONE])
@pytest.mark.parametrize("is_server", [True, False])
def test_before_the_first_stream(kind: int, is_server: bool) -> None:
    with pytest.raises(ValueError, match=r"^a record of stream 0 where 0 is the present one$"):
        receive(fresh(is_server=is_server), kind, 0)


def after_both_ends() -> list[DataConnection]:
    at_server, at_client = server(), client()
    at_server.end()
    receive(at_client, END, 1)
    at_client.end()
    receive(at_server, DONE, 1)
    return [at_server, at_client]


def after_both_resets() -> list[DataConnection]:
    ends = [server(), client()]
    for end in ends:
        receive(end, RESET, 1)
    return ends


@pytest.mark.parametrize("make", [after_both_ends, after_both_resets])
@pytest.mark.parametrize("kind", [DATA, END, DONE])
def test_a_late_record_of_a_stream_that_is_over(make: Callable[[], list[DataConnection]], kind: int) -> None:
    for end in make():
        assert end.is_free
        assert not end.takes_data
        with pytest.raises(ValueError, match=r"^a record behind the end of a stream$"):
            receive(end, kind, 1)


def test_a_late_reset() -> None:
    at_server, at_client = after_both_ends()
    assert isinstance(receive(at_client, RESET, 1), WasReset)
    for end in (at_server, at_client, *after_both_resets()):
        with pytest.raises(ValueError, match=r"^RESET of a stream that is over$"):
            receive(end, RESET, 1)


@pytest.mark.parametrize("kind", [DATA, END, RESET, DONE])
def test_a_record_of_the_last_stream_after_the_next_was_opened(kind: int) -> None:
    """No late byte reaches the next visitor."""
    for end in after_both_ends():
        assert takes_next(end)
        with pytest.raises(ValueError, match=r"^a record of stream 1 where 2 is the present one$"):
            receive(end, kind, 1)


@pytest.mark.parametrize("make", [server, client])
@pytest.mark.parametrize("kind", [DATA, END])
def test_a_record_behind_end(make: Callable[[], DataConnection], kind: int) -> None:
    end = make()
    receive(end, END, 1)
    with pytest.raises(ValueError, match=r"^a record behind the end of a stream$"):
        receive(end, kind, 1)


def test_done_where_it_does_not_belong() -> None:
    at_client = client()
    at_client.end()
    for end in (at_client, server()):
        with pytest.raises(ValueError, match=r"^DONE before END$"):
            receive(end, DONE, 1)


@pytest.mark.parametrize("make", [server, client, lambda: fresh(is_server=True)])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_open_where_it_does_not_belong(make: Callable[[], DataConnection], number: int) -> None:
    with pytest.raises(ValueError, match=rf"^OPEN of stream {number} behind"):
        receive(make(), OPEN, number, opening(0))


@pytest.mark.parametrize("number", [0, 2, LAST])
def test_open_of_another_number(number: int) -> None:
    with pytest.raises(ValueError, match=rf"^OPEN of stream {number} behind 0$"):
        receive(fresh(is_server=False), OPEN, number, opening(0))


def test_open_that_is_cut() -> None:
    end = fresh(is_server=False)
    with pytest.raises(ValueError, match=r"^a malformed OPEN record$"):
        receive(end, OPEN, 1, bytes(7))
    assert end.is_free


@pytest.mark.parametrize("make", [server, client])
def test_unknown_kinds(make: Callable[[], DataConnection]) -> None:
    end = make()
    for kind in range(0x80, 0x100):
        for number in (0, 1, 2):
            assert receive(end, kind, number, b"?") is None
    for kind in (0, *range(DONE + 1, 0x80)):
        with pytest.raises(ValueError, match=rf"^a record of the unknown kind 0x{kind:02x}$"):
            receive(end, kind, 1, b"?")


@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from([DATA, END, RESET, ALIVE, OPEN, DONE, 0x07, 0x85]),
            st.integers(0, 3),
            st.sampled_from([b"", opening(0), REFUSED]),
        )
        | st.sampled_from(["end", "reset", "open"]),
        max_size=30,
    ),
)
def test_whatever_comes(is_server: bool, steps: list[tuple[int, int, bytes] | str]) -> None:
    """The only exception is ``ValueError``; what is sent is for the present stream, and nothing follows RESET."""
    end = fresh(is_server=is_server)
    sent: list[Record] = []
    why = ""
    for step in steps:
        if step == "end":
            sent += parse(end.end())
        elif step == "reset":
            sent += parse(end.reset("test", ""))
        elif step == "open":
            sent += parse(end.open(0, "")) if is_server and end.can_open else []
        else:
            assert not isinstance(step, str)
            try:
                event = receive(end, *step)
            except ValueError as error:
                why = str(error)
                break
            sent += parse(event.answer) if isinstance(event, Ended | WasReset) else []
        assert not (end.takes_data and end.is_free)
        assert all(number <= end.number for _, number, _ in sent)
        of_this = [kind for kind, number, _ in sent if number == end.number and kind not in (OPEN, ALIVE)]
        assert of_this in ([], [END], [DONE], [END, DONE], [RESET], [END, RESET], [DONE, RESET], [END, DONE, RESET])
    assert why.isprintable()


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


# Both ends, in every order in which they can act


class State(NamedTuple):
    """Both ends, what is under way from each, and which streams each end has seen whole."""

    server: DataConnection
    client: DataConnection
    to_client: tuple[Record, ...]
    to_server: tuple[Record, ...]
    whole: tuple[frozenset[int], frozenset[int]]

    @property
    def key(self) -> object:
        """The same for states in which the same can happen."""
        ends = [tuple(getattr(end, name) for name in DataConnection.__slots__) for end in (self.server, self.client)]
        return ends[0], ends[1], self[2:]


def after(state: State, action: str) -> State | None:
    """Return the state after an action; None if it is not possible."""
    server, client = copy.copy(state.server), copy.copy(state.client)
    to_client, to_server = list(state.to_client), list(state.to_server)
    whole = [set(of) for of in state.whole]
    who, what = action.split()
    side = 0 if who == "server" else 1
    end, out, incoming = ((server, to_client, to_server), (client, to_server, to_client))[side]
    if what == "open":
        sent = end.open(0, "") if end.can_open and end.number < 2 else b""
    elif what == "end":
        sent = end.end()
    elif what == "reset":
        sent = end.reset("test", "")
    elif what == "data":
        may = not (end.is_free or end._sent_end or end._sent_reset) and len(out) < 3
        sent = end.pack(DATA, b"x") if may else b""
    elif incoming:
        kind, number, payload = incoming.pop(0)
        assert not (kind == DATA and end.takes_data and number != end.number)
        event = receive(end, kind, number, payload)
        sent = event.answer if isinstance(event, Ended | WasReset) else b""
        if isinstance(event, WasReset):
            whole[side].discard(end.number)
    else:
        return None
    if not sent and what != "receive":
        return None
    out += parse(sent)
    if end.is_free and end.number and not (end._sent_reset or end._got_reset):
        whole[side].add(end.number)
    return State(server, client, tuple(to_client), tuple(to_server), (frozenset(whole[0]), frozenset(whole[1])))


def test_both_ends_agree_whatever_crosses_on_the_way() -> None:
    """All states that two honest ends can reach with two streams."""
    first = State(fresh(is_server=True), fresh(is_server=False), (), (), (frozenset(), frozenset()))
    actions = [f"{who} {what}" for who in ("server", "client") for what in ("data", "end", "reset", "receive")]
    seen, ahead, free = {first.key}, [first], 0
    while ahead:
        state = ahead.pop()
        for action in ("server open", *actions):
            following = after(state, action)
            if following is None or following.key in seen:
                continue
            seen.add(following.key)
            ahead.append(following)
            server, client, to_client, to_server, whole = following
            assert whole[0] <= whole[1], "the server has the client's word that it has everything"
            if not (to_client or to_server):
                assert (server.number, server.is_free) == (client.number, client.is_free)
                if server.is_free:
                    free += 1
                    assert whole[0] == whole[1], "both ends saw the same end"
                else:
                    assert not all(end._sent_end for end in (server, client)), "nobody waits for ever"
                    assert not any(end._sent_reset for end in (server, client)), "nobody waits for ever"
    assert free > 2
    assert len(seen) > 1000


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
    assert end.tick(NOW + 3600, is_reading=True, can_send=True) == b""
    assert end.silence == 2
    assert end.tick(NOW + 3000, is_reading=True, can_send=True) == b"", "a clock that was set back"
    assert end.silence == 2


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
