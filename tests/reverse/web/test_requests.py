"""One request after another: connections are kept on both sides, and nothing is sent twice that must not be."""

from __future__ import annotations

import re

import pytest

from rtunnel.errors import Code
from rtunnel.reverse.web.upstreams import FRESH, IDLE, MOST_IDLE
from tests.reverse.web.parts import GET, OK, Peer, World, answer, get


def test_a_request_and_its_answer(web: World) -> None:
    visitor = web.visit(get("/a?b=c", "Accept: */*", "Connection: keep-alive"))
    [service] = web.service.connections
    assert service.news() == (
        b"GET /a?b=c HTTP/1.1\r\nHost: app.example.org\r\nAccept: */*\r\n"
        b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: app.example.org\r\n"
        b"Forwarded: for=192.0.2.7;host=app.example.org;proto=http\r\n\r\n"
    )
    service.send(answer(b"hello", "Server: x", "Connection: keep-alive", "Keep-Alive: timeout=5"))
    assert visitor.news() == b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello"
    assert web.over == 1


def test_both_sides_are_kept(web: World) -> None:
    visitor = web.visit()
    for number in range(5):
        visitor.send(get(f"/{number}"))
        [service] = web.service.connections
        assert service.news().startswith(b"GET /%d " % number)
        service.send(answer(b"%d" % number))
        assert visitor.news().endswith(b"\r\n\r\n%d" % number)
    assert not visitor.is_over


def test_visitors_share_what_is_kept(web: World) -> None:
    first, second = web.visit(), web.visit()
    for visitor in (first, second, first):
        visitor.send(GET)
        web.service.connections[0].send(OK)
        assert visitor.news().endswith(b"ok")
    assert len(web.service.connections) == 1


def test_two_at_once_are_on_two_streams(web: World) -> None:
    first, second = web.visit(get("/1")), web.visit(get("/2"))
    one, two = web.service.connections
    two.send(answer(b"two"))
    one.send(answer(b"one"))
    assert (first.news()[-3:], second.news()[-3:]) == (b"one", b"two")


def test_each_request_is_routed_anew(web: World) -> None:
    other = web.serve("other")
    visitor = web.visit(get("/x"))
    web.service.connections[0].send(answer(b"x"))
    visitor.send(get("/other/y"))
    other.connections[0].send(answer(b"y"))
    assert visitor.news().count(b"HTTP/1.1 200 OK") == 2
    assert other.connections[0].news().startswith(b"GET /other/y ")


@pytest.mark.parametrize("in_pieces", [False, True])
def test_pipelined_requests_are_answered_in_order(web: World, in_pieces: bool) -> None:
    data = b"".join(get(f"/{number}") for number in range(4))
    visitor = web.visit(*([data[i : i + 1] for i in range(len(data))] if in_pieces else [data]))
    [service] = web.service.connections
    for number in range(4):
        # The next one goes on when this one is answered.
        assert service.news().startswith(b"GET /%d " % number)
        assert service.news() == b""
        service.send(answer(b"%d" % number))
        assert visitor.news().endswith(b"\r\n\r\n%d" % number)
    assert len(web.service.connections) == 1


def test_a_request_behind_one_with_a_body(web: World) -> None:
    visitor = web.visit(get("/1", "Content-Length: 3", method="POST") + b"abc" + get("/2"))
    [service] = web.service.connections
    assert service.news().endswith(b"\r\nContent-Length: 3\r\n\r\nabc")
    service.send(OK)
    assert service.news().startswith(b"GET /2 ")
    service.send(OK)
    assert visitor.news().count(b"ok") == 2


def test_chunks_go_on_in_chunks(web: World) -> None:
    visitor = web.visit(get("/", "Transfer-Encoding: chunked", method="POST"))
    visitor.send(b"3;x=y\r\nab", b"c\r\n", b"0\r\nX-Sum: 5\r\n\r\n")
    [service] = web.service.connections
    head, _, body = service.news().partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert body == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    service.send(OK)
    assert visitor.news().endswith(b"ok")
    assert not visitor.is_over


# Streams that prove to be over


def idle_stream(web: World, age: float = 0.0) -> Peer:
    """A stream that has carried a request, and waits."""
    visitor = web.visit(GET)
    [service] = web.service.connections
    service.send(OK)
    visitor.leave()
    service.news()
    web.clock.advance(age)
    return service


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_request_that_may_be_sent_again_is(web: World, method: str, reset: bool) -> None:
    kept = idle_stream(web, age=30)
    visitor = web.visit(get("/again", method=method))
    assert b"/again" in kept.news()
    (kept.leave if reset else kept.end)()
    assert b"/again" in web.service.connections[1].news()
    web.service.connections[1].send(answer(b"" if method == "HEAD" else b"ok"))
    assert visitor.news().startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("lines", [["Content-Length: 0"], ["Content-Length: 3"], []])
def test_post_goes_over_fresh_streams_only(web: World, lines: list[str]) -> None:
    kept = idle_stream(web, age=FRESH + 1)
    web.visit(get("/once", *lines, method="POST"))
    assert kept.news() == b""
    assert b"/once" in web.service.connections[1].news()


def test_post_takes_what_has_just_been_used(web: World) -> None:
    kept = idle_stream(web)
    web.visit(get("/once", method="POST"))
    assert b"/once" in kept.news()


def test_post_is_not_sent_again(web: World) -> None:
    kept = idle_stream(web)
    visitor = web.visit(get("/once", method="POST"))
    kept.leave()
    assert len(web.service.connections) == 1
    assert visitor.news().startswith(b"HTTP/1.1 502 ")
    assert not visitor.is_over


def test_a_request_with_a_body_is_not_sent_again(web: World) -> None:
    kept = idle_stream(web)
    visitor = web.visit(get("/once", "Content-Length: 3", method="PUT") + b"abc")
    kept.leave()
    assert len(web.service.connections) == 1
    assert visitor.news().startswith(b"HTTP/1.1 502 ")


def test_nothing_is_sent_again_once_an_answer_has_begun(web: World) -> None:
    kept = idle_stream(web)
    visitor = web.visit(GET)
    kept.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    kept.leave()
    assert len(web.service.connections) == 1
    assert visitor.why, "a part must not be taken for the whole"


def test_a_note_on_the_way_is_a_beginning(web: World) -> None:
    kept = idle_stream(web)
    visitor = web.visit(GET)
    kept.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    kept.leave()
    assert len(web.service.connections) == 1
    assert visitor.news().startswith(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 502 ")


def test_a_first_request_is_not_sent_again(web: World) -> None:
    visitor = web.visit(GET)
    web.service.connections[0].leave()
    assert len(web.service.connections) == 1
    assert visitor.news().startswith(b"HTTP/1.1 502 ")


def test_many_streams_that_are_over(web: World) -> None:
    """A service that was started anew: each of the kept streams is over, and only the request shows it."""
    visitors = [web.visit(GET) for _ in range(MOST_IDLE)]
    kept = list(web.service.connections)
    for service in kept:
        service.send(OK)
    assert all(visitor.news().endswith(b"ok") for visitor in visitors)
    visitor = web.visit(GET)
    for service in reversed(kept):
        if service.news().count(b"GET ") > 1:
            service.leave()
    assert len(web.service.connections) == MOST_IDLE + 1
    web.service.connections[-1].send(OK)
    assert visitor.news().endswith(b"ok")


@pytest.mark.parametrize("reset", [False, True])
def test_a_stream_that_ends_while_it_waits_is_forgotten(web: World, reset: bool) -> None:
    kept = idle_stream(web)
    (kept.leave if reset else kept.end)()
    assert len(web.service.upstreams) == 0
    web.visit(GET)
    assert len(web.service.connections) == 2


def test_unasked_bytes_end_a_stream(web: World) -> None:
    kept = idle_stream(web)
    kept.send(OK)
    assert kept.why
    visitor = web.visit(GET)
    assert visitor.news() == b""
    assert len(web.service.connections) == 2


@pytest.mark.parametrize(
    "last",
    [
        OK + b"x",
        OK + OK,
        answer(b"ok", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_a_stream_that_is_not_clean_is_not_used_again(web: World, last: bytes) -> None:
    visitor = web.visit(GET)
    web.service.connections[0].send(last)
    assert visitor.news() == OK
    assert web.service.connections[0].is_over
    visitor.send(GET)
    assert len(web.service.connections) == 2


def test_idle_streams_are_closed(web: World) -> None:
    kept = idle_stream(web)
    web.pass_time(IDLE - 2)
    assert not kept.is_over
    web.pass_time(4)
    assert kept.ended
    assert not kept.why
    kept.end()
    assert len(web.service.upstreams) == 0


def test_a_service_that_does_not_close_is_reset(web: World) -> None:
    kept = idle_stream(web)
    web.pass_time(IDLE + 8)
    assert kept.why
    assert len(web.service.upstreams) == 0


def test_no_more_than_so_many_are_kept(web: World) -> None:
    visitors = [web.visit(GET) for _ in range(MOST_IDLE + 5)]
    for service in web.service.connections:
        service.send(OK)
    assert all(visitor.news().endswith(b"ok") for visitor in visitors)
    assert sum(service.ended for service in web.service.connections) == 5


# What cannot be


def test_a_stream_that_is_lost_while_it_is_opened(web: World) -> None:
    web.service.is_gone = True
    visitor = web.visit(GET)
    assert visitor.news().startswith(b"HTTP/1.1 503 ")
    assert web.over == 1
    assert len(web.service.upstreams) == 0


def test_service_that_cannot_be_reached(web: World) -> None:
    web.service.is_slow = True
    for code, status in [
        (Code.LOCAL_UNREACHABLE, 502),
        (Code.LOCAL_TIMEOUT, 504),
        (Code.LIMIT, 503),
        ("x", 502),
    ]:
        visitor = web.visit(GET)
        web.service.refuse(code)
        assert visitor.news().startswith(b"HTTP/1.1 %d " % status), code
        assert not visitor.is_over
    web.service.is_slow = False
    visitor.send(GET)
    web.service.connections[0].send(OK)
    assert visitor.news().endswith(b"ok")


def test_no_stream_to_be_had(web: World) -> None:
    web.service.is_full = True
    visitor = web.visit(GET + GET)
    assert len(re.findall(rb"HTTP/1\.1 503 ", visitor.news())) == 2
    assert len(web.service.upstreams) == 0


@pytest.mark.parametrize(
    "nonsense", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nbad field\r\n\r\n", b"\0", b"HTTP/1.1 100 x\r\n\r\n\0"]
)
def test_a_service_that_speaks_something_else(web: World, nonsense: bytes) -> None:
    visitor = web.visit(GET)
    web.service.connections[0].send(nonsense)
    news = visitor.news()
    assert re.fullmatch(rb"(HTTP/1.1 100 x\r\n\r\n)?HTTP/1\.1 502 .*", news, re.DOTALL)
    assert news.endswith(b"\n")
    assert web.service.connections[0].why
    visitor.send(GET)
    web.service.connections[1].send(OK)
    assert visitor.news() == OK
