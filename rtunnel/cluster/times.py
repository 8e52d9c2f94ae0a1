"""How long leases last. Tests have shorter ones."""

from __future__ import annotations

from dataclasses import dataclass

from rtunnel.cluster.interface import LEASE, MARGIN, RENEW_EVERY


@dataclass(frozen=True, slots=True)
class Times:
    """Times of a directory, in seconds.

    :ivar lease: see :data:`~rtunnel.cluster.interface.LEASE`.
    :ivar margin: see :data:`~rtunnel.cluster.interface.MARGIN`.
    :ivar renew_every: see :data:`~rtunnel.cluster.interface.RENEW_EVERY`.
    :ivar reply: in which the directory must answer.
    """

    lease: float = LEASE
    margin: float = MARGIN
    renew_every: float = RENEW_EVERY
    reply: float = 2.0
