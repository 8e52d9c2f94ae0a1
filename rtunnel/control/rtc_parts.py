"""What the two ends of the WebRTC tunnel say about themselves."""

from __future__ import annotations

from typing import Any

from rtunnel.rtc.peer import Peer
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.wire.messages import clean_text


def signaling(link: SignalLink) -> dict[str, Any]:
    """Return whether a host or client is registered."""
    return {"url": link.url, "up": link.up, "problem": None if link.up else link.why_down or "not connected yet"}


def peer_connection(peer: Peer) -> dict[str, Any]:
    """Return how a peer connection is, also one that is being made."""
    return {
        "id": clean_text(peer.name),
        "connected": peer.is_connected,
        "path": peer.connection.path or None,
        "streams": len(peer.streams) if peer.streams is not None else 0,
        "datagrams_dropped": peer.connection.datagrams_dropped,
    }
