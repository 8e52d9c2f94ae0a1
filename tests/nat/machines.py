"""Four machines on one network, on which the commands of the documents run as they are printed.

    public     tunnel.example.org, signal.example.org, turn.example.org, app.example.org ...: 192.0.2.1
    private    laptop: 192.0.2.10; web servers on ports 80, 3000, 3001 and 4000, an echo service for UDP on port 53
    user       192.0.2.20, which is also proxy.corp.example and redis.example.org
    second     desktop, tunnel2.example.org: 192.0.2.11; with nothing on it

Each is a network namespace with a home directory. Its programs see their own ``/etc/hosts``, ``/etc/group`` and
``/srv``, in which there are files to share, and other folders of their own if the test wants it. ``ssh`` is a script
that runs a command in the home directory and the network of another machine.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.documents import ROOT
from tests.nat.lab import Namespace
from tests.patience import PATIENCE
from tests.process import fork_server
from tests.process.harness import Process, need, poll, twistd_program

ADDRESSES = {"public": "192.0.2.1", "private": "192.0.2.10", "user": "192.0.2.20", "second": "192.0.2.11"}
NAMES = {
    "public": [
        *("tunnel.example.org", "signal.example.org", "turn.example.org", "stun.l.google.com"),
        *("app.example.org", "blog.dev.example.org", "files.example.org"),
    ],
    "private": ["laptop"],
    "user": ["proxy.corp.example", "redis.example.org"],
    "second": ["desktop", "tunnel2.example.org"],
}
PAGE = b"Hello through the tunnel"

SSH = """#!/bin/sh
# ssh HOST COMMAND...: the command in the home directory and the network of that machine.
host=$1
shift
HOME=$(realpath {machines}/$host)
export HOME RTUNNEL_PKI_DIR=$HOME/.config/rtunnel/pki
cd "$HOME" && exec nsenter --net="$(cat .network)" sh -c "$*"
"""


class Page(BaseHTTPRequestHandler):
    """A web server with one page, which says in a header at which port it was asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.send_header("Service", str(self.connection.getsockname()[1]))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


class Command(Process):
    """A command line on a machine. ``rtunnel`` and ``twistd -n`` are forked; a shell runs what is more than that."""

    def __init__(self, line: str, machine: Machine) -> None:
        self._machine = machine
        self._line = line
        super().__init__(["bash", "-ec", line], cwd=machine.home, env=machine.environment)

    def stop(self) -> None:
        """Stop it, as Ctrl-C does; it has to end well. Programs of others may simply die of the signal."""
        ends = (0,) if self._ours else (0, -signal.SIGTERM)
        assert self.terminate() in ends, self

    def _start(
        self, cwd: Path, env: Mapping[str, str], pass_fds: Sequence[int]
    ) -> subprocess.Popen[bytes] | fork_server.Forked:
        machine = self._machine
        words = shlex.split(self._line.replace("\\\n", " "), comments=True)
        settings = {}
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, settings[name] = words.pop(0).partition("=")
        self._ours = words[0] in ("rtunnel", "twistd")
        if not re.search(r"[|<>&;$]", self._line) and (words[0] == "rtunnel" or words[:2] == ["twistd", "-n"]):
            argv = [twistd_program(words[0]), *words[1:]]
            network = machine.network.path
            return fork_server.fork_server().start(argv, cwd, {**env, **settings}, network, machine.files)
        mounts = [f"mount --bind {shown} {path}" for path, shown in machine.files.items()]
        script = " && ".join([*mounts, f"exec bash -ec {shlex.quote(self._line)}"])
        with machine.network.inside():
            return subprocess.Popen(
                [need("unshare"), "--mount", "--propagation", "private", "sh", "-c", script],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )


class Machine:
    """One of the four."""

    def __init__(self, name: str, directory: Path) -> None:
        self.network = Namespace()
        self.home = directory / name
        self.home.mkdir()
        (self.home / ".network").write_text(self.network.path)
        (self.home / ".rtunnel").mkdir()
        (self.home / ".rtunnel" / "bin").symlink_to(Path(sys.executable).parent)
        # What the documents take from a checkout.
        (self.home / "etc").symlink_to(ROOT / "etc")
        self.files = {
            "/etc/hosts": str(directory / "hosts"),
            "/etc/group": str(directory / "group"),
            "/srv": str(directory / "srv"),
        }
        self.environment = {
            "HOME": str(self.home),
            "PATH": os.pathsep.join(
                [str(directory), str(Path(sys.executable).parent), os.environ["PATH"], "/usr/games"]
            ),
            "XDG_STATE_HOME": str(self.home / ".local" / "state"),
            # As for a user who is not root.
            "RTUNNEL_PKI_DIR": str(self.home / ".config" / "rtunnel" / "pki"),
        }
        self._running: list[Command] = []

    def start(self, line: str) -> Command:
        """Start a command."""
        self._running.append(Command(line, self))
        return self._running[-1]

    def wait_for(self, regex: str) -> re.Match[str]:
        """Wait until a command that was started here has said this."""
        return poll(
            lambda: next((found for one in self._running if (found := re.search(regex, one.output))), None),
            PATIENCE,
            regex,
        )

    def stop(self) -> None:
        """Stop what runs."""
        while self._running:
            process = self._running.pop()
            if process.running:
                process.stop()

    def kill(self) -> None:
        """End what still runs, and print what it logged, for the report of a failure."""
        while self._running:
            process = self._running.pop()
            # By SIGTERM first: killed programs leave their own children behind.
            with suppress(AssertionError):
                process.terminate(timeout=15)
            print(process)

    def own(self, folder: str, *inside: str) -> None:
        """Have a folder of its own in the place of one of the system's.

        :param inside: the folders that are in it; without any it is a copy.
        """
        mine = self.home / "root" / folder.lstrip("/")
        if not inside:
            shutil.copytree(folder, mine, symlinks=True)
        for name in inside:
            (mine / name).mkdir(parents=True)
        self.files[folder] = str(mine)

    def path(self, name: str) -> Path:
        """Where a file of this machine is: in the home directory, or in a folder of its own."""
        shown = next((folder for folder in self.files if name.startswith(f"{folder}/")), "")
        return Path(self.files[shown] + name.removeprefix(shown)) if shown else self.home / name

    def fetch(self, host: str, port: int) -> bytes:
        """The page that a visitor on this machine gets."""
        with self.network.inside():
            connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
            connection.connect()
        with closing(connection):
            connection.request("GET", "/")
            return connection.getresponse().read()

    def ask(self, host: str, port: int) -> bytes:
        """What a UDP service answers to this machine."""
        with self.network.inside():
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with asking:
            asking.settimeout(PATIENCE)
            asking.sendto(b"ask", (host, port))
            return asking.recv(100)


class Machines:
    """All four, connected, and the services of the private one."""

    def __init__(self, directory: Path) -> None:
        lines = [f"{ADDRESSES[name]} {' '.join(names)}" for name, names in NAMES.items() if names]
        (directory / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        (directory / "group").write_text("root:x:0:\nrtunnel:x:999:\n")
        (directory / "srv" / "share").mkdir(parents=True)
        (directory / "srv" / "share" / "hello.txt").write_bytes(PAGE)
        (directory / "ssh").write_text(SSH.format(machines=directory))
        (directory / "ssh").chmod(0o755)
        self._switch = Namespace()
        self._switch.ip("link add name inside type bridge", "link set inside up")
        self.by_name = {name: Machine(name, directory) for name in ADDRESSES}
        for name, machine in self.by_name.items():
            self._switch.cable(name, machine.network, "eth0")
            self._switch.ip(f"link set {name} master inside")
            machine.network.ip(f"addr add {ADDRESSES[name]}/24 dev eth0")
            for alias in NAMES[name]:
                (directory / alias).symlink_to(machine.home)
        with self.by_name["private"].network.inside():
            self._webs = [ThreadingHTTPServer(("0.0.0.0", port), Page) for port in (80, 3000, 3001, 4000)]
            self._echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._echo.bind(("127.0.0.1", 53))
        for web in self._webs:
            threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
        self._answering = threading.Thread(target=self._answer, daemon=True)
        self._answering.start()

    def _answer(self) -> None:
        while (received := self._echo.recvfrom(100))[0]:
            self._echo.sendto(b"answer to " + received[0], received[1])

    def close(self) -> None:
        """End everything."""
        for machine in self.by_name.values():
            machine.kill()
        for web in self._webs:
            web.shutdown()
            web.server_close()
        self._echo.sendto(b"", ("127.0.0.1", 53))
        self._answering.join()
        self._echo.close()
        for machine in self.by_name.values():
            machine.network.close()
        self._switch.close()
