"""Numbers of the peer connections: what passed over each, and what became of all that there have been.

SCTP sends one chunk of data in each packet, so packets here are chunks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, dataclass

#: How many calls of :meth:`Lately.tick` lie between two looks, so that a share is that of one to two times as long.
EVERY = 15

#: Why an attempt failed: there was no usable answer from the other end; no path to it; over the path, no association
#: came about; or we had no room for it.
FAILURES = (SIGNALING, PATH, HANDSHAKE, LIMIT) = ("signaling", "path", "handshake", "limit")
PATHS = ("direct", "relayed")


@dataclass(slots=True)
class Traffic:
    """What has passed over a connection since its beginning. These numbers only grow.

    :ivar bytes_sent: of messages on data channels whose sending has begun; those that open channels do not count.
    :ivar bytes_received: the same for messages that have arrived whole.
    :ivar packets_sent: packets with data, each counted once.
    :ivar packets_lost: those of them that were sent again, or given up with their datagram, as they were not
        acknowledged.
    :ivar packets_received: packets with new data that were taken.
    :ivar packets_missed: packets that had not come when a later one did. Most were lost; some come out of order.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    packets_sent: int = 0
    packets_lost: int = 0
    packets_received: int = 0
    packets_missed: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


class Lately:
    """How much was lost in the last 15 to 30 s, if it is looked at every second.

    :param traffic: returns what has passed until now.
    """

    def __init__(self, traffic: Callable[[], Traffic]) -> None:
        self._traffic = traffic
        self._before, self._mark = Traffic(), Traffic()
        self._ticks = 0

    def tick(self) -> None:
        """Call this once a second."""
        self._ticks += 1
        if self._ticks % EVERY == 0:
            self._before, self._mark = self._mark, self._traffic() + Traffic()

    @property
    def lost(self) -> float | None:
        """Which share of the packets that were sent was lost, 0 to 1; None: none was sent."""
        now, then = self._traffic(), self._before
        return _share(now.packets_lost - then.packets_lost, now.packets_sent - then.packets_sent)

    @property
    def missed(self) -> float | None:
        """The same for packets that were received."""
        now, then = self._traffic(), self._before
        return _share(now.packets_missed - then.packets_missed, now.packets_received - then.packets_received)


def _share(part: int, whole: int) -> float | None:
    return min(part / whole, 1.0) if whole > 0 else None


class History:
    """All connections that there have been. These numbers only grow too.

    :ivar connected: how many were connected, by path: ``direct`` or ``relayed``.
    :ivar failed: how many attempts came to nothing, by :data:`FAILURES`.
    :ivar gone: what passed over those that are over.
    :ivar datagrams_dropped: those of connections that are over.
    """

    def __init__(self) -> None:
        self.connected = Counter(dict.fromkeys(PATHS, 0))
        self.failed = Counter(dict.fromkeys(FAILURES, 0))
        self.gone = Traffic()
        self.datagrams_dropped = 0
