"""What comes out of the parsers, in a form that can be compared; and pieces of requests and responses."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rtunnel.wire.web.heads import LAST_CHUNK, Problem, RequestHead, ResponseHead, write_chunk, write_request
from rtunnel.wire.web.parsers import END, RAW, RequestParser, ResponseParser

HOST = b"Host: app.example.org\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


def request(*lines: bytes, first: bytes = b"GET / HTTP/1.1", host: bytes = HOST) -> bytes:
    """A request's head with these lines."""
    return b"".join(
        [first, b"\r\n", host, *[line if line.endswith(b"\r\n") else line + b"\r\n" for line in lines], b"\r\n"]
    )


def post(*lines: bytes) -> bytes:
    return request(*lines, first=b"POST /form HTTP/1.1")


def response(*lines: bytes, first: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response's head with these lines."""
    return request(*lines, first=first, host=b"")


def merged(events: Iterable[Any]) -> list[Any]:
    """Events with adjacent bytes joined, so that it does not matter how they were cut."""
    found: list[Any] = []
    for event in events:
        if isinstance(event, bytes):
            if found and isinstance(found[-1], bytes):
                found[-1] += event
            else:
                found.append(event)
        else:
            found.append(event)
    return found


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """*data* in pieces that end at *cuts*."""
    places = [0, *sorted({each for each in cuts if 0 < each < len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


def requests(*pieces: bytes) -> list[Any]:
    """The events of requests that come in these pieces."""
    parser = RequestParser()
    return merged(event for piece in pieces for event in parser.feed(piece))


def response_parser(*, is_head: bool = False) -> ResponseParser:
    """A parser that expects a response."""
    parser = ResponseParser()
    parser.expect(is_head=is_head)
    return parser


def responses(*pieces: bytes, is_head: bool = False) -> list[Any]:
    """The events of responses to one request that come in these pieces."""
    parser = response_parser(is_head=is_head)
    return merged(event for piece in pieces for event in parser.feed(piece))


def fields(head: RequestHead | ResponseHead) -> list[tuple[bytes, bytes]]:
    """The fields that are sent on, without those that are written anew."""
    found = []
    for line in head.lines.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        found.append((name, value.strip(b" \t")))
    return found


def plain(events: Iterable[Any]) -> list[Any]:
    """Events that can be compared."""
    return [asdict(each) if isinstance(each, RequestHead | ResponseHead) else each for each in events]


def sent_on(events: Iterable[Any]) -> bytes:
    """What a service gets of requests: heads written anew, and bodies with their framing."""
    out = b""
    head: RequestHead | None = None
    for event in events:
        if isinstance(event, RequestHead):
            head = event
            out += write_request(event, b"\r\nHost: " + event.authority + event.lines)
        elif isinstance(event, bytes):
            assert head is not None
            out += write_chunk(event) if head.is_chunked else event
        elif event is END and head is not None and head.is_chunked:
            out += LAST_CHUNK
    return out


def refusal(events: Sequence[Any]) -> Problem:
    """The problem with which events end."""
    assert isinstance(events[-1], Problem), events
    return events[-1]


__all__ = ["END", "RAW"]
