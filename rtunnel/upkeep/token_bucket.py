"""A token bucket: a rate limit that allows bursts."""

from __future__ import annotations


class TokenBucket:
    """A token bucket. It starts full, and holds at most *size* tokens.

    :param rate: tokens added per second.
    :param size: the longest burst.
    :param now: seconds, on a clock that does not run backwards.
    """

    def __init__(self, rate: float, size: int, now: float) -> None:
        self._rate = rate
        self._size = size
        self._tokens = float(size)
        self._filled_at = now

    def left(self, now: float) -> int:
        """Return how many tokens are left."""
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return int(self._tokens)

    def spend(self, count: int) -> None:
        """Remove *count* tokens, no more than :meth:`left` has just returned."""
        self._tokens -= count

    def take(self, now: float) -> bool:
        """Remove one token; return whether there was one."""
        if self.left(now) < 1:
            return False
        self._tokens -= 1
        return True
