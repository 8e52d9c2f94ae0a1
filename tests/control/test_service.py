"""The control socket of a process: what it answers, and what it bears."""

from __future__ import annotations

import json
import os
import re
import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from rtunnel import __version__
from rtunnel.control.ask import NoAnswer, ask
from rtunnel.control.recent import MOST, MOST_TEXT
from rtunnel.control.service import MOST_CONNECTIONS, ControlService
from rtunnel.control.settings import StatusSettings
from tests.patience import PATIENCE

STARTED = "rtunnel-test"


class Parts:
    """A service, and what it says."""

    def __init__(self, directory: Path) -> None:
        self.found: dict[str, Any] = {"problems": [], "ready": True}
        self.directory = directory
        environ = {"RUNTIME_DIRECTORY": str(directory)}
        self.service = ControlService(reactor, STARTED, lambda: dict(self.found), StatusSettings(), {}, environ)

    @property
    def path(self) -> Path:
        return self.directory / f"{STARTED}-{os.getpid()}.sock"

    def ask(self, what: str = "/v1/status") -> Deferred[dict[str, Any]]:
        return deferToThread(ask, self.path, what)

    def raw(self, data: bytes) -> Deferred[bytes]:
        def talk() -> bytes:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE)
                connection.connect(str(self.path))
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
                return answer

        return deferToThread(talk)


@pytest.fixture
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    parts = Parts(tmp_path_factory.mktemp("c"))
    yield parts
    if parts.service.running:
        stopped = parts.service.stopService()
        if stopped is not None:
            pytest_twisted.blockon(stopped)


@ensureDeferred
async def test_status(parts: Parts) -> None:
    parts.service.startService()
    assert parts.path.stat().st_mode & 0o777 == 0o600
    parts.found = {"problems": [], "ready": True, "visitors": 3}
    found = await parts.ask()
    assert found.pop("up_seconds") >= 0
    assert found == {
        "version": 1,
        "service": STARTED,
        "release": __version__,
        "pid": os.getpid(),
        "successor": None,
        "ok": True,
        "ready": True,
        "problems": [],
        "visitors": 3,
        "warnings_total": {"warn": 0, "error": 0, "critical": 0},
        "warnings": [],
    }
    await parts.service.stopService()
    assert not parts.path.exists()


@ensureDeferred
async def test_health_is_a_status_code(parts: Parts) -> None:
    parts.service.startService()
    assert (await parts.raw(b"GET /v1/health HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 ")
    parts.found = {"problems": ["it is broken"], "ready": False}
    assert (await parts.raw(b"GET /readyz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 503 ")
    assert (await parts.raw(b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 ")
    answer = await parts.raw(b"GET /v1/health HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"ok": False, "problems": ["it is broken"]}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /index.html HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /v1 HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /v1/status/more HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /v1/../etc/passwd HTTP/1.0\r\n\r\n", b"404"),
        (b"POST /v1/status HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", b"405"),
        (b"DELETE /v1/status HTTP/1.0\r\n\r\n", b"405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    ],
)
@ensureDeferred
async def test_requests_for_something_else(parts: Parts, request_: bytes, status: bytes) -> None:
    parts.service.startService()
    answer = await parts.raw(request_)
    assert answer.split()[1] == status
    assert b"Twisted" not in answer
    assert b"Traceback" not in answer
    assert (await parts.ask())["ok"]


@ensureDeferred
@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 200000\r\n\r\n" + bytes(200_000), b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"],
    ids=["long", "chunked"],
)
async def test_bodies_are_kept_nowhere(parts: Parts, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(parts.directory / "no-disk"))
    parts.service.startService()
    answer = await parts.raw(b"POST /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 405 "), answer


@ensureDeferred
async def test_connections_are_bounded_and_those_of_the_past_do_not_count(parts: Parts) -> None:
    parts.service.startService()
    for _ in range(3 * MOST_CONNECTIONS):
        assert (await parts.ask())["ok"]

    def crowd() -> int:
        answered = 0
        with ExitStack() as stack:
            for _ in range(2 * MOST_CONNECTIONS):
                each = stack.enter_context(socket.socket(socket.AF_UNIX))
                each.settimeout(PATIENCE)
                each.connect(str(parts.path))
                with suppress(OSError):
                    each.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
                    answered += bool(each.recv(100))
        return answered

    assert await deferToThread(crowd) == MOST_CONNECTIONS
    assert (await parts.ask())["ok"]


@ensureDeferred
async def test_the_page(parts: Parts) -> None:
    """It may run its own script and style, and load and send nothing else."""
    parts.service.startService()
    head, _, page = (await parts.raw(b"GET / HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert b"Content-Type: text/html; charset=utf-8" in head
    policy = re.search(rb"Content-Security-Policy: (.*)\r\n", head)
    assert policy is not None
    hashes = [
        b64encode(sha256(content).digest())
        for content in re.findall(rb"<(?:style|script)>(.*?)</(?:style|script)>", page, re.DOTALL)
    ]
    assert sorted(re.findall(rb"'sha256-([^']*)'", policy[1])) == sorted(hashes)
    assert len(hashes) == 2
    assert b"unsafe" not in policy[1]
    assert b"default-src 'none'" in policy[1]
    # No attribute that a policy with hashes would refuse, and no way for a name to become anything but text.
    for unwanted in (
        rb" style=",
        rb" on[a-z]+=",
        rb"innerHTML",
        rb"outerHTML",
        rb"insertAdjacent",
        rb"document\.write",
    ):
        assert not re.search(unwanted, page), unwanted
    assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", page)


@ensureDeferred
async def test_who_reads_events_when_the_service_stops(parts: Parts) -> None:
    parts.service.startService()

    def read(connection: socket.socket) -> bytes:
        answer = b""
        while b"data: " not in answer:
            answer += connection.recv(65536)
        return answer

    def read_to_the_end(connection: socket.socket) -> None:
        with suppress(ConnectionResetError):
            while connection.recv(65536):
                pass

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(parts.path))
        connection.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'"service":"rtunnel-test"' in await deferToThread(read, connection)
        await parts.service.stopService()
        await deferToThread(read_to_the_end, connection)


@ensureDeferred
async def test_warnings_of_the_log(parts: Parts) -> None:
    parts.service.startService()
    log = Logger("rtunnel.test")
    log.info("nobody asks for this")
    Logger("other.program").warn("nor for this")
    log.warn("port {port} is gone", port=80)
    log.warn("{text}", text="x" * 10_000)
    first, second = (await parts.ask())["warnings"]
    assert (first["level"], first["text"]) == ("warn", "port 80 is gone")
    assert second["text"] == "x" * MOST_TEXT + "..."
    for number in range(2 * MOST):
        log.warn("{number}", number=number)
    assert [each["text"] for each in (await parts.ask())["warnings"]] == [str(n) for n in range(MOST, 2 * MOST)]


@ensureDeferred
async def test_without_a_directory_the_service_runs_on(parts: Parts, logged: Callable[[str], Awaitable[None]]) -> None:
    parts.directory.chmod(0o777)
    parts.service.startService()
    assert not parts.path.exists()
    assert parts.service.status()["ok"]
    await logged("'rtunnel status' cannot ask this process, as it has no control socket: ")


@pytest.fixture
def logged() -> Iterator[Callable[[str], Awaitable[None]]]:
    from twisted.logger import LogEvent, formatEvent, globalLogPublisher

    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    async def wait(text: str) -> None:
        assert any(text in line for line in lines)

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    yield wait
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


def test_nobody_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("c") / "rtc-host-1.sock"
    with pytest.raises(NoAnswer, match=r"nobody answers at .*: its process is gone"):
        ask(path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        with pytest.raises(NoAnswer, match=r"nobody answers at .*: its process is gone"):
            ask(path)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "does not answer as rtunnel does"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer as rtunnel does"),
        (b"HTTP/1.0 200 OK\r\n\r\nno JSON", "does not answer as rtunnel does"),
        (b"HTTP/1.0 200 OK\r\n\r\n[]", "is another version of rtunnel"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"version": 2}', "is another version of rtunnel"),
    ],
)
def test_somebody_else_there(tmp_path_factory: pytest.TempPathFactory, answer: bytes, why: str) -> None:
    from threading import Thread

    path = tmp_path_factory.mktemp("c") / "rtc-host-1.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(answer)
            connection.close()

        thread = Thread(target=serve)
        thread.start()
        with pytest.raises(NoAnswer, match=why):
            ask(path)
        thread.join()
