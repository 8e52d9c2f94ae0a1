"""What systemd is told: the protocol of ``sd_notify(3)``."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell systemd, if it wants to know (``Type=notify``).

    :param state: such as ``READY=1``; several are joined by newlines.
    """
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)
        sock.sendto(state.encode(), "\0" + path[1:] if path[0] == "@" else path)
