"""Responses as they come: where they end, and how they may be cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.wire.web.heads import MAX_FIELDS, MAX_HEAD, Problem, ResponseHead, write_response
from rtunnel.wire.web.parsers import END, RAW
from tests.examples import examples
from tests.wire.web.parts import (
    CHUNKED,
    WEBSOCKET,
    cut,
    fields,
    merged,
    plain,
    refusal,
    response,
    response_parser,
    responses,
)

CONTINUE = response(first=b"HTTP/1.1 100 Continue")
HINTS = response(b"Link: </style.css>; rel=preload", first=b"HTTP/1.1 103 Early Hints")
SWITCHING = response(WEBSOCKET, first=b"HTTP/1.1 101 Switching Protocols")

GOOD = [
    response(b"Content-Length: 3") + b"abc",
    response(b"Content-Length: 0"),
    response(CHUNKED) + b'3;x="y"\r\nabc\r\n1\r\nd\r\n0\r\nX-Sum: 4\r\n\r\n',
    response() + b"until close",
    response(first=b"HTTP/1.0 200 OK") + b"until close",
    response(first=b"HTTP/1.1 204 No Content"),
    response(b"Content-Length: 5", first=b"HTTP/1.1 304 Not Modified"),
    response(b"Content-Length: 1", first=b"HTTP/1.1 404") + b"x",
    CONTINUE + HINTS + response(b"Content-Length: 3") + b"abc",
    SWITCHING + b"\x81\x00raw",
    CONTINUE + SWITCHING + b"raw",
    response(b"Content-Length: 3") + b"abc too much",
    response(WEBSOCKET, b"Content-Length: 2", first=b"HTTP/1.1 426 Upgrade Required") + b"no",
]
BAD = [
    b"SSH-2.0-OpenSSH\r\n",
    response(b"Content-Length: 3", b"Content-Length: 4") + b"abc",
    response(b"Content-Length: 3", CHUNKED) + b"0\r\n\r\n",
    response(CHUNKED) + b"xyz\r\nxyz",
    response(b"Transfer-Encoding: gzip") + b"abc",
    response(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    response(b"Transfer-Encoding: gzip", CHUNKED) + b"0\r\n\r\n",
    response(CHUNKED, CHUNKED) + b"0\r\n\r\n",
    response(b"X: \x00"),
    response(first=b"HTTP/1.1 000 Zero"),
    response(first=b"HTTP/1.1 200 O\x01K"),
    response(first=b"HTTP/1.1 200 \x00"),
    response(first=b"HTTP/1.1 200 O\x7fK"),
    response(first=b"HTTP/2.0 200 OK"),
    response(first=b"HTTP/1.1 99 Low"),
    response(first=b"HTTP/1.1 101 Switching Protocols") + b"raw",
    response(b"Upgrade: websocket", first=b"HTTP/1.1 101 Switching Protocols") + b"raw",
]


def read(*pieces: bytes, is_head: bool = False) -> tuple[list[Any], bool, bool]:
    """The events; whether the stream is clean, if there is no problem; whether its end would complete the response."""
    parser = response_parser(is_head=is_head)
    events = plain(merged(event for piece in pieces for event in parser.feed(piece)))
    is_bad = bool(events) and isinstance(events[-1], Problem)
    return events, is_bad or parser.is_clean, parser.finish()


@settings(max_examples=examples(500))
@given(st.sampled_from(GOOD + BAD), st.lists(st.integers(1, 200), max_size=12))
def test_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    assert read(*cut(data, cuts)) == read(data)


@pytest.mark.parametrize("data", GOOD + BAD)
def test_byte_by_byte(data: bytes) -> None:
    assert read(*cut(data, range(len(data)))) == read(data)


@settings(max_examples=examples(500))
@given(st.sampled_from(GOOD), st.lists(st.integers(1, 200), max_size=12))
def test_to_head_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    """How it was cut may cost the stream, but not change the answer."""
    assert plain(responses(*cut(data, cuts), is_head=True)) == plain(responses(data, is_head=True))


@pytest.mark.parametrize("data", GOOD)
def test_good_ones_are_not_refused(data: bytes) -> None:
    assert not any(isinstance(each, Problem) for each in responses(data))


@pytest.mark.parametrize("data", BAD)
def test_bad_ones(data: bytes) -> None:
    parser = response_parser()
    assert refusal(parser.feed(data)).status == 502
    assert parser.feed(response(b"Content-Length: 0")) == []
    assert not parser.finish()


# Where it ends


def test_known_length() -> None:
    head, body, end = responses(response(b"Content-Length: 3", b"Server: x") + b"abc")
    assert (head.status, head.start, head.length, fields(head)) == (200, b"200 OK", 3, [(b"Server", b"x")])
    assert (body, end, head.keeps_alive) == (b"abc", END, True)


def test_chunks_come_without_their_framing() -> None:
    head, body, end = responses(response(CHUNKED) + b"3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n")
    assert (head.is_chunked, head.length, body, end) == (True, None, b"abc", END)


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK"])
def test_until_close(first: bytes) -> None:
    parser = response_parser()
    head, body = merged(parser.feed(response(first=first) + b"abc"))
    assert not head.keeps_alive
    assert body == b"abc"
    assert parser.finish()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX:",
        CONTINUE,
        response(b"Content-Length: 3") + b"ab",
        response(CHUNKED) + b"3\r\nabc\r\n",
        response(CHUNKED) + b"3\r\nabc\r\n0\r\n",
    ],
)
def test_the_end_of_the_stream_is_too_early(data: bytes) -> None:
    parser = response_parser()
    parser.feed(data)
    assert not parser.finish()


@pytest.mark.parametrize("framing", [b"Content-Length: 5", CHUNKED, b"X: y"])
@pytest.mark.parametrize(
    ("first", "is_head"),
    [(b"HTTP/1.1 200 OK", True), (b"HTTP/1.1 204 No Content", False), (b"HTTP/1.1 304 Not Modified", False)],
)
def test_no_body_whatever_the_fields_say(first: bytes, is_head: bool, framing: bytes) -> None:
    parser = response_parser(is_head=is_head)
    [head] = parser.feed(response(framing, first=first))
    assert head.has_no_body
    assert head.is_complete
    assert parser.is_clean


def test_notes_on_the_way() -> None:
    first, second, head, body, end = responses(CONTINUE + HINTS + response(b"Content-Length: 1") + b"a")
    assert [each.is_final for each in (first, second, head)] == [False, False, True]
    assert (second.status, fields(second)[0][0]) == (103, b"Link")
    assert (body, end) == (b"a", END)


def test_notes_on_the_way_to_an_answer_to_head() -> None:
    _, head = responses(CONTINUE + response(b"Content-Length: 4"), is_head=True)
    assert (head.length, head.is_complete) == (4, True)


def test_other_protocol() -> None:
    events = responses(SWITCHING + b"\x81\x00")
    assert events[0].upgrade == b"websocket"
    assert events[-2:] == [RAW, b"\x81\x00"]


# Whether the stream can be used again


@pytest.mark.parametrize(
    ("data", "is_head", "is_clean"),
    [
        (response(b"Content-Length: 1") + b"a", False, True),
        (response(b"Content-Length: 1") + b"ab", False, False),
        (response(b"Content-Length: 1") + b"a" + response(b"Content-Length: 0"), False, False),
        (response(CHUNKED) + b"0\r\n\r\n", False, True),
        (response(CHUNKED) + b"0\r\n\r\nx", False, False),
        (response(b"Content-Length: 1", first=b"HTTP/1.1 204 No Content") + b"a", False, False),
        (response(b"Content-Length: 1"), True, True),
        (response(b"Content-Length: 1") + b"a", True, False),
        (response(b"Content-Length: 5") + b"a\r\n\r\n", True, False),
        (response(CHUNKED) + b"0\r\n\r\n", True, False),
    ],
)
def test_is_clean(data: bytes, is_head: bool, is_clean: bool) -> None:
    parser = response_parser(is_head=is_head)
    last = parser.feed(data)[-1]
    assert last is END or last.is_complete
    assert parser.is_clean is is_clean


def test_bytes_that_come_later_spoil_it() -> None:
    parser = response_parser()
    assert parser.feed(response(b"Content-Length: 0"))[-1].is_complete
    assert parser.is_clean
    assert parser.feed(b"x") == []
    assert not parser.is_clean


@pytest.mark.parametrize(
    ("first", "lines", "keeps_alive"),
    [
        (b"HTTP/1.1 200 OK", [], True),
        (b"HTTP/1.1 200 OK", [b"Connection: close"], False),
        (b"HTTP/1.0 200 OK", [], False),
        (b"HTTP/1.0 200 OK", [b"Connection: keep-alive"], True),
    ],
)
def test_keep_alive(first: bytes, lines: list[bytes], keeps_alive: bool) -> None:
    head = responses(response(*lines, b"Content-Length: 0", first=first))[0]
    assert head.keeps_alive is keeps_alive


# Limits


@pytest.mark.parametrize("step", [1, 1000, 10_000_000])
@pytest.mark.parametrize("is_head", [False, True])
def test_long_heads(step: int, is_head: bool) -> None:
    good = response(b"Content-Length: 0", b"X: " + b"a" * (MAX_HEAD - 2000))
    bad = response(b"Content-Length: 0", b"X: " + b"a" * (MAX_HEAD + 2000))
    assert isinstance(responses(*cut(good, range(0, len(good), step)), is_head=is_head)[0], ResponseHead)
    refusal(responses(*cut(bad, range(0, len(bad), step)), is_head=is_head))


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\nX", b"HTTP/1.1 200 OK\r\nX: "])
def test_endless_heads(first: bytes) -> None:
    parser = response_parser()
    assert parser.feed(first) == []
    for _ in range(2 * MAX_HEAD // 1000):
        if events := parser.feed(b"a" * 1000):
            refusal(events)
            return
    raise AssertionError("it takes a head without end")


def test_number_of_fields() -> None:
    refusal(responses(response(*[b"A: b"] * (MAX_FIELDS + 10))))


# What is sent on


@pytest.mark.parametrize("first", [b"HTTP/1.1 100 Continue", b"HTTP/1.1 103 Early Hints", b"HTTP/1.1 204 No Content"])
def test_no_length_where_no_body_can_be(first: bytes) -> None:
    """RFC 9110, section 8.6."""
    head = responses(response(b"Content-Length: 5", b"A: b", first=first))[0]
    assert write_response(head, head.lines, is_old=False, keeps_alive=True) == response(b"A: b", first=first)


# One stream, several requests


ENDED = [
    *[(each, False) for each in GOOD[:3] + GOOD[5:9]],
    (response(), True),
    (response(b"Content-Length: 3"), True),
    (response(CHUNKED), True),
    (CONTINUE + response(), True),
    (response(b"Content-Length: 3", first=b"HTTP/1.1 304 Not Modified"), True),
]


@pytest.mark.parametrize(("before", "is_head"), ENDED)
@pytest.mark.parametrize("after", [*GOOD[:4], *GOOD[8:10], *BAD])
def test_a_later_response_is_checked_as_the_first_is(before: bytes, is_head: bool, after: bytes) -> None:
    for step in (1, 7, 1000):
        parser = response_parser(is_head=is_head)
        for piece in cut(before, range(0, len(before), step)):
            parser.feed(piece)
        assert parser.is_clean
        parser.expect(is_head=False)
        events = merged(event for piece in cut(after, range(0, len(after), step)) for event in parser.feed(piece))
        assert plain(events) == plain(responses(after))
