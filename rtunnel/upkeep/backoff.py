"""How long to wait before the next attempt."""

from __future__ import annotations

import random

#: Each wait may be this much longer than the one before. After an outage of 5 s the longest is then 3.9 s.
FACTOR = 1.4


class Backoff:
    """Exponential back-off with jitter, so that a thousand clients of one server do not come back at one moment.

    :param shortest: first wait at least, in seconds.
    :param longest: longest wait, in seconds.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._attempts = 0

    def next_wait(self) -> float:
        """Seconds until the next attempt: between the previous upper bound and the next."""
        self._attempts += 1
        upper = min(self._longest, self._shortest * FACTOR ** min(self._attempts, 100))
        return random.uniform(max(self._shortest, upper / FACTOR), upper)

    def reset(self) -> None:
        """An attempt succeeded."""
        self._attempts = 0
