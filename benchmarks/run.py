"""What the tunnels cost: iperf3 and wrk, direct, and through each tunnel in turn, as ratios.

    python -m benchmarks.run [--seconds 4] [--rounds 3] [--only throughput] [--json benchmarks/results/last.json]

Everything runs on this machine and on its loopback interface: iperf3's server and nginx, ``rtunnel-server``,
``rtunnel-client``, and whoever makes the load. They share its cores, so the figures say little by themselves and
much as ratios to the direct figure of the same round. Each row is the median of its rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import webrtc
from benchmarks.parts import find, free_ports, nginx, ratio, requests, running, throughput, twistd, wait_for
from rtunnel.security.authority import issue, make_ca
from rtunnel.security.certificates import Kind
from rtunnel.security.credentials import Credentials
from rtunnel.security.tls_engine import TlsEngine
from rtunnel.security.tls_policy import Role, TlsSettings

HERE = Path(__file__).parent
WRK_CLOSE = 'wrk.headers["Connection"] = "close"\n'


@dataclass(frozen=True)
class Ports:
    """Where things listen: the services themselves, and the public ports of their tunnels."""

    control: int
    iperf: int
    web: int
    public_iperf: int
    public_web: int
    tls_control: int
    tls_iperf: int
    tls_web: int


@dataclass
class Row:
    """One measurement: *measure* takes a port and gives figures by name."""

    name: str
    unit: str
    measure: Callable[[int], float]
    is_web: bool
    lower_is_better: bool = False
    direct: list[float] = field(default_factory=list)
    tunnel: list[float] = field(default_factory=list)
    tls: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Tunnel to direct, of each round; the median."""
        return ratio(self.tunnel, self.direct)


def rows(seconds: float, directory: Path) -> list[Row]:
    """Everything that is measured."""
    close = directory / "close.lua"
    close.write_text(WRK_CLOSE)
    per_second, p50, p99 = r"Requests/sec:\s+([\d.]+)", r"50%\s+([\d.]+)(us|ms|s)", r"99%\s+([\d.]+)(us|ms|s)"
    return [
        Row("throughput, to the service", "Gbit/s", throughput(seconds), is_web=False),
        Row("throughput, from the service", "Gbit/s", throughput(seconds, "-R"), is_web=False),
        Row("throughput, 16 streams", "Gbit/s", throughput(seconds, "-P", "16"), is_web=False),
        Row("requests, 32 connections", "1/s", requests(seconds, 32, per_second), is_web=True),
        Row("requests, 256 connections", "1/s", requests(seconds, 256, per_second), is_web=True),
        Row("latency p50, 32 connections", "ms", requests(seconds, 32, p50), is_web=True, lower_is_better=True),
        Row("latency p99, 32 connections", "ms", requests(seconds, 32, p99), is_web=True, lower_is_better=True),
        Row("latency p50, 1 connection", "ms", requests(seconds, 1, p50), is_web=True, lower_is_better=True),
        Row("new connections, 32 at once", "1/s", requests(seconds, 32, per_second, close), is_web=True),
    ]


def make_certificates(directory: Path) -> None:
    """What both ends need, where ``--tls`` looks for it."""
    ca = make_ca()
    server, client = issue(ca, Kind.SERVER, "server", hosts=["127.0.0.1"]), issue(ca, Kind.CLIENT, "client")
    for name, holder in (("ca", ca), ("server", server), ("client", client)):
        (directory / f"{name}.crt").write_bytes(holder.certificate_pem)
        (directory / f"{name}.key").write_bytes(holder.key_pem)
        (directory / f"{name}.key").chmod(0o600)


def handshakes(directory: Path, port: int, seconds: float) -> float:
    """Mutual handshakes per second, one after the other, with a server in another process."""
    settings = TlsSettings(directory / "client.crt", directory / "client.key", directory / "ca.crt")
    credentials = Credentials(settings, Role.CLIENT)
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        engine = TlsEngine(credentials)
        engine.start()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            while engine.peer is None and not engine.failure:
                connection.sendall(engine.output())
                engine.receive(connection.recv(65536))
            connection.sendall(engine.output())
            engine.say_goodbye()
            connection.sendall(engine.output())
        if engine.failure:
            sys.exit(f"a handshake failed: {engine.failure}")
        count += 1
    return count / seconds


@contextmanager
def stage(directory: Path, ports: Ports) -> Iterator[None]:
    """The services, and the tunnel to them."""
    control, tls_control = f"127.0.0.1:{ports.control}", f"127.0.0.1:{ports.tls_control}"
    processes = {
        "iperf3": [find("iperf3"), "-s", "-B", "127.0.0.1", "-p", str(ports.iperf)],
        "nginx": nginx(directory, ports.web),
        "server": [*twistd(), "rtunnel-server", "--control-listen", control, "--public-interface", "127.0.0.1"],
        "client": [
            *(*twistd(), "rtunnel-client", "--server", control),
            *("--tunnel", f"{ports.public_iperf}:127.0.0.1:{ports.iperf}"),
            *("--tunnel", f"{ports.public_web}:127.0.0.1:{ports.web}"),
        ],
        "tls-server": [
            *(*twistd(), "rtunnel-server", "--control-listen", tls_control, "--public-interface", "127.0.0.1", "--tls"),
            *("--log-level", "error"),
        ],
        "tls-client": [
            *(*twistd(), "rtunnel-client", "--server", tls_control, "--tls"),
            *("--tunnel", f"{ports.tls_iperf}:127.0.0.1:{ports.iperf}"),
            *("--tunnel", f"{ports.tls_web}:127.0.0.1:{ports.web}"),
        ],
    }
    make_certificates(directory)
    os.environ["RTUNNEL_PKI_DIR"] = str(directory)
    with ExitStack() as stack:
        for name, argv in processes.items():
            stack.enter_context(running(argv, directory / f"{name}.log"))
            if name.endswith("server"):
                wait_for(ports.control if name == "server" else ports.tls_control, directory / f"{name}.log")
        wait_for(ports.web, directory / "nginx.log")
        wait_for(ports.public_web, directory / "client.log")
        wait_for(ports.tls_web, directory / "tls-client.log")
        yield


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (default 3)")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "last.json", help="where the figures are kept")
    options = parser.parse_args()
    ports = Ports(*free_ports(8))
    shakes: list[float] = []
    with tempfile.TemporaryDirectory(prefix="rtunnel-bench-") as name:
        directory = Path(name)
        table = [row for row in rows(options.seconds, directory) if options.only in row.name]
        with stage(directory, ports):
            for turn in range(options.rounds):
                print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
                for row in table:
                    row.direct.append(row.measure(ports.web if row.is_web else ports.iperf))
                    row.tunnel.append(row.measure(ports.public_web if row.is_web else ports.public_iperf))
                    row.tls.append(row.measure(ports.tls_web if row.is_web else ports.tls_iperf))
                if options.only in "TLS handshakes":
                    shakes.append(handshakes(directory, ports.tls_control, options.seconds))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}, Python " + (
        platform.python_version()
    )
    print(f"{machine}; median of {options.rounds} rounds of {options.seconds:g} s\n")
    print(f"{'':30}{'direct':>10}{'tunnel':>10}{'ratio':>7}{'TLS':>10}{'ratio':>7}{'to plain':>9}")
    for row in table:
        direct, tunnel, tls = (statistics.median(each) for each in (row.direct, row.tunnel, row.tls))
        better = " (lower is better)" if row.lower_is_better else ""
        figures = f"{direct:10.2f}{tunnel:10.2f}{row.ratio:7.3f}{tls:10.2f}{ratio(row.tls, row.direct):7.3f}"
        print(f"{row.name:30}{figures}{ratio(row.tls, row.tunnel):9.3f}  {row.unit}{better}")
    if shakes:
        print(f"{'TLS handshakes, one by one':30}{'':27}{statistics.median(shakes):10.2f}{'':16}  1/s")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    kept = [
        {key: value for key, value in asdict(row).items() if key != "measure"}
        | {"ratio": row.ratio, "tls_ratio": ratio(row.tls, row.direct), "tls_to_plain": ratio(row.tls, row.tunnel)}
        for row in table
    ]
    report = {"machine": machine, "seconds": options.seconds, "rows": kept, "handshakes": shakes}
    report["webrtc"] = webrtc.measure(options.seconds, options.rounds, options.only)
    options.json.write_text(json.dumps(report, indent=2))
    print(f"\nkept in {options.json}")


if __name__ == "__main__":
    main()
