"""``systemctl restart`` under visitors: their sockets wait with systemd, and the next process goes on with them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistds, poll
from tests.process.services import LOOPBACK, Service, Visitor, count, expected, get, pieces, read_all, read_bytes
from tests.process.stored import Restarted, files_of, state_in, write
from tests.process.systemd import Systemd
from tests.tls.parts import Authority

Serve = Callable[..., Service]

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")

SIZE = 30_000_000
PART = 5_000_000


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of this test are where nobody else's are."""


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


TALENTS: dict[str, Any] = {"get": get, "hold": count, "echo": echo}


def finishes_first(process: Process, visitor: socket.socket) -> None:
    """Stop a process, which serves a visitor who cannot be kept to his end."""
    process.send_signal(signal.SIGTERM)
    process.wait_for("waiting up to 10 s for 1 visitors")
    visitor.sendall(b"more")
    assert visitor.recv(100) == b"more"
    visitor.shutdown(socket.SHUT_WR)
    assert visitor.recv(100) == b""
    assert process.wait() == 0


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
                until = got + PART
                while got < until:
                    data = download.recv(65536)
                    digest.update(data)
                    got += len(data)
                for _ in range(8):
                    upload.sendall(next(sending))
                before = tunnel.restart()
                before.wait_for("4 visitors are left for the process that follows")
                tunnel.restarted.wait_for("4 visitors of the last process go on")
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
            answer = b""
            while data := upload.recv(100):
                answer += data
            assert answer == b"%d %s" % (SIZE, expected(SIZE, 9)[1].encode())
            idle.shutdown(socket.SHUT_WR)
            assert idle.recv(100) == b""
        tunnel.has_visitors(0)
        tunnel.clean()

    def test_the_other_end_is_not_back_in_time(self, end: str, start: Start) -> None:
        both = ["--keepalive-interval=0.5", "--dead-after=2"]
        tunnel = start(end, server=both, client=both)
        other = "client" if end == "server" else "server"
        with tunnel.visit(b"echo") as visitor:
            tunnel.has_visitors(1)
            tunnel.processes[other].kill()
            tunnel.restart()
            with pytest.raises(ConnectionError):
                visitor.recv(1)

    @pytest.mark.parametrize("size", [1_000_000, 7_000_000, 12_000_000, 17_000_000, 20_000_000, 25_000_000])
    def test_last_bytes(self, end: str, size: int, start: Start) -> None:
        """Of a stream that is over for some of those on its way, behind a visitor who reads later."""
        tunnel = start(end)
        with tunnel.visit(b"get %d 7" % size) as visitor:
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(1, socket.MSG_PEEK)
            tunnel.restart()
            assert read_all(visitor) == expected(size, 7)
        tunnel.clean()

    def test_a_visitor_on_the_link_finishes_first(self, end: str, start: Start, systemd: Systemd) -> None:
        tunnel = start(end, server=["--data-plane=mux"], client=["--data-plane=auto"])
        with tunnel.visit(b"echo") as first:
            tunnel.has_visitors(1)
            finishes_first(tunnel.restarted, first)
        systemd.settle()
        assert files_of(systemd, "rt") == []


class TestServer:
    @pytest.fixture
    def tunnel(self, start: Start) -> Restarted:
        return start("server")

    def test_new_visitors_wait(self, tunnel: Restarted) -> None:
        """They are served by the process that follows, beside those who were there."""
        with tunnel.visit(b"echo") as visitor:
            tunnel.has_visitors(1)
            tunnel.stop()
            with tunnel.visit(b"echo") as new:
                new.sendall(b"new")
                tunnel.start("server")
                assert new.recv(100) == b"new"
                visitor.sendall(b"old")
                assert visitor.recv(100) == b"old"
        tunnel.clean()

    def test_others_finish_first(self, start: Start, systemd: Systemd, twistd: Twistds, serve: Serve) -> None:
        """Meanwhile, those who stay are served, too."""
        tunnel = start("server", server=["--data-plane=auto"])
        port, local = free_port(), serve(**TALENTS).address
        options = [f"--server={LOOPBACK}:{tunnel.control}", f"--local={local}", f"--remote-port={port}"]
        twistd("rtunnel-client", "--data-plane=mux", *options).wait_for("is published")
        with tunnel.visit(b"echo") as kept, Visitor(port, b"echo") as other:
            tunnel.has_visitors(2, "server")
            tunnel.server.send_signal(signal.SIGTERM)
            tunnel.server.wait_for("waiting up to 10 s for 1 visitors")
            for visitor in (kept, other):
                visitor.sendall(b"more")
                assert visitor.recv(100) == b"more"
            assert "for the process that follows" not in tunnel.server.output
            other.shutdown(socket.SHUT_WR)
            assert other.recv(100) == b""
            assert tunnel.server.wait() == 0
            tunnel.server.wait_for("1 visitors are left for the process that follows")
            tunnel.start("server")
            kept.sendall(b"still")
            assert kept.recv(100) == b"still"
        tunnel.clean()

    def test_one_who_is_measured_finishes(self, start: Start, tmp_path: Path) -> None:
        authority = Authority(tmp_path / "pki")
        authority.server()
        authority.client("laptop", file="client")
        rights = tmp_path / "clients.yaml"
        rights.write_text("laptop: {ports: 1-65535, bandwidth: 1Gbit}")
        tunnel = start("server", authority.directory, server=[f"--clients={rights}"])
        with tunnel.visit(b"echo") as visitor:
            tunnel.has_visitors(1)
            finishes_first(tunnel.server, visitor)
        tunnel.clean()

    def test_no_store(self, tunnel: Restarted, systemd: Systemd) -> None:
        """Visitors have the time of the setting, as without systemd."""
        systemd.most = 0
        with tunnel.visit(b"hold") as visitor:
            tunnel.has_visitors(1)
            tunnel.server.send_signal(signal.SIGTERM)
            tunnel.server.wait_for("waiting up to 10 s for 1 visitors")
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100).startswith(b"0 ")
        assert tunnel.server.wait() == 0

    def test_the_store_takes_some_only(self, tunnel: Restarted, systemd: Systemd) -> None:
        """Who is not taken is cut off, on both ways, and nothing else is lost."""
        with tunnel.visit(b"echo") as first, tunnel.visit(b"echo") as second:
            tunnel.has_visitors(2)
            # The sockets that listen and their file, the file of visitors, two sockets of one, and one of the other.
            systemd.most = 4 + 1 + 2 + 1
            tunnel.restart()
            ends = []
            for visitor in (first, second):
                try:
                    visitor.sendall(b"still")
                    ends.append(visitor.recv(100))
                except ConnectionError:
                    ends.append(b"")
            assert sorted(ends) == [b"", b"still"]
        tunnel.server.wait_for(r"1 visitors of the last process go on")
        tunnel.server.wait_for(r"some \(1\) cannot be used, and are closed: a socket is missing")
        tunnel.has_visitors(0)

    def test_a_limit_that_systemd_tells(self, start: Start, systemd: Systemd) -> None:
        """Who finds no room there has the time of the setting to finish."""
        systemd.env["FDSTORE"] = "8"
        tunnel = start("server")
        with tunnel.visit(b"echo") as first, tunnel.visit(b"echo") as second:
            tunnel.has_visitors(2)
            tunnel.server.send_signal(signal.SIGTERM)
            tunnel.server.wait_for("1 visitors are left for the process that follows")
            found = []
            for visitor in (first, second):
                visitor.sendall(b"still")
                visitor.settimeout(0.2)
                try:
                    found.append(visitor.recv(100) == b"still")
                except TimeoutError:
                    found.append(False)
                visitor.settimeout(PATIENCE)
            assert sorted(found) == [False, True]
            served, kept = (first, second) if found[0] else (second, first)
            served.shutdown(socket.SHUT_WR)
            assert served.recv(100) == b""
            assert tunnel.server.wait() == 0
            tunnel.start("server")
            assert kept.recv(100) == b"still"
        tunnel.clean()

    def test_not_started_again(self, tunnel: Restarted, systemd: Systemd) -> None:
        """``systemctl stop``: systemd closes what it keeps. A part is not taken for the whole."""
        with tunnel.visit(b"get %d 7" % SIZE) as visitor:
            tunnel.has_visitors(1)
            tunnel.stop()
            systemd.drop()
            with pytest.raises(ConnectionError):
                read_bytes(visitor, SIZE)

    def test_a_client_that_may_not_stay(self, start: Start, tmp_path: Path) -> None:
        """Its certificate is revoked while no process is there."""
        authority = Authority(tmp_path / "pki")
        authority.server()
        laptop = authority.client("laptop", file="client")
        tunnel = start("server", authority.directory)
        with tunnel.visit(b"echo") as visitor:
            tunnel.has_visitors(1)
            tunnel.stop()
            authority.revoke(laptop)
            tunnel.start("server")
            with pytest.raises(ConnectionError):
                visitor.recv(1)

    def test_states_are_read_once(self, tunnel: Restarted, systemd: Systemd) -> None:
        """Even if systemd gives them to two processes: a counter must not be used twice with the same key."""
        with tunnel.visit(b"echo") as visitor:
            tunnel.has_visitors(1)
            tunnel.stop()
            [number] = files_of(systemd, "rt")
            assert state_in(number)["state"]["peers"]
            again = os.dup(number)
            tunnel.start("server")
            assert os.fstat(again).st_size == 0
            os.close(again)
            visitor.sendall(b"still")
            assert visitor.recv(100) == b"still"

    def test_the_access_log(self, start: Start, tmp_path: Path) -> None:
        """A visitor has one line, at his end, with all that has passed."""
        log = tmp_path / "access.log"
        tunnel = start("server", server=[f"--access-log={log}"])
        with tunnel.visit(b"echo") as visitor:
            for text in (b"before", b"behind"):
                visitor.sendall(text)
                assert visitor.recv(100) == text
                if text == b"before":
                    tunnel.has_visitors(1)
                    tunnel.restart()
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100) == b""
        [line] = poll(lambda: log.read_text().splitlines(), PATIENCE, "a line")
        found = json.loads(line)
        assert (found["from_visitor"], found["to_visitor"]) == (len("echo\nbeforebehind"), len("beforebehind"))
        assert (found["carrier"], found["reason"]) == ("connection", "done")

    @pytest.mark.parametrize("left", [b"", b"[]", b"{", b'{"version": 2}', b"[" * 100_000, b"9" * 5000])
    def test_another_version_or_garbage(self, tunnel: Restarted, systemd: Systemd, left: bytes) -> None:
        """These visitors end. Nothing else is lost."""
        with tunnel.visit(b"echo") as visitor:
            tunnel.has_visitors(1)
            tunnel.stop()
            [number] = files_of(systemd, "rt")
            write(number, left)
            tunnel.start("server")
            with pytest.raises(ConnectionError):
                visitor.recv(1)
        tunnel.server.wait_for("the visitors whom systemd has kept cannot go on, and are closed: ")
        with tunnel.visit(b"echo") as new:
            new.sendall(b"new")
            assert new.recv(100) == b"new"
        assert "Traceback" not in tunnel.server.output


class TestClient:
    def test_new_visitors_wait(self, start: Start) -> None:
        """The server has heard that the client comes back."""
        tunnel = start("client")
        with tunnel.visit(b"echo") as visitor:
            tunnel.has_visitors(1)
            tunnel.stop()
            tunnel.server.wait_for(r"gone; visitors wait 10 s for it")
            with tunnel.visit(b"echo") as new:
                new.sendall(b"new")
                tunnel.start("client")
                assert new.recv(100) == b"new"
                visitor.sendall(b"old")
                assert visitor.recv(100) == b"old"
        tunnel.clean()

    def test_no_visitors(self, start: Start) -> None:
        """It leaves in good order, and its port is free at once."""
        tunnel = start("client")
        tunnel.stop()
        tunnel.server.wait_for("gone$|withdrawn")
        assert "visitors wait" not in tunnel.server.output

    def test_a_server_that_may_not_stay(self, start: Start, tmp_path: Path) -> None:
        authority = Authority(tmp_path / "pki")
        server = authority.server()
        authority.client("laptop", file="client")
        tunnel = start("client", authority.directory)
        with tunnel.visit(b"echo") as visitor:
            tunnel.has_visitors(1)
            tunnel.stop()
            authority.revoke(server)
            tunnel.start("client")
            with pytest.raises(ConnectionError):
                visitor.recv(1)
