"""How large a packet may be: path MTU discovery by probes (RFC 8899; for SCTP its section 6.2, with RFC 4820).

A probe is a HEARTBEAT padded to the size in question; its acknowledgement proves the size. Nothing waits for it, and
no data is lost with it. The sizes that most paths have are tried first, then halves of what is left.

A probe that is lost says something only if the path carried other packets meanwhile. And a black hole is a path that
carries small packets only: time-outs with large packets in flight lead back to the base size, and to a new search.
"""

from __future__ import annotations

from math import inf

#: The MTUs that are tried first: Ethernet's, and that of jumbo frames.
COMMON_MTUS = (1500, 9000)
#: The search ends when the largest size is known to so many bytes.
CLOSE_ENOUGH = 20
#: So many lost probes rule a size out (MAX_PROBES).
MAX_PROBES = 3
#: For how many seconds an acknowledgement is awaited, at first and at most (PROBE_TIMER).
PROBE_TIME, MAX_PROBE_TIME = 1.0, 64.0
#: When the search ended, it begins anew after so many seconds (PMTU_RAISE_TIMER).
RAISE_TIME = 600.0
#: So many time-outs in a row, with large packets in flight, are a black hole.
MAX_TIMEOUTS = 2


class PathMtu:
    """The search for the largest packet that a path takes.

    Sizes are those of SCTP packets with their common header, in bytes, and multiples of 4, as such packets are.

    :param base: the size that any path takes.
    :param largest: the size that the sockets and DTLS take.
    :param overhead: what IP, UDP and DTLS add to a packet, in bytes; a guess will do.
    :ivar size: the largest size that is proven.
    :ivar timeouts: how many time-outs there were in a row with large packets in flight. Set it to 0 when a packet
        larger than *base* has been acknowledged.
    :ivar next_time: when to call :meth:`probe`; None if there is nothing to find out.
    """

    __slots__ = (
        "_base",
        "_largest",
        "_lost",
        "_outstanding",
        "_sent_at",
        "_too_large",
        "_wait",
        "next_time",
        "overhead",
        "size",
        "timeouts",
    )

    def __init__(self, base: int, largest: int, overhead: int = 85) -> None:
        self._base = base & ~3
        self._largest = largest & ~3
        self.overhead = overhead
        self.size = self._base
        self.timeouts = 0
        self.next_time: float | None = None
        # The probe under way, and how many of that size were lost; the smallest size that did not get through.
        self._outstanding: int | None = None
        self._sent_at = inf
        self._lost = 0
        self._wait = PROBE_TIME
        self._too_large = inf
        self._search()

    @property
    def largest(self) -> int:
        """The largest size that the sockets and DTLS take. It may be set."""
        return self._largest

    @largest.setter
    def largest(self, largest: int) -> None:
        largest &= ~3
        was, self._largest = self._largest, largest
        if largest < self.size:
            self.size = max(self._base, largest)
        if largest > was or (self._outstanding or 0) > largest:
            self._search()

    def restart(self) -> None:
        """Go back to the base size and search anew: the path is another one."""
        self.size = self._base
        self._search()

    def _search(self) -> None:
        self._too_large = inf
        self._outstanding = None
        self._lost = 0
        self._wait = PROBE_TIME
        self.timeouts = 0
        self.next_time = 0.0 if self._largest > self.size else None

    def probe(self, now: float, heard_at: float = inf) -> int | None:
        """Return the size of the probe to send now, if one is due; then it counts as sent.

        :param heard_at: when the peer acknowledged anything last. A probe that is lost while nothing is acknowledged
            says nothing; it is sent again, less and less often.
        """
        if self.next_time is None or now < self.next_time:
            return None
        if self._outstanding is not None:
            if heard_at > self._sent_at:
                self._wait = PROBE_TIME
                self._lost += 1
            else:
                self._wait = min(2 * self._wait, MAX_PROBE_TIME)
            if self._lost >= MAX_PROBES:
                self._too_large = self._outstanding
                self._outstanding = None
                self._lost = 0
        size = self._outstanding or self._candidate()
        if size is None:
            self._rest(now)
            return None
        self._outstanding = size
        self._sent_at = now
        self.next_time = now + self._wait
        return size

    def acked(self, size: int, now: float) -> None:
        """Note that the peer acknowledged a probe of *size* bytes, however late."""
        if size > self._largest:
            return
        if size > self.size:
            self.size = size
            if size >= self._too_large:
                self._too_large = inf
        if self._outstanding is not None and self._outstanding <= self.size:
            self._step(now)

    def too_big(self, size: int, now: float) -> None:
        """Note that the system did not send a packet of *size* bytes, because the path's MTU is known to be smaller."""
        if size <= self.size:
            if self.size == self._base:
                return
            # A packet of data: the path has become narrower.
            self.restart()
        if size < self._too_large:
            self._too_large = size
        if self._outstanding is None or self._outstanding >= size:
            self._step(now)

    def timed_out(self, now: float) -> bool:
        """Note a retransmission time-out with packets larger than the base size in flight.

        :return: whether the size is the base size now.
        """
        self.timeouts += 1
        if self.timeouts < MAX_TIMEOUTS or self.size == self._base:
            return False
        self.restart()
        self.next_time = now + PROBE_TIME
        return True

    def _step(self, now: float) -> None:
        """Go on to the next size at once."""
        self._outstanding = None
        self._lost = 0
        self._wait = PROBE_TIME
        if self._candidate() is None:
            self._rest(now)
        else:
            self.next_time = now

    def _rest(self, now: float) -> None:
        """End the search for some time."""
        self._outstanding = None
        # A network may become wider.
        self._too_large = inf
        self.next_time = now + RAISE_TIME if self.size < self._largest else None

    def _candidate(self) -> int | None:
        """Return the size to try next; None if the largest is found."""
        size, largest, too_large = self.size, self._largest, self._too_large
        for mtu in COMMON_MTUS:
            step = mtu - self.overhead
            if size + 4 <= step < min(too_large, largest):
                return step & ~3
        if largest < too_large:
            return largest if largest > size else None
        return int(size + too_large) // 2 & ~3 if too_large - size > CLOSE_ENOUGH else None
