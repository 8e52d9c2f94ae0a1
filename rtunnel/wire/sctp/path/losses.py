"""Which packets are lost, and for how long to wait for an acknowledgement (RFC 9260, section 6.3; RFC 8985).

RFC 9260 counts how often an acknowledgement passes over a chunk. That takes three later packets, cannot tell a second
loss of the same chunk, and mistakes reordering for loss. So losses are told by time, as TCP does today (RACK-TLP, RFC
8985): a packet is lost if one that was sent later has arrived, and the time by which packets overtake each other has
passed. If the last packets of a flight are lost, there is no later one; then a probe is sent after two round trips.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Protocol, TypeVar

#: The bounds of the retransmission time-out, in seconds. RFC 9260 recommends 1 and 60; browsers use 0.4 at least. A
#: path that answers nothing for seconds is replaced or given up by ICE; then this end should not sleep.
RTO_MIN, RTO_MAX = 0.4, 3.0
#: The time-out before a round trip was measured.
RTO_INITIAL = 1.0
#: For how long a peer may delay its acknowledgement of a single packet, in seconds (RFC 9260, section 6.2).
PEER_DELAY = 0.2
#: After so many packets have been passed over, nothing is reordered, until reordering was seen (RFC 8985, section 6.2).
PASSED_OVER = 3
#: The shortest probe time-out, in seconds: what timers of a busy process can tell.
PROBE_MIN = 0.01
#: How many round trips the reordering window stays wide after it was too narrow (RFC 8985, section 6.2).
_WIDE_FOR = 16


class Sent(Protocol):
    """What was sent in a packet, with the number of that packet and the time."""

    number: int
    sent_at: float


_Sent = TypeVar("_Sent", bound=Sent)


class RoundTrips:
    """The round-trip time, and the time-outs that follow from it.

    :ivar smoothed: seconds; 0.0 while unknown.
    :ivar shortest: the shortest since the beginning, or since the path changed.
    :ivar timeout: the retransmission time-out, with its back-off.
    """

    __slots__ = ("_variation", "shortest", "smoothed", "timeout")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: the path is another."""
        self.smoothed = self._variation = 0.0
        self.shortest = inf
        self.timeout = RTO_INITIAL

    def measured(self, sample: float) -> None:
        """Take the round trip of a packet that was sent once."""
        if self.smoothed:
            self._variation += (abs(self.smoothed - sample) - self._variation) / 4
            self.smoothed += (sample - self.smoothed) / 8
        else:
            self.smoothed = max(sample, 1e-6)
            self._variation = sample / 2
        if sample < self.shortest:
            self.shortest = sample
        # On a long and steady path, the peer's delay would come too late otherwise (RFC 6298 has G, Linux 0.2 s).
        self.timeout = min(max(self.smoothed + max(4 * self._variation, PEER_DELAY), RTO_MIN), RTO_MAX)

    def back_off(self) -> None:
        """Wait for longer next time."""
        self.timeout = min(2 * self.timeout, RTO_MAX)

    def probe_timeout(self, alone: bool, probes: int) -> float:
        """Return after how many seconds to probe.

        A probe may be lost as well, or its acknowledgement. Then there is another one, and the wait doubles: on a short
        path, several go before the time-out. RFC 8985 has one only; this is as in QUIC (RFC 9002, section 6.2).

        :param alone: whether only one packet is in flight, whose acknowledgement the peer may delay.
        :param probes: how many were sent since anything was acknowledged.
        """
        if not self.smoothed:
            return RTO_INITIAL
        return max(2 * self.smoothed + (PEER_DELAY if alone else 0.0), PROBE_MIN) * (1 << probes)


class Rack:
    """What the newest acknowledged packet says of those before it.

    Packets are numbered in the order of their sending; one that is sent again gets a new number.

    :ivar newest: the number of the packet sent last of all that arrived.
    :ivar sent_at: when it was sent.
    :ivar passed_over: the most packets sent later that arrived while an earlier one was missing.
    """

    __slots__ = (
        "_reordered",
        "_round_ends",
        "_wide_until",
        "_widened",
        "newest",
        "passed_over",
        "round_trip",
        "sent_at",
    )

    def __init__(self) -> None:
        self.newest = -1
        self.sent_at = 0.0
        self.round_trip = 0.0
        self.passed_over = 0
        self._reordered = False
        #: By how many quarters of a round trip packets may overtake each other.
        self._widened = 1
        self._wide_until = -1
        self._round_ends = -1

    def arrived(self, number: int, sent_at: float, repeated: bool, shortest: float, now: float) -> None:
        """Note that a packet arrived.

        :param repeated: whether its chunks were sent before: an acknowledgement sooner than the shortest round trip is
            of the earlier copy. While that is unknown, there may be nothing but such packets.
        """
        if number <= self.newest:
            return
        round_trip = now - sent_at
        if repeated and round_trip < shortest < inf:
            return
        self.newest, self.sent_at, self.round_trip = number, sent_at, round_trip

    def reordered(self) -> None:
        """Note that a packet sent once arrived behind a later one."""
        self._reordered = True

    def repeated_needlessly(self, next_number: int) -> None:
        """Note that the peer got something twice: the window was too narrow. It widens once a round trip."""
        if self.newest >= self._round_ends:
            self._widened = min(self._widened + 1, 8)
            self._round_ends = next_number
            self._wide_until = next_number + _WIDE_FOR * 64

    def window(self, shortest: float, smoothed: float, recovering: bool) -> float:
        """Return by how many seconds a packet may be overtaken before it counts as lost."""
        if self._widened > 1 and self.newest > self._wide_until:
            self._widened = 1
        if not self._reordered and (recovering or self.passed_over >= PASSED_OVER):
            return 0.0
        return min(self._widened * min(shortest, smoothed) / 4, smoothed)

    def overdue(
        self, in_flight: Iterable[_Sent], times: RoundTrips, recovering: bool, now: float
    ) -> tuple[list[_Sent], float | None]:
        """Return what is lost, and when to ask again although nothing has arrived; None: then there is nothing to ask.

        :param in_flight: in the order of its sending.
        """
        lost: list[_Sent] = []
        patience: float | None = None
        for one in in_flight:
            if one.number >= self.newest:
                break
            if patience is None:
                patience = self.round_trip + self.window(times.shortest, times.smoothed, recovering)
            ends = one.sent_at + patience
            if ends > now:
                return lost, ends
            lost.append(one)
        return lost, None
