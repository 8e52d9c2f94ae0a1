"""What a measurement needs around it: the services, and the ways to them, all started at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import hello, udp
from benchmarks.others import stream_module
from benchmarks.parts import HOST, Failed, attempt, find, free_ports, nginx, running, wait_for, wait_for_echo
from benchmarks.rows import Case, Measurement
from benchmarks.ways import Column, Way, fresh


@contextmanager
def services(directory: Path, host: str = HOST) -> Iterator[Way]:
    """Run iperf3's server, a web server and the echo, which listen on *host*."""
    iperf, web, port = free_ports(3)
    processes = {
        "iperf3": [find("iperf3"), "-s", "-B", host, "-p", str(iperf)],
        "nginx": nginx(directory, web, host),
        "echo": [sys.executable, str(udp.ECHO), "serve", host, str(port)],
    }
    with ExitStack() as stack:
        for name, argv in processes.items():
            stack.enter_context(running(argv, directory / f"{name}.log"))
        wait_for(web, directory / "nginx.log", host)
        wait_for_echo(port, directory / "echo.log", host)
        own = host == HOST
        there = attempt("ClientHellos", partial(hello_service, directory, stack)) if own else None
        yield Way(iperf, web, echo=port, hello=there, host=host)


def hello_service(directory: Path, stack: ExitStack) -> int:
    """Start the service of :mod:`benchmarks.hello`, and return its port.

    :raises Failed: nginx has not what it needs for that.
    """
    (port,) = free_ports(1)
    log = directory / "hello.log"
    stack.enter_context(running(hello.service(directory, port, stream_module()), log))
    hello.wait_for_service(port, log)
    return port


@contextmanager
def ways(columns: Iterable[Column], directory: Path, ends: Way) -> Iterator[tuple[dict[Column, Way], dict[str, str]]]:
    """Start all columns. Yield them, and the reasons why other programs are left out, by title.

    :raises Failed: one of this package's own columns did not start.
    """
    open_ways, missing = {}, {}
    with ExitStack() as stack:
        for column in columns:
            try:
                open_ways[column] = stack.enter_context(fresh(column, directory, ends))
            except Failed as failure:
                if column.is_ours:
                    raise
                missing[column.title] = str(failure)
        yield open_ways, missing


def take(measurement: Measurement, case: Case, title: str) -> tuple[float | None, ...]:
    """Return the figures of a load. If it fails, print why and return None for each row."""
    taken = attempt(f"{title}, {measurement.rows[0].name}", lambda: measurement.take(case))
    return (None,) * len(measurement.rows) if taken is None else taken
