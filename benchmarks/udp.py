"""The rows of UDP: what a way carries of it, and what a network between its ends that loses packets does to it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.costs import cpu_seconds
from benchmarks.lossy import DELAY, LossyNetwork
from benchmarks.parts import Failed, free_ports, load, running, throughput, wait_for_echo
from benchmarks.rows import LEAD, Case, Measurement, Row
from benchmarks.ways import FAR, NEAR, Network, Way

ECHO = Path(__file__).parent / "udp_echo.py"
#: Rates in datagrams per second, each a tenth above the one before.
LADDER = tuple(round(1000 * 1.1**step) for step in range(63))
#: The part of the datagrams that may be lost at a rate which counts as carried.
MAY_BE_LOST = 0.01
#: The part of a rate that the load program has to reach.
OFFERED = 0.95
#: How often a rate is offered that is not carried: the machine may have been busy with something else.
TRIES = 2
#: The rate at which loss and CPU time are taken.
RATE = 20_000
#: The rate at which datagrams cross a network that is slow and loses some, and the percentages that it loses in each
#: direction.
MODEST_RATE = 1000
LOSSES = (0, 1, 5)
#: The largest buffer that iperf3 asks for, so that datagrams are lost by what is measured, and not by iperf3.
BUFFER = 4 << 20


@dataclass(frozen=True)
class Datagrams:
    """The result of a load of datagrams: how many were sent, how many arrived, and in how many seconds."""

    sent: int
    arrived: int
    seconds: float

    @property
    def lost(self) -> float:
        """The part of them that did not arrive."""
        return 1 - self.arrived / self.sent if self.sent else 1.0


@dataclass(frozen=True)
class Trips:
    """The result of the echo: how many packets were sent and came back, and two shares of their times in ms."""

    sent: int
    back: int
    p50: float
    p99: float


def buffer() -> int:
    """Return how large a socket's buffers may be here, up to :data:`BUFFER`, in bytes."""
    limits = [int(Path(f"/proc/sys/net/core/{kind}mem_max").read_text()) for kind in "rw"]
    return min(BUFFER, *limits)


def datagrams(port: int, rate: int, size: int, seconds: float, *options: str) -> Datagrams:
    """Send datagrams of *size* bytes with iperf3 through *port* at a *rate* per second.

    :param seconds: how long, in whole seconds.
    """
    shape = ["-u", "-l", str(size), "-b", str(rate * size * 8), "-w", str(buffer()), *options]
    transfer = throughput(seconds, *shape)(port)
    return Datagrams(transfer.sent // size, transfer.received // size, seconds)


def carried(send: Callable[[int], Datagrams], rate: int) -> float:
    """Return how many datagrams per second arrived of a *rate* that is carried; 0.0 if it is not in :data:`TRIES`.

    It is carried if it was offered in full, and less than :data:`MAY_BE_LOST` was lost.

    :raises Failed: the load program failed.
    """
    for _ in range(TRIES):
        result = send(rate)
        if result.sent >= OFFERED * rate * result.seconds and result.lost < MAY_BE_LOST:
            return result.arrived / result.seconds
    return 0.0


def highest(send: Callable[[int], Datagrams]) -> float:
    """Return how many datagrams per second arrive at the highest rate of :data:`LADDER` that is carried.

    Each time it halves what is left of the ladder.

    :param send: offers a rate. A load program that fails at one was asked for too much.
    :return: 0.0 if no rate was carried.
    :raises Failed: none was, and the load program failed.
    """
    best, low, high = 0.0, 0, len(LADDER)
    failure: Failed | None = None
    while low < high:
        middle = (low + high) // 2
        try:
            arrived = carried(send, LADDER[middle])
        except Failed as reason:
            failure, arrived = reason, 0.0
        if arrived:
            best, low = arrived, middle + 1
        else:
            high = middle
    if failure is not None and not best:
        raise failure
    return best


def capacity(name: str, size: int, *options: str) -> Measurement:
    """Measure the highest rate of datagrams that is carried. Each rate is offered for a second."""

    def take(case: Case) -> tuple[float | None, ...]:
        if case.way.echo is None:
            return (None,)
        return (highest(lambda rate: datagrams(case.way.iperf, rate, size, 1, *options)),)

    return Measurement((Row(name, "1/s"),), take)


def steady(seconds: float, size: int) -> Measurement:
    """Measure what is lost at :data:`RATE`, and the CPU time for each datagram that arrives."""

    def take(case: Case) -> tuple[float | None, ...]:
        if case.way.echo is None:
            return None, None
        before = cpu_seconds(case.way.pids)
        result = datagrams(case.way.iperf, RATE, size, max(1, round(seconds)))
        spent = cpu_seconds(case.way.pids) - before
        each = spent / result.arrived * 1e6 if case.way.pids and result.arrived else None
        return result.lost * 100, each

    names = (f"UDP lost, {RATE:,}/s of {size:,} B", "%"), (f"CPU, a datagram of {size:,} B", "us")
    return Measurement(tuple(Row(name, unit, lower_is_better=True) for name, unit in names), take)


def parse_trips(output: str) -> Trips:
    """Read the report of ``udp_echo.py trips``.

    :raises Failed: it contains no figures, or nothing came back.
    """
    try:
        trips = Trips(**json.loads(output))
    except (ValueError, TypeError):
        raise Failed(f"the echo said: {output.strip()[-200:]}") from None
    if not trips.back:
        raise Failed(f"none of {trips.sent} packets came back")
    return trips


def echo(seconds: float, rate: int, host: str, port: int) -> Trips:
    """Measure how long packets of 200 bytes take there and back.

    :param rate: how many are sent in a second; 0: one at a time.
    """
    argv = [sys.executable, str(ECHO), "trips", host, str(port), f"{seconds:g}", str(rate)]
    return parse_trips(load(argv, seconds))


def round_trips(seconds: float) -> Measurement:
    """Measure round trips of one packet at a time, alone and beside a bulk stream that comes from the service."""
    stream = throughput(seconds + 2 * LEAD, "-R")

    def take(case: Case) -> tuple[float | None, ...]:
        if case.way.echo is None:
            return None, None, None
        ask = partial(echo, seconds, 0, case.way.host, case.way.echo)
        alone = ask()
        with ThreadPoolExecutor(1) as pool:
            transfer = pool.submit(stream, case.way.iperf)
            time.sleep(LEAD)
            busy = ask()
            # What failed there was no load.
            transfer.result()
        return alone.p50, alone.p99, busy.p99

    names = ("UDP round trip", "UDP round trip p99", "UDP round trip p99, beside a stream")
    return Measurement(tuple(Row(name, "ms", lower_is_better=True) for name in names), take)


def across(network: LossyNetwork, seconds: float, directory: Path) -> Measurement:
    """Measure what comes back, and when, while the network between the two ends is slow and loses packets.

    :param network: where a fresh way is opened.
    :param directory: for the log of the echo.
    """

    def take(case: Case) -> tuple[float | None, ...]:
        if case.way.echo is None:
            return (None,) * 2 * len(LOSSES)
        figures: list[float | None] = []
        with ExitStack() as stack:
            network.percent = 0
            stack.enter_context(network.at_server())
            iperf, web, port = free_ports(3)
            with network.at_client():
                log = directory / "echo-across.log"
                stack.enter_context(running([sys.executable, str(ECHO), "serve", FAR, str(port)], log))
            wait_for_echo(port, log, FAR)
            services = Way(iperf, web, echo=port, host=FAR, network=Network(NEAR, network.at_client))
            way = stack.enter_context(case.elsewhere(services))
            assert way.echo is not None
            for percent in LOSSES:
                network.percent = percent
                trips = echo(seconds, MODEST_RATE, way.host, way.echo)
                figures += [100 - trips.back / trips.sent * 100, trips.p99]
        return tuple(figures)

    names, path = (("lost there and back", "%"), ("round trip p99", "ms")), f"{2000 * DELAY:g} ms"
    rows = [
        Row(f"UDP {name}, {path} and {percent} % loss", unit, lower_is_better=True)
        for percent in LOSSES
        for name, unit in names
    ]
    return Measurement(tuple(rows), take)


def measurements(seconds: float) -> list[Measurement]:
    """Return the measurements of UDP over loopback. Each load lasts for that many *seconds*, or one if it is a rate."""
    return [
        capacity("UDP carried, 1,200 B", 1200),
        capacity("UDP carried, 1,200 B from the service", 1200, "-R"),
        capacity("UDP carried, 200 B", 200),
        steady(seconds, 1200),
        steady(seconds, 200),
        round_trips(seconds),
    ]
