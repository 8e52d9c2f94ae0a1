"""Requests as they come: what is understood, and how they may be cut."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.wire.web.heads import MAX_FIELDS, MAX_HEAD, Problem, RequestHead
from rtunnel.wire.web.parsers import END, RAW, RequestParser
from tests.examples import examples
from tests.wire.web.parts import CHUNKED, WEBSOCKET, cut, fields, merged, plain, post, refusal, request, requests

GOOD = [
    request(),
    request(b"Accept: */*", b"Empty:", b"Cookie: a=b; c=d", first=b"GET /a/b?c=d HTTP/1.1"),
    request(b"Accept: */*") * 3,
    b"\r\n" + request() + b"\r\n" + request(),
    post(b"Content-Length: 3") + b"abc" + request(),
    post(b"Content-Length: 0") + request(),
    post(CHUNKED) + b'3\r\nabc\r\nA;x=y;z="q"\r\n0123456789\r\n0\r\nX-Sum: 5\r\n\r\n' + request(),
    post(CHUNKED) + b"0\r\n\r\n",
    post(b"Connection: close", b"Content-Length: 2") + b"ab",
    request(WEBSOCKET) + b"\x81\x00 raw bytes GET / HTTP/1.1\r\n\r\n",
    request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA") + request(),
    post(WEBSOCKET, b"Content-Length: 3") + b"abc" + request(),
    post(WEBSOCKET, CHUNKED) + b"3\r\nabc\r\n0\r\n\r\n" + request(),
    request(first=b"GET / HTTP/1.0"),
    request(b"Connection: keep-alive", first=b"GET / HTTP/1.0") * 2,
    request(first=b"GET http://other.example/x HTTP/1.1"),
    request(first=b"OPTIONS * HTTP/1.1"),
]
BAD = [
    request() + b"nonsense\r\n\r\n",
    post(CHUNKED) + b"3\r\nabc\r\nX\r\n",
    post(CHUNKED) + b"3\r\nabcdef\r\n",
    request(b"X: \x00"),
    request(b"Content-Length: 1", b"Content-Length: 2"),
    post(b"Transfer-Encoding: gzip", CHUNKED) + b"0\r\n\r\n",
    request(first=b"GET / HTTP/2.0"),
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


def head_of(data: bytes) -> RequestHead:
    head = requests(data)[0]
    assert isinstance(head, RequestHead), head
    return head


# However it is cut


@settings(max_examples=examples(500))
@given(st.sampled_from(GOOD + BAD), st.lists(st.integers(1, 400), max_size=12))
def test_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    assert plain(requests(*cut(data, cuts))) == plain(requests(data))


@pytest.mark.parametrize("data", GOOD + BAD)
def test_byte_by_byte(data: bytes) -> None:
    assert plain(requests(*cut(data, range(len(data))))) == plain(requests(data))


@pytest.mark.parametrize("data", GOOD)
def test_good_ones_are_not_refused(data: bytes) -> None:
    assert not any(isinstance(each, Problem) for each in requests(data))


@pytest.mark.parametrize("data", BAD)
def test_nothing_comes_behind_a_problem(data: bytes) -> None:
    parser = RequestParser()
    refusal(parser.feed(data))
    assert parser.feed(request()) == []


# What is understood


def test_head() -> None:
    head = head_of(request(b"X-One:  1 ", b"x-one: 2", b"Empty:", first=b"GET /a%20b?c=d HTTP/1.1"))
    assert (head.method, head.target, head.host) == (b"GET", b"/a%20b?c=d", "app.example.org")
    assert fields(head) == [(b"X-One", b"1"), (b"x-one", b"2"), (b"Empty", b"")]
    assert head.keeps_alive
    assert not head.is_old
    assert not head.has_body


def test_requests_come_in_order() -> None:
    first, second = requests(post(b"Content-Length: 0") + request(first=b"GET /2 HTTP/1.1"))
    assert (first.method, second.target) == (b"POST", b"/2")


def test_a_body_of_known_length() -> None:
    head, body, end = requests(post(b"Content-Length: 3") + b"abc")
    assert (head.length, head.is_chunked, body, end) == (3, False, b"abc", END)


def test_a_body_in_chunks_comes_without_their_framing() -> None:
    head, body, end = requests(post(CHUNKED) + b'3;a=b;c="d"\r\nabc\r\n000002\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n')
    assert (head.length, head.is_chunked, body, end) == (None, True, b"abcde", END)


def test_small_chunks_that_come_together_are_one_piece() -> None:
    events = requests(post(CHUNKED) + b"1\r\na\r\n" * 1000 + b"0\r\n\r\n")
    assert events[1:] == [b"a" * 1000, END]


def test_trailers_are_no_fields_of_the_next_request() -> None:
    events = requests(post(CHUNKED) + b"0\r\nX-Sum: 5\r\nHost: evil.example\r\n\r\n" + request(b"A: b"))
    assert [isinstance(each, RequestHead) for each in events] == [True, False, True]
    assert fields(events[2]) == [(b"A", b"b")]
    assert events[2].host == "app.example.org"


@pytest.mark.parametrize(
    ("first", "lines", "keeps_alive"),
    [
        (b"GET / HTTP/1.1", [], True),
        (b"GET / HTTP/1.1", [b"Connection: Close"], False),
        (b"GET / HTTP/1.1", [b"Connection: x", b"Connection: y , close"], False),
        (b"GET / HTTP/1.0", [], False),
        (b"GET / HTTP/1.0", [b"Connection: Keep-Alive"], True),
    ],
)
def test_keep_alive(first: bytes, lines: list[bytes], keeps_alive: bool) -> None:
    assert head_of(request(*lines, first=first)).keeps_alive is keeps_alive


@pytest.mark.parametrize("first", [b"GET / HTTP/1.0", b"GET / HTTP/1.1\r\nConnection: close"])
def test_what_comes_behind_the_last_request_is_ignored(first: bytes) -> None:
    [head] = requests(request(first=first) + b"whatever\x00" + request(), request())
    assert not head.keeps_alive


def test_fields_for_one_connection_are_left_out() -> None:
    head = head_of(
        request(
            b"Connection: Secret, close",
            b"Secret: 1",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"Proxy-Authorization: Basic eA==",
            b"TE: gzip",
            b"Trailer: X-Sum",
            b"Upgrade: websocket",
            b"Kept: yes",
        )
    )
    assert fields(head) == [(b"Kept", b"yes")]
    assert not head.upgrade


@pytest.mark.parametrize(
    "line", [b"X-Forwarded-For: 1.2.3.4", b"X_Forwarded_For: 1.2.3.4", b"x-forwarded_host: a", b"Content_Length: 5"]
)
def test_what_a_stranger_says_of_others_is_no_field(line: bytes) -> None:
    """Many services take an underscore for a hyphen."""
    assert fields(head_of(request(line))) == []


def test_other_underscores_are_fine() -> None:
    assert fields(head_of(request(b"session_id: 5"))) == [(b"session_id", b"5")]


def test_a_thousand_options_cost_little() -> None:
    data = request(b"Connection: " + b",".join(b"%x" % i for i in range(12_000)), *[b"X%d: y" % i for i in range(180)])
    begin = time.process_time()
    for _ in range(20):
        assert len(fields(head_of(data))) == 180
    assert time.process_time() - begin < 0.5


# Host names


@pytest.mark.parametrize(
    ("host", "name", "authority"),
    [
        (b"app.example.org", "app.example.org", b"app.example.org"),
        (b"App.Example.ORG:8080", "app.example.org", b"App.Example.ORG:8080"),
        (b"  app.example.org  ", "app.example.org", b"app.example.org"),
        (b"app.example.org.", "app.example.org.", b"app.example.org."),
        (b"[2001:db8::1]:80", "[2001:db8::1]", b"[2001:db8::1]:80"),
        (b"192.0.2.1", "192.0.2.1", b"192.0.2.1"),
        (b"app.example.org:", "app.example.org", b"app.example.org:"),
    ],
)
def test_host(host: bytes, name: str, authority: bytes) -> None:
    head = head_of(request(host=b"Host: %b\r\n" % host))
    assert (head.host, head.authority) == (name, authority)


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        (b"http://other.example", "other.example", b"/"),
        (b"HTTP://other.example:80/x?y", "other.example", b"/x?y"),
        (b"https://other.example?y", "other.example", b"/?y"),
    ],
)
def test_a_target_with_a_host_name_counts(target: bytes, host: str, path: bytes) -> None:
    head = head_of(request(first=b"GET %b HTTP/1.1" % target))
    assert (head.host, head.target) == (host, path)


def test_the_old_protocol_needs_no_host() -> None:
    head = head_of(request(first=b"GET / HTTP/1.0", host=b""))
    assert (head.host, head.authority, head.is_old) == ("", b"", True)


# Other protocols


def test_upgrade() -> None:
    head, raw, rest = requests(request(WEBSOCKET) + b"\x81\x00")
    assert (head.upgrade, raw, rest) == (b"websocket", RAW, b"\x81\x00")


def test_upgrade_that_is_refused() -> None:
    parser = RequestParser()
    assert merged(parser.feed(request(WEBSOCKET)))[-1] is RAW
    assert parser.feed(b"GET /2 HTT") == [b"GET /2 HTT"]
    assert parser.refused(b"GET /2 HTT") == []
    [head] = parser.feed(b"P/1.1\r\nHost: b.example\r\n\r\n")
    assert (head.target, head.host) == (b"/2", "b.example")
    # The next one may ask again.
    assert parser.feed(request(WEBSOCKET) + b"raw")[-2:] == [RAW, b"raw"]


@pytest.mark.parametrize(
    "lines",
    [
        [b"Connection: Upgrade", b"Upgrade: h2c"],
        [b"Upgrade: websocket"],
        [b"Connection: Upgrade"],
        [b"Connection: Upgrade", b"Upgrade:"],
    ],
)
def test_upgrade_that_is_none(lines: list[bytes]) -> None:
    head, second = requests(request(*lines) + request(first=b"GET /2 HTTP/1.1"))
    assert (head.upgrade, second.target) == (b"", b"/2")


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
def test_upgrade_with_a_body_goes_on_without(framing: bytes) -> None:
    data = post(WEBSOCKET).removesuffix(b"\r\n") + framing + request(first=b"GET /2 HTTP/1.1")
    head, body, end, second = requests(data)
    assert (head.upgrade, body, end, second.target) == (b"", b"abc", END, b"/2")


def test_upgrade_of_the_old_protocol_is_none() -> None:
    assert not head_of(request(WEBSOCKET, first=b"GET / HTTP/1.0")).upgrade


# Whether something has begun


def test_is_at_rest() -> None:
    parser = RequestParser()

    def rests_after(data: bytes) -> bool:
        parser.feed(data)
        return parser.is_at_rest

    assert rests_after(b"")
    assert not rests_after(b"GET /")
    assert rests_after(b" HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert not rests_after(post(b"Content-Length: 3"))
    parser.feed(b"abc")
    assert parser.is_at_rest


# Limits


def sized(size: int, kind: str) -> bytes:
    """A request with a head of about so many bytes."""
    filler = b"a" * size
    if kind == "target":
        return request(first=b"GET /%b HTTP/1.1" % filler)
    if kind == "name":
        return request(filler + b": x")
    if kind == "value":
        return request(b"X: " + filler)
    if kind == "blank":
        return b"\r\n" * (size // 2) + request()
    return request(*[b"X-%05d: %b" % (i, b"y" * 988) for i in range(size // 1000)])


@pytest.mark.parametrize("kind", ["target", "name", "value", "fields"])
@pytest.mark.parametrize("step", [1, 1000, 10_000_000])
def test_long_heads(kind: str, step: int) -> None:
    good, bad = sized(MAX_HEAD - 2000, kind), sized(MAX_HEAD + 2000, kind)
    assert isinstance(requests(*cut(good, range(0, len(good), step)))[0], RequestHead)
    assert refusal(requests(*cut(bad, range(0, len(bad), step)))).status == 431


@pytest.mark.parametrize("kind", ["target", "name", "value", "fields", "blank"])
def test_endless_heads_are_refused_before_their_end(kind: str) -> None:
    parser = RequestParser()
    data = sized(4 * MAX_HEAD, kind)
    for start in range(0, 2 * MAX_HEAD, 1000):
        if events := parser.feed(data[start : start + 1000]):
            assert refusal(events).status in (400, 431)
            return
    raise AssertionError("it takes a head without end")


@pytest.mark.parametrize("step", [1, 10_000_000])
def test_number_of_fields(step: int) -> None:
    good, bad = request(*[b"A: b"] * (MAX_FIELDS - 10)), request(*[b"A: b"] * (MAX_FIELDS + 10))
    assert isinstance(requests(*cut(good, range(0, len(good), step)))[0], RequestHead)
    assert refusal(requests(*cut(bad, range(0, len(bad), step)))).status == 431


@pytest.mark.parametrize(
    "before", [b"0\r\nX", b"0\r\nX: ", b"0" * 10, b"1;", b"1;x=", b'1;x="', b"1" + b" " * 10, b"1\r\na\r\n0"]
)
def test_lines_of_chunks_are_bounded(before: bytes) -> None:
    parser = RequestParser()
    parser.feed(post(CHUNKED) + before)
    filler = b"a" if before[-1:] not in b" 0" else before[-1:]
    for _ in range(200):
        if (events := parser.feed(filler * 1000)) and not isinstance(events[-1], bytes):
            assert refusal(events).status in (400, 431)
            return
    raise AssertionError("it takes a line without end")


def test_a_field_in_single_bytes_costs_little() -> None:
    data = cut(request(b"a" * 60_000 + b": x"), range(61_000))
    begin = time.process_time()
    assert isinstance(requests(*data)[0], RequestHead)
    assert time.process_time() - begin < 3


def test_tls_is_called_by_its_name() -> None:
    assert (
        refusal(requests(*cut(b"\x16\x03\x01\x02\x00\x01\x00", [1, 2]))).why == "that is TLS, and the port speaks HTTP"
    )


@pytest.mark.parametrize("before", [*GOOD[:8], *GOOD[10:13]])
@pytest.mark.parametrize("bad", BAD)
def test_a_later_request_is_checked_as_the_first_is(before: bytes, bad: bytes) -> None:
    """Whatever came before, and whether it came at once."""
    for pieces in ([before + bad], [before, bad], cut(before + bad, range(len(before + bad)))):
        assert plain(requests(*pieces)) == plain([*requests(before), *requests(bad)])
