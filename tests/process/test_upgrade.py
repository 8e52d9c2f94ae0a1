"""Upgrades with real processes: the installed version takes the place of a running one, and nobody is cut."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, poll, twistd_program, wait_until_closed, wait_until_open
from tests.process.http_load import PAUSE, Load
from tests.process.nginx import Nginx
from tests.process.rtc import UdpService
from tests.process.services import LOOPBACK, Service, Visitor, count, fetch, page, wait_for_page
from tests.process.test_etc import ACTIVATE
from tests.process.test_reload import MIB, Download, Ends, ready, rtunnel
from tests.process.upgrades import Successors, ended

Serve = Callable[..., Service]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs UNIX sockets")


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of this test are where nobody else's are."""


@pytest.fixture
def ends(twistd: Twistds, serve: Serve) -> Ends:
    return Ends(twistd, serve(GET=page("here"), hold=count).address)


class TestServer:
    def test_a_visitor_stays_and_others_come(self, ends: Ends, successors: Successors) -> None:
        with Visitor(ends.public, b"hold") as visitor:
            poll(lambda: "visitors 1" in rtunnel("status", str(ends.server.pid))[1], PATIENCE, "a visitor")
            new = successors.upgrade(ends.server.pid)
            assert fetch(ends.public) == "here"
            visitor.sendall(b"more")
            assert ends.server.running
            found = rtunnel("status", str(ends.server.pid))[1]
            assert f"process {new} has taken its place; this one lets its visitors finish, and ends" in found
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100) == b"4 " + hashlib.sha256(b"more").hexdigest().encode()
        assert ended(ends.server) == 0
        assert "cut off" not in ends.server.output
        assert fetch(ends.public) == "here"

    def test_not_longer_than_it_is_told(self, ends: Ends, successors: Successors) -> None:
        with Visitor(ends.public, b"hold"):
            poll(lambda: "visitors 1" in rtunnel("status", str(ends.server.pid))[1], PATIENCE, "a visitor")
            successors.upgrade(ends.server.pid, "--within", "0.5")
            assert ended(ends.server) == 0
        ends.server.wait_for("1 visitors did not finish in time and are cut off")
        assert fetch(ends.public) == "here"

    def test_sigterm_gives_visitors_the_time_of_the_setting(self, ends: Ends, successors: Successors) -> None:
        ends.write("server", drain=0.5)
        assert rtunnel("reload", str(ends.server.pid))[0] == 0
        with Visitor(ends.public, b"hold"):
            poll(lambda: "visitors 1" in rtunnel("status", str(ends.server.pid))[1], PATIENCE, "a visitor")
            successors.upgrade(ends.server.pid)
            ends.server.send_signal(signal.SIGTERM)
            assert ended(ends.server) == 0
        assert fetch(ends.public) == "here"


class TestClient:
    def test_a_visitor_stays_and_others_come(self, ends: Ends, successors: Successors) -> None:
        with Visitor(ends.public, b"hold") as visitor:
            poll(lambda: "visitors 1" in rtunnel("status", str(ends.client.pid))[1], PATIENCE, "a visitor")
            successors.upgrade(ends.client.pid)
            assert fetch(ends.public) == "here"
            visitor.sendall(b"more")
            assert ends.client.running
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100) == b"4 " + hashlib.sha256(b"more").hexdigest().encode()
        assert ended(ends.client) == 0
        assert "cut off" not in ends.client.output
        assert fetch(ends.public) == "here"


IDLE = 100


def test_nobody_is_cut(twistd: Twistds, nginx: Nginx, serve: Serve, successors: Successors) -> None:
    """While both ends are upgraded, one after the other, and each twice."""
    content = os.urandom(MIB) * 200
    nginx.put("large", content)
    nginx.put("index.html", b"here")
    http, idle = free_port(), serve(hold=count).address
    ends = Ends(twistd, nginx.address, http_listen=f"{LOOPBACK}:{http}")
    [tunnel] = ends.settings["client"]["tunnels"]
    by_name = {"publish": f"http:a.example.org={nginx.address}"}
    ends.publish(tunnel, {"local": idle, "remote_port": ends.other}, by_name, new=2)
    server, client = ends.server.pid, ends.client.pid
    with ExitStack() as visitors:
        resting = [visitors.enter_context(Visitor(ends.other, b"hold")) for _ in range(IDLE)]
        poll(lambda: f"visitors {IDLE}" in rtunnel("status", str(client))[1], PATIENCE, "all visitors")
        download = Download(ends.public)
        loads = [
            Load(ends.public, 4, pause=PAUSE),
            Load(ends.public, 4, keeps=False, pause=PAUSE),
            Load(http, 4, host="a.example.org", pause=PAUSE),
            Load(http, 4, host="a.example.org", keeps=False, pause=PAUSE),
        ]
        for load in loads:
            visitors.enter_context(load)
        for number in range(4):
            download.let((number + 1) / 5)
            for load in loads:
                load.wait_for(50)
            if number % 2:
                client = successors.upgrade(client)
            else:
                server = successors.upgrade(server)
            for load in loads:
                load.wait_for(50)
        download.end()
        assert download.digest.hexdigest() == hashlib.sha256(content).hexdigest()
        for number, visitor in enumerate(resting):
            sent = b"visitor %d" % number
            visitor.sendall(sent)
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100) == b"%d %s" % (len(sent), hashlib.sha256(sent).hexdigest().encode())
    for load in loads:
        assert set(load.answers) == {200}
    for process in (ends.server, ends.client):
        assert ended(process) == 0
        assert "Traceback" not in process.output
        assert "cut off" not in process.output


class TestWhatIsHandedOver:
    def test_what_was_published_meanwhile(self, ends: Ends, successors: Successors) -> None:
        local = ends.settings["client"]["tunnels"][0]["local"]
        assert rtunnel("publish", "--process", str(ends.client.pid), f"tcp:{ends.other}={local}")[0] == 0
        assert rtunnel("unpublish", "--process", str(ends.client.pid), f"tcp:{ends.public}")[0] == 0
        new = successors.upgrade(ends.client.pid)
        assert ended(ends.client) == 0
        assert fetch(ends.other) == "here"
        assert str(ends.public) not in rtunnel("status", str(new))[1]
        # Once more: the successor knows it too.
        successors.upgrade(new)
        wait_for_page(ends.other, "here", PATIENCE)

    def test_datagrams(self, twistd: Twistds, udp_service: UdpService, successors: Successors) -> None:
        ends = Ends(twistd, f"{LOOPBACK}:1")
        ends.publish({"publish": f"udp:{ends.public}={udp_service.address}"}, new=1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as visitor:
            visitor.settimeout(0.2)
            visitor.connect((LOOPBACK, ends.public))
            assert echoes(visitor, b"before")
            successors.upgrade(ends.server.pid)
            poll(lambda: echoes(visitor, b"between"), PATIENCE, "an answer")
            successors.upgrade(ends.client.pid)
            poll(lambda: echoes(visitor, b"after"), PATIENCE, "an answer")
        for process in (ends.server, ends.client):
            assert ended(process) == 0

    def test_a_daemon(self, twistd: Twistds, successors: Successors) -> None:
        control = f"{LOOPBACK}:{free_port()}"
        daemon = twistd.daemon("rtunnel-server", "--control-listen", control)
        daemon.wait_for("control port listening")
        pid_file = twistd.directory / "daemon0" / "twistd.pid"
        new = successors.upgrade(daemon.pid)
        poll(lambda: not daemon.running, PATIENCE, "the end of the old one")
        assert pid_file.read_text() == str(new)
        os.kill(new, signal.SIGTERM)
        poll(lambda: not pid_file.exists(), PATIENCE, "the end of the new one")

    def test_in_the_foreground(self, twistd: Twistds, successors: Successors) -> None:
        server = twistd.rtunnel("server", "--control-listen", f"{LOOPBACK}:0")
        port = int(server.wait_for(rf"control port listening on {LOOPBACK}:(\d+)")[1])
        successors.upgrade(server.pid)
        assert ended(server) == 0
        wait_until_open(port)

    def test_systemd_hears_of_it(self, twistd: Twistds, successors: Successors, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(tmp_path / "n"))
            systemd.settimeout(PATIENCE)
            server = twistd(
                "rtunnel-server", "--control-listen", f"{LOOPBACK}:0", env={"NOTIFY_SOCKET": str(tmp_path / "n")}
            )
            assert systemd.recv(100) == b"READY=1"
            server.wait_for("control port listening")
            new = successors.upgrade(server.pid)
            assert {systemd.recv(100), systemd.recv(100)} == {b"READY=1", b"MAINPID=%d" % new}
            assert ended(server) == 0


class TestListeningSockets:
    def test_all_kinds(self, twistd: Twistds, serve: Serve, successors: Successors) -> None:
        """Each goes on, upgrade after upgrade, also one that is closed now and then."""
        shared, status, https = free_port(), free_port(), free_port()
        ends = Ends(
            twistd,
            serve(GET=page("here")).address,
            public_listen=f"{LOOPBACK}:{shared}",
            status_listen=f"{LOOPBACK}:{status}",
            https_listen=f"{LOOPBACK}:{https}",
        )
        server, client = ends.server.pid, ends.client.pid
        [tunnel] = ends.settings["client"]["tunnels"]
        for tunnels in (
            [tunnel, {**tunnel, "remote_port": 0}],
            [tunnel],
            [tunnel],
            [tunnel, {**tunnel, "remote_port": 0}],
        ):
            is_open = len(tunnels) == 2
            ends.write("client", tunnels=tunnels)
            assert rtunnel("reload", str(client))[0] == 0
            (wait_until_open if is_open else wait_until_closed)(shared)
            server = successors.upgrade(server)
            assert fetch(ends.public) == "here"
            assert ready(status) == 200
            wait_until_open(https)
            if is_open:
                assert fetch(shared) == "here"
            else:
                wait_until_closed(shared)

    def test_of_systemd(self, twistd: Twistds, successors: Successors) -> None:
        with socket.create_server((LOOPBACK, 0)) as listener:
            port, number = listener.getsockname()[1], listener.fileno()
            env = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "RTUNNEL_CONTROL_LISTEN": "systemd:domain=INET:index=0"}
            command = [twistd_program(), "-n", "--pidfile=", "rtunnel-server"]
            argv = [sys.executable, "-c", ACTIVATE, str(number), *command]
            server = twistd.program(*argv, env=env, pass_fds=(number,))
            server.wait_for("control port listening")
        new = successors.upgrade(server.pid)
        new = successors.upgrade(new)
        wait_until_open(port)
        os.kill(new, signal.SIGTERM)
        wait_until_closed(port)

    def test_one_that_cannot_be_handed_over(self, twistd: Twistds, tmp_path: Path) -> None:
        server = twistd("rtunnel-server", "--control-listen", f"unix:{tmp_path / 'c'}")
        server.wait_for("control port listening")
        code, _, err = rtunnel("upgrade", str(server.pid))
        assert code == 1
        text = f"the control port unix:{tmp_path / 'c'} cannot be handed over, as it is not a plain TCP port"
        assert err == f"rtunnel upgrade: {text}\n"

    def test_settings_that_have_changed(self, ends: Ends, successors: Successors) -> None:
        """The new address listens, and nobody waits at the old one."""
        before, after = free_port(), free_port()
        ends.write("server", http_listen=f"{LOOPBACK}:{before}")
        server = successors.upgrade(ends.server.pid)
        wait_until_open(before)
        ends.write("server", http_listen=f"{LOOPBACK}:{after}")
        successors.upgrade(server)
        wait_until_open(after)
        wait_until_closed(before)
        assert fetch(ends.public) == "here"


def echoes(visitor: socket.socket, data: bytes) -> bool:
    try:
        visitor.send(data)
        return visitor.recv(100) == data[::-1]
    except OSError:
        return False
