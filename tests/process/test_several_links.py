"""A client with two servers, as processes: what happens when one of them is gone, and when the settings change."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.commands import run_rtunnel
from tests.process.doctor import Report
from tests.process.harness import Process, Twistds, poll
from tests.process.services import Service, Visitor, count, page
from tests.process.upgrades import Successors, ended

Serve = Callable[..., Service]

HOSTS = "127.0.0.1", "127.0.0.2"


@pytest.fixture(autouse=True)
def _sockets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control sockets of this test are where nobody else's are."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path_factory.mktemp("s")))


class Ends:
    """Two servers at two addresses, with the same ports, and a client of both."""

    def __init__(self, twistd: Twistds, local: str) -> None:
        self._twistd = twistd
        self.control, self.public = free_port(), free_port()
        self.servers = [self.start_server(host) for host in HOSTS]
        self.settings: dict[str, Any] = {
            "server": [f"{host}:{self.control}" for host in HOSTS],
            "tunnels": [{"local": local, "remote_port": self.public}],
        }

    def start_server(self, host: str) -> Process:
        server = self._twistd(
            "rtunnel-server", f"--control-listen={host}:{self.control}", f"--public-interface={host}", "--drain=0"
        )
        server.wait_for("control port listening")
        return server

    def write(self, **changes: Any) -> None:
        self.settings |= changes
        (self._twistd.directory / "client.yaml").write_text(yaml.safe_dump(self.settings))

    def start_client(self, **changes: Any) -> Process:
        self.write(**changes)
        self.client = self._twistd("rtunnel-client", "--config", "client.yaml")
        return self.client

    def published(self, host: str, after: int = 0) -> None:
        self.client.wait_for(rf"{re.escape(host)}:{self.public} is published; ", after=after)

    def ask(self, host: str) -> str:
        """What a visitor at this address gets, at once."""
        with Visitor(self.public, b"GET / HTTP/1.0\r\n\r", host=host) as visitor:
            return visitor.makefile().read().partition("\n\n")[2]

    def up(self) -> list[bool]:
        """Which links are up."""
        code, out, _ = run_rtunnel("status", "--json")
        assert code in (0, 1)
        [found] = [each for each in json.loads(out) if each["service"] == "rtunnel-client"]
        return [link["connected_seconds"] is not None for link in found["links"]]


@pytest.fixture
def ends(twistd: Twistds, serve: Serve) -> Ends:
    return Ends(twistd, serve(GET=page("here"), count=count).address)


def test_one_server_dies_and_comes_back(ends: Ends) -> None:
    client = ends.start_client(links=2)
    for host in HOSTS:
        ends.published(host)
        assert ends.ask(host) == "here"
    assert ends.up() == [True, True]
    with Visitor(ends.public, b"count", host=HOSTS[1]) as stays:
        stays.sendall(b"some")
        seen = len(client.output)
        ends.servers[0].kill()
        # No wait, and no error: nothing at the other server has to be noticed first.
        assert ends.ask(HOSTS[1]) == "here"
        client.wait_for(r"link to server 127\.0\.0\.1:\d+ lost", after=seen)
        poll(lambda: ends.up() == [False, True], PATIENCE, "one link is down")
        ends.servers[0] = ends.start_server(HOSTS[0])
        ends.published(HOSTS[0], after=seen)
        assert ends.ask(HOSTS[0]) == "here"
        assert f"{HOSTS[1]}:{ends.control} lost" not in client.output
        stays.sendall(b" more")
        stays.shutdown(socket.SHUT_WR)
        assert stays.recv(100) == b"9 " + hashlib.sha256(b"some more").hexdigest().encode()
    assert client.terminate() == 0
    assert "Traceback" not in client.output


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_one_link_goes_to_the_next_server(ends: Ends, how: str) -> None:
    client = ends.start_client()
    ends.published(HOSTS[0])
    if how == "killed":
        ends.servers[0].kill()
    else:
        ends.servers[0].terminate()
    ends.published(HOSTS[1])
    assert ends.ask(HOSTS[1]) == "here"
    waits = [float(wait) for wait in re.findall(r"next attempt in ([\d.]+) s", client.output)]
    assert len(waits) <= 1
    assert all(wait <= 1.4 for wait in waits), "the first one of the back-off, of a link that was young"
    assert client.terminate() == 0


def test_a_server_more_touches_nobody(ends: Ends) -> None:
    both = ends.settings["server"]
    client = ends.start_client(server=both[0])
    ends.published(HOSTS[0])
    with Visitor(ends.public, b"count", host=HOSTS[0]) as stays:
        stays.sendall(b"some")
        ends.write(server=both, links=2)
        client.send_signal(signal.SIGHUP)
        ends.published(HOSTS[1])
        assert ends.ask(HOSTS[1]) == "here"
        stays.sendall(b" more")
        # And one less.
        seen = len(client.output)
        ends.write(server=both[:1], links=1)
        client.send_signal(signal.SIGHUP)
        client.wait_for("reloaded", after=seen)
        stays.sendall(b" and more")
        stays.shutdown(socket.SHUT_WR)
        assert stays.recv(100) == b"18 " + hashlib.sha256(b"some more and more").hexdigest().encode()
    poll(lambda: ends.up() == [True], PATIENCE, "one link")
    assert " lost" not in client.output


def test_successor_takes_each_link_over(ends: Ends, successors: Successors) -> None:
    client = ends.start_client(links=2)
    for host in HOSTS:
        ends.published(host)
    visitors = [Visitor(ends.public, b"count", host=host) for host in HOSTS]
    for visitor in visitors:
        visitor.sendall(b"some")
    for host in HOSTS:
        assert ends.ask(host) == "here"
    successors.upgrade(client.pid)
    for host in HOSTS:
        assert ends.ask(host) == "here"
    for server in ends.servers:
        server.wait_for("the same client came back")
    for visitor in visitors:
        with visitor:
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100) == b"4 " + hashlib.sha256(b"some").hexdigest().encode()
    assert ended(client) == 0


def test_doctor_examines_the_way_to_each(ends: Ends) -> None:
    ends.start_client(links=2)
    for host in HOSTS:
        ends.published(host)
    report = Report("--config", str(ends._twistd.directory / "client.yaml"))
    assert report.code == 0, report.found
    one, other = (f"{host}:{ends.control}" for host in HOSTS)
    assert report.status(f"server {one}") == report.status(f"server {other}") == "ok"
    assert f"published at {HOSTS[0]}:{ends.public}" in report.text(f"tunnel {one}")
    assert f"published at {HOSTS[1]}:{ends.public}" in report.text(f"tunnel {other}")
    ends.servers[1].kill()
    report = Report("--config", str(ends._twistd.directory / "client.yaml"))
    assert report.code == 1
    assert report.failed() == [f"port {other}"]
