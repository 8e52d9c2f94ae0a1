"""A visitor that waits for a data connection, because it may not go by the link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rtunnel.reverse.public import Visitor

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

    def abort(self) -> None:
        """Turn the visitor away."""
        self.turn_away(self)

    cut = abort
