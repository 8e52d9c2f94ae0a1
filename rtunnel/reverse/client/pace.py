"""How often data connections are tried through a proxy that does not let them through."""

from __future__ import annotations

from typing import Any

from rtunnel.upkeep.backoff import Backoff


class Pace:
    """After one has failed, none is tried for a while.

    :param clock: provides the time.
    :param shortest: the first wait, in seconds.
    :param longest: the longest wait.
    """

    def __init__(self, clock: Any, shortest: float, longest: float) -> None:
        self._clock = clock
        self._backoff = Backoff(shortest, longest)
        self._rests_until = 0.0

    @property
    def rests(self) -> bool:
        """Whether none is to be tried now."""
        return bool(self._clock.seconds() < self._rests_until)

    def worked(self) -> None:
        """Take note that one leads to the server."""
        self._backoff.reset()
        self._rests_until = 0.0

    def failed(self) -> None:
        """Take note that one does not. Several that were begun together count as one."""
        if not self.rests:
            self._rests_until = self._clock.seconds() + self._backoff.next_wait()
