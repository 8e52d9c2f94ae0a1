"""What the benchmarks share: running processes, making load, and reading the reports of load programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.ports import free_port

Result = TypeVar("Result")
Figures = Sequence[float | None]

NGINX_CONF = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
    client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
    uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
    server {{ listen {host}:{port} backlog=1024; location / {{ return 200 "{page}"; }} }}
}}
"""
HOST = "127.0.0.1"
#: How many seconds a program has until it serves.
START = 30.0
#: How many seconds longer than its load a load program may take.
GRACE = 20.0
#: How many seconds iperf3's server may take to finish the previous test.
BUSY = 10.0
#: Names a folder with programs to compare with, beside those on the PATH.
RIVALS = "BENCH_RIVALS"


class Failed(Exception):
    """A program did not start, or a measurement failed. The message says which and why."""


class Busy(Failed):
    """iperf3's server is still reading what the previous test has sent."""


@dataclass(frozen=True)
class Transfer:
    """The result of iperf3.

    :ivar gigabits: the rate at the receiver, in Gbit/s.
    :ivar received: how many bytes arrived.
    :ivar sent: how many bytes were sent.
    """

    gigabits: float
    received: int
    sent: int


@dataclass(frozen=True)
class Answers:
    """The result of wrk: how many requests, how many per second, and two latencies in milliseconds."""

    count: int
    per_second: float
    p50: float
    p99: float


def twistd() -> list[str]:
    """Return the command that starts a plugin, without the plugin's name."""
    return [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile="]


def median(figures: Figures) -> float | None:
    """Return the median of the rounds that gave a figure, or None."""
    there = [figure for figure in figures if figure is not None]
    return statistics.median(there) if there else None


def ratio(these: Figures, those: Figures) -> float | None:
    """Return the median of the ratios of *these* to *those*, taken round by round, or None."""
    return median([this / that if this is not None and that else None for this, that in zip(these, those, strict=True)])


def find(program: str) -> str:
    """Return the path of a system program.

    :raises Failed: it is not installed.
    """
    folders = [os.environ.get(RIVALS, ""), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    path = shutil.which(program, path=os.pathsep.join(filter(None, folders)))
    if path is None:
        raise Failed(f"{program} is not installed")
    return path


def free_ports(count: int) -> list[int]:
    """Return *count* different ports that are free at every address of this machine, for TCP and for UDP."""
    return [free_port("") for _ in range(count)]


class Program:
    """A running process.

    :param log: receives what it prints.
    :param env: variables that are set for it alone.
    """

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self._argv = argv
        self._log = log
        # Bytecode is kept, as it is for users, or each start of a Python program would take a second longer.
        self._env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        self._env.update(env)
        log.write_bytes(b"")
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(
                self._argv, env=self._env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def kill_and_restart(self) -> None:
        """Kill it, so that it cannot say goodbye to anybody, and start it again at once."""
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def stop(self) -> None:
        """End it, by force if it takes too long."""
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Run a process while the block runs. See :class:`Program`."""
    program = Program(argv, log, env or {})
    try:
        yield program
    finally:
        program.stop()


def wait_for(port: int, log: Path, host: str = HOST) -> None:
    """Wait until *port* accepts connections.

    :raises Failed: it did not accept in time; the message contains the content of *log*.
    """
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise Failed(f"nothing listens on port {port}: {log.read_text().strip()}")


def wait_for_echo(port: int, log: Path, host: str = HOST) -> None:
    """Wait until packets to UDP *port* come back.

    :raises Failed: none came in time; the message contains the content of *log*.
    """
    deadline = time.monotonic() + START
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect((host, port))
        client.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                client.send(b"x")
                client.recv(1)
            except TimeoutError:
                pass
            except OSError:
                time.sleep(0.05)
            else:
                return
    raise Failed(f"nothing comes back from UDP port {port}: {log.read_text().strip()}")


def wait_for_page(port: int, host: str, log: Path) -> None:
    """Wait until a request for *host* at *port* is answered with a page.

    :raises Failed: none was in time; the message contains the content of *log*.
    """
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((HOST, port), 1) as client:
            client.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            if client.recv(4096).startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.05)
    raise Failed(f"nothing answers for {host} at port {port}: {log.read_text().strip()}")


def attempt(what: str, measure: Callable[[], Result]) -> Result | None:
    """Return what *measure* returns. If it fails, print why and return None."""
    try:
        return measure()
    except Failed as failure:
        print(f"  {what}: {failure}", file=sys.stderr, flush=True)
        return None


def load(argv: Sequence[str], seconds: float) -> str:
    """Run a load program and return its output, whatever its exit code.

    :param seconds: how long the load lasts.
    :raises Failed: it did not end in time.
    """
    try:
        result = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + GRACE, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{Path(argv[0]).name} did not end in time") from None
    return result.stdout or result.stderr


def parse_iperf3(output: str) -> Transfer:
    """Read iperf3's report.

    :raises Busy: the server was not ready.
    :raises Failed: it contains no figures.
    """
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError:
        raise Failed(f"iperf3 said: {output.strip()[:200]}") from None
    if "error" in report:
        kind = Busy if "busy" in report["error"] else Failed
        raise kind(f"iperf3 said: {report['error']}")
    total = report["end"]["sum_received"]
    return Transfer(float(total["bits_per_second"]) / 1e9, int(total["bytes"]), int(report["end"]["sum_sent"]["bytes"]))


def parse_wrk(report: str) -> Answers:
    """Read wrk's report.

    :raises Failed: requests went wrong, or it contains no figures.
    """
    count = re.search(r"(\d+) requests in", report)
    per_second = re.search(r"Requests/sec:\s+([\d.]+)", report)
    shares = {share: re.search(rf"\s{share}%\s+([\d.]+)(us|ms|s|m)\n", report) for share in (50, 99)}
    wrong = re.search(r"Non-2xx.*|Socket errors: .*[1-9].*", report)
    if wrong is not None or per_second is None or count is None:
        raise Failed(f"wrk said: {wrong[0] if wrong else report.strip()[:200]}")
    factors = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
    p50, p99 = (float(found[1]) * factors[found[2]] if found else 0.0 for found in shares.values())
    return Answers(int(count[1]), float(per_second[1]), p50, p99)


def throughput(seconds: float, *options: str, host: str = HOST) -> Callable[[int], Transfer]:
    """Return a function that measures the throughput through a port with iperf3 for that many *seconds*."""

    def measure(port: int) -> Transfer:
        argv = [find("iperf3"), "-c", host, "-p", str(port), "-t", f"{seconds:g}", "-J", *options]
        deadline = time.monotonic() + BUSY
        while True:
            try:
                return parse_iperf3(load(argv, seconds))
            except Busy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    return measure


def requests(
    seconds: float, connections: int, script: Path | None = None, host: str = HOST
) -> Callable[[int], Answers]:
    """Return a function that makes requests through a port with wrk for that many *seconds*."""

    def measure(port: int) -> Answers:
        argv = [find("wrk"), "-t1", f"-c{connections}", f"-d{seconds:g}", "--latency"]
        argv += ["-s", str(script)] if script else []
        return parse_wrk(load([*argv, f"http://{host}:{port}/"], seconds))

    return measure


def nginx(directory: Path, port: int, host: str = HOST) -> list[str]:
    """Return the command of a web server with one page of 100 bytes."""
    conf = directory / f"nginx-{port}.conf"
    conf.write_text(NGINX_CONF.format(directory=directory, host=host, port=port, page="x" * 100))
    return [find("nginx"), "-c", str(conf), "-e", "stderr"]
