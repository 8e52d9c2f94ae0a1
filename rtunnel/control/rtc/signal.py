"""What ``rtc-signal`` does now (docs/control.rst)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from rtunnel.control.actions.disconnect import WHY, Connected
from rtunnel.rtc.signaling.claims import AWAY
from rtunnel.rtc.signaling.party import TRY_AGAIN_LATER
from rtunnel.rtc.signaling.server import SignalServer
from rtunnel.wire.messages import clean_text


def look(server: SignalServer) -> dict[str, Any]:
    """Return what a signaling server does."""
    directory = server.directory
    away = directory.why_away
    return {
        "ready": not away,
        "problems": [f"{AWAY}, so nobody new can register here: {away}"] if away else [],
        "listening": {"signaling": server.listener.local_address},
        "connections": len(server.connections),
        "hosts": server.switchboard.hosts,
        "clients": server.switchboard.clients,
        "nodes": server.crossing.nodes if server.crossing is not None else 1,
    }


def connected(server: SignalServer) -> Iterator[Connected]:
    """Yield the hosts and clients that are registered."""
    board = server.switchboard
    for party in list(board.registered):
        end = partial(board.dismiss, party, WHY, TRY_AGAIN_LATER, party.id)
        yield Connected((clean_text(party.id), party.id), end)
