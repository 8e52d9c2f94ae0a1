"""Answers of services: how they go on to visitors of each kind, and what comes when they break off."""

from __future__ import annotations

import pytest

from tests.reverse.web.parts import GET, OK, World, answer, get

UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OLD = get(version="1.0")
OLD_KEPT = get("/", "Connection: keep-alive", version="1.0")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "200 OK"])
def test_answers_without_a_body(web: World, method: str, status: str) -> None:
    visitor = web.visit(get(method=method))
    [service] = web.service.connections
    if status == "200 OK":
        if method == "GET":
            return
        service.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        assert visitor.news() == b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    else:
        service.send(f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode())
        assert visitor.news() == f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode()
    visitor.send(GET)
    service.send(OK)
    assert visitor.news() == OK
    assert len(web.service.connections) == 1


def test_notes_on_the_way_go_on_at_once(web: World) -> None:
    visitor = web.visit(GET)
    [service] = web.service.connections
    service.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    assert visitor.news() == b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    service.send(OK)
    assert visitor.news() == OK


def test_notes_on_the_way_are_not_for_the_old_protocol(web: World) -> None:
    visitor = web.visit(OLD_KEPT)
    web.service.connections[0].send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
    assert visitor.news() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"


def test_100_continue(web: World) -> None:
    visitor = web.visit(get("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
    [service] = web.service.connections
    assert b"\r\nExpect: 100-continue\r\n" in service.news()
    service.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert visitor.news() == b"HTTP/1.1 100 Continue\r\n\r\n"
    visitor.send(b"abc")
    assert service.news() == b"abc"
    service.send(OK)
    assert visitor.news() == OK
    visitor.send(GET)
    assert len(web.service.connections) == 1


def test_chunks_go_on_as_they_come(web: World) -> None:
    visitor = web.visit(GET)
    [service] = web.service.connections
    service.send(CHUNKED)
    assert visitor.news() == CHUNKED
    service.send(b"5;x=y\r\nfirst\r\n")
    assert visitor.news() == b"5\r\nfirst\r\n"
    service.send(b"6\r\nsec")
    assert visitor.news() == b"3\r\nsec\r\n"
    service.send(b"ond\r\n0\r\nX-Sum: 5\r\n\r\n")
    assert visitor.news() == b"3\r\nond\r\n0\r\n\r\n"
    assert not visitor.is_over


def test_until_close_goes_on_in_chunks(web: World) -> None:
    visitor = web.visit(GET)
    [service] = web.service.connections
    service.send(UNTIL_CLOSE + b"abc")
    assert visitor.news() == CHUNKED + b"3\r\nabc\r\n"
    service.end()
    assert visitor.news() == b"0\r\n\r\n"
    assert not visitor.is_over
    visitor.send(GET)
    assert len(web.service.connections) == 2


@pytest.mark.parametrize("request_", [OLD, OLD_KEPT])
@pytest.mark.parametrize("first", [CHUNKED, UNTIL_CLOSE])
def test_the_old_protocol_gets_no_chunks(web: World, request_: bytes, first: bytes) -> None:
    visitor = web.visit(request_)
    [service] = web.service.connections
    service.send(first)
    assert visitor.news() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    if first == CHUNKED:
        service.send(b"3\r\nabc\r\n0\r\n\r\n")
    else:
        service.send(b"abc")
        service.end()
    assert visitor.news() == b"abc"
    assert visitor.ended


def test_the_old_protocol(web: World) -> None:
    visitor = web.visit(OLD)
    [service] = web.service.connections
    assert service.news().startswith(b"GET / HTTP/1.1\r\n")
    service.send(OK)
    assert visitor.news() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    assert visitor.ended


def test_a_visitor_who_wants_the_connection_closed(web: World) -> None:
    visitor = web.visit(get("/", "Connection: close"))
    [service] = web.service.connections
    service.send(OK)
    assert visitor.news() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    assert visitor.ended
    assert not service.is_over
    visitor.end()
    assert not web.connections


# Broken off


@pytest.mark.parametrize(
    "part", [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", CHUNKED + b"3\r\nabc\r\n", CHUNKED + b"3\r\na"]
)
@pytest.mark.parametrize("reset", [False, True])
def test_an_answer_that_breaks_off_is_no_whole_one(web: World, part: bytes, reset: bool) -> None:
    visitor = web.visit(GET)
    [service] = web.service.connections
    service.send(part)
    (service.leave if reset else service.end)()
    assert visitor.why
    assert not visitor.ended
    assert b"a" in visitor.news().partition(b"\r\n\r\n")[2]
    assert not web.connections


def test_a_slow_visitor_gets_all_that_there_is_of_an_answer_that_breaks_off(web: World) -> None:
    visitor = web.visit(GET)
    visitor.takes = False
    [service] = web.service.connections
    service.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    sent = service.send_all([bytes(1000)] * 1000) - service.stream.queued
    service.leave()
    assert not visitor.is_over
    visitor.take_all()
    assert visitor.received.count(b"\0") == sent
    assert visitor.why


def test_until_close_that_is_reset(web: World) -> None:
    visitor = web.visit(GET)
    [service] = web.service.connections
    service.send(UNTIL_CLOSE + b"abc")
    service.leave()
    assert visitor.why


def test_nonsense_in_the_middle(web: World) -> None:
    visitor = web.visit(GET)
    [service] = web.service.connections
    service.send(CHUNKED + b"3\r\nabc\r\n", b"nonsense\r\n")
    assert visitor.why
    assert service.why


def test_a_visitor_who_leaves(web: World) -> None:
    visitor = web.visit(GET)
    [service] = web.service.connections
    service.send(CHUNKED + b"3\r\nabc\r\n")
    visitor.leave()
    assert service.why
    assert (len(web.connections), web.over) == (0, 1)
    assert len(web.service.upstreams) == 0


def test_a_visitor_who_only_listens_gets_his_answer(web: World) -> None:
    visitor = web.visit(GET)
    visitor.end()
    [service] = web.service.connections
    assert not service.is_over
    service.send(OK)
    assert visitor.news() == OK
    assert visitor.ended
    assert not web.connections


def test_a_visitor_who_ends_in_the_middle_of_his_request(web: World) -> None:
    visitor = web.visit(get("/", "Content-Length: 10", method="POST") + b"abc")
    visitor.end()
    [service] = web.service.connections
    assert service.why
    assert not web.connections


def test_a_visitor_who_ends_in_the_middle_of_a_later_request(web: World) -> None:
    visitor = web.visit(GET + get("/", "Content-Length: 10", method="POST") + b"abc")
    visitor.end()
    [service] = web.service.connections
    service.send(OK)
    assert service.why
    assert not web.connections


def test_a_visitor_who_ends_in_the_middle_of_a_head(web: World) -> None:
    visitor = web.visit(b"GET / HT")
    visitor.end()
    assert visitor.ended
    assert not web.connections


# Answers that come early


def test_an_answer_before_the_request_is_read(web: World) -> None:
    visitor = web.visit(get("/", "Content-Length: 1000000", method="POST") + b"abc")
    [service] = web.service.connections
    service.send(answer(b"too large", status="413 Content Too Large"))
    assert visitor.news().endswith(b"\r\nConnection: close\r\n\r\ntoo large")
    assert visitor.ended
    assert not visitor.why
    assert service.why, "the rest is not wanted"
    # What he still sends is dropped, so that he reads the answer.
    sent = visitor.send_all([bytes(10_000)] * 20)
    assert sent == 200_000
    visitor.end()
    assert not web.connections


def test_an_answer_that_goes_on_while_the_request_does(web: World) -> None:
    visitor = web.visit(get("/", "Transfer-Encoding: chunked", method="POST"))
    [service] = web.service.connections
    service.send(CHUNKED + b"1\r\na\r\n")
    service.news()
    visitor.send(b"3\r\nabc\r\n")
    assert service.news() == b"3\r\nabc\r\n"
    service.send(b"1\r\nb\r\n")
    visitor.send(b"0\r\n\r\n")
    service.send(b"0\r\n\r\n")
    assert visitor.news().endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


def test_a_bad_request_in_the_middle_of_its_body(web: World) -> None:
    visitor = web.visit(get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
    [service] = web.service.connections
    visitor.send(b"nonsense\r\n")
    assert service.why, "the service must not wait for the rest"
    assert visitor.is_over
    assert web.complaints
    assert web.over == 1


def test_a_bad_request_behind_a_good_one(web: World) -> None:
    visitor = web.visit(GET + b"nonsense\r\n\r\n")
    [service] = web.service.connections
    service.send(OK)
    assert visitor.news().startswith(OK + b"HTTP/1.1 400 Bad Request\r\n")
    assert visitor.ended
    assert not service.is_over
    assert len(web.complaints) == 1
