"""How many data connections of a link should wait for visitors."""

from __future__ import annotations

#: Connections that wait for the first visitors.
AT_FIRST = 4
#: Seconds after which the number that waits is lowered by half of what was not needed.
SHRINK_EVERY = 30.0


class PoolSize:
    """The number that should wait. It doubles whenever a visitor finds none, and falls when some were not needed.

    :param most: the most that may wait.
    :param now: the time, in seconds.
    :ivar wanted: the number.
    """

    __slots__ = ("_fewest", "_least_idle", "_most", "_shrink_at", "wanted")

    def __init__(self, most: int, now: float) -> None:
        self._most = most
        self._fewest = self.wanted = min(AT_FIRST, most)
        # The fewest that have waited at any moment since the number was looked at.
        self._least_idle = 0
        self._shrink_at = now + SHRINK_EVERY

    def taken(self, left: int) -> None:
        """Take note that a visitor has taken a connection, and *left* wait."""
        self._least_idle = min(self._least_idle, left)

    def found_none(self) -> None:
        """Take note that a visitor has found none."""
        self._least_idle = 0
        self.wanted = min(2 * self.wanted, self._most)

    def tick(self, now: float, idle: int) -> None:
        """Lower the number, if it is time for that.

        :param idle: how many wait now.
        """
        if now >= self._shrink_at:
            self._shrink_at = now + SHRINK_EVERY
            self.wanted = max(self._fewest, self.wanted - (self._least_idle + 1) // 2)
            self._least_idle = idle
