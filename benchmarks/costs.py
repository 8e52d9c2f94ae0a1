"""The CPU time and memory of processes, read from Linux's ``/proc``."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.parts import Failed

#: Seconds to wait before memory is read, so that the processes settle.
REST = 0.7
WARM_UP = 20
#: How many seconds a tunnel has to come back.
PATIENCE = 20.0
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


def stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state (field 3) on; an empty list if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def family(pids: Iterable[int]) -> set[int]:
    """Return these processes and all their descendants: sshd starts one for each login."""
    parents = {int(path.name): stat(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdecimal()}
    found = set(pids)
    while True:
        more = {pid for pid, fields in parents.items() if fields and int(fields[1]) in found} - found
        if not more:
            return found
        found |= more


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of these processes so far, user and system, in seconds."""
    ticks = sum(int(fields[11]) + int(fields[12]) for pid in family(pids) if (fields := stat(pid)))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pids: Iterable[int]) -> int:
    """Return the resident memory of these processes in bytes, without the kernel's memory for sockets and pipes."""
    return sum(int(fields[21]) for pid in family(pids) if (fields := stat(pid))) * os.sysconf("SC_PAGE_SIZE")


def ask(connection: socket.socket) -> None:
    """Fetch the page, and leave the connection open.

    :raises Failed: the connection was closed.
    """
    connection.sendall(REQUEST)
    answer = b""
    while not answer.endswith(b"x" * 100):
        part = connection.recv(65536)
        if not part:
            raise Failed("a visitor was turned away")
        answer += part


def visitors(port: int, count: int) -> Iterator[socket.socket]:
    """Yield *count* open connections, one after the other. Each has fetched the page.

    :raises Failed: a connection was refused or broke.
    """
    for _ in range(count):
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            ask(connection)
        except OSError as error:
            raise Failed(f"a visitor was turned away: {error}") from error
        yield connection


def wait_for_visitor(port: int) -> None:
    """Wait until a visitor is served.

    :raises Failed: none was within :data:`PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                ask(connection)
            return
        except (OSError, Failed) as error:
            if time.monotonic() > deadline:
                raise Failed(f"no visitor is served: {error}") from error
        time.sleep(0.01)


def memory_per_visitor(port: int, pids: Iterable[int], count: int) -> float:
    """Return how many bytes of memory these processes need for each of *count* idle visitors.

    Start fresh processes for this: memory that they reuse after freeing it would not show.
    """
    for connection in visitors(port, WARM_UP):
        connection.close()
    time.sleep(REST)
    before = resident(pids)
    with ExitStack() as stack:
        for connection in visitors(port, count):
            stack.enter_context(connection)
        time.sleep(REST)
        return (resident(pids) - before) / count
