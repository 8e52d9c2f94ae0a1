"""WebSocket and other protocols to which a connection changes: plain streams in both directions."""

from __future__ import annotations

import pytest

from tests.reverse.web.parts import OK, Peer, World, get

ASK = get("/ws", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
AGREE = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def changed(web: World, early: bytes = b"") -> tuple[Peer, Peer]:
    """A visitor and a service that speak another protocol."""
    visitor = web.visit(ASK + early)
    service = web.service.connections[-1]
    head = service.news()
    assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in head
    assert b"\r\nSec-WebSocket-Key: x\r\n" in head
    service.send(AGREE)
    assert visitor.news() == AGREE
    return visitor, service


def test_both_directions(web: World) -> None:
    visitor, service = changed(web)
    for data in (b"\x81\x00", GETLIKE, b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n"):
        visitor.send(data)
        assert service.news() == data
        service.send(data)
        assert visitor.news() == data


GETLIKE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_bytes_that_come_too_early(web: World) -> None:
    visitor, service = changed(web, early=b"early")
    assert service.news() == b"early"
    visitor.send(b"late")
    assert service.news() == b"late"


def test_bytes_behind_the_answer(web: World) -> None:
    visitor = web.visit(ASK)
    web.service.connections[0].send(AGREE + b"at once")
    assert visitor.news() == AGREE + b"at once"


@pytest.mark.parametrize("first", ["visitor", "service"])
def test_half_closes(web: World, first: str) -> None:
    visitor, service = changed(web)
    one, two = (visitor, service) if first == "visitor" else (service, visitor)
    one.send(b"last words")
    one.end()
    assert two.news() == b"last words"
    assert two.ended
    two.send(b"more and more")
    assert one.news() == b"more and more"
    two.end()
    assert one.ended
    assert not one.why
    assert not two.why
    assert (len(web.connections), web.over) == (0, 1)
    assert len(web.service.upstreams) == 0


def test_last_words_that_wait(web: World) -> None:
    """The service has ended, and then takes what the visitor has sent before he ended."""
    visitor, service = changed(web)
    service.end()
    service.takes = False
    sent = visitor.send_all([bytes(30_000)] * 4)
    visitor.end()
    service.news()
    service.take_all()
    assert len(service.received) >= sent
    assert service.ended
    assert not service.why


@pytest.mark.parametrize("first", ["visitor", "service"])
def test_resets(web: World, first: str) -> None:
    visitor, service = changed(web)
    one, two = (visitor, service) if first == "visitor" else (service, visitor)
    one.leave()
    assert two.why
    assert (len(web.connections), web.over) == (0, 1)
    assert len(web.service.upstreams) == 0


@pytest.mark.parametrize("at_once", [False, True])
def test_refused(web: World, at_once: bool) -> None:
    """A service that does not want to change answers, and then the next request is one."""
    visitor = web.visit(ASK + get("/next") if at_once else ASK)
    [service] = web.service.connections
    service.news()
    service.send(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
    assert visitor.news().endswith(b"no")
    if not at_once:
        visitor.send(get("/next"))
    assert service.news().startswith(b"GET /next ")
    service.send(OK)
    assert visitor.news() == OK


def test_many_bytes_before_a_refusal_wait(web: World) -> None:
    """Nobody knows yet what they are, so only so many are held."""
    visitor = web.visit(ASK)
    sent = visitor.send_all([bytes(10_000)] * 1000)
    assert sent < 400_000


def test_many_bytes_before_the_answer(web: World) -> None:
    """They go on as soon as the service agrees, and then more do."""
    visitor = web.visit(ASK)
    sent = visitor.send_all([bytes(10_000)] * 1000)
    [service] = web.service.connections
    service.send(AGREE)
    sent += visitor.send_all([bytes(10_000)] * 100)
    assert sent > 1_000_000
    assert service.received.count(b"\0") == sent


def test_refused_for_a_visitor_who_sends_no_more(web: World) -> None:
    visitor = web.visit(ASK)
    visitor.end()
    web.service.connections[0].send(OK)
    assert visitor.news() == OK
    assert visitor.ended
    assert not web.connections


def test_nobody_has_asked(web: World) -> None:
    visitor = web.visit(get())
    [service] = web.service.connections
    service.send(b"HTTP/1.1 100 Continue\r\n\r\n" + AGREE + b"raw")
    assert visitor.news().startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 ")
    assert b"raw" not in visitor.received
    assert service.why


def test_refused_by_us(web: World) -> None:
    web.service.is_full = True
    visitor = web.visit(ASK)
    assert visitor.news().startswith(b"HTTP/1.1 503 ")
    web.service.is_full = False
    visitor.send(get("/next"))
    web.service.connections[0].send(OK)
    assert visitor.news() == OK


def test_stays_while_nothing_passes(web: World) -> None:
    visitor, service = changed(web)
    web.pass_time(1000)
    visitor.send(b"still here")
    assert service.news() == b"still here"
