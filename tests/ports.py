"""Ports for tests that must know a port before anything listens on it."""

from __future__ import annotations

import random
import socket
from pathlib import Path


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that was free a moment ago. Prefer port 0, if the program under test logs what it got.

    The port is outside the range from which the system takes the source ports of connections. Otherwise a connection
    might use it when a test needs it again, after a restart.

    :raises AssertionError: 100 ports were tried, and none was free.
    """
    for _ in range(100):
        port = random.randrange(10_000, _first_source_port())
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("100 ports were tried, and none was free")


def _first_source_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768
    return first if first > 12_000 else 65_536
