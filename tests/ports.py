"""Ports for tests that must know one before anybody listens."""

from __future__ import annotations

import itertools
import os
import random
import socket
from pathlib import Path

FIRST = 10_000
SHARE = 1_000
"""Ports that one worker has to itself, so that no other takes one between our look and the test's own bind."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago. Prefer port 0 and the log line where the program under test can.

    It is none of those from which the system takes the source ports of connections: otherwise a port that has to be
    free once more, after a restart, might be the end of somebody's connection by then. A port is not given out again
    before all others have been, so that it does not reach a test while the one before still lets go of it.
    """
    for _ in range(SHARE):
        port = next(_ports)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
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


def _share() -> range:
    """The ports of this worker; without workers, those of any."""
    shares = (_first_source_port() - FIRST) // SHARE
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    number = int(worker.removeprefix("gw")) if worker else random.SystemRandom().randrange(shares)
    start = FIRST + number % shares * SHARE
    return range(start, start + SHARE)


def _from_anywhere(ports: range) -> itertools.chain[int]:
    """Begin at one by chance: another run on this machine has the same shares."""
    middle = random.SystemRandom().randrange(len(ports))
    return itertools.chain(ports[middle:], ports[:middle])


_ports = itertools.cycle(_from_anywhere(_share()))
