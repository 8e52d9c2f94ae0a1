"""The two ends of a data connection: back to back, and each against whatever a peer can send."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.wire import frames
from rtunnel.wire.data_connection import MAX_NEW_CONN, ClientDataConnection, ServerDataConnection, Used
from rtunnel.wire.limits import LinkLimits
from tests.wire.pair import NOW, parse, raw

TICKET = "00112233445566778899aabbccddeeff"
LIMITS = LinkLimits(keepalive_interval=5.0, dead_after=15.0)
PING, PONG = raw(frames.PING), raw(frames.PONG)
VISITOR = b'{"tunnel":3,"visitor":"192.0.2.1:5000"}'
NEW_CONN = raw(frames.NEW_CONN, 7, VISITOR)


def server(ping_every: float | None = None) -> ServerDataConnection:
    """Return a server's end that has sent its first PING."""
    end = ServerDataConnection(LIMITS, NOW, ping_every)
    end.tick(NOW)
    return end


def available() -> ServerDataConnection:
    """Return a server's end that has received its PONG."""
    end = server()
    end.data_to_send()
    end.receive_data(PONG, NOW)
    assert end.is_available
    return end


def client() -> ClientDataConnection:
    """Return a client's end that has sent ATTACH."""
    end = ClientDataConnection(TICKET, LIMITS, NOW)
    assert end.data_to_send() == raw(frames.ATTACH, 0, TICKET.encode() + b":5000")
    return end


def ticks(end: ServerDataConnection | ClientDataConnection, start: float, seconds: int) -> None:
    """Let time pass, with a tick each second."""
    for second in range(1, seconds + 1):
        end.tick(start + second)


# Both ends


def test_from_attach_to_the_stream() -> None:
    at_client, at_server = client(), server()
    states = [(at_client.is_attached, at_server.is_available)]
    assert at_client.receive_data(at_server.data_to_send(), NOW) is None
    states.append((at_client.is_attached, at_server.is_available))
    at_server.receive_data(at_client.data_to_send(), NOW)
    states.append((at_client.is_attached, at_server.is_available))
    assert states == [(False, False), (True, False), (True, True)]
    assert at_server.data_to_send() == at_client.data_to_send() == b""
    head = at_server.open(7, 3, "192.0.2.1:5000")
    assert parse(head) == [(frames.NEW_CONN, 7, VISITOR)]
    assert not at_server.is_available
    assert at_client.receive_data(head + b"GET / HTTP/1.1", NOW) == Used(7, 3, "192.0.2.1:5000", b"GET / HTTP/1.1")
    assert at_server.is_used
    assert at_client.is_used
    assert at_client.data_to_send() == b"", "raw bytes only from here on"
    ticks(at_client, NOW, 100)
    ticks(at_server, NOW, 100)
    assert at_server.data_to_send() == at_client.data_to_send() == b""
    for end in (at_server, at_client):
        assert not end.is_dead
        assert not end.error


def test_a_connection_may_be_used_before_the_first_ping() -> None:
    at_client, at_server = client(), ServerDataConnection(LIMITS, NOW)
    assert at_server.data_to_send() == b""
    used = at_client.receive_data(at_server.open(7, 3, "192.0.2.1:5000"), NOW)
    assert used == Used(7, 3, "192.0.2.1:5000", b"")
    at_server.tick(NOW + 1)
    assert at_server.data_to_send() == b""


def test_idle_ends_stay() -> None:
    at_client, at_server = client(), available()
    asked = 0
    for second in range(1, 101):
        at_server.tick(NOW + second)
        question = at_server.data_to_send()
        asked += question == PING
        assert at_server.is_available == (not question)
        assert at_client.receive_data(question, NOW + second) is None
        at_client.tick(NOW + second)
        at_server.receive_data(at_client.data_to_send(), NOW + second)
        assert at_server.is_available
        assert not at_server.is_dead
        assert not at_client.is_dead
    assert asked == 20


@given(
    quiet=st.lists(st.floats(0, 8), max_size=10),
    delays=st.lists(st.floats(0, 3), min_size=2, max_size=6),
    rest=st.binary(max_size=40),
)
@settings(max_examples=150)
def test_behind_new_conn_there_is_never_a_pong(quiet: list[float], delays: list[float], rest: bytes) -> None:
    """When NEW_CONN goes out, nothing is on its way from the client, whatever the delays."""
    at_client, at_server = ClientDataConnection(TICKET, LIMITS, NOW), server()
    now = NOW
    under_way: list[bytes] = []
    at_client.data_to_send()
    for pause, delay in zip(quiet, delays * 10, strict=False):
        question = at_server.data_to_send()
        now += delay
        at_client.receive_data(question, now)
        if answer := at_client.data_to_send():
            under_way.append(answer)
        assert not (under_way and at_server.is_available)
        now += delay
        for piece in under_way:
            at_server.receive_data(piece, now)
        under_way.clear()
        now += pause
        at_server.tick(now)
    if at_server.is_available:
        used = at_client.receive_data(at_server.open(1, 0, "x") + rest, now)
        assert used == Used(1, 0, "x", rest)
        assert at_client.data_to_send() == b""
    else:
        with pytest.raises(RuntimeError):
            at_server.open(1, 0, "x")


# The server's end


def test_a_connection_that_is_not_available_cannot_be_used() -> None:
    asking = server()
    used = available()
    used.open(1, 0, "")
    asked_again = available()
    asked_again.tick(NOW + 5)
    broken = available()
    broken.receive_data(b"x", NOW)
    for end in (asking, used, asked_again, broken):
        assert not end.is_available
        with pytest.raises(RuntimeError):
            end.open(2, 0, "")


@pytest.mark.parametrize("early", [b"G", b"GET / HTTP/1.1\r\n", PONG, NEW_CONN, raw(frames.ATTACH, 0, TICKET.encode())])
def test_a_client_that_speaks_unasked(early: bytes) -> None:
    end = available()
    end.receive_data(early, NOW)
    assert end.error == "bytes that answer no PING"
    assert not end.is_available
    end.receive_data(PONG, NOW)
    ticks(end, NOW, 30)
    assert end.data_to_send() == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"x",
        PONG + b"x",
        PONG + PONG,
        raw(frames.PONG, 1),
        raw(frames.PONG, 0, b"x"),
        PING,
        NEW_CONN,
        b"\x14" + b"\xff" * 8,
        bytes(100_000),
    ],
)
@pytest.mark.parametrize("piece", [1, 4, 200_000])
def test_a_client_that_answers_something_else(answer: bytes, piece: int) -> None:
    end = server()
    for start in range(0, len(answer), piece):
        end.receive_data(answer[start : start + piece], NOW)
    assert end.error == "bytes that answer no PING"
    assert not end.is_available


@given(st.lists(st.integers(0, len(PONG)), max_size=6))
def test_an_answer_in_pieces(cuts: list[int]) -> None:
    end = server()
    for start, stop in pairwise([0, *sorted(cuts), len(PONG)]):
        assert not end.is_available or start == len(PONG)
        end.receive_data(PONG[start:stop], NOW)
    assert end.is_available


def test_a_client_that_does_not_answer_is_dead() -> None:
    end = available()
    ticks(end, NOW, 5)
    assert end.data_to_send() == PING
    ticks(end, NOW + 5, 9)
    assert not end.is_dead
    assert end.data_to_send() == b"", "one question at a time"
    end.tick(NOW + 15)
    assert end.is_dead


def test_half_an_answer_is_no_sign_of_life() -> None:
    end = server()
    for second in range(1, 16):
        end.receive_data(PONG[second - 1 : second] if second < len(PONG) else b"", NOW + second)
        end.tick(NOW + second)
    assert not end.error
    assert end.is_dead


def test_an_answer_at_the_last_moment() -> None:
    end = server()
    ticks(end, NOW, 15)
    assert end.is_dead
    end.receive_data(PONG, NOW + 15)
    assert (end.is_dead, end.is_available) == (False, True)


def test_a_stopped_process_is_not_the_silence_of_the_client() -> None:
    end = available()
    end.tick(NOW + 3600)
    assert end.data_to_send() == PING
    end.tick(NOW + 3601)
    assert not end.is_dead
    end.receive_data(PONG, NOW + 3601)
    assert end.is_available


@pytest.mark.parametrize(
    ("wish", "every", "tick_every"),
    [(None, 5, 1.0), (2.0, 2, 1.0), (100.0, 5, 1.0), (1.0, 1, 0.5), (0.001, 1, 0.5), (0.0, 1, 0.5)],
)
def test_the_client_may_want_more_pings(wish: float | None, every: int, tick_every: float) -> None:
    end = server(wish)
    assert end.tick_every == tick_every
    end.data_to_send()
    end.receive_data(PONG, NOW)
    end.tick(NOW + every - 0.1)
    assert end.data_to_send() == b""
    end.tick(NOW + every)
    assert end.data_to_send() == PING


def test_a_server_that_sends_more_pings_than_any_client_may_want() -> None:
    end = ServerDataConnection(LinkLimits(keepalive_interval=0.2, dead_after=1.0), NOW, 5.0)
    end.tick(NOW)
    end.data_to_send()
    end.receive_data(PONG, NOW)
    end.tick(NOW + 0.2)
    assert end.data_to_send() == PING


@given(st.lists(st.binary(max_size=30) | st.sampled_from([PONG, PING, NEW_CONN, b""]), max_size=20))
def test_any_bytes_at_the_server(chunks: list[bytes]) -> None:
    end = server()
    for number, chunk in enumerate(chunks):
        end.receive_data(chunk, NOW + number)
        end.tick(NOW + number)
        end.data_to_send()
        assert len(end._held) < len(PONG)
        if end.is_available and number % 3 == 0:
            end.open(1, 0, "")


# The client's end


@given(st.lists(st.integers(0, 200), max_size=8), st.binary(max_size=60))
def test_pings_and_new_conn_in_pieces(cuts: list[int], rest: bytes) -> None:
    """Cut the bytes anywhere, except where the server waits for a PONG."""
    end = client()
    question = raw(frames.PING, 0, b"0123456789abcdef")
    for number in range(2):
        for start, stop in pairwise([0, *sorted(min(cut, len(question)) for cut in cuts), len(question)]):
            assert end.receive_data(question[start:stop], NOW + number) is None
        assert end.data_to_send() == raw(frames.PONG, 0, b"0123456789abcdef")
    data = NEW_CONN + rest
    used = None
    stream = b""
    for start, stop in pairwise([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]):
        if used is None:
            used = end.receive_data(data[start:stop], NOW)
            stream = used.rest if used is not None else b""
        else:
            stream += data[start:stop]
    assert used is not None
    assert (used.conn_id, used.tunnel, used.visitor) == (7, 3, "192.0.2.1:5000")
    assert stream == rest


def test_what_comes_behind_new_conn_is_the_streams_whatever_it_looks_like() -> None:
    end = client()
    rest = NEW_CONN + PING + raw(0x99) + b"\xff" * 20
    assert end.receive_data(NEW_CONN + rest, NOW) == Used(7, 3, "192.0.2.1:5000", rest)
    assert end.is_attached
    assert end.receive_data(NEW_CONN, NOW) is None
    assert end.data_to_send() == b""
    assert not end.error


def test_a_flood_of_pings_has_one_answer() -> None:
    end = client()
    assert end.receive_data(raw(frames.PING, 0, b"a") * 10_000 + raw(frames.PING, 5, b"b"), NOW) is None
    assert end.data_to_send() == raw(frames.PONG, 0, b"b")
    assert not end.error


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (raw(frames.DATA, 7, b"x"), "DATA on a data connection"),
        (raw(frames.PONG), "PONG on a data connection"),
        (raw(frames.HELLO, 0, b"{}"), "HELLO on a data connection"),
        (raw(frames.ERROR), "ERROR on a data connection"),
        (raw(0x99), "type 0x99 on a data connection"),
        (PING + raw(frames.CLOSE_CONN, 7), "CLOSE_CONN on a data connection"),
        (b"HTTP/1.1 400 Bad Request\r\n", "type 0x48 on a data connection"),
        (raw(frames.PING, 0, bytes(17)), "PING of 17 bytes; the limit is 16"),
        (b"\x13\0\0\0\0\xff\xff\xff\xff", "PING of 4294967295 bytes; the limit is 16"),
        (b"\x01\0\0\0\7\0\0\x10\1", "NEW_CONN of 4097 bytes; the limit is 4096"),
        (raw(frames.NEW_CONN, 0, VISITOR), "NEW_CONN without a number"),
        (raw(frames.NEW_CONN, 7), "malformed NEW_CONN (not JSON)"),
        (raw(frames.NEW_CONN, 7, b"[" * MAX_NEW_CONN), "malformed NEW_CONN (n"),
        (raw(frames.NEW_CONN, 7, b'{"tunnel":true}'), "malformed NEW_CONN (NEW_CONN without a tunnel number)"),
        (PING + NEW_CONN, "NEW_CONN before the answer to a PING"),
    ],
)
@pytest.mark.parametrize("piece", [1, 100_000])
def test_a_server_that_breaks_the_protocol(data: bytes, why: str, piece: int) -> None:
    end = client()
    for start in range(0, len(data), piece):
        assert end.receive_data(data[start : start + piece], NOW) is None
    assert end.error.startswith(why)
    assert not end.is_used
    assert end.receive_data(NEW_CONN, NOW) is None, "nothing counts behind it"
    assert end.data_to_send() == b""


def test_a_new_conn_as_long_as_it_may_be() -> None:
    end = client()
    payload = VISITOR + b" " * (MAX_NEW_CONN - len(VISITOR))
    assert end.receive_data(raw(frames.NEW_CONN, 7, payload), NOW) == Used(7, 3, "192.0.2.1:5000", b"")


def test_the_text_of_a_server_is_cleaned() -> None:
    used = client().receive_data(raw(frames.NEW_CONN, 7, b'{"tunnel":0,"visitor":"a\\nb"}'), NOW)
    assert used == Used(7, 0, "a?b", b"")


def test_a_silent_server_is_dead() -> None:
    end = client()
    ticks(end, NOW, 14)
    assert not end.is_dead
    end.tick(NOW + 15)
    assert end.is_dead


@pytest.mark.parametrize(("interval", "wish"), [(5.0, b"5000"), (0.0001, b"1"), (1e9, b"9999999"), (2.5, b"2500")])
def test_what_the_client_wishes(interval: float, wish: bytes) -> None:
    end = ClientDataConnection(TICKET, LinkLimits(keepalive_interval=interval, dead_after=2 * interval), NOW)
    assert parse(end.data_to_send()) == [(frames.ATTACH, 0, TICKET.encode() + b":" + wish)]


PIECES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([PING, NEW_CONN, PONG, b"", PING[:4], NEW_CONN[:20]]),
    st.builds(raw, st.sampled_from([frames.PING, frames.NEW_CONN]), st.integers(0, 9), st.binary(max_size=30)),
)


@given(st.lists(PIECES, max_size=20))
def test_any_bytes_at_the_client(chunks: list[bytes]) -> None:
    end = client()
    told = 0
    for number, chunk in enumerate(chunks):
        told += end.receive_data(chunk, NOW + number) is not None
        end.tick(NOW + number)
        assert len(end._held) <= frames.HEADER_SIZE + MAX_NEW_CONN
        assert len(end.data_to_send()) <= frames.HEADER_SIZE + 16
    assert told == end.is_used
    assert told <= 1
    assert end.error.isprintable()
