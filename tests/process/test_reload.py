"""Reload and drain with real processes: visitors of what stays the same notice nothing."""

from __future__ import annotations

import hashlib
import http.client
import os
import pwd
import re
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.commands import run_to_end
from tests.process.harness import Process, Twistds, poll, wait_until_closed, wait_until_open
from tests.process.http_load import PAUSE, Load
from tests.process.nginx import Nginx
from tests.process.services import LOOPBACK, Service, Visitor, count, fetch, page, wait_for_page

Serve = Callable[..., Service]

ROOT = Path(__file__).parent.parent.parent
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _sockets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control sockets of this test are where nobody else's are."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path_factory.mktemp("s")))


def rtunnel(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    done = run_to_end("rtunnel", *arguments, cwd=ROOT, env={"LC_ALL": "C.UTF-8"})
    return done.returncode, done.stdout, done.stderr


class Ends:
    """A server and a client with files, and the file of each.

    :param start: starts the server, if ``twistd`` is not to do so.
    :param start_client: the same for the client.
    :param server: settings of the server.
    :ivar public: a tunnel that stays.
    """

    def __init__(
        self,
        twistd: Twistds,
        local: str,
        start: Callable[..., Process] | None = None,
        start_client: Callable[..., Process] | None = None,
        **server: Any,
    ) -> None:
        self.control, self.public, self.other = free_port(), free_port(), free_port()
        self._directory = twistd.directory
        self.settings: dict[str, dict[str, Any]] = {
            "server": {
                "control_listen": f"{LOOPBACK}:{self.control}",
                "public_interface": LOOPBACK,
                "allow_ports": f"{self.public},{self.other}",
                **server,
            },
            "client": {
                "server": f"{LOOPBACK}:{self.control}",
                "tunnels": [{"local": local, "remote_port": self.public}],
            },
        }
        for end in self.settings:
            self.write(end)
        self.server: Process = (start or twistd)("rtunnel-server", "--config", "server.yaml")
        self.server.wait_for("control port listening")
        self.client: Process = (start_client or twistd)("rtunnel-client", "--config", "client.yaml")
        self.client.wait_for(rf":{self.public} is published; ")

    def write(self, end: str, **changes: Any) -> None:
        """Write the file of an end. None: the key goes."""
        settings = {**self.settings[end], **changes}
        self.settings[end] = {key: value for key, value in settings.items() if value is not None}
        part = self._directory / f"{end}.part"
        part.write_text(yaml.safe_dump(self.settings[end]))
        part.replace(self._directory / f"{end}.yaml")

    def publish(self, *tunnels: dict[str, Any], new: int) -> None:
        """Let the client have these tunnels, and wait until the server has those of them that it did not have so.

        :param new: how many those are.
        """
        after = len(self.client.output)
        self.write("client", tunnels=list(tunnels))
        assert rtunnel("reload", str(self.client.pid))[0] == 0
        for _ in range(new):
            after = self.client.wait_for(r" is published[; ]", after=after).end()


@pytest.fixture
def ends(twistd: Twistds, serve: Serve) -> Ends:
    return Ends(twistd, serve(GET=page("here")).address)


class TestReload:
    def test_it_says_what_has_changed(self, ends: Ends) -> None:
        ends.write("server", max_links=7, http_listen=f"{LOOPBACK}:{ends.other}", log_format="json")
        code, out, err = rtunnel("reload", str(ends.server.pid))
        assert (code, err) == (0, "")
        assert sorted(out.splitlines()) == [
            f"http-listen none -> {LOOPBACK}:{ends.other}",
            "max-links 4096 -> 7",
            "these settings changed and need a restart: log-format",
        ]
        wait_until_open(ends.other)
        assert rtunnel("reload", str(ends.server.pid))[1].endswith("need a restart: log-format\n")
        ends.write("server", log_format=None, http_listen=None)
        assert rtunnel("reload", str(ends.server.pid))[1] == f"http-listen {LOOPBACK}:{ends.other} -> none\n"
        wait_until_closed(ends.other)
        assert rtunnel("reload", str(ends.server.pid))[:2] == (0, "nothing has changed\n")
        assert fetch(ends.public) == "here"

    def test_a_bad_file(self, ends: Ends, twistd: Twistds) -> None:
        ends.write("server", max_links="many")
        code, out, err = rtunnel("reload", str(ends.server.pid))
        assert (code, out) == (1, "")
        assert re.match("rtunnel reload: server.yaml: line [0-9]+: key 'max_links': 'many' is not", err)
        assert err.count("\n") == 1
        ends.server.wait_for(
            "settings are not reloaded, and all stays as it is: server.yaml: line [0-9]+: key 'max_links': "
        )
        (twistd.directory / "server.yaml").write_text("max_links: 7\nhold 3\n")
        assert "server.yaml: line 2: has no ': ' after the key" in rtunnel("reload", str(ends.server.pid))[2]
        assert fetch(ends.public) == "here"

    def test_an_address_that_is_in_use(self, ends: Ends) -> None:
        ends.write("server", http_listen=f"{LOOPBACK}:{ends.public}", max_links=7)
        code, out, err = rtunnel("reload", str(ends.server.pid))
        assert (code, out) == (1, "max-links 4096 -> 7\n")
        assert err.startswith(f"rtunnel reload: not changed: http-listen: cannot listen on {LOOPBACK}:{ends.public}")
        assert fetch(ends.public) == "here"

    def test_by_a_signal(self, ends: Ends) -> None:
        ends.write("server", max_links=7)
        os.kill(ends.server.pid, signal.SIGHUP)
        ends.server.wait_for(r"reloaded: max-links 4096 -> 7")

    def test_tunnels_of_a_client_come_and_go(self, ends: Ends) -> None:
        [tunnel] = ends.settings["client"]["tunnels"]
        with Visitor(ends.public) as visitor:
            ends.write("client", tunnels=[tunnel, {**tunnel, "remote_port": ends.other}])
            assert rtunnel("reload", str(ends.client.pid))[:2] == (0, f"tunnel tcp:{ends.other} added\n")
            wait_for_page(ends.other, "here", PATIENCE)
            ends.write("client", tunnels=[tunnel])
            assert rtunnel("reload", str(ends.client.pid))[:2] == (0, f"tunnel tcp:{ends.other} removed\n")
            wait_until_closed(ends.other)
            visitor.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert visitor.recv(12) == b"HTTP/1.1 200"

    def test_to_another_address_of_the_server(self, ends: Ends) -> None:
        """First the server moves, and then the client follows."""
        control = f"{LOOPBACK}:{free_port()}"
        ends.write("server", control_listen=control)
        assert rtunnel("reload", str(ends.server.pid))[0] == 0
        assert fetch(ends.public) == "here"
        ends.write("client", server=control)
        assert rtunnel("reload", str(ends.client.pid))[0] == 0
        ends.client.wait_for(rf"link to server {LOOPBACK}:{ends.control} lost: the settings lead elsewhere now")
        wait_for_page(ends.public, "here", PATIENCE)
        assert rtunnel("status", str(ends.client.pid))[0] == 0


class Download:
    """A file of 200 MB, read slowly enough to last for the whole test, and its SHA-256."""

    SIZE = 200 * MIB

    def __init__(self, port: int) -> None:
        self._connection = Visitor(port, b"GET /large HTTP/1.0\r\n\r")
        self.digest = hashlib.sha256()
        self.read = 0
        self.until = 0
        self._go_on = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def let(self, share: float) -> None:
        """Let it come to this share of the file."""
        with self._go_on:
            self.until = int(share * self.SIZE)
            self._go_on.notify_all()
        poll(lambda: self.read >= self.until or not self._thread.is_alive(), PATIENCE, "a part of the file")

    def _read(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._connection.recv(1)
        with self._connection:
            while data := self._connection.recv(256 * 1024):
                self.digest.update(data)
                self.read += len(data)
                with self._go_on:
                    self._go_on.wait_for(lambda: self.read < self.until or self.until == self.SIZE, PATIENCE)

    def end(self) -> None:
        self.let(1.0)
        self._thread.join(PATIENCE)
        assert self.read == self.SIZE


RELOADS = 20


def test_visitors_notice_nothing(twistd: Twistds, nginx: Nginx, tmp_path: Path) -> None:
    """While other tunnels, limits and ports of both ends change again and again."""
    content = os.urandom(MIB) * 200
    nginx.put("large", content)
    nginx.put("index.html", b"here")
    ends = Ends(twistd, nginx.address, http_listen=f"{LOOPBACK}:{free_port()}")
    [tunnel] = ends.settings["client"]["tunnels"]
    places = [f"{LOOPBACK}:{free_port()}" for _ in range(4)]
    download = Download(ends.public)
    with Load(ends.public, 4, pause=PAUSE) as kept, Load(ends.public, 4, keeps=False, pause=PAUSE) as each_new:
        for number in range(RELOADS):
            download.let((number + 1) / (RELOADS + 1))
            odd = number % 2
            ends.write(
                "server",
                max_links=100 + number,
                max_streams=1000 + number,
                hold=number,
                visitor_idle=60 * odd,
                log_level="debug" if odd else "info",
                status_listen=places[odd],
                http_listen=places[2 + odd] if number % 3 else None,
                control_listen=f"{LOOPBACK if odd else '0.0.0.0'}:{ends.control}",
                valid_tokens=None,
            )
            also = [] if odd else [{**tunnel, "remote_port": ends.other}]
            ends.write(
                "client", tunnels=[tunnel, *also], dial_timeout=5 + number, token="a-secret-word" if odd else None
            )
            for process in (ends.server, ends.client):
                code, out, err = rtunnel("reload", str(process.pid))
                assert (code, err) == (0, ""), out
                assert "restart" not in out
            for load in (kept, each_new):
                load.wait_for(20)
    download.end()
    assert download.digest.hexdigest() == hashlib.sha256(content).hexdigest()
    assert set(kept.answers) == set(each_new.answers) == {200}
    for process in (ends.server, ends.client):
        assert "lost" not in process.output
    for process in (ends.client, ends.server):
        assert process.terminate() == 0
        assert "Traceback" not in process.output


def ready(port: int) -> int:
    """The status of ``/readyz``."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PATIENCE)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def draining(twistd: Twistds, serve: Serve) -> Ends:
    """Ends that give visitors a second after SIGTERM."""
    service = serve(hold=count, GET=page("here"))
    return Ends(twistd, service.address, drain=1, status_listen=f"{LOOPBACK}:{free_port()}")


def has_visitor(process: Process) -> bool:
    return "visitors 1" in rtunnel("status", str(process.pid))[1]


def visitor_of(ends: Ends) -> Visitor:
    """One who stays, and whom both ends know."""
    visitor = Visitor(ends.public, b"hold")
    for process in (ends.server, ends.client):
        poll(partial(has_visitor, process), PATIENCE, "a visitor")
    return visitor


class TestDrain:
    def test_load_balancers_are_told_first(self, draining: Ends) -> None:
        status = int(draining.settings["server"]["status_listen"].rpartition(":")[2])
        assert ready(status) == 200
        code, out, _ = rtunnel("drain", str(draining.server.pid))
        assert (code, out) == (0, "draining; the process ends when its visitors have finished; visitors now: 0\n")
        assert ready(status) == 503
        # Whoever has not noticed yet is served.
        assert fetch(draining.public) == "here"
        assert rtunnel("reload", str(draining.server.pid))[2] == "rtunnel reload: the process is about to end\n"
        assert rtunnel("drain", str(draining.server.pid))[1].startswith("it drains already")
        assert draining.server.wait() == 0

    @pytest.mark.parametrize("end", ["server", "client"])
    def test_it_ends_when_the_last_visitor_has_gone(self, draining: Ends, end: str) -> None:
        process = draining.server if end == "server" else draining.client
        with visitor_of(draining) as visitor:
            assert "visitors now: 1" in rtunnel("drain", str(process.pid))[1]
            process.wait_for("waiting for 1 visitors")
            wait_until_closed(draining.public)
            # Longer than the setting drain.
            with pytest.raises(AssertionError, match="still running"):
                process.wait(2.0)
            visitor.sendall(b"more")
        assert process.wait() == 0
        assert "cut off" not in process.output

    def test_not_longer_than_it_is_told(self, draining: Ends) -> None:
        with visitor_of(draining):
            assert rtunnel("drain", str(draining.server.pid), "--within", "0.5")[0] == 0
            assert draining.server.wait() == 0
        assert "waiting up to 0.5 s for 1 visitors" in draining.server.output
        assert "1 visitors did not finish in time and are cut off" in draining.server.output

    @pytest.mark.parametrize("at", ["draining: /readyz says so", "waiting for 1 visitors"])
    def test_sigterm_gives_visitors_the_time_of_the_setting(self, draining: Ends, at: str) -> None:
        with visitor_of(draining):
            assert rtunnel("drain", str(draining.server.pid))[0] == 0
            draining.server.wait_for(at)
            assert draining.server.terminate() == 0
        assert "1 visitors did not finish in time and are cut off" in draining.server.output

    def test_a_signal_ends_the_notice(self, twistd: Twistds) -> None:
        signaling = twistd("rtc-signal", "--addr", f"{LOOPBACK}:0", "--status-listen", f"{LOOPBACK}:0")
        signaling.wait_for("signaling port listening")
        assert rtunnel("drain", str(signaling.pid))[0] == 0
        assert signaling.terminate() == 0
        assert "Traceback" not in signaling.output

    def test_who_has_no_visitors_ends_at_once(self, twistd: Twistds) -> None:
        signaling = twistd("rtc-signal", "--addr", f"{LOOPBACK}:0")
        signaling.wait_for("signaling port listening")
        code, out, _ = rtunnel("drain", str(signaling.pid))
        assert (code, out) == (0, "draining; the process ends when its visitors have finished\n")
        assert signaling.wait() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up privileges")
def test_after_privileges_are_given_up(twistd: Twistds) -> None:
    """The process cannot read what root could read at its start."""
    config = twistd.directory / "server.yaml"
    twistd.directory.chmod(0o711)
    config.write_text(f"control_listen: {LOOPBACK}:0\n")
    config.chmod(0o600)
    user = pwd.getpwnam("nobody")
    options = ("-n", "--pidfile=", f"--uid={user.pw_uid}", f"--gid={user.pw_gid}")
    server = twistd("rtunnel-server", "--config", "server.yaml", twistd_options=options)
    server.wait_for("control port listening")
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for(
        "not reloaded, and all stays as it is: server.yaml: cannot be read: Permission denied; let the user that runs"
    )
    config.chmod(0o640)
    os.chown(config, 0, user.pw_gid)
    config.write_text(f"control_listen: {LOOPBACK}:0\nmax_links: 7\n")
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for("reloaded: max-links 4096 -> 7")
    assert server.terminate() == 0
