"""The rows of the table: what is measured, and which figures each measurement gives."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import hello
from benchmarks.costs import cpu_seconds, memory_per_visitor, wait_for_visitor
from benchmarks.parts import Answers, Transfer, requests, throughput
from benchmarks.ways import Way

VISITORS = 500
WRK_CLOSE = 'wrk.headers["Connection"] = "close"\n'
#: How many seconds a bulk stream runs before requests are made beside it, and how many it runs longer than they do.
LEAD = 0.5
#: How many seconds a link is up before the server is killed. What is lost sooner, no end should dial again at once.
LASTED = 1.5


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    unit: str
    lower_is_better: bool = False


@dataclass(frozen=True)
class Case:
    """What a measurement is given.

    :ivar way: a running way to the services.
    :ivar fresh: starts another way of the same kind, which has carried nothing yet.
    :ivar elsewhere: starts one to other services.
    """

    way: Way
    fresh: Callable[[], AbstractContextManager[Way]]
    elsewhere: Callable[[Way], AbstractContextManager[Way]]


@dataclass(frozen=True)
class Measurement:
    """One load, and the rows that it fills. A figure is None where its row makes no sense for a way."""

    rows: tuple[Row, ...]
    take: Callable[[Case], tuple[float | None, ...]]


def bulk(name: str, measure: Callable[[int], Transfer], cpu: str = "") -> Measurement:
    """Measure throughput, and if there is a row *cpu*, the CPU time for each gigabyte."""

    def take(case: Case) -> tuple[float | None, ...]:
        before = cpu_seconds(case.way.pids)
        transfer = measure(case.way.iperf)
        spent = cpu_seconds(case.way.pids) - before
        per_gigabyte = spent / transfer.received * 1e9 if case.way.pids and transfer.received else None
        return (transfer.gigabits, per_gigabyte) if cpu else (transfer.gigabits,)

    rows = (Row(name, "Gbit/s"), Row(cpu, "s/GB", lower_is_better=True))
    return Measurement(rows if cpu else rows[:1], take)


def crowd(name: str, cpu: str, measure: Callable[[int], Answers], latency: str = "") -> Measurement:
    """Measure requests of a crowd that comes at once, on a way that is fresh and again on one that has carried much.

    :param cpu: the row of the microseconds of CPU time for each request, while the way is fresh.
    :param latency: if there are rows of latencies, what their names end with.
    """

    def take(case: Case) -> tuple[float | None, ...]:
        with case.fresh() as way:
            before = cpu_seconds(way.pids)
            cold = measure(way.web)
            spent = cpu_seconds(way.pids) - before
        each = spent / cold.count * 1e6 if way.pids and cold.count else None
        latencies = (cold.p50, cold.p99) if latency else ()
        return cold.per_second, measure(case.way.web).per_second, each, *latencies

    rows = [Row(name, "1/s"), Row(f"{name}, warm", "1/s"), Row(cpu, "us", lower_is_better=True)]
    shares = ("p50", "p99") if latency else ()
    rows += [Row(f"latency {share}, {latency}", "ms", lower_is_better=True) for share in shares]
    return Measurement(tuple(rows), take)


def beside(seconds: float) -> Measurement:
    """Measure requests, one after the other, alone and beside a bulk stream that comes from the service."""
    ask = requests(seconds, 1)
    stream = throughput(seconds + 2 * LEAD, "-R")

    def take(case: Case) -> tuple[float | None, ...]:
        alone = ask(case.way.web)
        with ThreadPoolExecutor(1) as pool:
            transfer = pool.submit(stream, case.way.iperf)
            time.sleep(LEAD)
            busy = ask(case.way.web)
            # What failed there was no load.
            transfer.result()
        return alone.p50, alone.p99, busy.p99, busy.p99 / alone.p99 if alone.p99 else None

    names = ("round trip, 1 connection", "latency p99, 1 connection", "latency p99, beside a stream")
    rows = [Row(name, "ms", lower_is_better=True) for name in names]
    return Measurement((*rows, Row("latency p99, beside : alone", "", lower_is_better=True)), take)


def by_name(seconds: float, connections: int, directory: Path) -> Measurement:
    """Measure connections that begin with a ClientHello, by a port of their own and by name; see
    :mod:`benchmarks.hello`.
    """
    ask = requests(max(1, round(seconds / 2)), connections, hello.script(directory))  # wrk takes whole seconds

    def take(case: Case) -> tuple[float | None, ...]:
        own, named = case.way.hello, case.way.by_name
        if own is None:
            return (None, None, None)
        if named is None:
            return (ask(own).per_second, None, None)
        # In turns, so that a change of the machine's speed is in both.
        there = [ask(port).per_second for port in (own, named, named, own)]
        by_port, by_name = there[0] + there[3], there[1] + there[2]
        return by_port / 2, by_name / 2, by_name / by_port

    rows = [Row(f"ClientHellos, {connections} at once, {way}", "1/s") for way in ("to a port", "by SNI")]
    return Measurement((*rows, Row("ClientHellos, by SNI : to a port", "")), take)


def by_host(seconds: float, connections: int, directory: Path) -> Measurement:
    """Measure requests that are routed one by one, by their Host, over connections that are kept."""
    script = directory / "host.lua"
    script.write_text(f'wrk.headers["Host"] = "{hello.NAME}"\n')
    ask = requests(seconds, connections, script)

    def take(case: Case) -> tuple[float | None, ...]:
        way = case.way
        if not way.programs:
            return ask(way.web).per_second, None
        if way.by_host is None:
            return (None, None)
        before = cpu_seconds(way.pids)
        answers = ask(way.by_host)
        spent = cpu_seconds(way.pids) - before
        return answers.per_second, spent / answers.count * 1e6 if answers.count else None

    rows = (
        Row(f"requests by Host, {connections} at once", "1/s"),
        Row("CPU, a request by Host", "us", lower_is_better=True),
    )
    return Measurement(rows, take)


def memory(case: Case) -> tuple[float | None, ...]:
    """Return the memory for each idle visitor, in KiB."""
    if not case.way.pids:
        return (None,)
    with case.fresh() as way:
        return (memory_per_visitor(way.web, way.pids, VISITORS) / 1024,)


def recovery(seconds: float) -> Measurement:
    """Measure how long no visitor is served when the server is killed and started again at once.

    One kill for each of these *seconds*.
    """

    def take(case: Case) -> tuple[float | None, ...]:
        if case.way.server is None:
            return (None,)
        taken = []
        with case.fresh() as way:
            for _ in range(max(1, round(seconds))):
                wait_for_visitor(way.web)
                time.sleep(LASTED)
                assert way.server is not None
                began = time.monotonic()
                way.server.kill_and_restart()
                wait_for_visitor(way.web)
                taken.append(time.monotonic() - began)
        return (statistics.median(taken),)

    return Measurement((Row("back after the server is killed", "s", lower_is_better=True),), take)


def measurements(seconds: float, directory: Path) -> list[Measurement]:
    """Return all measurements of a way. Each load lasts for that many *seconds*."""
    close = directory / "close.lua"
    close.write_text(WRK_CLOSE)
    return [
        bulk("throughput to the service", throughput(seconds), "CPU, to the service"),
        bulk("throughput from the service", throughput(seconds, "-R"), "CPU, from the service"),
        bulk("throughput, 16 streams", throughput(seconds, "-P", "16")),
        crowd("requests, 32 at once", "CPU, a request", requests(seconds, 32), "32 at once"),
        crowd("new connections, 32 at once", "CPU, a new connection", requests(seconds, 32, close)),
        by_name(seconds, 32, directory),
        by_host(seconds, 32, directory),
        beside(seconds),
        Measurement((Row("memory, idle visitor", "KiB", lower_is_better=True),), memory),
        recovery(seconds),
    ]
