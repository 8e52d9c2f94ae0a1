"""The operator's settings of the status port."""

from __future__ import annotations

from dataclasses import dataclass, field

from rtunnel.addresses import ListenAddress


@dataclass(frozen=True, slots=True)
class StatusSettings:
    """Where the status can be read besides the control socket.

    :ivar listen: the address; None: nowhere.
    :ivar token: what whoever reads must know; None: nothing.
    """

    listen: ListenAddress | None = None
    token: str | None = field(default=None, repr=False)
