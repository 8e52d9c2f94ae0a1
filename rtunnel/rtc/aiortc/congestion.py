"""How much may be in flight on an association that also carries datagrams (as LEDBAT, RFC 6817).

SCTP's window grows until a packet is lost. Where none is, it grows until it stands in the buffer of some kernel, and
every datagram waits behind all of it. So while datagrams are about, the window is kept near what the path itself
holds: what packets wait beyond the shortest round trip is a queue, and of our making.
"""

from __future__ import annotations

#: Seconds that packets may wait in queues of our making.
QUEUE_DELAY = 0.003
#: Bytes in flight that are never too many.
LEAST_WINDOW = 16 * 1024
#: Seconds after which the shortest round trip is measured anew, with little in flight: the path may have become a
#: longer one, and a short queue that never ends looks like one.
REMEMBER = 15.0
#: Seconds after the last datagram for which the window is still kept small.
LINGER = 3.0


class DelayLimit:
    """Watches the round trips of one association.

    Times are seconds on any clock that does not run backwards.

    :ivar is_probing: the last window given is small for a moment, to see how long the path is.
    """

    __slots__ = ("_forget_at", "_last_datagram", "_quickest", "_quickest_now", "_round_ends", "is_probing")

    def __init__(self, now: float) -> None:
        # Of all, since that was forgotten last, and of the round trip that is going on.
        self._quickest = self._quickest_now = float("inf")
        self._round_ends = now
        self._forget_at = now + REMEMBER
        self._last_datagram = float("-inf")
        self.is_probing = False

    def datagram(self, now: float) -> None:
        """One was sent or received."""
        self._last_datagram = now

    def window(self, window: int, round_trip: float, now: float) -> int:
        """What the window of now *window* bytes should be, given the time that a packet just took."""
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
