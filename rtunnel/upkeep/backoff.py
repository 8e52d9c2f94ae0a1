"""How long to wait before the next attempt."""

from __future__ import annotations

import random

#: How much longer the next wait may be. After an outage of 5 s no wait is longer than 3.9 s.
FACTOR = 1.4


class Backoff:
    """Exponential back-off with jitter, so that the thousand clients of a server do not all come back at the same
    moment.

    :param shortest: lower bound of the first wait, in seconds.
    :param longest: longest wait, in seconds.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._attempts = 0

    def next_wait(self) -> float:
        """Return the seconds until the next attempt: a random number between the previous upper bound and the next."""
        self._attempts += 1
        upper = min(self._longest, self._shortest * FACTOR ** min(self._attempts, 100))
        return random.uniform(max(self._shortest, upper / FACTOR), upper)

    def reset(self) -> None:
        """Start again with the shortest wait, because an attempt succeeded."""
        self._attempts = 0
