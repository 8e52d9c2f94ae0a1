"""What does not come in time, and the end of the server."""

from __future__ import annotations

import pytest

from rtunnel.reverse.web.connection import KEEP_ALIVE, LINGER
from rtunnel.reverse.web.interfaces import SETTLE
from tests.reverse.web.parts import GET, OK, Peer, World, get


def used(web: World) -> Peer:
    """A connection that waits for another request."""
    visitor = web.visit(GET)
    web.service.connections[-1].send(OK)
    visitor.news()
    return visitor


@pytest.mark.parametrize("is_used", [False, True])
def test_a_head_that_does_not_come_to_its_end(web: World, is_used: bool) -> None:
    visitor = used(web) if is_used else web.visit()
    head = get("/", "X: " + "y" * 1000)
    for byte in head[:-1]:
        if visitor.is_over:
            break
        visitor.send(bytes([byte]))
        web.pass_time(1)
    assert web.seconds() < web.head_timeout + 5
    assert visitor.news().startswith(b"HTTP/1.1 408 ")
    assert visitor.ended
    assert len(web.complaints) == 1


def test_a_connection_without_a_request(web: World) -> None:
    visitor = web.visit()
    web.pass_time(web.head_timeout + 2)
    assert visitor.ended
    assert visitor.received == b""
    assert not web.complaints


def test_empty_lines_are_no_request(web: World) -> None:
    visitor = web.visit()
    for _ in range(5000):
        visitor.send(b"\r\n")
        if visitor.is_over:
            return
        web.pass_time(1)
    raise AssertionError("somebody may send empty lines for ever")


def test_keep_alive_ends(web: World) -> None:
    visitor = used(web)
    web.pass_time(KEEP_ALIVE - 2)
    assert not visitor.is_over
    visitor.send(GET)
    web.service.connections[-1].send(OK)
    web.pass_time(KEEP_ALIVE - 2)
    assert not visitor.is_over
    web.pass_time(4)
    assert visitor.ended
    assert visitor.news() == OK
    visitor.end()
    assert not web.connections


def test_a_visitor_who_does_not_close(web: World) -> None:
    visitor = web.visit(get("/", "Connection: close"))
    web.service.connections[0].send(OK)
    assert visitor.ended
    web.pass_time(LINGER + 2)
    assert visitor.why
    assert not web.connections


def test_a_service_may_take_its_time(web: World) -> None:
    visitor = web.visit(GET)
    web.pass_time(1000)
    assert not visitor.is_over
    web.service.connections[0].send(OK)
    assert visitor.news() == OK
    web.pass_time(KEEP_ALIVE - 2)
    assert not visitor.is_over


@pytest.mark.parametrize("is_upload", [False, True])
def test_what_passes_shows(web: World, is_upload: bool) -> None:
    """A stream on which bytes pass one way only is not idle."""
    visitor = web.visit(get("/", "Content-Length: 3", method="POST"))
    [upstream] = web.service.opened
    upstream.touched = False
    if is_upload:
        visitor.send(b"a")
    else:
        web.service.connections[0].send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert upstream.touched


# The server stops


def test_stop(web: World) -> None:
    idle, begun, asked, changed = used(web), web.visit(b"GET / HT"), web.visit(GET), web.visit()
    answered = web.service.connections[-1]
    changed.send(get("/", "Connection: Upgrade", "Upgrade: x"))
    service = web.service.connections[-1]
    service.send(b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    web.stop()
    assert idle.ended
    assert not asked.is_over
    answered.send(OK)
    assert asked.news() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    assert asked.ended
    # One more request is no reason to stay.
    begun.send(b"TP/1.1\r\nHost: a.example\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in begun.news()
    assert begun.ended
    # What speaks another protocol goes on until the server is tired of it.
    changed.send(b"still here")
    assert service.news().endswith(b"still here")
    for visitor in (idle, asked, begun):
        visitor.end()
    assert len(web.connections) == 1
    assert all(each.is_over for each in web.service.connections if each is not service)


def test_stop_as_somebody_comes(web: World) -> None:
    """Who has just connected is about to ask, and loses nothing; who does not ask keeps nobody waiting."""
    asks, silent = web.visit(), web.visit()
    web.stop()
    assert not asks.is_over
    asks.send(GET)
    web.service.connections[-1].send(OK)
    assert b"\r\nConnection: close\r\n" in asks.news()
    assert asks.ended
    web.pass_time(SETTLE + 2)
    assert silent.ended
    assert silent.received == b""


def test_stop_behind_a_pipelined_request(web: World) -> None:
    visitor = web.visit(GET + GET)
    web.stop()
    web.service.connections[0].send(OK)
    assert visitor.news() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    assert visitor.ended


def test_abort(web: World) -> None:
    visitor = web.visit(GET)
    for connection in list(web.connections):
        connection.abort()
    assert visitor.why
    assert web.service.connections[0].why
    assert not web.connections
