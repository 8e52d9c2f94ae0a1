"""Ports for those who must know one before anybody listens: benchmarks and tests."""

from __future__ import annotations

import atexit
import itertools
import os
import random
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FIRST = 10_000
SHARE = 200
"""Ports that one process has to itself, so that no other takes one between our look and the test's own bind."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago, for TCP and for UDP. Prefer port 0 and the log line where the program can.

    :param host: where; empty: at every IPv4 address of this machine.

    It is none of those from which the system takes the source ports of connections: otherwise a port that has to be
    free once more, after a restart, might be the end of somebody's connection by then. A port is not given out again
    before all others have been, so that it does not reach a test while the one before still lets go of it.
    """
    for _ in range(SHARE):
        port = next(_ports(os.getpid()))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind((host, port))
                udp.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"{SHARE} ports were tried, and none is free")


def _first_source_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768
    return first if first > 12_000 else 65_536


def _own_share() -> tuple[socket.socket, range]:
    """The ports of this process, and what keeps other processes out, of other runs on this machine too: whoever has
    bound the first port of a share has all of it.
    """
    shares = list(range(FIRST, _first_source_port() - SHARE, SHARE))
    random.SystemRandom().shuffle(shares)
    for first in shares:
        lock = socket.socket()
        try:
            lock.bind(("127.0.0.1", first))
        except OSError:
            lock.close()
            continue
        return lock, range(first + 1, first + SHARE)
    raise AssertionError(f"all {len(shares)} shares of ports are taken")


@cache
def _ports(process: int) -> Iterator[int]:
    """Those of this process, again and again. A process that has been forked has others than the one before."""
    lock, own = _own_share()
    atexit.register(lock.close)
    return itertools.cycle(own)
