"""Liveness: is the peer still there? (docs/wire.rst, "Life".)

Any byte proves that it is. After some silence this end sends a PING, and after more the connection is dead. The PONGs
also tell the round-trip time.
"""

from __future__ import annotations

from rtunnel.wire.limits import LinkLimits

#: The longest payload of a PING, in bytes.
MAX_PING = 16


class Liveness:
    """How long the peer has been silent. All times are seconds, on any clock.

    :param limits: the bounds of this end; only ``keepalive_interval`` and ``dead_after`` count.
    :param now: the time.
    :ivar last_heard: when the last byte came; the receiver of the bytes sets this.
    :ivar tick_every: how often to call :meth:`tick`.
    :ivar round_trip: the shortest round trip seen; 0 before the first one.
    :ivar pings: the number of the last PING, from 1; 0 before the first one.
    :ivar answered: the number of the last one that was answered. The peer has read all that was sent before it.
    """

    def __init__(self, limits: LinkLimits, now: float) -> None:
        self.last_heard = now
        self.tick_every = min(1.0, limits.keepalive_interval / 2)
        self.round_trip = 0.0
        self._limits = limits
        self._silence = 0.0
        self._pinged_at: float | None = None
        self.pings = self.answered = 0

    @property
    def is_silent(self) -> bool:
        """Whether the peer has been silent for so long that a PING is due."""
        # The answer needs the time of a tick, even if there is hardly any between the two limits.
        limits = self._limits
        return self._silence >= min(limits.keepalive_interval, limits.dead_after - 2 * self.tick_every)

    @property
    def is_dead(self) -> bool:
        """Whether the peer has been silent for too long, or would be before the next tick."""
        return self._silence > self._limits.dead_after - self.tick_every

    def tick(self, now: float) -> None:
        """Measure the silence. Time during which this process was stopped, so that ticks came late, does not count."""
        self._silence = max(0.0, min(now - self.last_heard, self._silence + 2 * self.tick_every))

    def make_ping(self, now: float) -> bytes | None:
        """Return the payload of a PING to send, or None while the answer to an earlier one is due."""
        if self._pinged_at is not None and now - self._pinged_at < self._limits.keepalive_interval:
            return None
        self._pinged_at = now
        self.pings += 1
        return self._payload

    def take_pong(self, payload: bytes, now: float) -> bool:
        """Take a PONG. Return False if it does not answer the last PING."""
        if self._pinged_at is None or payload != self._payload:
            return False
        sample = now - self._pinged_at
        self._pinged_at = None
        self.answered = self.pings
        if sample > 0:
            self.round_trip = min(self.round_trip, sample) if self.round_trip else sample
        return True

    @property
    def _payload(self) -> bytes:
        return b"%016d" % self.pings
