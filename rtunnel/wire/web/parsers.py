"""HTTP/1.1 messages out of bytes. The syntax is left to ``httptools`` (llhttp, which Node.js uses), at its strictest.

What comes out are events: a head, pieces of its body without their framing, and :data:`END`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import httptools

from rtunnel.wire.web.heads import (
    MAX_FIELDS,
    MAX_HEAD,
    BadHead,
    Problem,
    RequestHead,
    read_request,
    read_response,
)


class Mark(Enum):
    """What is no head and no piece of a body."""

    END = "the message is complete"
    RAW = "from here on the bytes are of another protocol, if the other end agrees to it"


END, RAW = Mark.END, Mark.RAW


class _Parser:
    """What both directions have in common: the callbacks of httptools.

    :ivar events: what has come out.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._parser: Any = None
        self._in_head = True
        self._head_size = 0
        self._first: list[bytes] = []
        self._fields: list[tuple[bytes, bytes]] = []
        self._problem: Problem | None = None

    def on_message_begin(self) -> None:
        self._in_head = True
        self._first = []
        self._fields = []

    def _on_first(self, piece: bytes) -> None:
        self._count(len(piece))
        self._first.append(piece)

    on_url = on_status = _on_first

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # and not a trailer
            self._count(len(name) + len(value) + 4)
            self._fields.append((name, value))
            if len(self._fields) > MAX_FIELDS:
                raise BadHead(431, "the head has too many fields")

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            raise BadHead(431, "the head is too long")

    def on_body(self, data: bytes) -> None:
        self.events.append(data)

    def _fail(self, problem: Problem) -> None:
        self._problem = problem
        self.events.append(problem)


def _cause(error: httptools.HttpParserError) -> Problem | None:
    """Return the problem for which a callback has stopped the parser."""
    cause = error.__context__
    return cause.problem if isinstance(cause, BadHead) else None


class RequestParser(_Parser):
    """The requests of one connection.

    Events: :class:`RequestHead`, bytes of a body, :data:`END`; :data:`RAW` once, behind the end of a request that wants
    another protocol; :class:`Problem`, the last one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parser = httptools.HttpRequestParser(self)
        self._is_raw = False
        # The head of a request whose wish for another protocol is ignored: its body comes from another parser.
        self._is_repeated = self._stops = False
        self._ends = False
        self._unfinished = 0

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing of a next request has come."""
        return self._in_head and not self._head_size and not self.events

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes; return the events."""
        if self._is_raw:
            self.events.append(data)
        elif self._problem is None and data:
            self._feed(data)
        events, self.events = self.events, []
        return events

    def _feed(self, data: bytes) -> None:
        if self._in_head:
            # What is not told yet, such as half a field, counts too.
            self._unfinished += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._is_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if self._problem is None and not self._ends:
                self._fail(_cause(error) or Problem(400, f"the request is malformed: {error}"))
            return
        if not self._in_head:
            self._unfinished = 0
        elif self._unfinished > MAX_HEAD + len(data) and self._problem is None:
            self._fail(Problem(431, "the head is too long"))

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._in_head = False
        self._head_size = self._unfinished = 0
        if self._is_repeated:
            return
        head = read_request(parser.get_method(), b"".join(self._first), parser.get_http_version(), self._fields)
        self._stops = parser.should_upgrade()
        if head.upgrade and (not self._stops or head.has_body or head.upgrade.lower() == b"h2c"):
            # HTTP/2 is for TLS; what has a body goes on as HTTP/1.1, as a server may decide (RFC 9110, section 7.8).
            head.upgrade = b""
        self._head = head
        self._ends = not head.keeps_alive
        self.events.append(head)

    def on_message_complete(self) -> None:
        if self._stops:
            return
        self._is_repeated = False
        self._in_head = True
        self.events.append(END)

    def _is_upgrade(self, rest: bytes) -> None:
        head, self._stops = self._head, False
        if head.upgrade:
            self._is_raw = True
            self.events += [END, RAW]
            if rest:
                self.events.append(rest)
            return
        self._go_on(head, rest)

    def _go_on(self, head: RequestHead, rest: bytes) -> None:
        framing = b"Transfer-Encoding: chunked" if head.is_chunked else b"Content-Length: %d" % (head.length or 0)
        self._parser = httptools.HttpRequestParser(self)
        self._is_repeated = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        if rest:
            self._feed(rest)

    def refused(self, rest: bytes) -> list[Any]:
        """Take note that the other end does not change to another protocol. Return the events of *rest*, which has come
        behind :data:`RAW`.
        """
        self._is_raw = False
        self._in_head = True
        self._parser = httptools.HttpRequestParser(self)
        return self.feed(rest)


class _Done(Exception):
    """Stops the parser behind a head without a body."""


class ResponseParser(_Parser):
    """The responses to one request: perhaps some that are not final, and the one that is.

    Events: :class:`ResponseHead`, bytes of a body, :data:`END`; :data:`RAW`, with the bytes behind it, if the service
    changes to another protocol; :class:`Problem`.

    :param is_head: the request was HEAD, so the response has no body, whatever it says.
    :ivar is_clean: nothing has come behind the response, so the connection can be used again.
    """

    def __init__(self, *, is_head: bool) -> None:
        super().__init__()
        self._is_head = is_head
        self._parser = httptools.HttpResponseParser(self)
        self._is_over = False
        self._is_done = False
        self.is_clean = True
        self._unfinished = 0
        self._until_close = False

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes; return the events."""
        if self._problem is None and not self._is_over:
            self._feed(data)
        elif data:
            self.is_clean = False
        events, self.events = self.events, []
        return events

    def _feed(self, data: bytes) -> None:
        if self._in_head:
            self._unfinished += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            self.events.append(RAW)
            if rest:
                self.events.append(rest)
            return
        except httptools.HttpParserError as error:
            if self._is_done:
                self._is_over = True
                self.is_clean = data.endswith(b"\r\n\r\n")
                self.events.append(END)
            elif self._is_over:
                self.is_clean = False
            elif self._problem is None:
                self._fail(_cause(error) or Problem(502, f"the answer is malformed: {error}"))
            return
        if not self._in_head:
            self._unfinished = 0
        elif self._unfinished > MAX_HEAD + len(data) and not self._is_over:
            self._fail(Problem(502, "the head of the answer is too long"))

    def finish(self) -> bool:
        """Take note that the service sends no more. Return whether the response is complete by that."""
        return self._until_close and not self._in_head and self._problem is None

    def on_message_begin(self) -> None:
        if self._is_over:
            self.is_clean = False
            raise _Done
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._in_head = False
        self._head_size = self._unfinished = 0
        head = read_response(parser.get_status_code(), b"".join(self._first), self._fields)
        head.keeps_alive = parser.should_keep_alive()
        head.has_no_body = self._is_head or head.status < 200 or head.status in (204, 304)
        self._until_close = not (head.has_no_body or head.is_chunked or head.length is not None)
        self._is_final = head.is_final
        self.events.append(head)
        if self._is_head and head.is_final:
            self._is_done = True
            raise _Done

    def on_message_complete(self) -> None:
        self._in_head = True
        if self._is_final:
            self._is_over = True
            self.events.append(END)
