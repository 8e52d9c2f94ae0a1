"""Health checks: what is asked, and what comes of each answer, from services by hand and from hostile ones."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.addresses import DialAddress
from rtunnel.services.health import HealthWatch
from rtunnel.services.health_settings import HealthSettings
from rtunnel.upkeep.log_limiter import LogLimiter
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.services.checked import HTTP, Checked

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
    assert f"({problem})" in lines()[-1] if problem else lines()[-1] == "published; the service passes its health check"
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
