"""A visitor that waits for a data connection, because it may not go by the link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rtunnel.reverse.public import Visitor
from rtunnel.upkeep.log_limiter import LogLimiter

#: Seconds for which it waits.
PATIENCE = 5.0

#: Seconds that a visitor waits for a data connection where it may not go by the link.
PATIENCE = 5.0


@dataclass(slots=True, eq=False)
class Waiting:
    """See :class:`~rtunnel.upkeep.visitors.IVisitor`.

    :ivar turn_away: called with this object when the visitor is to be closed.
    :ivar until: when it has waited for too long.
    """

    turn_away: Callable[[Waiting], None]
    visitor: Visitor
    tunnel: int
    until: float
    touched: bool = True

    @property
    def held(self) -> int:
        """How many bytes of memory it takes."""
        return len(self.visitor.first)

    def say_late(self, log: LogLimiter, peer: str) -> None:
        """Say that it has waited for too long.

        :param peer: the name of its client.
        """
        what = "visitor {visitor} of client {peer} closed: no data connection came for it within {seconds:g} s"
        log.warn(what, visitor=self.visitor.name, peer=peer, seconds=PATIENCE)

    def abort(self) -> None:
        """Turn the visitor away."""
        self.turn_away(self)

    cut = abort
