"""What several services say about themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from rtunnel.traffic.accounts import BOUNDS, Account, Accounts
from rtunnel.upkeep.draining import DrainingService
from rtunnel.upkeep.memory import Memory

if TYPE_CHECKING:
    from rtunnel.tls.identity import Peer


def resources(service: DrainingService, memory: Memory) -> dict[str, Any]:
    """Return what a service has carried, and how much it takes of what is bounded."""
    accounts = service.visitors.accounts
    return {
        "visitors": len(service.visitors),
        "visitors_total": accounts.visitors,
        "traffic": _traffic(accounts),
        "visits": _visits(accounts),
        "descriptors": {"held": service.descriptors.held, "limit": service.descriptors.limit},
        "memory": {"held_at_most": memory.held_at_most, "limit": memory.total},
    }


def _traffic(account: Account | Accounts) -> dict[str, Any]:
    came, went = account.totals
    came_rate, went_rate = account.rates
    return {
        "from_visitors": came,
        "to_visitors": went,
        "from_visitors_rate": round(came_rate, 1),
        "to_visitors_rate": round(went_rate, 1),
    }


def carried(account: Account) -> dict[str, Any]:
    """Return what a tunnel or service has carried, and for how many."""
    return {
        "visitors_total": account.visitors,
        "traffic": _traffic(account),
        **({"statuses": dict(account.statuses)} if account.statuses else {}),
    }


def _visits(accounts: Accounts) -> dict[str, Any]:
    """Return how visits have ended, by how they have travelled."""
    return {
        carrier: {
            "ended": {reason: count for (by, reason), count in accounts.reasons.items() if by == carrier},
            "seconds": {**dict(zip(map(str, BOUNDS), counts, strict=False)), "longer": counts[-1]},
            "seconds_sum": round(accounts.seconds_of[carrier], 3),
        }
        for carrier, counts in accounts.durations.items()
    }


def secured(identity: Peer | None, hedged_with: Sequence[str]) -> dict[str, Any] | None:
    """Return how TLS protects a link; None: it does not.

    :param hedged_with: what was mixed into the keys of its data connections beside the usual.
    """
    if identity is None:
        return None
    return {
        "group": identity.group,
        "hedge": list(hedged_with),
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
