"""What ``rtc-client`` does now (docs/control.rst)."""

from __future__ import annotations

from typing import Any

from rtunnel.control.parts import carried, resources
from rtunnel.control.rtc.parts import peer_connection, signaling, totals
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.rights.trusted import describe
from rtunnel.rtc.settings import ForwardSettings
from rtunnel.traffic.accounts import DEFAULT, Accounts


def look(client: RtcClient) -> dict[str, Any]:
    """Return what a client does."""
    problems = []
    peer = client.peer
    if peer is None or not peer.is_connected:
        problems.append(f"host '{client.settings.id}' is not connected: {client.why_not or 'not connected yet'}")
    return {
        "ready": peer is not None and peer.is_connected and not client.is_stopping,
        "problems": problems,
        "host": client.settings.id,
        "identity": describe(client.sealing.identity, client.trust),
        "signaling": signaling(client.signaling),
        **resources(client, client.memory),
        "peer": peer_connection(peer) if peer is not None else None,
        "peer_totals": totals(client.history, [peer] if peer is not None else []),
        "waiting": client.waiting,
        "forwards": [_forward(forward, client.visitors.accounts) for forward in client.settings.forwards],
    }


def _forward(forward: ForwardSettings, accounts: Accounts) -> dict[str, Any]:
    account = accounts.of("", forward.service or DEFAULT)
    return {
        "local": str(forward.local),
        "service": forward.service,
        "visitors": len(account.live),
        **carried(account),
    }
