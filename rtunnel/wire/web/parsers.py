"""HTTP/1.1 messages out of bytes. The syntax is left to ``httptools`` (llhttp, which Node.js uses), at its strictest.

llhttp sees every byte of a head. What it has accepted is then taken apart by :mod:`~rtunnel.wire.web.heads`, which
costs less than a callback for each field. Bodies are read here, as llhttp does not tell where one ends.

What comes out are events: a head, pieces of its body without their framing, and :data:`END`. Behind the head of a
message without a body there is no :data:`END`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import httptools

from rtunnel.wire.web.chunks import MAX_LINE, Chunks
from rtunnel.wire.web.heads import (
    MAX_FIELDS,
    MAX_HEAD,
    BadHead,
    Problem,
    RequestHead,
    ResponseHead,
    read_request,
    read_response,
)


class Mark(Enum):
    """What is no head and no piece of a body."""

    END = "the body is complete"
    RAW = "from here on the bytes are of another protocol, if the other end agrees to it"


END, RAW = Mark.END, Mark.RAW
_TOO_MANY = "the head has too many fields"
_CRLF = b"\r\n"
_EMPTY_LINE = _CRLF * 2
#: Bodies up to this, in bytes, cost less to check than a new checker does.
SMALL = 16 * 1024


class _NoCallbacks:
    """For a parser that only checks."""


_NO_CALLBACKS = _NoCallbacks()


def _check(checker: Any, piece: bytes, *, is_first: bool = True) -> Any:
    """Check a piece of a head. Return what checks what follows; None: a new one has to.

    :param is_first: it is the beginning of the head.
    :raises BadHead: it is malformed.
    """
    try:
        checker.feed_data(piece)
    except httptools.HttpParserUpgrade:
        # It stops here, and this does not mind.
        return None
    except httptools.HttpParserError as error:
        is_tls = is_first and piece.startswith(b"\x16")
        why = "that is TLS, and the port speaks HTTP" if is_tls else f"the head is malformed: {error}"
        raise BadHead(400, why) from None
    return checker


class _Parser:
    """What both directions have in common."""

    _kind: type[Any]

    def __init__(self) -> None:
        self._checker: Any = None
        self._head = bytearray()
        self._left = 0
        self._chunks: Chunks | None = None
        self._problem = False

    def _fail(self, events: list[Any], problem: Problem) -> None:
        self._problem = True
        self._head.clear()
        events.append(problem)

    def _take_head(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes of a head; return it once it is whole, and what is behind it.

        :raises BadHead: it is refused.
        """
        if not self._head:
            if data[0] <= 13:
                data = self._skip_lines(data)
                if not data:
                    return b"", b""
            if self._checker is None:
                self._checker = self._kind(_NO_CALLBACKS)
        held = len(self._head)
        # The empty line may be in two pieces.
        found = (bytes(self._head[-3:]) + data).find(_EMPTY_LINE) if held else data.find(_EMPTY_LINE)
        count = len(data) if found < 0 else found + 4 - min(held, 3)
        piece = data if count == len(data) else data[:count]
        if held + count > MAX_HEAD:
            raise BadHead(431, "the head is too long")
        self._checker = _check(self._checker, piece, is_first=not held)
        if found < 0:
            self._head += data
            return b"", b""
        if held:
            piece = bytes(self._head) + piece
            self._head.clear()
        if piece.count(b"\n") > MAX_FIELDS:
            raise BadHead(431, _TOO_MANY)
        return piece, data[count:]

    @property
    def _is_in_body(self) -> bool:
        return bool(self._left or self._chunks)

    def _take_body(self, data: bytes, events: list[Any]) -> bytes:
        """Take bytes of a body; return what is behind it.

        :raises BadHead: it is malformed.
        """
        if self._chunks is not None:
            data = self._chunks.feed(data, events)
            if self._chunks.is_over:
                self._chunks = None
        else:
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            events.append(piece)
        if not self._is_in_body:
            events.append(END)
        return data

    def _pass_body(self, data: bytes, length: int | None) -> None:
        """Bring the checker behind a body, if the whole of it is there already; else drop it.

        :param length: of the body; None: it is in chunks, or not known.
        """
        if length is not None and self._checker is not None and length <= min(len(data), SMALL):
            self._checker.feed_data(data[:length])
        else:
            self._checker = None

    def _skip_lines(self, data: bytes) -> bytes:
        """Drop empty lines before a head, where there may be any."""
        return data


class RequestParser(_Parser):
    """The requests of one connection.

    Events: :class:`RequestHead`; if it has a body, its bytes and :data:`END`; :data:`RAW` once, behind a request that
    wants another protocol, and bytes of that; :class:`Problem`, the last one.
    """

    _kind = httptools.HttpRequestParser

    def __init__(self) -> None:
        super().__init__()
        self._is_raw = self._ends = False
        self._empty_lines = 0

    @property
    def held(self) -> int:
        """How many bytes of a head are kept until the rest of it has come."""
        return len(self._head)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing of a next request has come."""
        return not (self._head or self._is_in_body)

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes; return the events."""
        if self._is_raw:
            return [data]
        events: list[Any] = []
        try:
            while data and not self._problem:
                if self._left or self._chunks is not None:
                    data = self._take_body(data, events)
                    continue
                if self._ends:
                    break  # behind a request that was to be the last one
                end = 0 if self._head or data[0] <= 13 else data.find(_EMPTY_LINE) + 4
                if 4 < end <= MAX_HEAD and self._checker is not None:
                    # The whole head is here, and nothing before it, as mostly: so without another call.
                    raw = data if end == len(data) else data[:end]
                    self._checker = _check(self._checker, raw)
                    if raw.count(b"\n") > MAX_FIELDS:
                        raise BadHead(431, _TOO_MANY)
                    data = data[end:]
                else:
                    raw, data = self._take_head(data)
                if raw:
                    head = read_request(raw)
                    events.append(head)
                    self._ends = not head.keeps_alive
                    self._empty_lines = 0
                    if head.is_chunked or head.length or head.upgrade:
                        data = self._headed(head, data, events)
        except BadHead as error:
            self._fail(events, error.problem)
        return events

    def _headed(self, head: RequestHead, data: bytes, events: list[Any]) -> bytes:
        """Expect what comes behind a head that is not the whole request. Return what is left of *data*."""
        if head.is_chunked or head.length:
            self._pass_body(data, head.length if not head.is_chunked else None)
            self._left = head.length or 0
            self._chunks = Chunks() if head.is_chunked else None
            # Of what has a body, a server may decline the wish for another protocol (RFC 9110, section 7.8).
            head.upgrade = b""
        elif head.upgrade.lower() == b"h2c":
            # HTTP/2 is for TLS.
            head.upgrade = b""
        else:
            self._is_raw = True
            events.append(RAW)
            if data:
                events.append(data)
            return b""
        return data

    def _skip_lines(self, data: bytes) -> bytes:
        # Empty lines before a request (RFC 9112, section 2.2).
        rest = data.lstrip(_CRLF)
        self._empty_lines = self._empty_lines + len(data) - len(rest) if not rest else 0
        if self._empty_lines > MAX_LINE:
            raise BadHead(400, "there is no request")
        return rest

    def refused(self, rest: bytes) -> list[Any]:
        """Take note that the other end does not change to another protocol. Return the events of *rest*, which has come
        behind :data:`RAW`.
        """
        self._is_raw = False
        self._checker = None
        return self.feed(rest)


class ResponseParser(_Parser):
    """The responses on one stream to a service.

    Events: :class:`ResponseHead`; if it has a body, its bytes and :data:`END`; :data:`RAW`, with the bytes behind it,
    if the service changes to another protocol; :class:`Problem`, the last one. Several heads come if the first ones are
    not final.

    :ivar is_clean: nothing has come behind the response, so the stream can be used again.
    """

    _kind = httptools.HttpResponseParser

    def __init__(self) -> None:
        super().__init__()
        self._is_head = False
        self._until_close = self._is_raw = False
        self._is_over = True
        self.is_clean = True

    def expect(self, *, is_head: bool) -> None:
        """Expect the response to another request.

        :param is_head: the request is HEAD, so the response has no body, whatever it says.
        """
        self._is_head = is_head
        self._is_over = False

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes; return the events."""
        if self._is_raw or self._until_close:
            return [data]
        events: list[Any] = []
        try:
            while data and not self._problem:
                if self._is_over:
                    self.is_clean = False
                    break
                if self._left or self._chunks is not None:
                    data = self._take_body(data, events)
                    self._is_over = not self._is_in_body
                    continue
                end = 0 if self._head or data[0] <= 13 else data.find(_EMPTY_LINE) + 4
                if 4 < end <= MAX_HEAD and self._checker is not None:
                    # The whole head is here, and nothing before it, as mostly: so without another call.
                    raw = data if end == len(data) else data[:end]
                    self._checker = _check(self._checker, raw)
                    if raw.count(b"\n") > MAX_FIELDS:
                        raise BadHead(431, _TOO_MANY)
                    data = data[end:]
                else:
                    raw, data = self._take_head(data)
                if raw:
                    head = read_response(raw)
                    events.append(head)
                    data = self._answered(head, data, events)
        except BadHead as error:
            self._fail(events, Problem(502, str(error)))
        return events

    def _answered(self, head: ResponseHead, data: bytes, events: list[Any]) -> bytes:
        if head.status == 101:
            self._is_raw = True
            events.append(RAW)
            if data:
                events.append(data)
            return b""
        if head.status < 200:
            head.has_no_body = True
            return data
        length = head.length
        head.has_no_body = self._is_head or head.status == 204 or head.status == 304
        if length and length <= len(data) and length <= SMALL and not (head.is_chunked or head.has_no_body):
            # All of it is here, as mostly.
            body = data if length == len(data) else data[:length]
            if self._checker is not None:
                self._checker.feed_data(body)
            events += (body, END)
            self._is_over = True
            return data[length:]
        if head.has_no_body or (head.length == 0 and not head.is_chunked):
            self._is_over = True
            if self._is_head or head.length or head.is_chunked:
                self._checker = None  # it would wait for a body
            return data
        self._pass_body(data, head.length if not head.is_chunked else None)
        if head.is_chunked:
            self._chunks = Chunks()
        elif head.length is not None:
            self._left = head.length
        else:
            self._until_close = True
            head.keeps_alive = False
            if data:
                events.append(data)
            return b""
        return data

    def finish(self) -> bool:
        """Take note that the service sends no more. Return whether the response is complete by that."""
        return self._until_close
