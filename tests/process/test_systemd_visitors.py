"""``systemctl restart`` under visitors: their sockets wait with systemd, and the next process goes on with them."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.harness import Twistds
from tests.process.services import Service, count, expected, get, pieces, read_all
from tests.process.stored import Restarted
from tests.process.systemd import Systemd
from tests.tls.parts import Authority

Serve = Callable[..., Service]

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")

SIZE = 30_000_000
PART = 5_000_000


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of this test are where nobody else's are."""


@pytest.fixture
def systemd(twistd: Twistds, tmp_path: Path) -> Iterator[Systemd]:
    with Systemd(twistd, tmp_path) as found:
        yield found


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


TALENTS: dict[str, Any] = {"get": get, "hold": count, "echo": echo}


@pytest.fixture(params=["plain", "tls"])
def pki(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    if request.param == "plain":
        return None
    authority = Authority(tmp_path / "pki")
    authority.server()
    authority.client("laptop", file="client")
    return authority.directory


Start = Callable[..., Restarted]


@pytest.fixture
def start(systemd: Systemd, twistd: Twistds, serve: Serve) -> Start:
    def start(end: str, pki: Path | None = None, **more: Any) -> Restarted:
        return Restarted(end, systemd, twistd, serve(**TALENTS).address, pki, **more)

    return start


ENDS = pytest.mark.parametrize("end", ["server", "client"])


@ENDS
class TestRestart:
    def test_everybody_stays(self, end: str, start: Start, systemd: Systemd, pki: Path | None) -> None:
        """A download, an upload, one who is idle, and one who has ended what he sends, over two restarts."""
        tunnel = start(end, pki)
        with (
            tunnel.visit(b"get %d 7" % SIZE) as download,
            tunnel.visit(b"hold") as upload,
            tunnel.visit(b"echo") as idle,
            tunnel.visit(b"get %d 8" % SIZE) as half,
        ):
            half.shutdown(socket.SHUT_WR)
            idle.sendall(b"before")
            assert idle.recv(100) == b"before"
            tunnel.has_visitors(4)
            digest, got = hashlib.sha256(), 0
            sending = iter(list(pieces(SIZE, 9)))
            for _ in range(2):
                while got % PART < PART // 2 or got < PART // 2:
                    data = download.recv(65536)
                    digest.update(data)
                    got += len(data)
                while got % PART >= PART // 2:
                    data = download.recv(65536)
                    digest.update(data)
                    got += len(data)
                for _ in range(8):
                    upload.sendall(next(sending))
                before = tunnel.restart()
                assert "4 visitors are left for the process that follows" in before.output
                assert "4 visitors of the last process go on" in tunnel.restarted.output
                assert systemd.kept == []
                idle.sendall(b"after")
                assert idle.recv(100) == b"after"
                tunnel.has_visitors(4)
            while data := download.recv(65536):
                digest.update(data)
                got += len(data)
            assert (got, digest.hexdigest()) == expected(SIZE, 7)
            assert read_all(half) == expected(SIZE, 8)
            for piece in sending:
                upload.sendall(piece)
            upload.shutdown(socket.SHUT_WR)
            total, of = expected(SIZE, 9)
            assert read_all(upload)[0] == len(f"{total} {of}")
            idle.shutdown(socket.SHUT_WR)
            assert idle.recv(100) == b""
        tunnel.has_visitors(0)
        tunnel.clean()
