"""``rtunnel doctor`` at servers that are no servers."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.process.doctor import Report
from tests.process.harness import Twistds
from tests.process.services import LOOPBACK, Service, page
from tests.tls.parts import Authority
from tests.wire.pair import raw_hello

pytestmark = pytest.mark.usefixtures("control_sockets")


class Hostile:
    """A server that is no server.

    :param first: what it sends to each connection.
    :param flood: whether it sends that without end.
    :param ends: whether it closes the connection then.
    """

    def __init__(self, first: bytes, *, flood: bool = False, ends: bool = False) -> None:
        self._first, self._flood, self._ends = first, flood, ends
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._held.append(connection)
                threading.Thread(target=self._speak, args=(connection,), daemon=True).start()

    def _speak(self, connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(self._first)
            while self._flood:
                connection.sendall(self._first)
            if self._ends:
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._held)

    def close(self) -> None:
        self._listener.close()
        for connection in self._held:
            connection.close()


FRAME = b"\x02\x00\x00\x00\x07\x00\x00\x10\x00" + bytes(4096)
HOSTILE = {
    "silence": (b"", {}, "warn", "it says nothing: a reference server"),
    "half a line": (b"HTT", {}, "fail", "it sent 3 bytes, which are no answer to HELLO, and then nothing"),
    "an end": (b"", {"ends": True}, "fail", "the other end closed the connection without an answer"),
    "a flood of frames": (FRAME, {"flood": True}, "warn|fail", "a reference server|it sends more than 256 KiB"),
    "a flood of noise": (b"\xff" * 65536, {"flood": True}, "fail", "that is an unknown protocol"),
    "garbage of TLS": (b"\x16\x03\x03\xff\xff" + b"\x00" * 64, {}, "fail", "the other end speaks TLS"),
    "SSH": (b"SSH-2.0-OpenSSH_9.9\r\n", {}, "fail", "that is SSH"),
    "escapes": (b"\x16\x00\x00\x00\x00\x00\x00\x00\x04\x1b[2J", {}, "warn", "a reference server"),
}


@pytest.fixture
def hostile() -> Iterator[Callable[..., Hostile]]:
    with ExitStack() as stack:

        def start(*arguments: Any, **more: Any) -> Hostile:
            server = Hostile(*arguments, **more)
            stack.callback(server.close)
            return server

        yield start


@pytest.mark.parametrize("what", HOSTILE)
def test_something_hostile(what: str, hostile: Callable[..., Hostile]) -> None:
    first, more, status, text = HOSTILE[what]
    report = Report(f"--server={LOOPBACK}:{hostile(first, **more).port}")
    assert re.fullmatch(status, report.status("server")), report.found
    assert re.match(text, report.text("server")), report.found
    assert all(step["text"].isprintable() for step in report.found["steps"])


@pytest.mark.parametrize(
    ("ahead", "status", "text"),
    [
        (None, "skipped", "the server does not say what its clock says"),
        (0.0, "ok", "the clocks agree within "),
        (312.5, "warn", r"this machine's clock is 31[012] s behind the server's"),
        (-86400.5, "warn", r"this machine's clock is 8640\d s ahead of the server's"),
        (1e12, "warn", r"this machine's clock is \d+ s behind the server's"),
        (1e300, "skipped", "the server does not say what its clock says"),
    ],
)
def test_the_clock_of_a_server(ahead: float | None, status: str, text: str, hostile: Callable[..., Hostile]) -> None:
    hello = raw_hello(time=None if ahead is None else time.time() + ahead)
    report = Report(f"--server={LOOPBACK}:{hostile(hello).port}")
    if ahead == 0.0:
        # The doctor starts later than the server says, and perhaps much.
        text += "|this machine's clock is "
    assert report.status("clock") == status, report.found
    assert re.match(text, report.text("clock")), report.found
    assert ("timedatectl" in report.advice) == (status == "warn")


@pytest.mark.parametrize("what", ["silence", "a flood of noise", "garbage of TLS", "SSH", "an end"])
def test_something_hostile_where_tls_is_wanted(what: str, hostile: Callable[..., Hostile], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.client("laptop", file="client")
    first, more, *_ = HOSTILE[what]
    port = hostile(first, **more).port
    report = Report(f"--server={LOOPBACK}:{port}", "--tls", env={"RTUNNEL_PKI_DIR": str(authority.directory)})
    assert report.failed() == ["TLS"]
    assert report.text("TLS").isprintable()
    assert report.advice


def test_a_client_at_a_reference_server_keeps_its_visitors(
    hostile: Callable[..., Hostile], twistd: Twistds, serve: Callable[..., Service]
) -> None:
    """A Go server says nothing, and sends visitors to whoever has connected last."""
    server = hostile(b"")
    options = (f"--server={LOOPBACK}:{server.port}", f"--local={serve(GET=page('here')).address}")
    client = twistd("rtunnel-client", *options)
    client.wait_for("the reference protocol is assumed")
    assert server.connections == 1
    report = Report(*options)
    assert report.failed() == []
    assert (report.status("client"), report.status("port"), report.status("server")) == ("warn", "skipped", "skipped")
    assert "Stop the client" in report.advice
    assert server.connections == 1


@pytest.mark.parametrize("option", ["--server={}", "--signal=ws://{}"])
def test_ctrl_c(option: str, twistd: Twistds, hostile: Callable[..., Hostile]) -> None:
    doctor = twistd.rtunnel("doctor", option.format(f"{LOOPBACK}:{hostile(b'').port}"))
    doctor.wait_for("^ok   port")
    assert doctor.terminate(number=signal.SIGINT) == 130
    assert len(doctor.output.split("ok   port")[1].strip().splitlines()) == 1
    assert "Traceback" not in doctor.output
