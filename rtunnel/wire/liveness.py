"""Is the peer still there? (docs/wire.rst, "Life".)

Any byte proves life. After some silence a PING asks for a sign of it, and after more the link is dead. The answers to
PINGs also tell the round-trip time.
"""

from __future__ import annotations

from rtunnel.wire.limits import LinkLimits

#: The most that PING may carry, in bytes.
MAX_PING = 16


class SignsOfLife:
    """What one end knows of the other's life. Times are seconds on any clock.

    :ivar last_heard: when the last byte came.
    :ivar tick_every: how often to call :meth:`tick`.
    :ivar round_trip: the shortest one seen; 0 as long as there is none.
    """

    def __init__(self, limits: LinkLimits, now: float) -> None:
        self.last_heard = now
        self.tick_every = min(1.0, limits.keepalive_interval / 2)
        self.round_trip = 0.0
        self._limits = limits
        self._silence = 0.0
        self._asked_at: float | None = None
        self._asked = 0

    @property
    def is_silent(self) -> bool:
        """It is time to ask."""
        return self._silence >= self._limits.keepalive_interval

    @property
    def is_dead(self) -> bool:
        """It did not answer in time; the next tick would be too late to say so."""
        return self._silence > self._limits.dead_after - self.tick_every

    def tick(self, now: float) -> None:
        """Count silence. Time in which this was not called (our process was stopped) is not the peer's silence."""
        self._silence = max(0.0, min(now - self.last_heard, self._silence + 2 * self.tick_every))

    def ask(self, now: float) -> bytes | None:
        """The payload of a PING to send; None while the answer to another is due."""
        if self._asked_at is not None and now - self._asked_at < self._limits.keepalive_interval:
            return None
        self._asked_at = now
        self._asked += 1
        return self._payload

    def take_answer(self, payload: bytes, now: float) -> bool:
        """Take a PONG; False if it answers nothing that was asked."""
        if self._asked_at is None or payload != self._payload:
            return False
        sample = now - self._asked_at
        self._asked_at = None
        if sample > 0:
            self.round_trip = min(self.round_trip, sample) if self.round_trip else sample
        return True

    @property
    def _payload(self) -> bytes:
        return b"%016d" % self._asked
