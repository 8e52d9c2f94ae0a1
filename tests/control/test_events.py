"""The events of the status: how many, how often, and for whom."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from rtunnel.control.guard import Guard
from rtunnel.control.page.events import INTERVAL, MOST_STREAMS, PATIENCE, Events
from rtunnel.control.site import StatusSite, build_site

HOUR = 3600


class Reader(StringTransport):
    """A connection to the site that asks for events."""

    def __init__(self, site: StatusSite, request: str = "GET /v1/events") -> None:
        super().__init__()
        self.is_open = True
        self._protocol = site.buildProtocol(None)
        self._protocol.makeConnection(self)
        self._protocol.dataReceived(f"{request} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())

    def lose(self, reason: Exception | None = None) -> None:
        """The reader goes."""
        if self.is_open:
            self.is_open = False
            self._protocol.connectionLost(Failure(reason or ConnectionDone()))

    def loseConnection(self) -> None:
        self.lose()

    def abortConnection(self) -> None:
        self.lose(ConnectionAborted())

    def taken(self) -> bytes:
        """What has come since it was last asked for."""
        data: bytes = self.value()
        self.clear()
        return data

    def events(self) -> list[Any]:
        return [json.loads(line[6:]) for line in self.taken().splitlines() if line.startswith(b"data: ")]

    @property
    def channel(self) -> Any:
        """What the transport tells that it is full, and that it no longer is."""
        return self.producer


class Parts:
    """A site whose status is how often it was computed.

    :ivar takes: seconds that this takes.
    """

    def __init__(self, guard: Guard | None = None) -> None:
        self.clock = Clock()
        self.computed = 0
        self.takes = 0.0
        self.events = Events(self.clock, self.status)
        self.site = build_site(self.status, self.events, 32, guard)

    def status(self) -> dict[str, Any]:
        self.computed += 1
        self.clock.rightNow += self.takes
        return {"ok": True, "ready": True, "problems": [], "computed": self.computed}

    @property
    def idle(self) -> bool:
        """Whether nothing is to be done later."""
        return not self.clock.getDelayedCalls()


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_the_status_now_and_every_second(parts: Parts) -> None:
    assert parts.idle
    reader = Reader(parts.site)
    head, _, body = reader.taken().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert b"Content-Type: text/event-stream" in head
    assert b"Cache-Control: no-store" in head
    assert b"Content-Length" not in head
    assert body == b'retry: 2000\n\ndata: {"ok":true,"ready":true,"problems":[],"computed":1}\n\n'
    for number in range(2, 10):
        parts.clock.advance(INTERVAL)
        assert [each["computed"] for each in reader.events()] == [number]
    reader.lose()
    assert parts.idle


def test_it_is_computed_once_for_all(parts: Parts) -> None:
    readers = [Reader(parts.site) for _ in range(5)]
    for number in range(1, 10):
        assert [[each["computed"] for each in reader.events()] for reader in readers] == [[number]] * 5
        parts.clock.advance(INTERVAL)


def test_their_number_is_bounded(parts: Parts) -> None:
    readers = [Reader(parts.site) for _ in range(MOST_STREAMS)]
    refused = Reader(parts.site)
    assert refused.taken().startswith(b"HTTP/1.0 503 ")
    # Others are answered.
    assert Reader(parts.site, "GET /v1/status").taken().startswith(b"HTTP/1.0 200 ")
    readers[3].lose()
    assert Reader(parts.site).events()
    assert Reader(parts.site).taken().startswith(b"HTTP/1.0 503 ")


def test_a_slow_reader_is_sent_nothing_and_then_dropped(parts: Parts) -> None:
    slow, stuck, quick = (Reader(parts.site) for _ in range(3))
    for each in (slow, stuck, quick):
        each.taken()
    slow.channel.pauseProducing()
    stuck.channel.pauseProducing()
    seconds = int(PATIENCE / INTERVAL) - 1
    for _ in range(seconds):
        parts.clock.advance(INTERVAL)
        assert len(quick.events()) == 1
    assert slow.taken() == stuck.taken() == b""
    slow.channel.resumeProducing()
    parts.clock.advance(INTERVAL)
    # What it missed is not sent later.
    assert [each["computed"] for each in slow.events()] == [seconds + 2]
    parts.clock.advance(INTERVAL)
    assert (slow.is_open, stuck.is_open, quick.is_open) == (True, False, True)
    assert stuck.taken() == b""
    for each in (slow, quick):
        each.lose()
    assert parts.idle


def test_a_status_that_is_dear_comes_less_often(parts: Parts) -> None:
    parts.takes = 0.5
    reader = Reader(parts.site)
    reader.taken()
    parts.clock.advance(9)
    assert not reader.events()
    parts.clock.advance(1)
    assert len(reader.events()) == 1


def test_an_hour(parts: Parts) -> None:
    """Nothing is kept of what was sent."""
    reader = Reader(parts.site)
    reader.taken()
    tracemalloc.start()
    try:
        for second in range(HOUR):
            parts.clock.advance(INTERVAL)
            assert len(reader.taken()) < 100
            if second == HOUR // 10:
                before = tracemalloc.get_traced_memory()[0]
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()
    assert parts.computed == HOUR + 1
    assert len(parts.clock.getDelayedCalls()) == 1


def test_many_who_come_and_go(parts: Parts) -> None:
    for _ in range(100):
        Reader(parts.site).lose()
        assert parts.idle
    stays = Reader(parts.site)
    for _ in range(100):
        another = Reader(parts.site)
        assert another.events()
        another.lose()
    stays.taken()
    parts.clock.advance(INTERVAL)
    assert len(stays.events()) == 1


def test_other_requests(parts: Parts) -> None:
    head = Reader(parts.site, "HEAD /v1/events").taken()
    assert head.startswith(b"HTTP/1.0 200 ")
    assert b"text/event-stream" in head
    assert Reader(parts.site, "POST /v1/events").taken().startswith(b"HTTP/1.0 405 ")
    assert parts.idle


def test_who_may_not_read() -> None:
    parts = Parts(Guard("s3cret"))
    for path in ("/", "/v1/events"):
        answer = Reader(parts.site, f"GET {path}").taken()
        assert answer.startswith(b"HTTP/1.0 401 ")
        assert b"WWW-Authenticate: Basic " in answer
    assert parts.idle


def test_the_site_stops(parts: Parts) -> None:
    parts.site.doStart()
    readers = [Reader(parts.site) for _ in range(3)]
    parts.site.doStop()
    assert not any(reader.is_open for reader in readers)
    assert parts.idle
