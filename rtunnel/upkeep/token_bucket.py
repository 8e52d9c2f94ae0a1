"""How many of a thing that costs something there may be a second."""

from __future__ import annotations


class Allowance:
    """So many a second; what is left over is kept, up to a bound.

    :param per_second: how many.
    :param most: how many at once. They are there at the beginning.
    :param now: seconds, on a clock that does not run backwards.
    """

    def __init__(self, per_second: float, most: int, now: float) -> None:
        self._per_second = per_second
        self._most = most
        self._left = float(most)
        self._seen = now

    def left(self, now: float) -> int:
        """How many there may be now."""
        self._left = min(self._most, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        return int(self._left)

    def spend(self, count: int) -> None:
        """There are *count* more, as :meth:`left` allowed."""
        self._left -= count
