"""What ``rtc-signal`` does now (docs/control.rst)."""

from __future__ import annotations

from typing import Any

from rtunnel.rtc.signaling.server import SignalServer


def look(server: SignalServer) -> dict[str, Any]:
    """Return what a signaling server does."""
    return {
        "ready": True,
        "problems": [],
        "listening": {"signaling": server.listener.local_address},
        "connections": len(server.connections),
        "hosts": server.switchboard.hosts,
        "clients": server.switchboard.clients,
    }
