"""Visitors who wait for a client that is away, while the server is upgraded, or started again by systemd."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Twistds, poll
from tests.process.services import Background, Service, Visitor, read_line
from tests.process.stored import Restarted, files_of
from tests.process.systemd import Systemd
from tests.process.test_held import APP, PLANES, Place, authority, start_place  # noqa: F401
from tests.process.test_reload import rtunnel
from tests.process.upgrades import Newer, Successors, ended

Serve = Callable[..., Service]
StartPlace = Callable[..., Place]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs UNIX sockets")


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of this test are where nobody else's are."""


def has_visitors(pid: int, number: int) -> None:
    poll(lambda: f"visitors {number}" in rtunnel("status", str(pid))[1], PATIENCE, "visitors")


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


@PLANES
def test_an_upgrade(start_place: StartPlace, successors: Successors, plane: str) -> None:  # noqa: F811
    """Of a port, with what they have said, and of a name, whose hello was read; over two upgrades."""
    place = start_place(plane)
    place.lose_client()
    with Visitor(place.public, b"GET /page") as visitor, Visitor(place.public) as silent:
        secret = Background(place.by_name)
        has_visitors(place.server.pid, 3)
        new = successors.upgrade(place.server.pid)
        assert ended(place.server) == 0
        has_visitors(new, 3)
        newest = successors.upgrade(new)
        has_visitors(newest, 3)
        place.start_client()
        visitor.sendall(b"\n")
        silent.sendall(b"GET /late\n\n")
        assert visitor.makefile("rb").read().endswith(b"page")
        assert silent.makefile("rb").read().endswith(b"late")
        assert secret.join() == b"page"
    assert "Traceback" not in place.server.output


def test_a_new_version_that_cannot(start_place: StartPlace, successors: Successors, newer: Newer) -> None:  # noqa: F811
    """They are reset, as they always were, and the upgrade comes off."""
    place = start_place("auto")
    place.lose_client()
    with Visitor(place.public, b"GET /page") as visitor:
        has_visitors(place.server.pid, 1)
        newer.does("from rtunnel.options.upgrade import waiting\nwaiting.WAITING = 'something else'\n")
        successors.upgrade(place.server.pid)
        with pytest.raises(ConnectionError):
            visitor.recv(1)
        assert ended(place.server) == 0
    newer.is_as_ever()
    place.start_client()
    assert place.by_port() == b"page"


@pytest.mark.parametrize("is_upgrade", [True, False])
def test_requests_stay(start_place: StartPlace, successors: Successors, is_upgrade: bool) -> None:  # noqa: F811
    """In the old process, which cannot serve them any more, and says so."""
    place = start_place("auto")
    place.lose_client()
    with Visitor(place.http, f"GET /page HTTP/1.1\r\nHost: {APP}\r\n\r".encode()) as visitor:
        assert rtunnel("status", str(place.server.pid))[0] == 0  # by then it has read what had come before
        if is_upgrade:
            successors.upgrade(place.server.pid)
        else:
            place.server.send_signal(signal.SIGTERM)
        assert read_line(visitor).startswith(b"HTTP/1.1 503 ")
        assert ended(place.server) == 0


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")
class TestRestart:
    @pytest.fixture
    def tunnel(self, systemd: Systemd, twistd: Twistds, serve: Serve) -> Restarted:
        tunnel = Restarted("server", systemd, twistd, serve(echo=echo).address, server=[f"--hold={PATIENCE}"])
        tunnel.client.kill()
        tunnel.server.wait_for("visitors wait")
        return tunnel

    def test_who_waits_goes_on_waiting(self, tunnel: Restarted, systemd: Systemd) -> None:
        """Over two restarts, of which neither waits for him."""
        with tunnel.visit(b"echo") as visitor:
            tunnel.has_visitors(1, "server")
            for _ in range(2):
                before = tunnel.restart()
                assert "waiting up to" not in before.output
                before.wait_for("1 visitors are left for the process that follows")
                tunnel.server.wait_for("1 visitors of the last process wait on")
                assert systemd.kept == []
            tunnel.start("client")
            visitor.sendall(b"late")
            assert visitor.recv(100) == b"late"
        tunnel.has_visitors(0)
        tunnel.clean()

    def test_not_started_again(self, tunnel: Restarted, systemd: Systemd) -> None:
        with tunnel.visit() as visitor:
            tunnel.has_visitors(1, "server")
            tunnel.stop()
            assert len(files_of(systemd, "rt")) == 1
            systemd.drop()
            with pytest.raises(ConnectionError):
                visitor.recv(1)
