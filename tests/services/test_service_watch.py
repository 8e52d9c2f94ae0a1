"""Whether a local service answers: tried now and then, and learnt from visitors."""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent
from twisted.python.failure import Failure

from rtunnel.addresses import DialAddress
from rtunnel.services.watch import (
    LONGEST_REST,
    LONGEST_WAIT,
    MOST_AT_ONCE,
    SOON,
    WHILE_IT_ANSWERS,
    ServiceWatch,
    may_try,
    try_service,
)
from rtunnel.upkeep.log_limiter import LogLimiter
from tests.leftovers import TestLog
from tests.patience import PATIENCE
from tests.ports import free_port

REFUSED = "web; it does not answer (connection refused): visitors get a reset until it does"
ANSWERS = "web; it answers"


def refusal() -> Failure:
    return Failure(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))


class Endpoint:
    """Connects when the test says so."""

    def __init__(self) -> None:
        self.attempts: list[Deferred[Any]] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        self.attempts.append(Deferred())
        return self.attempts[-1]

    def accept(self) -> StringTransport:
        protocol: Any = Protocol()
        protocol.transport = transport = StringTransport()
        self.attempts[-1].callback(protocol)
        return transport

    def refuse(self) -> None:
        self.attempts[-1].errback(refusal())


class Watched:
    """A watch, its clock and its service."""

    log = Logger()

    def __init__(self, turns: Any = ..., address: str = "127.0.0.1:80") -> None:
        self.clock = Clock()
        self.endpoint = Endpoint()
        turns = may_try(True) if turns is ... else turns
        self.watch = ServiceWatch(self.clock, DialAddress.parse(address), 5.0, turns)
        if self.watch._endpoint is not None:
            self.watch._endpoint = self.endpoint  # type: ignore[assignment]

    def start(self) -> None:
        self.watch.start(self.log, LogLimiter(self.log, self.clock), "{name}; it", name="web")

    def wait(self) -> float:
        """Let the time pass until the timer fires; return how long that was."""
        (call,) = self.clock.getDelayedCalls()
        seconds: float = call.getTime() - self.clock.seconds()
        self.clock.advance(seconds)
        return seconds

    @property
    def tried(self) -> int:
        return len(self.endpoint.attempts)


@pytest.fixture
def lines(_nothing_left_behind: TestLog) -> Any:
    events: deque[LogEvent] = _nothing_left_behind.events
    return lambda: [(event["log_level"], formatEvent(event)) for event in events if "name" in event]


def test_a_service_that_answers_is_said_once_and_tried_seldom(lines: Any) -> None:
    it = Watched()
    it.start()
    assert lines() == []
    transport = it.endpoint.accept()
    assert (transport.value(), transport.disconnecting) == (b"", True)
    assert lines() == [(LogLevel.info, ANSWERS)]
    it.clock.advance(WHILE_IT_ANSWERS - 1)
    assert it.tried == 1
    it.wait()
    assert it.tried == 2
    it.endpoint.accept()
    assert len(lines()) == 1
    it.watch.stop()
    assert not it.clock.getDelayedCalls()


def test_a_service_that_nobody_visits_is_tried_ever_less_often(lines: Any) -> None:
    """MySQL blocks a host after 100 connections without a login in between."""
    it = Watched()
    it.start()
    it.endpoint.accept()
    waits = []
    while it.clock.seconds() < 30 * LONGEST_REST:
        waits.append(it.wait())
        it.endpoint.accept()
    assert len(waits) < 50
    assert waits[0] < 2 * WHILE_IT_ANSWERS < LONGEST_REST / 2 < waits[-1] <= LONGEST_REST
    it.watch.answered()
    it.wait()
    it.endpoint.accept()
    assert it.wait() < 2 * WHILE_IT_ANSWERS
    it.watch.stop()


def test_a_service_that_is_down_is_tried_ever_less_often_and_said_when_it_is_back(lines: Any) -> None:
    it = Watched()
    it.start()
    it.endpoint.refuse()
    assert lines() == [(LogLevel.warn, REFUSED)]
    waits = []
    for _ in range(12):
        waits.append(it.wait())
        it.endpoint.refuse()
    assert waits[0] >= 5.0
    assert 30.0 < waits[-1] <= LONGEST_WAIT
    assert len(lines()) == 1
    it.clock.advance(LONGEST_WAIT)
    it.endpoint.accept()
    assert lines()[1:] == [(LogLevel.info, ANSWERS)]
    it.watch.stop()


def test_a_mistake_of_ours_does_not_end_the_watch(
    lines: Any, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    it = Watched()
    it.start()
    with monkeypatch.context() as patch:
        patch.setattr(it.watch, "failed", lambda _failure: 1 / 0)
        it.endpoint.refuse()
    assert flush_logged_errors(ZeroDivisionError)
    it.wait()
    # In the meantime the log says that there is no answer yet.
    while it.tried < 2:
        it.wait()
    it.endpoint.accept()
    assert lines()[-1] == (LogLevel.info, ANSWERS)
    it.watch.stop()


def test_visitors_are_observations(lines: Any) -> None:
    it = Watched()
    it.start()
    it.endpoint.accept()
    it.clock.advance(WHILE_IT_ANSWERS - 1)
    it.watch.answered()
    it.wait()
    assert it.tried == 1, "a visitor has just reached it"
    it.watch.failed(refusal())
    it.watch.failed(refusal())
    assert [text for _, text in lines()] == [ANSWERS, REFUSED]
    it.clock.advance(7.0)
    assert it.tried == 2, "looks soon whether it is back"
    it.watch.answered()
    assert [text for _, text in lines()] == [ANSWERS, REFUSED, ANSWERS]
    it.watch.stop()


def test_a_lack_of_descriptors_says_nothing_of_the_service(lines: Any) -> None:
    it = Watched()
    it.start()
    it.endpoint.attempts[-1].errback(Failure(ConnectError(errno.EMFILE, "Too many open files")))
    assert lines() == [(LogLevel.info, "web; it has not been tried")]
    it.endpoint.attempts.clear()
    assert not it.watch.failed(Failure(OSError(errno.ENFILE, "x")))
    it.watch.answered()
    assert lines()[1:] == [(LogLevel.info, ANSWERS)]
    it.watch.stop()


@pytest.mark.parametrize("why", ["the option", "an endpoint that would send bytes"])
def test_what_may_not_be_tried_is_only_learnt_from_visitors(lines: Any, why: str) -> None:
    it = Watched(None) if why == "the option" else Watched(address="tls:app.example:443")
    it.start()
    it.watch.answered()
    assert lines() == [(LogLevel.info, "web; it has not been tried")]
    it.watch.failed(refusal())
    assert lines()[1:] == [(LogLevel.warn, REFUSED)]
    assert not it.clock.getDelayedCalls()
    assert it.tried == 0


def test_a_link_that_comes_and_goes_does_not_try_it_each_time(lines: Any) -> None:
    it = Watched()
    for _ in range(3):
        it.start()
        if it.tried == 1 and not it.endpoint.attempts[0].called:
            it.endpoint.accept()
        it.watch.stop()
        it.clock.advance(WHILE_IT_ANSWERS / 3)
    assert it.tried == 1
    assert [text for _, text in lines()] == [ANSWERS] * 3


@pytest.mark.parametrize("how", ["accept", "refuse"])
def test_a_link_that_comes_back_late_is_told_what_is_still_so(lines: Any, how: str) -> None:
    it = Watched()
    for _ in range(3):
        it.start()
        getattr(it.endpoint, how)()
        it.watch.stop()
        it.clock.advance(WHILE_IT_ANSWERS)
    assert it.tried == 3
    assert [text for _, text in lines()] == [ANSWERS if how == "accept" else REFUSED] * 3


@pytest.mark.parametrize("before", ["nothing", "it answered"])
@pytest.mark.parametrize("how", ["accept", "refuse"])
def test_a_service_that_takes_its_time(lines: Any, how: str, before: str) -> None:
    """It is behind a firewall that drops, its name server is silent, or others are tried first."""
    it = Watched()
    if before == "it answered":
        it.watch.answered()
        it.clock.advance(WHILE_IT_ANSWERS)
    for _ in range(8):
        it.start()
        it.clock.advance(SOON)
        assert lines()[-1] == (LogLevel.info, "web; it has not answered yet")
        getattr(it.endpoint, how)()
        assert lines()[-1] == ((LogLevel.info, ANSWERS) if how == "accept" else (LogLevel.warn, REFUSED))
        it.watch.stop()
        it.clock.advance(WHILE_IT_ANSWERS)
    assert len(lines()) == 16


def test_a_visitor_reaches_it_before_the_first_attempt_ends(lines: Any) -> None:
    it = Watched()
    it.start()
    it.watch.answered()
    it.clock.advance(SOON)
    it.endpoint.accept()
    assert lines() == [(LogLevel.info, ANSWERS)]
    it.watch.stop()
    assert not it.clock.getDelayedCalls()


def test_stopped_while_it_tries(lines: Any) -> None:
    it = Watched()
    it.start()
    it.watch.stop()
    it.start()
    it.watch.stop()
    assert it.tried == 2
    assert lines() == []
    assert not it.clock.getDelayedCalls()


def test_many_services_are_not_tried_all_at_once() -> None:
    turns = may_try(True)
    watches = [Watched(turns) for _ in range(MOST_AT_ONCE + 2)]
    for it in watches:
        it.start()
    assert sum(it.tried for it in watches) == MOST_AT_ONCE
    watches[0].endpoint.accept()
    assert sum(it.tried for it in watches) == MOST_AT_ONCE + 1
    for it in watches:
        it.watch.stop()


@ensureDeferred
async def test_a_connection_to_itself_is_nobody() -> None:
    class Same:
        def connect(self, factory: Any) -> Deferred[Any]:
            protocol: Any = factory.buildProtocol(None)
            protocol.transport = StringTransport(hostAddress=HERE, peerAddress=HERE)
            return succeed(protocol)

    from twisted.internet.address import IPv4Address

    HERE = IPv4Address("TCP", "127.0.0.1", 40000)
    same: Any = Same()
    with pytest.raises(ConnectionRefusedError):
        await try_service(same)


@pytest.mark.parametrize("header", [b"", b"PROXY UNKNOWN\r\n"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@ensureDeferred
async def test_real_services(kind: str, header: bytes, tmp_path: Any) -> None:
    """A bare connection: no byte comes, unless the service expects a PROXY header, and then a clean end."""
    from twisted.internet import reactor

    if kind == "tcp":
        address = ("127.0.0.1", free_port())
        listening = socket.create_server(address)
        there = DialAddress.parse(f"{address[0]}:{address[1]}")
    else:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "x.sock"))
        listening.listen()
        there = DialAddress.parse(f"unix:{tmp_path}/x.sock")
    with listening:
        await try_service(there.endpoint(reactor, PATIENCE), header)
        listening.settimeout(PATIENCE)
        connection, _ = listening.accept()
        with connection:
            from twisted.internet.threads import deferToThread

            connection.settimeout(PATIENCE)
            received = b""
            while data := await deferToThread(connection.recv, 100):
                received += data
            assert received == header
    with pytest.raises(ConnectError):
        await try_service(there.endpoint(reactor, PATIENCE))


@pytest.mark.parametrize("answers", [True, False])
def test_a_link_that_comes_back_later_says_it_again(lines: Any, answers: bool) -> None:
    it = Watched()
    for _ in range(2):
        it.start()
        if answers:
            it.endpoint.accept()
        else:
            it.endpoint.refuse()
        it.watch.stop()
        it.clock.advance(WHILE_IT_ANSWERS)
    assert [text for _, text in lines()] == [ANSWERS if answers else REFUSED] * 2


def test_a_link_that_comes_back_says_what_was_known_if_it_cannot_be_tried(lines: Any) -> None:
    it = Watched()
    it.start()
    it.endpoint.accept()
    it.watch.stop()
    it.clock.advance(WHILE_IT_ANSWERS)
    it.start()
    it.endpoint.attempts[-1].errback(Failure(ConnectError(errno.EMFILE, "Too many open files")))
    assert [text for _, text in lines()] == [ANSWERS, ANSWERS]
    it.watch.stop()
