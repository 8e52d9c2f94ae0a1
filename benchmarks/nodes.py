"""A cluster on this machine: a Redis, servers at addresses of loopback of their own, and crowds of light ends."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.costs import cpu_seconds, resident
from benchmarks.parts import HOST, START, Failed, Program, find, free_ports, running, twistd, wait_for

#: Where the nodes listen.
HOSTS = (HOST, "127.0.0.2", "127.0.0.3")
#: How many of a crowd are in one process.
OF_ONE_PROCESS = 5000
#: Seconds that a crowd has to come.
ARRIVAL = 300.0


class Redis:
    """A ``redis-server`` that keeps nothing on the disk.

    :ivar url: the value of ``--cluster``.
    """

    def __init__(self, directory: Path, program: Program) -> None:
        self._socket = directory / "redis.sock"
        self.program = program
        self.url = f"redis+unix://{self._socket}"

    def info(self) -> dict[str, str]:
        """Return what it says about itself.

        :raises Failed: it does not answer.
        """
        argv = [find("redis-cli"), "-s", str(self._socket), "INFO"]
        answer = subprocess.run(argv, capture_output=True, text=True, timeout=START, check=False).stdout
        if "used_memory" not in answer:
            raise Failed(f"redis-server does not answer: {answer}")
        return dict(line.split(":", 1) for line in answer.splitlines() if ":" in line)

    @property
    def memory(self) -> int:
        """What its data takes, in bytes."""
        return int(self.info()["used_memory"])

    @property
    def commands(self) -> int:
        """How many commands it has done, those of scripts among them."""
        return int(self.info()["total_commands_processed"])


@contextmanager
def redis() -> Iterator[Redis]:
    """Run a Redis while the block runs.

    :raises Failed: it is not installed, or does not start.
    """
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="rt-") as name:
        directory = Path(name)
        socket = str(directory / "redis.sock")
        argv = [find("redis-server"), "--port", "0", "--unixsocket", socket, "--save", "", "--dir", name]
        with running(argv, directory / "redis.log") as program:
            found = Redis(directory, program)
            deadline = time.monotonic() + START
            while True:
                try:
                    found.info()
                    break
                except Failed:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield found


@dataclass(frozen=True)
class Node:
    """A server.

    :ivar host: its address.
    :ivar port: where clients, or hosts, connect.
    :ivar http: where requests for host names arrive; 0 for signaling.
    """

    host: str
    port: int
    http: int
    program: Program
    log: Path

    @property
    def where(self) -> str:
        """Its address and port."""
        return f"{self.host}:{self.port}"

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until its log has *text* so many times.

        :raises Failed: it has not in time.
        """
        deadline = time.monotonic() + START
        while self.log.read_text().count(text) < count:
            if time.monotonic() > deadline:
                raise Failed(f"{self.where} does not say {text!r}: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)


@contextmanager
def nodes(
    plugin: str, count: int, directory: Path, url: str, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[list[Node]]:
    """Run *count* nodes of a cluster, and wait until they know each other.

    :param plugin: ``rtunnel-server`` or ``rtc-signal``.
    :param url: that of the directory; empty: they are alone.
    :param env: variables that are set for them.
    :raises Failed: one does not start.
    """
    port, http = free_ports(2)
    found = []
    with ExitStack() as stack:
        for host in HOSTS[:count]:
            log = directory / f"{plugin}-{host}.log"
            argv = [*twistd(), plugin, *options]
            if url:
                argv.append(f"--cluster={url}")
            if plugin == "rtunnel-server":
                argv += [f"--control-listen={host}:{port}", f"--public-interface={host}"]
                argv.append(f"--http-listen={host}:{http}")
            else:
                argv.append(f"--addr={host}:{port}")
            program = stack.enter_context(running(argv, log, env))
            found.append(Node(host, port, http, program, log))
        for node in found:
            wait_for(port, node.log, node.host)
            if url:
                node.wait_for("the directory of the cluster is there")
            if url and plugin == "rtunnel-server":
                node.wait_for("NodeSession#info] connected to ", count - 1)
        yield found


class Crowd:
    """Ends at one node, in processes of their own.

    :ivar sent_away: how often the node has sent one away, who came again.
    """

    def __init__(self, kind: str, node: Node, first: int, count: int, *more: str) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.crowd", kind, node.where, str(at), str(size), *more],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for at in range(first, first + count, OF_ONE_PROCESS)
            for size in [min(OF_ONE_PROCESS, first + count - at)]
        ]
        self.sent_away = 0

    def look(self) -> tuple[int, float]:
        """Return how many are there, and in how many seconds they have come. The first time, wait for them.

        :raises Failed: some could not come.
        """
        there, seconds, self.sent_away = 0, 0.0, 0
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise Failed("some of a crowd could not come")
            said: dict[str, Any] = json.loads(line)
            there += said["there"]
            self.sent_away += said["sent_away"]
            seconds = max(seconds, said["seconds"])
            process.stdin.write("\n")
            process.stdin.flush()
        return there, seconds

    def stop(self) -> None:
        """Let all of them go."""
        for process in self._processes:
            process.kill()
            process.communicate()


@contextmanager
def crowds(kind: str, at: Sequence[Node], count: int, *more: str) -> Iterator[list[Crowd]]:
    """Let *count* ends come, the same number to each node, and go at the end of the block."""
    each = count // len(at)
    found: list[Crowd] = []
    try:
        for number, node in enumerate(at):
            found.append(Crowd(kind, node, number * each, each, *more))
        yield found
    finally:
        for crowd in found:
            crowd.stop()


@dataclass(frozen=True)
class Use:
    """What processes have taken: CPU seconds so far, and resident bytes now."""

    cpu: float
    memory: int


def use(*programs: Program) -> Use:
    """Look at processes."""
    pids = [program.pid for program in programs]
    return Use(cpu_seconds(pids), resident(pids))
