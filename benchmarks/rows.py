"""The rows of the table: what is measured, and which figures each measurement gives."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.costs import cpu_seconds, memory_per_visitor
from benchmarks.parts import Failed, Transfer, requests, throughput
from benchmarks.ways import Way
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.policy import Role, TlsSettings
from rtunnel.tls.resumption import TlsSession

VISITORS = 500
WRK_CLOSE = 'wrk.headers["Connection"] = "close"\n'
ROUND_TRIP = "round trip, 1 connection"
ADDED = "added round trip"


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
    """

    way: Way
    fresh: Callable[[], AbstractContextManager[Way]]


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


def web(seconds: float, connections: int) -> Measurement:
    """Measure requests on persistent connections."""

    def take(case: Case) -> tuple[float | None, ...]:
        answers = requests(seconds, connections)(case.way.web)
        return answers.per_second, answers.p50, answers.p99

    name = f"{connections} connections"
    latencies = (Row(f"latency {share}, {name}", "ms", lower_is_better=True) for share in ("p50", "p99"))
    return Measurement((Row(f"requests, {name}", "1/s"), *latencies), take)


def memory(case: Case) -> tuple[float | None, ...]:
    """Return the memory for each idle visitor, in KiB."""
    if not case.way.pids:
        return (None,)
    with case.fresh() as way:
        return (memory_per_visitor(way.web, way.pids, VISITORS) / 1024,)


def measurements(seconds: float, directory: Path) -> list[Measurement]:
    """Return all measurements of a way. Each load lasts for that many *seconds*."""
    close = directory / "close.lua"
    close.write_text(WRK_CLOSE)
    return [
        bulk("throughput to the service", throughput(seconds), "CPU, to the service"),
        bulk("throughput from the service", throughput(seconds, "-R"), "CPU, from the service"),
        bulk("throughput, 16 streams", throughput(seconds, "-P", "16")),
        web(seconds, 32),
        web(seconds, 256),
        Measurement(
            (Row("new connections, 32 at once", "1/s"),),
            lambda case: (requests(seconds, 32, close)(case.way.web).per_second,),
        ),
        Measurement(
            (Row(ROUND_TRIP, "ms", lower_is_better=True),), lambda case: (requests(seconds, 1)(case.way.web).p50,)
        ),
        Measurement((Row("memory, idle visitor", "KiB", lower_is_better=True),), memory),
    ]


def shake_hands(credentials: Credentials, port: int, session: TlsSession | None = None) -> TlsSession | None:
    """Make one mutual handshake with the server on *port*.

    :param session: a session to resume, or None.
    :return: a session that can be resumed; None after a resumed handshake.
    :raises Failed: the handshake failed, or *session* was not resumed.
    """
    engine = TlsEngine(credentials, session=session)
    engine.start()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        while not engine.failure and (engine.peer is None if session else engine.session is None):
            connection.sendall(engine.output())
            engine.receive(connection.recv(65536))
        connection.sendall(engine.output())
        engine.say_goodbye()
        connection.sendall(engine.output())
    if engine.failure or (session and not engine.is_resumed):
        raise Failed(engine.failure or "the handshake was not resumed")
    return engine.session


def handshakes(directory: Path, port: int, seconds: float, resumed: bool) -> float:
    """Return how many mutual handshakes per second are made, one after the other, with a server in another process.

    :param directory: the directory of the client's certificate.
    :param resumed: whether they resume a first one, as the handshakes of data connections do.
    """
    settings = TlsSettings(directory / "client.crt", directory / "client.key", directory / "ca.crt")
    credentials = Credentials(settings, Role.CLIENT)
    session = shake_hands(credentials, port)
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        shake_hands(credentials, port, session if resumed else None)
        count += 1
    return count / seconds
