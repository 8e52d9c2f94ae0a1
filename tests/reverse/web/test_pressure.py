"""Nobody can let the engine hold much: whoever does not read lets the other end wait."""

from __future__ import annotations

import pytest

from rtunnel.reverse.web.connection import LINGER
from tests.reverse.web.parts import GET, OK, WINDOW, World, answer, get
from tests.reverse.web.test_upgrades import ASK

PIECE = bytes(8192)
MANY = [PIECE] * 500
#: Bytes that may be under way on one connection: the windows of both streams, and what is written before a pause comes.
BOUND = 4 * WINDOW


def test_a_service_waits_for_a_visitor_who_does_not_read(web: World) -> None:
    visitor = web.visit(GET)
    visitor.takes = False
    [service] = web.service.connections
    service.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    sent = service.send_all([b"2000\r\n" + PIECE + b"\r\n"] * 500)
    assert sent < BOUND
    # He reads on, and gets all of it.
    visitor.take_all()
    service.send(b"0\r\n\r\n")
    assert visitor.received.count(b"\0") == sent // (len(PIECE) + 8) * len(PIECE)
    assert visitor.received.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("lines", [["Content-Length: 100000000"], ["Transfer-Encoding: chunked"]])
def test_a_visitor_waits_for_a_service_that_does_not_read(web: World, lines: list[str]) -> None:
    visitor = web.visit(get("/", *lines, method="POST"))
    [service] = web.service.connections
    service.takes = False
    piece = PIECE if "Content" in lines[0] else b"2000\r\n" + PIECE + b"\r\n"
    sent = visitor.send_all([piece] * 500)
    assert sent < BOUND
    service.take_all()
    assert service.received.count(b"\0") == sent // len(piece) * len(PIECE)
    assert not visitor.paused


def test_a_service_that_answers_without_reading(web: World) -> None:
    """The whole request is on its way, and the next one on the connection is read too."""
    # Some of them fill the stream to the service with their last bytes.
    for size in (0, 60_000, *range(2 * WINDOW - 120, 2 * WINDOW + 120, 4), 200_000):
        visitor = web.visit(get("/", f"Content-Length: {size}", method="POST"))
        service = web.service.connections[-1]
        service.takes = False
        visitor.send(bytes(size))
        service.send(OK)
        if visitor.ended:
            continue  # The engine had not read the whole request.
        assert visitor.news() == OK
        assert list(web.connections)[-1].buffered() == 0, "or nothing more is read"
        visitor.send(GET)
        service.take_all()
        assert service.news().endswith(b"\r\n\r\n")
        service.send(OK)
        assert visitor.news() == OK
        assert visitor.stream.queued == visitor.stream.other.waiting == 0
        web.clock.advance(100)


def test_a_visitor_waits_for_a_stream_that_is_not_open_yet(web: World) -> None:
    web.service.is_slow = True
    visitor = web.visit(get("/", "Content-Length: 100000000", method="POST"))
    assert visitor.send_all(MANY) < BOUND
    web.service.open_all()
    [service] = web.service.connections
    assert not visitor.paused
    visitor.send_all(MANY)
    assert len(service.received) > 500 * len(PIECE)


def test_a_stream_that_is_full_as_soon_as_it_is_open(web: World) -> None:
    """What has waited for it is more than it takes, and the visitor goes on waiting."""
    web.service.is_slow = web.service.is_stalled = True
    visitor = web.visit(get("/", "Content-Length: 100000000", method="POST"))
    sent = visitor.send_all(MANY)
    web.service.open_all()
    sent += visitor.send_all(MANY)
    assert sent < 2 * BOUND
    [service] = web.service.connections
    service.take_all()
    visitor.send_all(MANY)
    assert service.received.count(b"\0") > 500 * len(PIECE)


def test_a_stream_that_is_still_full_of_the_last_request(web: World) -> None:
    """The service answers without a look at the body, which has been sent to its end."""
    size = 2 * WINDOW
    visitor = web.visit(get("/", f"Content-Length: {size}", method="POST"))
    [service] = web.service.connections
    service.takes = False
    visitor.send(*[bytes(WINDOW)] * 2)
    service.send(OK)
    assert visitor.news() == OK
    visitor.send(get("/", "Content-Length: 100000000", method="POST"))
    assert visitor.send_all(MANY) < BOUND
    service.take_all()
    visitor.send_all(MANY)
    assert service.received.count(b"\0") > 500 * len(PIECE)
    assert len(web.service.connections) == 1


def test_a_visitor_waits_while_his_password_is_looked_at(web: World) -> None:
    hashed = "$scrypt$ln=10,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI"
    web.serve("auth", users=(("alice", hashed),))
    visitor = web.visit(
        get("/auth", "Content-Length: 100000000", "Authorization: Basic YWxpY2U6c2VjcmV0", method="POST")
    )
    assert web.threads, visitor.news()
    assert visitor.send_all(MANY) < BOUND


@pytest.mark.parametrize("is_answered", [False, True])
def test_pipelined_requests_wait(web: World, is_answered: bool) -> None:
    """However many are sent, only so many are read before the first is answered."""
    visitor = web.visit()
    sent = visitor.send_all([GET * 100] * 500)
    assert sent < BOUND
    if is_answered:
        [service] = web.service.connections
        for _ in range(sent // len(GET)):
            service.send(OK)
        assert visitor.received.count(b"\r\n\r\nok") == sent // len(GET)
        assert len(web.service.connections) == 1


def test_pipelined_requests_to_nobody_wait_for_the_reader(web: World) -> None:
    web.service.is_full = True
    visitor = web.visit()
    visitor.takes = False
    visitor.send_all([GET * 20] * 300)
    [connection] = list(web.connections)
    assert connection.stream is not None
    assert connection.stream.queued < 1_000_000  # type: ignore[attr-defined]
    assert visitor.paused


def test_a_stream_that_was_held_can_be_used_again(web: World) -> None:
    """The visitor reads the end of his answer after the stream has gone to somebody else."""
    visitor = web.visit(GET)
    visitor.takes = False
    [service] = web.service.connections
    body = bytes(100_000) + bytes(50_000)
    service.send(answer(body))
    assert visitor.stream.waiting
    other = web.visit(get("/other"))
    [service] = web.service.connections[-1:]
    service.send(answer(body))
    service.send(b"")
    if service.paused:
        raise AssertionError("nothing takes what the service sends")
    visitor.take_all()
    for each in (visitor, other):
        assert each.received.endswith(body)
    # All windows are open again.
    for each in web.service.connections:
        assert not each.paused
        assert each.stream.queued == 0
        assert each.stream.other.waiting == 0


def test_a_slow_visitor_gets_the_whole_of_the_last_answer(web: World) -> None:
    visitor = web.visit(get("/", "Connection: close"))
    visitor.takes = False
    body = bytes(range(256)) * 1000
    [service] = web.service.connections
    service.send(answer(body))
    while not visitor.ended:
        web.pass_time(2)
        assert not visitor.why
        visitor.stream.delivered(min(16_000, visitor.stream.waiting))
    assert visitor.received.endswith(body)
    assert visitor.ended


@pytest.mark.parametrize("before", [b"", GET])
def test_a_part_of_a_head_counts_as_held(web: World, before: bytes) -> None:
    """It takes memory until it is whole."""
    visitor = web.visit(before)
    [connection] = list(web.connections)
    visitor.send(get("/", "X: " + "y" * 50_000)[:-1])
    assert connection.buffered() > 50_000
    visitor.send(b"\n")
    for service in web.service.connections:
        service.send(OK)
    assert connection.buffered() == 0


def test_what_comes_behind_the_last_request_is_dropped(web: World) -> None:
    visitor = web.visit(get("/", "Connection: close"))
    web.service.connections[0].send(OK)
    assert visitor.send_all(MANY) == len(PIECE) * 500
    web.pass_time(LINGER + 2)
    assert visitor.why
    assert not web.connections


@pytest.mark.parametrize("first", [b"", GET, ASK, get("/", "Content-Length: 3", method="POST") + b"abc"])
def test_a_part_of_a_head_counts(web: World, first: bytes) -> None:
    """While the request before it is under way, and behind that."""
    visitor = web.visit(first)
    part = GET[:-2] + b"A: " + b"a" * 8000
    visitor.send(part, b"b" * 8000)
    [connection] = web.connections
    size = len(part) + 8000
    assert connection.buffered() >= size
    for service in web.service.connections:
        service.send(OK)
    assert connection.buffered() == visitor.stream.other.waiting == size
    visitor.send(b"\r\n\r\n")
    assert connection.buffered() == 0
    assert b"ab" in web.service.connections[0].received


def test_an_endless_body_to_nobody(web: World) -> None:
    web.service.is_full = True
    visitor = web.visit(get("/", "Transfer-Encoding: chunked", method="POST"))
    assert visitor.news().startswith(b"HTTP/1.1 503 ")
    visitor.send_all([b"2000\r\n" + PIECE + b"\r\n"] * 500)
    web.pass_time(LINGER + 2)
    assert visitor.is_over
    assert not web.connections


def test_a_body_to_nobody_is_read_to_its_end(web: World) -> None:
    web.service.is_full = True
    visitor = web.visit(get("/", "Content-Length: 81920", method="POST"))
    visitor.send(*[PIECE] * 10)
    assert visitor.news().startswith(b"HTTP/1.1 503 ")
    if visitor.is_over:
        return
    visitor.send(GET)
    assert visitor.news().startswith(b"HTTP/1.1 503 ")
