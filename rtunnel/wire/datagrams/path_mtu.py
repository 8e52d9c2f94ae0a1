"""How large packets may be on a path: datagram packetization layer path MTU discovery (RFC 8899).

Sizes are those of a UDP payload, in bytes. A search tries several sizes at once, and keeps the largest that got
through. Larger steps come only when the largest of a step has got through.

    base -- the step's probes --> searching -- all seen, or three tries --> found -- ten minutes --> searching
     ^                                                                        |
     +---------------- three probes of the found size got no answer ----------+
"""

from __future__ import annotations

#: What every path is taken to carry (RFC 8899, section 5.1.2).
BASE = 1200
#: The sizes that are tried: what is left of the usual MTUs by IPv4, IPv6 and tunnels; then jumbo frames; then loopback.
STEPS = ((1280, 1372, 1412, 1432, 1452, 1472), (4052, 8952, 8972), (16356, 65507))
#: How often a size is tried, and seconds between two tries.
TRIES, TRY_EVERY = 3, 1.0
#: Seconds after which a larger size is looked for again, and after which the one in use is looked at.
RAISE_EVERY, CONFIRM_EVERY = 600.0, 15.0


class PathMtu:
    """The search at one end.

    :ivar size: the largest size that is known to get through.
    """

    __slots__ = ("_at", "_confirm_at", "_refused", "_step", "_tries", "_unconfirmed", "size")

    def __init__(self, now: float) -> None:
        self.reset(now)

    def reset(self, now: float) -> None:
        """Begin anew, as the path may be another one."""
        self.size = BASE
        self._step = self._tries = self._unconfirmed = 0
        self._at = now
        self._confirm_at = now + CONFIRM_EVERY
        self._refused = STEPS[-1][-1] + 1

    def due(self, now: float) -> list[int]:
        """Return the sizes that are to be tried now. Call this about twice a second.

        :param now: the time, in seconds.
        """
        sizes = []
        if self.size > BASE and now >= self._confirm_at:
            if self._unconfirmed == TRIES:
                self.reset(now)
            else:
                self._confirm_at = now + TRY_EVERY
                self._unconfirmed += 1
                sizes.append(self.size)
        if now >= self._at:
            if self._tries == TRIES:
                # What did not get through may do so on another day.
                self._tries = 0
                self._at = now + RAISE_EVERY
                self._refused = STEPS[-1][-1] + 1
            else:
                self._tries += 1
                self._at = now + TRY_EVERY
                sizes += [size for size in STEPS[self._step] if self.size < size < self._refused]
        return sizes

    def got_through(self, size: int, now: float) -> None:
        """Take note that a packet of *size* got through."""
        if size >= self.size:
            self._unconfirmed = 0
            self._confirm_at = now + CONFIRM_EVERY
        if size > self.size:
            self.size = size
        if self.size >= STEPS[self._step][-1] and self._step < len(STEPS) - 1:
            self._step += 1
            self._tries = 0
            self._at = now

    def doubt(self, now: float) -> None:
        """Look at the size in use now, as it is used."""
        if not self._unconfirmed:
            self._confirm_at = now

    def refused(self, size: int, now: float) -> None:
        """Take note that this machine does not send packets of *size*: its own interface is smaller."""
        self._refused = min(self._refused, size)
        if size <= self.size:
            refused = self._refused
            self.reset(now)
            self._refused = refused
