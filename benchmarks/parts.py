"""What the benchmarks share: services and tunnels as processes for a while, and programs that make load."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

NGINX_CONF = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 100000000;
    client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
    uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
    server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200 "{page}"; }} }}
}}
"""


def twistd() -> list[str]:
    """How a plugin is started."""
    return [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile="]


def ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """These to those, of each round; the median."""
    return statistics.median(this / that if that else 0.0 for this, that in zip(these, those, strict=True))


def find(program: str) -> str:
    """The path of a system program, or the end."""
    path = shutil.which(program, path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin:/sbin")
    if path is None:
        sys.exit(f"the benchmark needs {program}: install it from your distribution")
    return path


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def running(argv: Sequence[str], log: Path) -> Iterator[None]:
    """A process for as long as the block takes."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, log: Path) -> None:
    """Wait until *port* accepts connections."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    sys.exit(f"nothing listens on port {port}:\n{log.read_text()}")


def run(argv: Sequence[str], seconds: float) -> str:
    """A load program's output."""
    result = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(argv)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def throughput(seconds: float, *options: str) -> Callable[[int], float]:
    """Gbit/s that arrive, by iperf3."""

    def measure(port: int) -> float:
        argv = [find("iperf3"), "-c", "127.0.0.1", "-p", str(port), "-t", f"{seconds:g}", "-J", *options]
        report = json.loads(run(argv, seconds))
        if "busy" in report.get("error", ""):
            # It still reads what the test before has left on its way.
            time.sleep(0.2)
            return measure(port)
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9

    return measure


def requests(seconds: float, connections: int, pattern: str, script: Path | None = None) -> Callable[[int], float]:
    """A figure of wrk's report, found by *pattern*; any error ends the benchmark."""

    def measure(port: int) -> float:
        argv = [find("wrk"), "-t1", f"-c{connections}", f"-d{seconds:g}", "--latency"]
        argv += ["-s", str(script)] if script else []
        report = run([*argv, f"http://127.0.0.1:{port}/"], seconds)
        found = re.search(pattern, report)
        if found is None or "Non-2xx" in report or re.search(r"Socket errors: .*[1-9]", report):
            sys.exit(f"wrk found errors:\n{report}")
        value = float(found[1])
        return value * {"us": 0.001, "ms": 1.0, "s": 1000.0}.get(found[2], 1.0) if found.re.groups > 1 else value

    return measure


def nginx(directory: Path, port: int) -> list[str]:
    """A web server with one page of 100 bytes."""
    conf = directory / f"nginx-{port}.conf"
    conf.write_text(NGINX_CONF.format(directory=directory, port=port, page="x" * 100))
    return [find("nginx"), "-c", str(conf), "-e", "stderr"]
