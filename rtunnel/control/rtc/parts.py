"""What the two ends of the WebRTC tunnel say about themselves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from rtunnel.control.parts import milliseconds
from rtunnel.rtc.peer import Peer
from rtunnel.rtc.sealed.end import SealedEnd
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.rtc.traffic import History
from rtunnel.wire.messages import clean_text


def signaling(link: SignalLink) -> dict[str, Any]:
    """Return whether a host or client is registered."""
    return {"url": link.url, "up": link.up, "problem": None if link.up else link.why_down or "not connected yet"}


def peer_connection(peer: Peer) -> dict[str, Any]:
    """Return how a peer connection is, also one that is being made."""
    return {
        "id": clean_text(peer.name),
        "connected": peer.is_connected,
        "sealed": _sealed(peer.sealed),
        "path": peer.connection.path or None,
        "round_trip_ms": milliseconds(peer.connection.round_trip),
        "streams": len(peer.streams) if peer.streams is not None else 0,
        "datagrams_dropped": peer.connection.datagrams_dropped,
        "datagrams_forged": 0 if peer.sealed is None else peer.sealed.channels.datagrams_forged,
        **asdict(peer.connection.traffic),
        "lost_lately": _rounded(peer.lately.lost),
        "missed_lately": _rounded(peer.lately.missed),
    }


def _sealed(end: SealedEnd | None) -> dict[str, Any] | None:
    """Return how the channels of a peer connection are sealed; None: they are not, or not yet."""
    if end is None or not end.session.group:
        return None
    return {
        "group": end.session.group,
        "hedge": list(end.hedged_with),
        "signature": end.session.signature,
        "name": end.name,
        "fingerprint": end.session.fingerprint,
    }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def totals(history: History, peers: Collection[Peer]) -> dict[str, Any]:
    """Return the numbers of all peer connections that there have been.

    :param peers: those that there are now.
    """
    traffic = sum((peer.connection.traffic for peer in peers), history.gone)
    return {
        "connected": dict(history.connected),
        "failed": dict(history.failed),
        "datagrams_dropped": history.datagrams_dropped + sum(peer.connection.datagrams_dropped for peer in peers),
        **asdict(traffic),
    }
