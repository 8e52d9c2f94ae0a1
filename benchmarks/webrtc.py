"""The rows of the WebRTC tunnel: direct, through the tunnel, and aiortc's own data channel."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.parts import (
    HOST,
    Failed,
    attempt,
    find,
    free_ports,
    load,
    median,
    nginx,
    ratio,
    requests,
    running,
    throughput,
    twistd,
    wait_for,
)
from benchmarks.table import short

HERE = Path(__file__).parent
#: Ask no server outside this machine, and offer loopback addresses.
HERE_ONLY = ["--stun-server", "", "--ice-interface", "127.0.0.1"]
SET_UPS = 5


@dataclass
class Row:
    """One measurement. *measure* takes a port: *direct_port* or *tunnel_port*, which both lead to the service."""

    name: str
    unit: str
    measure: Callable[[int], float]
    direct_port: int
    tunnel_port: int
    lower_is_better: bool = False
    direct: list[float | None] = field(default_factory=list)
    tunnel: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Ports:
    """The ports on which everything listens."""

    signal: int
    iperf: int
    web: int
    udp: int
    local_iperf: int
    local_web: int
    local_udp: int


def echoes(seconds: float) -> Callable[[int], float]:
    """Return a function that counts the UDP packets per second that come back through a port."""

    def measure(port: int) -> float:
        said = load([sys.executable, str(HERE / "udp_echo.py"), "ask", HOST, str(port), f"{seconds:g}"], seconds)
        try:
            return float(said)
        except ValueError:
            raise Failed(f"the echo said: {said[-200:]}") from None

    return measure


def rows(seconds: float, ports: Ports) -> list[Row]:
    """Return all measurements that go through forwards."""

    def megabits(*options: str) -> Callable[[int], float]:
        gigabits = throughput(seconds, *options)
        return lambda port: gigabits(port).gigabits * 1000

    many, one = requests(seconds, 32), requests(seconds, 1)
    iperf, web = (ports.iperf, ports.local_iperf), (ports.web, ports.local_web)
    return [
        Row("throughput, to the service", "Mbit/s", megabits(), *iperf),
        Row("throughput, from the service", "Mbit/s", megabits("-R"), *iperf),
        Row("requests, 32 connections", "1/s", lambda port: many(port).per_second, *web),
        Row("round trip, 1 connection", "ms", lambda port: one(port).p50, *web, lower_is_better=True),
        Row("UDP packets, there and back", "1/s", echoes(seconds), ports.udp, ports.local_udp),
    ]


@contextmanager
def stage(directory: Path, ports: Ports) -> Iterator[list[str]]:
    """Run the services, signaling, a host and a client. Yield the command that starts another client."""
    url = f"ws://127.0.0.1:{ports.signal}"
    end = ["--signal", url, "--id", "bench", "--log-level", "info", *HERE_ONLY]
    client = [*twistd(), "rtc-client", *end]
    processes = {
        "iperf3": [find("iperf3"), "-s", "-B", "127.0.0.1", "-p", str(ports.iperf)],
        "nginx": nginx(directory, ports.web),
        "udp": [sys.executable, str(HERE / "udp_echo.py"), "serve", HOST, str(ports.udp)],
        "signal": [*twistd(), "rtc-signal", "--addr", f"127.0.0.1:{ports.signal}"],
        "host": [
            *(*twistd(), "rtc-host", *end, "--remote", f"127.0.0.1:{ports.web}"),
            *("--service", f"iperf=127.0.0.1:{ports.iperf}", "--service", f"echo=udp:127.0.0.1:{ports.udp}"),
        ],
        "client": [
            *(*client, "--local", f"127.0.0.1:{ports.local_web}"),
            *("--forward", f"127.0.0.1:{ports.local_iperf}=iperf"),
            *("--forward", f"udp:127.0.0.1:{ports.local_udp}=echo"),
        ],
    }
    with ExitStack() as stack:
        for name, argv in processes.items():
            stack.enter_context(running(argv, directory / f"{name}.log"))
            if name == "signal":
                wait_for(ports.signal, directory / "signal.log")
        wait_for(ports.web, directory / "nginx.log")
        wait_for_line(directory / "client.log", "connected to host")
        yield client


def wait_for_line(log: Path, text: str) -> None:
    """Wait until *log* contains *text*.

    :raises Failed: it did not in time.
    """
    deadline = time.monotonic() + 30
    while text not in log.read_text():
        if time.monotonic() > deadline:
            raise Failed(f"no '{text}' in time: {log.read_text()}")
        time.sleep(0.01)


def set_up(client: list[str], directory: Path) -> float:
    """Return the seconds from a client's first contact with signaling to its connection, from the times in its log."""
    (port,) = free_ports(1)
    log = directory / "set-up.log"
    with running([*client, "--local", f"127.0.0.1:{port}", "--log-format", "json"], log):
        wait_for_line(log, "connected to host")
    times = {
        kind: float(found[1]) * 3600 + float(found[2]) * 60 + float(found[3])
        for kind in ("signaling server", "host")
        for found in [re.search(r'T(\d+):(\d+):([\d.]+)Z"[^\n]*connected to ' + kind, log.read_text())]
        if found is not None
    }
    return (times["host"] - times["signaling server"]) % 86400


def bare_channel(seconds: float) -> float:
    """Return the rate of aiortc's own channel between two processes in Mbit/s; 0.0 if that fails."""
    argv = [sys.executable, str(HERE / "bare_channel.py"), f"{seconds:g}"]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    return float(result.stdout) if result.returncode == 0 else 0.0


def measure(seconds: float, rounds: int, only: str) -> dict[str, Any]:
    """Measure, print the table, and return the report."""
    ports = Ports(*free_ports(7))
    bare: list[float] = []
    set_ups: list[float] = []
    table = [row for row in rows(seconds, ports) if only in row.name]
    with tempfile.TemporaryDirectory(prefix="rtunnel-bench-") as name:
        directory = Path(name)
        with stage(directory, ports) as client:
            for turn in range(rounds):
                print(f"WebRTC, round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
                for row in table:
                    for port, figures in ((row.direct_port, row.direct), (row.tunnel_port, row.tunnel)):
                        figures.append(attempt(row.name, partial(row.measure, port)))
                if only in "bare data channel":
                    bare.append(bare_channel(seconds))
            if only in "set-up":
                times = [attempt("set-up", partial(set_up, client, directory)) for _ in range(SET_UPS)]
                set_ups += [each for each in times if each is not None]
    print(f"\n{'WebRTC tunnel':30}{'direct':>10}{'tunnel':>10}{'ratio':>9}")
    for row in table:
        direct, tunnel, share = median(row.direct), median(row.tunnel), ratio(row.tunnel, row.direct)
        better = " (lower is better)" if row.lower_is_better else ""
        shown = "-" if share is None else f"{share:.5f}"
        print(f"{row.name:30}{short(direct):>10}{short(tunnel):>10}{shown:>9}  {row.unit}{better}")
    if bare:
        print(f"{'aiortc, bare data channel':30}{'':10}{statistics.median(bare):10.2f}{'':9}  Mbit/s")
    if set_ups:
        print(f"{'set-up, from signaling on':30}{'':10}{statistics.median(set_ups):10.3f}{'':9}  s (lower is better)")
    return {
        "rows": [{"name": row.name, "unit": row.unit, "direct": row.direct, "tunnel": row.tunnel} for row in table],
        "bare_channel": bare,
        "set_up": set_ups,
    }
