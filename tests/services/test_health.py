"""Health checks: what takes a service out, and what puts it back."""

from __future__ import annotations

import errno
import random
from collections import deque
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent
from twisted.python.failure import Failure

from rtunnel.addresses import DialAddress
from rtunnel.services.health import HealthWatch
from rtunnel.services.health_settings import HealthSettings
from rtunnel.services.watch import MOST_AT_ONCE, SOON
from rtunnel.upkeep.log_limiter import LogLimiter
from tests.leftovers import TestLog
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.services.test_service_watch import Endpoint, refusal

OUT = "fails its health check (connection refused): out until it passes"
PASSES = "published; the service passes its health check"
BACK = "web: the service at here passes its health check again"
HTTP = HealthSettings("/healthz")


class HttpEndpoint(Endpoint):
    """Connects what asks by HTTP, and answers."""

    def connect(self, factory: Any) -> Any:
        self.factory = factory
        return super().connect(factory)

    def answer(self, *pieces: bytes) -> Any:
        protocol = self.factory.buildProtocol(None)
        transport: Any = StringTransport()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        self.attempts[-1].callback(protocol)
        for piece in pieces:
            protocol.dataReceived(piece)
        return transport


class Checked:
    """A health check, its clock and its service."""

    log = Logger()

    def __init__(
        self,
        settings: HealthSettings | None = None,
        turns: Any = None,
        address: str = "127.0.0.1:80",
        header: bytes = b"",
    ) -> None:
        self.clock = Clock()
        self.endpoint = HttpEndpoint()
        turns = turns or DeferredSemaphore(MOST_AT_ONCE)
        self.watch = HealthWatch(self.clock, DialAddress.parse(address), settings or HealthSettings(), turns, header)
        self.watch._endpoint = self.endpoint  # type: ignore[assignment]
        self.changes: list[bool] = []
        self.watch.on_change = lambda: self.changes.append(self.watch.is_ready)

    def start(self) -> None:
        limiter = LogLimiter(self.log, self.clock)
        self.watch.start(self.log, limiter, "published; the service", "out until it passes", tunnel="web", local="here")

    def wait(self) -> float:
        """Let the time pass until the next check begins; return how long that was."""
        before, began = len(self.endpoint.attempts), self.clock.seconds()
        while len(self.endpoint.attempts) == before:
            call = min(self.clock.getDelayedCalls(), key=lambda call: call.getTime())
            self.clock.advance(call.getTime() - self.clock.seconds())
        seconds: float = self.clock.seconds() - began
        return seconds

    def next(self, what: str) -> None:
        """Let the next check have a result: ``accept`` or ``refuse``, or a status."""
        self.wait()
        self.result(what)

    def result(self, what: str) -> None:
        if what.isdecimal():
            self.endpoint.answer(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % int(what))
        else:
            getattr(self.endpoint, what)()

    def stop(self) -> None:
        self.watch.stop()
        assert not self.clock.getDelayedCalls()


@pytest.fixture
def logged(_nothing_left_behind: TestLog) -> Any:
    events: deque[LogEvent] = _nothing_left_behind.events
    return lambda: [event for event in events if "local" in event]


@pytest.fixture
def lines(logged: Any) -> Any:
    return lambda: [formatEvent(event) for event in logged()]


def test_so_many_failures_in_a_row_and_so_many_passed(lines: Any, logged: Any) -> None:
    it = Checked()
    it.start()
    it.result("accept")
    for result in ("refuse", "refuse", "accept", "refuse", "refuse"):
        it.next(result)
    assert it.changes == []
    assert lines() == [PASSES]
    it.next("refuse")
    assert it.changes == [False]
    assert lines()[1:] == [f"web: the service at here {OUT}"]
    for result in ("accept", "refuse", "accept"):
        it.next(result)
    assert it.changes == [False]
    it.next("accept")
    assert it.changes == [False, True]
    assert lines()[2:] == [BACK]
    assert [event["log_level"] for event in logged()] == [LogLevel.info, LogLevel.warn, LogLevel.info]
    it.stop()


def test_the_first_check_decides_at_once(lines: Any) -> None:
    """As with HAProxy: a service that was not there when the client began gets no visitor for the next 30 s."""
    it = Checked()
    it.start()
    assert it.watch.is_ready
    it.result("refuse")
    assert it.changes == [False]
    assert lines() == [f"published; the service {OUT}"]
    it.next("accept")
    assert it.changes == [False], "one is not two in a row"
    it.next("accept")
    assert it.changes == [False, True]
    it.stop()


def test_waits_are_an_interval_apart_but_not_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", random.Random(7).uniform)
    it = Checked()
    it.start()
    waits = []
    for _ in range(50):
        it.result("accept")
        waits.append(it.wait())
    assert all(9 <= wait <= 11 for wait in waits)
    assert max(waits) - min(waits) > 1
    it.stop()


def test_the_interval_counts_from_the_beginning_and_checks_do_not_overlap() -> None:
    it = Checked(HealthSettings(interval=4.0, timeout=4.0, fall=1))
    it.start()
    it.clock.advance(3.0)
    it.result("accept")
    assert it.wait() < 4.0 * 1.1 - 3.0 + 0.01
    it.clock.advance(4.0)
    assert not it.watch.is_ready, "it has taken the whole of the interval"
    it.clock.advance(0.41)
    assert len(it.endpoint.attempts) == 3
    it.stop()


def test_visitors_that_are_refused_count(lines: Any) -> None:
    it = Checked(HTTP)
    it.start()
    it.result("200")
    assert not it.watch.failed(refusal())
    it.next("503")
    it.watch.answered()
    assert not it.watch.failed(refusal()), "in a row"
    assert it.watch.failed(refusal()), "with the check that failed"
    assert lines() == [PASSES, f"web: the service at here {OUT}"]
    for _ in range(5):
        it.watch.answered()
    assert it.changes == [False], "that it accepts does not mean that it is well"
    it.next("200")
    it.watch.failed(refusal())
    it.next("200")
    assert it.changes == [False]
    it.next("200")
    assert it.changes == [False, True]
    it.stop()


def test_visitors_are_checks_where_these_only_connect() -> None:
    it = Checked()
    it.start()
    it.watch.answered()
    it.result("accept")
    for _ in range(3):
        it.watch.failed(refusal())
    assert it.changes == [False]
    it.watch.answered()
    it.watch.answered()
    assert it.changes == [False, True]
    it.stop()


def test_a_lack_of_descriptors_says_nothing_of_the_service(lines: Any) -> None:
    it = Checked(HealthSettings(fall=1))
    it.start()
    for _ in range(3):
        it.endpoint.attempts[-1].errback(Failure(ConnectError(errno.EMFILE, "Too many open files")))
        it.wait()
    assert not it.watch.failed(Failure(OSError(errno.ENFILE, "x")))
    assert it.watch.is_ready
    assert lines() == ["published; the service has not answered yet"]
    it.stop()


def test_one_that_takes_its_time_is_published_meanwhile(lines: Any) -> None:
    it = Checked()
    it.start()
    it.clock.advance(SOON)
    assert lines() == ["published; the service has not answered yet"]
    it.clock.advance(3.0 - SOON)
    assert lines()[1:] == ["published; the service fails its health check (no answer within 3 s): out until it passes"]
    it.stop()


@pytest.mark.parametrize("result", ["accept", "refuse"])
def test_a_link_that_comes_back_soon_goes_on_where_it_was(lines: Any, result: str) -> None:
    it = Checked()
    it.start()
    it.result(result)
    for _ in range(5):
        it.watch.stop()
        it.clock.advance(1.0)
        it.start()
    assert len(it.endpoint.attempts) == 1
    assert lines() == [PASSES if result == "accept" else f"published; the service {OUT}"] * 6
    assert 3.9 <= it.wait() <= 6.1
    it.stop()


def test_a_link_that_comes_back_late_checks_at_once(lines: Any) -> None:
    it = Checked()
    it.start()
    it.result("refuse")
    it.watch.stop()
    it.clock.advance(60.0)
    assert not it.watch.is_ready, "which the server is told with the tunnel"
    it.start()
    it.result("accept")
    assert it.changes == [False, True]
    assert lines()[1:] == [PASSES]
    it.stop()


def test_stopped_while_it_checks(lines: Any) -> None:
    it = Checked(HTTP)
    for _ in range(3):
        it.start()
        it.stop()
    assert len(it.endpoint.attempts) == 3
    assert lines() == it.changes == []


def test_a_mistake_of_ours_does_not_end_the_checks(monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any) -> None:
    it = Checked()
    it.start()
    with monkeypatch.context() as patch:
        patch.setattr(it.watch, "_fails", lambda _problem: 1 / 0)
        it.result("refuse")
    assert flush_logged_errors(ZeroDivisionError)
    it.next("refuse")
    assert it.changes == [False]
    it.stop()


def test_many_are_not_checked_all_at_once_and_time_counts_from_their_turn() -> None:
    turns = DeferredSemaphore(MOST_AT_ONCE)
    all_of_them = [Checked(turns=turns) for _ in range(MOST_AT_ONCE + 2)]
    for it in all_of_them:
        it.start()
    assert sum(len(it.endpoint.attempts) for it in all_of_them) == MOST_AT_ONCE
    last = all_of_them[-2]
    last.clock.advance(100.0)
    assert last.watch.is_ready
    all_of_them[0].result("accept")
    last.result("accept")
    for it in all_of_them:
        it.stop()


# What is asked, and what is answered


@pytest.mark.parametrize(
    ("address", "host", "expected"),
    [
        ("127.0.0.1:3000", "", "127.0.0.1:3000"),
        ("80", "", "127.0.0.1:80"),
        ("[::1]:3000", "", "[::1]:3000"),
        ("[fe80::1%lo]:3000", "", "[fe80::1]:3000"),
        ("unix:/run/x.sock", "", "localhost"),
        ("bücher.lan:3000", "", "xn--bcher-kva.lan:3000"),
        ("127.0.0.1:3000", "app.example.org", "app.example.org"),
    ],
)
def test_what_is_asked(address: str, host: str, expected: str) -> None:
    it = Checked(HealthSettings("/healthz?full", host), address=address, header=b"PROXY UNKNOWN\r\n")
    it.start()
    transport = it.endpoint.answer()
    head = b"PROXY UNKNOWN\r\nGET /healthz?full HTTP/1.1\r\nHost: %b\r\nUser-Agent: rtunnel/" % expected.encode()
    assert transport.value().startswith(head)
    assert transport.value().endswith(b"\r\nAccept: */*\r\nConnection: close\r\n\r\n")
    it.stop()
    assert transport.disconnected


@pytest.mark.parametrize("status", [200, 204, 302, 399])
def test_good_statuses(status: int) -> None:
    it = Checked(HTTP)
    it.start()
    it.result(str(status))
    assert it.watch.is_ready
    it.stop()


@pytest.mark.parametrize("status", [199, 400, 404, 503])
def test_bad_statuses(status: int, lines: Any) -> None:
    it = Checked(HealthSettings("/", statuses=((150, 150), (200, 399)), fall=1))
    it.start()
    if status < 200:
        it.endpoint.answer(b"HTTP/1.1 %d X\r\n\r\n" % status, b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
        status = 500
    else:
        it.result(str(status))
    assert f"(status {status})" in lines()[0]
    it.stop()


OK = b"HTTP/1.1 200 OK\r\n"
NOT_HTTP = "its answer is not HTTP"
LONG = "its answer has no status in the first 16 KiB"


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ([OK, b"Content-Length: 2\r\n\r\nok"], ""),
        ([OK, b"Content-Length: 2\r\n\r\nok and more"], ""),
        ([OK, b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"0\r\n\r\n"], ""),
        ([OK, b"Content-Length: 999999999\r\n\r\n", *[bytes(4096)] * 4], ""),
        ([OK + b"\r\n", *[b"x" * 16384]], ""),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n", OK, b"Content-Length: 0\r\n\r\n"], ""),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nRAW"], "status 101"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], NOT_HTTP),
        ([b"\x15\x03\x01\x00\x02\x02\x0a"], "it speaks TLS, and no HTTP"),
        ([b"\x00" * 100], NOT_HTTP),
        ([OK + b"no field\r\n\r\n"], NOT_HTTP),
        ([OK + b"X: " + b"x" * 70000 + b"\r\n\r\n"], NOT_HTTP),
        ([OK + b"X: ", *[b"x" * 4096] * 4], LONG),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 700], LONG),
    ],
)
def test_answers(pieces: list[bytes], problem: str, lines: Any) -> None:
    """Whatever comes, one line says what is wrong, and the connection is closed at once."""
    it = Checked(HTTP)
    it.start()
    transport = it.endpoint.answer(*pieces)
    assert transport.disconnected
    assert it.watch.is_ready is not bool(problem)
    assert not problem or f"({problem})" in lines()[0]
    it.stop()


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ([], "it closed the connection without its answer"),
        ([b"HTTP/1.1 2"], "it closed the connection in its answer"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], "it closed the connection in its answer"),
        ([OK + b"\r\n", b"ok"], ""),
        ([OK + b"Content-Length: 100\r\n\r\n", b"ok"], ""),
    ],
)
@pytest.mark.parametrize("how", ["closed", "too late"])
def test_answers_that_do_not_end(pieces: list[bytes], problem: str, how: str, lines: Any) -> None:
    it = Checked(HTTP)
    it.start()
    transport = it.endpoint.answer(*pieces)
    assert not transport.disconnected
    if how == "closed":
        transport.protocol.connectionLost(Failure(ConnectError()))
    else:
        it.clock.advance(3.0)
        problem = problem and "no answer within 3 s"
    assert transport.disconnected
    assert it.watch.is_ready is not bool(problem)
    assert f"({problem})" in lines()[-1] if problem else lines()[-1] == PASSES
    it.stop()


# Real services


class Hostile(Protocol):
    """A service that does something else than a service should.

    :ivar over: it is rid of the client.
    """

    transport: Any

    def __init__(self, how: str) -> None:
        self.how = how
        self.sent = 0
        self.over = False

    def connectionMade(self) -> None:
        if self.how == "closes":
            self.transport.loseConnection()
        elif self.how == "resets":
            self.transport.abortConnection()
        elif self.how == "is another":
            self.transport.write(b"220 mail.example.org ESMTP\r\n")

    def dataReceived(self, data: bytes) -> None:
        if self.how == "half a line":
            self.transport.write(b"HTTP/1.1 2")
        elif self.how == "half a line, and closes":
            self.transport.write(b"HTTP/1.1 2")
            self.transport.loseConnection()
        elif self.how == "floods":
            self.transport.write(b"HTTP/1.1 200 OK\r\n")
            self.transport.registerProducer(self, False)
        elif self.how == "floods behind it":
            self.transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
            self.transport.registerProducer(self, False)
        elif self.how == "echoes":
            self.transport.write(data)

    def resumeProducing(self) -> None:
        self.sent += 65536
        self.transport.write(b"X-Y: 12345678901234567890123456\r\n" * 2048)

    def stopProducing(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over = True


class Hostiles(Factory):
    """Makes them."""

    noisy = False

    def __init__(self, how: str) -> None:
        self.how = how
        self.made: list[Hostile] = []

    def buildProtocol(self, addr: Any) -> Hostile:
        self.made.append(Hostile(self.how))
        return self.made[-1]


def watch_it(address: str, settings: HealthSettings) -> HealthWatch:
    """Check a real service."""
    from tests.reverse.net import reactor

    watch = HealthWatch(reactor, DialAddress.parse(address), settings, DeferredSemaphore(1))
    log = Logger()
    watch.start(log, LogLimiter(log, reactor), "{tunnel}; it", "out", tunnel="web", local="here")
    return watch


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("hangs", "no answer"),
        ("half a line", "no answer"),
        ("half a line, and closes", "it closed the connection in its answer"),
        ("closes", "it closed the connection without its answer"),
        ("resets", "it closed the connection without its answer"),
        ("is another", NOT_HTTP),
        ("echoes", NOT_HTTP),
        ("floods", ""),
        ("floods behind it", None),
    ],
)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@ensureDeferred
async def test_hostile_services(how: str, problem: str | None, kind: str, lines: Any, tmp_path: Any) -> None:
    from tests.reverse.net import HOST, reactor, until

    factory = Hostiles(how)
    if kind == "tcp":
        listening = reactor.listenTCP(0, factory, interface=HOST)
        address = f"{HOST}:{listening.getHost().port}"
    else:
        listening = reactor.listenUNIX(str(tmp_path / "x.sock"), factory)
        address = f"unix:{tmp_path}/x.sock"
    timeout = 0.3 if problem == "no answer" else PATIENCE
    watch = watch_it(address, HealthSettings("/healthz", interval=3600.0, timeout=timeout))
    await until(lambda: factory.made and factory.made[-1].over and lines())
    assert watch.is_ready is (problem is None)
    assert problem is None or f"fails its health check ({problem}" in lines()[-1]
    assert factory.made[-1].sent < 32 * 1024 * 1024
    watch.stop()
    await listening.stopListening()
    assert len(factory.made) == 1


@ensureDeferred
async def test_a_service_that_nobody_listens_for(lines: Any) -> None:
    from tests.reverse.net import HOST, until

    watch = watch_it(f"{HOST}:{free_port()}", HTTP)
    await until(lambda: not watch.is_ready)
    assert lines()[-1] == "web; it fails its health check (connection refused): out"
    watch.stop()


@pytest.mark.parametrize("path", ["", "/"])
@ensureDeferred
async def test_tls_that_hangs(path: str, lines: Any) -> None:
    """An endpoint of Twisted that is more than a connection: no check waits for the end of its handshake."""
    from tests.reverse.net import HOST, reactor, until

    factory = Hostiles("hangs")
    listening = reactor.listenTCP(0, factory, interface=HOST)
    settings = HealthSettings(path, interval=3600.0, timeout=0.3 if path else PATIENCE)
    watch = watch_it(f"tls:{HOST}:{listening.getHost().port}", settings)
    await until(lambda: factory.made and factory.made[-1].over and lines())
    assert watch.is_ready is not bool(path)
    watch.stop()
    await listening.stopListening()
