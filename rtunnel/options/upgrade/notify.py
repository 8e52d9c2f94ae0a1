"""What systemd is told: the protocol of ``sd_notify(3)``."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress


def notify(state: str, descriptors: Sequence[int] = (), environ: Mapping[str, str] = os.environ) -> None:
    """Tell systemd, if it wants to know (``Type=notify``).

    :param state: such as ``READY=1``; several are joined by newlines.
    :param descriptors: what it is to keep (``FDSTORE=1``), at most 253.
    """
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)
        sock.connect("\0" + path[1:] if path[0] == "@" else path)
        socket.send_fds(sock, [state.encode()], descriptors)


def wait_for_systemd(seconds: float) -> None:
    """Wait until systemd has done what it was told (``BARRIER=1``), but not for longer than that."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            notify("BARRIER=1", [theirs.fileno()])
        ours.settimeout(seconds)
        with suppress(OSError):
            ours.recv(1)  # the end, once systemd has closed its copy


def notify_reloading() -> None:
    """Tell systemd that the settings are read again, until ``READY=1``. It wants to know since when, by its clock."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
