"""Pacing: what the window allows is not sent at once, but spread over the round trip, in bursts.

A burst is what one system call takes (UDP_SEGMENT), so pacing costs no more calls than there are bursts. It is as long
as 2 ms of the rate, which timers of an event loop can keep and which queues of any path take; it has two packets at
least, because the peer acknowledges every second one at once. More than 64 KiB would not fit into one call.

If a timer is late, up to one burst more is sent then, so the rate is kept. Pauses earn no more than that.
"""

from __future__ import annotations

from math import inf

#: How much of the rate is sent in a burst, in seconds.
BURST_TIME = 0.002
#: The largest burst in bytes, and the smallest in packets.
MAX_BURST, LEAST_PACKETS = 64 * 1024, 2
#: What may be sent at once after a pause, in packets: the initial window (RFC 6928).
INITIAL_PACKETS = 10
#: What may be sent if nothing is to be spread: any number of bytes.
UNLIMITED = 1 << 62


class Pacer:
    """A token bucket that is emptied in bursts.

    :param packet: the size of a full packet, in bytes.
    :ivar packet: the same; it may be set when the path MTU becomes another.
    """

    __slots__ = ("_credit", "_filled_at", "_in_burst", "packet")

    def __init__(self, packet: int) -> None:
        self.packet = packet
        self._credit = float(min(INITIAL_PACKETS * packet, MAX_BURST))
        self._filled_at = inf
        self._in_burst = True

    def allowance(self, rate: float, now: float) -> int:
        """Return how many bytes may be sent now; nothing until a burst is due. The last packet may exceed it.

        :param rate: bytes a second.
        """
        packet = self.packet
        if rate == inf:
            self._credit = float(min(INITIAL_PACKETS * packet, MAX_BURST))
            self._filled_at = now
            self._in_burst = True
            return UNLIMITED
        burst = self._burst(rate)
        elapsed = now - self._filled_at
        if elapsed > 0:
            self._credit = min(self._credit + rate * elapsed, max(2 * burst, min(INITIAL_PACKETS * packet, MAX_BURST)))
        self._filled_at = now
        # A byte less will do: the time, as it is rounded, may never come to the rest.
        if self._credit > burst - 1:
            self._in_burst = True
        return int(self._credit) if self._in_burst else 0

    def sent(self, count: int, now: float) -> None:
        """Note that so many bytes were sent."""
        self._credit = credit = max(self._credit - count, -float(MAX_BURST))
        if credit < 1:
            self._in_burst = False

    def next_time(self, rate: float, now: float) -> float:
        """Return when the next burst is due, given what :meth:`allowance` was asked last; *now* if one is."""
        if rate == inf or self._in_burst:
            return now
        return max(now, self._filled_at + (self._burst(rate) - self._credit) / rate)

    def _burst(self, rate: float) -> float:
        return min(max(BURST_TIME * rate, LEAST_PACKETS * self.packet), max(MAX_BURST, self.packet))
