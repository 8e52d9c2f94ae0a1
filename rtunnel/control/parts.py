"""What several services say about themselves."""

from __future__ import annotations

from typing import Any, Protocol

from rtunnel.tls.identity import Peer
from rtunnel.upkeep.draining import DrainingService
from rtunnel.upkeep.memory import Memory


def resources(service: DrainingService, memory: Memory) -> dict[str, Any]:
    """Return how much a service takes of what is bounded."""
    return {
        "visitors": len(service.visitors),
        "visitors_total": service.visitors.total,
        "descriptors": {"held": service.descriptors.held, "limit": service.descriptors.limit},
        "memory": {"held_at_most": memory.held_at_most, "limit": memory.total},
    }


def secured(identity: Peer | None) -> dict[str, str] | None:
    """Return how TLS protects a link; None: it does not."""
    if identity is None:
        return None
    return {
        "group": identity.group,
        "signature": identity.signature,
        "certificate": identity.name,
        "fingerprint": identity.fingerprint,
        "expires": identity.valid_until.isoformat(timespec="seconds"),
    }


class IWatch(Protocol):
    """What knows whether a local service answers; see :class:`~rtunnel.services.watch.ServiceWatch`."""

    @property
    def trouble(self) -> str | None: ...


def answering(watch: IWatch | None) -> dict[str, Any]:
    """Return whether a local service answers, as far as is known."""
    problem = watch.trouble if watch is not None else None
    return {"answers": None if problem is None else not problem, "problem": problem or None}


def milliseconds(seconds: float) -> float | None:
    """Return a time that was measured, in milliseconds; None: it was not."""
    return round(seconds * 1000, 3) or None
