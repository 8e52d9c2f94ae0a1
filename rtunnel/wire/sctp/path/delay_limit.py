"""A delay-based limit on the congestion window of an association that also carries datagrams (like LEDBAT, RFC 6817).

SCTP's window grows until a packet is lost. If none is lost, it grows until it fills the buffer of some kernel, and
every datagram waits behind that buffer. So while datagrams are sent, the window is kept near what the path itself
holds: any delay beyond the shortest round trip is a queue that we cause.
"""

from __future__ import annotations

#: Seconds that packets may wait in queues that we cause.
QUEUE_DELAY = 0.003
#: The window is never made smaller than this many bytes.
LEAST_WINDOW = 16 * 1024
#: Seconds after which the shortest round trip is measured again, with little in flight: the path may have become
#: longer, which cannot be told from a short queue that never empties.
REMEMBER = 15.0
#: Seconds after the last datagram during which the window is still kept small.
LINGER = 3.0


class DelayLimit:
    """Watches the round trips of one association.

    Times are seconds on any clock that does not run backwards.

    :ivar is_probing: the last window returned is small for one round trip, to measure the path.
    """

    __slots__ = ("_forget_at", "_last_datagram", "_quickest", "_quickest_now", "_round_ends", "is_probing")

    def __init__(self, now: float) -> None:
        # The shortest round trips: since the last measurement, and in the current round trip.
        self._quickest = self._quickest_now = float("inf")
        self._round_ends = now
        self._forget_at = now + REMEMBER
        self._last_datagram = float("-inf")
        self.is_probing = False

    def datagram(self, now: float) -> None:
        """Note that a datagram was sent or received."""
        self._last_datagram = now

    def window(self, window: int, round_trip: float, now: float) -> int:
        """Return what the window, now *window* bytes, should be, given the round trip of the last packet in seconds."""
        self._quickest_now = min(self._quickest_now, round_trip)
        if now < self._round_ends:
            return window
        quickest_now, self._quickest_now = self._quickest_now, float("inf")
        self._round_ends = now + round_trip
        self.is_probing = now >= self._forget_at
        if self.is_probing:
            self._quickest = quickest_now
            self._forget_at = now + REMEMBER
        self._quickest = min(self._quickest, quickest_now)
        if window <= LEAST_WINDOW or now - self._last_datagram > LINGER:
            return window
        if self.is_probing:
            return LEAST_WINDOW
        queue = quickest_now - self._quickest
        if queue <= QUEUE_DELAY:
            return window
        return max(LEAST_WINDOW, int(window * (0.5 + 0.5 * QUEUE_DELAY / queue)))
