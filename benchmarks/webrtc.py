"""The rows of the WebRTC tunnel: direct, through the tunnel, and what aiortc's own data channel gives."""

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
from pathlib import Path
from typing import Any

from benchmarks.parts import find, free_ports, nginx, ratio, requests, run, running, throughput, twistd, wait_for

HERE = Path(__file__).parent
#: No server outside this machine is asked, and loopback is offered.
HERE_ONLY = ["--stun-server", "", "--ice-interface", "127.0.0.1"]
SET_UPS = 5


@dataclass
class Row:
    """One measurement. *measure* takes a port; *direct_port* and *tunnel_port* are its two ways to the service."""

    name: str
    unit: str
    measure: Callable[[int], float]
    direct_port: int
    tunnel_port: int
    lower_is_better: bool = False
    direct: list[float] = field(default_factory=list)
    tunnel: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Ports:
    """Where things listen."""

    signal: int
    iperf: int
    web: int
    udp: int
    local_iperf: int
    local_web: int
    local_udp: int


def echoes(seconds: float) -> Callable[[int], float]:
    """UDP packets of 200 bytes that come back in a second, 32 on their way at a time."""

    def measure(port: int) -> float:
        return float(run([sys.executable, str(HERE / "udp_echo.py"), "ask", str(port), f"{seconds:g}"], seconds))

    return measure


def rows(seconds: float, ports: Ports) -> list[Row]:
    """Everything that is measured through forwards."""
    per_second, p50 = r"Requests/sec:\s+([\d.]+)", r"50%\s+([\d.]+)(us|ms|s)"

    def megabits(*options: str) -> Callable[[int], float]:
        gigabits = throughput(seconds, *options)
        return lambda port: gigabits(port) * 1000

    iperf, web = (ports.iperf, ports.local_iperf), (ports.web, ports.local_web)
    return [
        Row("throughput, to the service", "Mbit/s", megabits(), *iperf),
        Row("throughput, from the service", "Mbit/s", megabits("-R"), *iperf),
        Row("requests, 32 connections", "1/s", requests(seconds, 32, per_second), *web),
        Row("round trip, 1 connection", "ms", requests(seconds, 1, p50), *web, lower_is_better=True),
        Row("UDP packets, there and back", "1/s", echoes(seconds), ports.udp, ports.local_udp),
    ]


@contextmanager
def stage(directory: Path, ports: Ports) -> Iterator[list[str]]:
    """The services, signaling, a host and a client; what starts another client."""
    url = f"ws://127.0.0.1:{ports.signal}"
    end = ["--signal", url, "--id", "bench", "--log-level", "info", *HERE_ONLY]
    client = [*twistd(), "rtc-client", *end]
    processes = {
        "iperf3": [find("iperf3"), "-s", "-B", "127.0.0.1", "-p", str(ports.iperf)],
        "nginx": nginx(directory, ports.web),
        "udp": [sys.executable, str(HERE / "udp_echo.py"), "serve", str(ports.udp)],
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
    """Wait until *log* has *text* in it."""
    deadline = time.monotonic() + 30
    while text not in log.read_text():
        if time.monotonic() > deadline:
            sys.exit(f"no '{text}' in time:\n{log.read_text()}")
        time.sleep(0.01)


def set_up(client: list[str], directory: Path) -> float:
    """Seconds from a client's first contact with signaling to its connection, by the times in its log."""
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
    """Mbit/s of aiortc's own channel between two processes; 0.0 if it does not come about."""
    argv = [sys.executable, str(HERE / "bare_channel.py"), f"{seconds:g}"]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    return float(result.stdout) if result.returncode == 0 else 0.0


def measure(seconds: float, rounds: int, only: str) -> dict[str, Any]:
    """Measure, and print the table; what is to be kept."""
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
                    row.direct.append(row.measure(row.direct_port))
                    row.tunnel.append(row.measure(row.tunnel_port))
                if only in "bare data channel":
                    bare.append(bare_channel(seconds))
            if only in "set-up":
                set_ups += [set_up(client, directory) for _ in range(SET_UPS)]
    print(f"\n{'WebRTC tunnel':30}{'direct':>10}{'tunnel':>10}{'ratio':>7}")
    for row in table:
        direct, tunnel = statistics.median(row.direct), statistics.median(row.tunnel)
        better = " (lower is better)" if row.lower_is_better else ""
        print(f"{row.name:30}{direct:10.2f}{tunnel:10.2f}{ratio(row.tunnel, row.direct):9.5f}  {row.unit}{better}")
    if bare:
        print(f"{'aiortc, bare data channel':30}{'':10}{statistics.median(bare):10.2f}{'':9}  Mbit/s")
    if set_ups:
        print(f"{'set-up, from signaling on':30}{'':10}{statistics.median(set_ups):10.3f}{'':9}  s (lower is better)")
    return {
        "rows": [{"name": row.name, "unit": row.unit, "direct": row.direct, "tunnel": row.tunnel} for row in table],
        "bare_channel": bare,
        "set_up": set_ups,
    }
