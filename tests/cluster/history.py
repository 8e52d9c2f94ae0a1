"""What nodes have served, and whether it was right.

A node serves a visitor when its claim is good. Whoever serves for a key must have the greatest number so far, and one
number has one owner: so when an owner has followed another, the earlier one never serves again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rtunnel.cluster.interface import Claim


@dataclass(frozen=True, slots=True)
class Served:
    """A visitor was let in, for a key and its owner."""

    when: float
    node: str
    key: str
    owner: str
    number: int


class History:
    """Visitors in the order in which they came.

    :ivar wrong: in words, what must not have happened.
    """

    def __init__(self) -> None:
        self.count = 0
        self.owners: set[tuple[str, str]] = set()
        self.wrong: list[str] = []
        self._last: dict[str, Served] = {}
        self._owner_of: dict[tuple[str, int], str] = {}

    def add(self, served: Served) -> None:
        """Add the latest visitor."""
        self.count += 1
        self.owners.add((served.key, served.owner))
        last = self._last.get(served.key)
        if last is not None and served.number < last.number:
            self.wrong.append(f"{served} after {last}")
        if self._owner_of.setdefault((served.key, served.number), served.owner) != served.owner:
            self.wrong.append(f"{served}, and the number is that of another owner")
        self._last[served.key] = served

    def visit(self, when: float, node: str, claims: Iterable[Claim]) -> None:
        """Let a visitor come for each claim of a node."""
        for claim in claims:
            if claim.is_good:
                self.add(Served(when, node, claim.key, claim.owner, claim.number))
