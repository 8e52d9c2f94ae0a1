"""The table of the WebRTC tunnel: host and client, as they are and as they were, beside channels of other stacks.

The tunnel has a socket, half-close and back-pressure at each end of each stream, of which a bare channel has nothing.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import bare, table, udp
from benchmarks.costs import resident
from benchmarks.lossy import LossyNetwork
from benchmarks.parts import Failed, attempt, free_ports, load, requests, running, throughput, twistd, wait_for
from benchmarks.rows import WRK_CLOSE, Case, Measurement, Row, beside, bulk, crowd
from benchmarks.stage import services, take, ways
from benchmarks.ways import DIRECT, FAR, NEAR, Column, Network, Way, checked_out, fresh

#: Datagrams of 200 bytes in a second that should all come back.
UDP_RATE = 5000
#: The path of the rows of goodput: its rate in bytes/s, how long it takes there and back in seconds, and how many of a
#: hundred packets it loses each way. Its queue takes as much as is on its way.
RATE, ROUND_TRIP = 12_500_000, 0.05
LOSSES = (0, 0.1, 1, 5)
#: How many seconds a stream has before its goodput is measured, and how long that takes at least.
BEGINS, LEAST = 3.0, 5.0
TO, FROM = "throughput to the service", "throughput from the service"
CPU_TO, CPU_FROM = "CPU, to the service", "CPU, from the service"


@dataclass(frozen=True)
class RtcWay(Way):
    """A way through the WebRTC tunnel.

    :ivar log: the client's, in JSON.
    """

    log: Path = Path()


def rtc(env: Mapping[str, str] | None = None) -> Callable[[Path, Way], AbstractContextManager[Way]]:
    """Return a function that runs signaling, a host and a client. It asks no server outside this machine.

    :param env: variables that are set for them alone.
    """

    @contextmanager
    def opened(directory: Path, to: Way) -> Iterator[Way]:
        signal, iperf, web, echo = free_ports(4)
        near, log = to.network.server, directory / "client.log"
        end = [f"--signal=ws://{near}:{signal}", "--id=bench", "--log-level=info", "--stun-server="]
        host = [*twistd(), "rtc-host", *end, f"--ice-interface={to.host}", f"--remote={to.host}:{to.web}"]
        host += [f"--service=iperf={to.host}:{to.iperf}", f"--service=echo=udp:{to.host}:{to.echo}"]
        client = [*twistd(), "rtc-client", *end, f"--ice-interface={near}", "--log-format=json"]
        client += [f"--local=127.0.0.1:{web}", f"--forward=127.0.0.1:{iperf}=iperf"]
        client += [f"--forward=udp:127.0.0.1:{echo}=echo"]
        with ExitStack() as stack:
            argv = [*twistd(), "rtc-signal", f"--addr={near}:{signal}"]
            stack.enter_context(running(argv, directory / "signal.log", env))
            wait_for(signal, directory / "signal.log", near)
            with to.network.at_client():
                far = stack.enter_context(running(host, directory / "host.log", env))
            here = stack.enter_context(running(client, log, env))
            wait_for_line(log, "connected to host")
            yield RtcWay(iperf, web, (far, here), echo=echo, log=log)

    return opened


def wait_for_line(log: Path, text: str) -> None:
    """Wait until *log* contains *text*.

    :raises Failed: it did not in time.
    """
    deadline = time.monotonic() + 30
    while text not in log.read_text():
        if time.monotonic() > deadline:
            raise Failed(f"no '{text}' in time: {log.read_text()}")
        time.sleep(0.01)


def at_rest() -> Measurement:
    """Measure what both ends take before they carry anything, and how long it takes until they could.

    That is from a client's first contact with signaling to its connection, by the times in its log.
    """

    def take(case: Case) -> tuple[float | None, ...]:
        if not isinstance(case.way, RtcWay):
            return None, None
        with case.fresh() as way:
            assert isinstance(way, RtcWay)
            time.sleep(1)
            return resident(way.pids) / 2**20, set_up(way.log.read_text())

    rows = Row("memory at rest, both ends", "MiB", lower_is_better=True), Row("set-up, from signaling on", "s", True)
    return Measurement(rows, take)


def set_up(log: str) -> float:
    """Return the seconds from a client's first contact with signaling to its connection, from the times in its log."""
    times = {
        kind: float(found[1]) * 3600 + float(found[2]) * 60 + float(found[3])
        for kind in ("signaling server", "host")
        for found in [re.search(r'T(\d+):(\d+):([\d.]+)Z"[^\n]*connected to ' + kind, log)]
        if found is not None
    }
    return (times["host"] - times["signaling server"]) % 86400


def echoes(seconds: float) -> Measurement:
    """Measure how many UDP packets come back in a second, and how many do not at :data:`UDP_RATE`."""

    def take(case: Case) -> tuple[float | None, ...]:
        assert case.way.echo is not None
        argv = [sys.executable, str(udp.ECHO), "ask", case.way.host, str(case.way.echo), f"{seconds:g}"]
        said = load(argv, seconds)
        try:
            back = float(said)
        except ValueError:
            raise Failed(f"the echo said: {said[-200:]}") from None
        trips = udp.echo(seconds, UDP_RATE, case.way.host, case.way.echo)
        return back, 100 - trips.back / trips.sent * 100

    rows = Row("UDP packets, there and back", "1/s"), Row(f"UDP lost, {UDP_RATE:,}/s there and back", "%", True)
    return Measurement(rows, take)


def _shape(network: LossyNetwork, percent: float) -> None:
    network.percent, network.delay = percent, ROUND_TRIP / 2
    network.rate, network.queue = RATE, RATE * ROUND_TRIP


def goodput_rows() -> tuple[Row, ...]:
    """Return the rows of goodput."""
    path = f"{RATE * 8e-6:g} Mbit/s, {ROUND_TRIP * 1000:g} ms"
    return tuple(Row(f"goodput, {path} and {percent} % loss", "Mbit/s") for percent in LOSSES)


def goodput(network: LossyNetwork, seconds: float, directory: Path) -> Measurement:
    """Measure a stream from the service over a path between the two ends."""
    seconds = max(seconds, LEAST)

    def take(case: Case) -> tuple[float | None, ...]:
        if not case.way.programs:
            return (None,) * len(LOSSES)
        figures: list[float | None] = []
        for percent in LOSSES:
            network.percent = 0
            with ExitStack() as stack:
                stack.enter_context(network.at_server())
                with network.at_client():
                    far = stack.enter_context(services(directory, FAR))
                there = replace(far, network=Network(NEAR, network.at_client))
                way = stack.enter_context(case.elsewhere(there))
                _shape(network, percent)
                stream = throughput(seconds, "-R", "-O", f"{BEGINS:g}")
                figures.append(attempt("goodput", lambda: stream(way.iperf).gigabits * 1000))  # noqa: B023
        return tuple(figures)

    return Measurement(goodput_rows(), take)


def measurements(seconds: float, directory: Path) -> list[Measurement]:
    """Return all measurements over loopback."""
    close = directory / "close.lua"
    close.write_text(WRK_CLOSE)
    return [
        bulk(TO, throughput(seconds), CPU_TO),
        bulk(FROM, throughput(seconds, "-R"), CPU_FROM),
        crowd("requests, 32 at once", "CPU, a request", requests(seconds, 32)),
        crowd("new connections, 32 at once", "CPU, a new connection", requests(seconds, 32, close)),
        beside(seconds),
        echoes(seconds),
        at_rest(),
    ]


def beside_ours(
    stack: bare.Stack, seconds: float, directory: Path, network: LossyNetwork | None, only: str
) -> dict[str, float | None]:
    """Return the figures of a bare channel by row."""
    figures: dict[str, float | None] = {}
    if only in FROM or only in CPU_FROM:
        flow = attempt(stack.title, lambda: bare.measure(stack, directory, seconds))
        if flow is not None:
            figures = {FROM: flow.megabits / 1000, CPU_FROM: flow.cpu}
    if network is not None and stack is not bare.AIORTC:
        for row, percent in zip(goodput_rows(), LOSSES, strict=True):
            if only not in row.name:
                continue
            _shape(network, percent)
            with network.at_server():
                flow = attempt(
                    f"{stack.title}, {row.name}",
                    lambda: bare.measure(stack, directory, max(seconds, LEAST), network.at_client, BEGINS),
                )
            figures[row.name] = None if flow is None else flow.megabits
    return figures


@contextmanager
def before(revision: str, directory: Path) -> Iterator[tuple[Column, ...]]:
    """Yield the column of a revision of this package; none if *revision* is empty."""
    if not revision:
        yield ()
        return
    folder = directory / "baseline"
    with checked_out(revision, folder) as name:
        way = rtc({"PYTHONPATH": str(folder)})
        yield (Column("webrtc-baseline", f"as it was at {name}", f"the tunnel as it was at {name}", way),)


def measure(seconds: float, rounds: int, only: str, revision: str) -> dict[str, Any]:
    """Measure, print the table, and return the report.

    :param revision: see :func:`before`.
    """
    stacks = {stack.title: stack for stack in bare.STACKS}
    beside_it = [Column(title, title, "a bare channel", rtc(), is_ours=False) for title in stacks]
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="rtunnel-bench-") as name, ExitStack() as open_:
        directory = Path(name)
        every, network = measurements(seconds, directory), None
        try:
            network = open_.enter_context(closing(LossyNetwork()))
            every.append(goodput(network, seconds, directory))
        except Failed as reason:
            missing["goodput"] = str(reason)
        wanted = [each for each in every if any(only in row.name for row in each.rows)]
        ends = open_.enter_context(services(directory))
        ours = Column("webrtc", "the tunnel", "rtunnel host and client", rtc())
        tunnels = (DIRECT, ours, *open_.enter_context(before(revision, directory)))
        columns, _ = open_.enter_context(ways(tunnels, directory, ends))
        keys = [column.key for column in (*columns, *beside_it)]
        figures: dict[str, dict[str, list[float | None]]] = {
            row.name: {key: [] for key in keys} for each in wanted for row in each.rows
        }
        for turn in range(rounds):
            print(f"WebRTC, round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
            for each in wanted:
                for column, way in columns.items():
                    start = partial(fresh, column, directory)
                    taken = take(each, Case(way, partial(start, ends), start), column.title)
                    for row, figure in zip(each.rows, taken, strict=True):
                        figures[row.name][column.key].append(figure)
            for title, stack in stacks.items():
                found = beside_ours(stack, seconds, directory, network, only)
                for row_name, kept in figures.items():
                    kept[title].append(found.get(row_name))
    report: dict[str, Any] = {
        "columns": [
            {"key": column.key, "title": column.title, "about": column.about} for column in (*columns, *beside_it)
        ],
        "missing": missing,
        "rows": [
            {"name": row.name, "unit": row.unit, "lower_is_better": row.lower_is_better, "figures": figures[row.name]}
            for each in wanted
            for row in each.rows
            if only in row.name
        ],
    }
    if report["rows"]:
        print("\n" + "\n".join(table.lines(report)))
    return report
