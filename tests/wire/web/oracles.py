"""Requests as others read them: h11, whose refusals we take as the measure, and httptools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h11
import httptools

from rtunnel.wire.web.heads import RequestHead
from rtunnel.wire.web.parsers import END, RAW


@dataclass(slots=True)
class Request:
    """A request that is complete."""

    method: bytes
    target: bytes
    host: bytes = b""
    body: bytes = b""


class Refused(Exception):
    """It is no good request."""


def by_h11(data: bytes) -> list[Request]:
    """The requests in *data* that are complete.

    :raises Refused: one of them is refused.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=128 * 1024)
    connection.receive_data(data)
    found: list[Request] = []
    request = Request(b"", b"")
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise Refused(str(error)) from None
        if isinstance(event, h11.Request):
            request = Request(event.method, event.target, dict(event.headers).get(b"host", b""))
        elif isinstance(event, h11.Data):
            request.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found.append(request)
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE:
                return found
            connection.start_next_cycle()
        else:
            return found


class _Callbacks:
    def __init__(self) -> None:
        self.found: list[Request] = []
        self.request = Request(b"", b"")
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.request = Request(b"", b"")

    def on_url(self, piece: bytes) -> None:
        self.request.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"host":
            self.request.host += value

    def on_headers_complete(self) -> None:
        self.request.method = self.parser.get_method()

    def on_body(self, piece: bytes) -> None:
        self.request.body += piece

    def on_message_complete(self) -> None:
        self.found.append(self.request)


def by_httptools(data: bytes) -> list[Request]:
    """The requests in *data* that are complete.

    :raises Refused: one of them is refused.
    """
    callbacks = _Callbacks()
    try:
        callbacks.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise Refused(str(error)) from None
    return callbacks.found


def by_us(events: list[Any]) -> list[Request]:
    """The requests among these events that are complete, as we understand them."""
    found: list[Request] = []
    request = None
    for event in events:
        if event is RAW:
            break
        if isinstance(event, RequestHead):
            request = Request(event.method, event.target, event.authority)
            if not event.has_body:
                found.append(request)
        elif isinstance(event, bytes) and request is not None:
            request.body += event
        elif event is END and request is not None:
            found.append(request)
    return found
