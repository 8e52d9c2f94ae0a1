"""Credit: how much the sender of one direction of a stream may send (docs/wire.rst, "Credit").

Limits are offsets from the beginning of the stream, as in QUIC's MAX_STREAM_DATA (RFC 9000, section 4.1). So a lost or
repeated update cannot make the two ends disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

#: The payload of CREDIT: the limit, and how many bytes have been delivered.
CREDIT_PAYLOAD = Struct("!QQ")
#: The payload of FIN and of MOVE: how many bytes were sent in this direction.
FIN_PAYLOAD = Struct("!Q")
#: While memory is short, a window shrinks to this many bytes, or to the initial credit if that is less.
SMALLEST_WINDOW = 16 * 1024
#: The largest offset. No honest stream comes near it (it is QUIC's largest integer, RFC 9000, section 16).
MAX_OFFSET = 2**62 - 1


class Growth:
    """How much the windows of all links or peer connections of a process may still grow together.

    :ivar left: in bytes. The owner sets it now and then to what is really left.
    """

    __slots__ = ("left",)

    def __init__(self, left: int = MAX_OFFSET) -> None:
        self.left = left


class SendWindow:
    """How much the peer allows this end to send.

    :param limit: the peer's initial credit, in bytes; None if the peer has no credit.
    """

    __slots__ = ("limit", "sent")

    def __init__(self, limit: int | None) -> None:
        self.limit = MAX_OFFSET if limit is None else limit
        self.sent = 0

    @property
    def available(self) -> int:
        """How many bytes may be sent now."""
        return self.limit - self.sent

    def raise_limit(self, limit: int, delivered: int) -> bool:
        """Take a CREDIT frame. Return True if it allows more than before; a lower limit is ignored.

        :param limit: the offset up to which the peer will receive, in bytes.
        :param delivered: how many bytes the peer has delivered.
        :raises ValueError: the peer says that more was delivered than was sent, or the limit is out of range.
        """
        if delivered > self.sent:
            raise ValueError(f"{delivered} bytes delivered of {self.sent} sent")
        if limit > MAX_OFFSET:
            raise ValueError(f"limit {limit} is out of range")
        if limit <= self.limit:
            return False
        self.limit = limit
        return True


class ReceiveWindow:
    """How much this end allows the peer to send. The window grows while it limits the stream.

    A grant is due when half the window has been delivered. If that took less than two round trips, the sender is close
    to waiting for credit, and the window doubles. It settles at four to eight times the rate times the round trip.
    While memory is short it halves instead.

    :param size: the initial credit, in bytes; 0 for a peer without credit.
    :param now: the time at which the stream was opened, in seconds on any clock that does not run backwards.
    """

    __slots__ = ("delivered", "granted_at", "limit", "received", "size")

    def __init__(self, size: int, now: float) -> None:
        self.size = size
        self.limit = size
        self.received = 0
        self.delivered = 0
        self.granted_at = now

    @property
    def reserved(self) -> int:
        """How many bytes this stream may come to hold: its whole window, since the next grant fills it up again."""
        return self.size or self.limit - self.delivered

    @property
    def waiting(self) -> int:
        """How many bytes have been received but not delivered, and so are in memory."""
        return self.received - self.delivered

    @property
    def grant_is_due(self) -> bool:
        """Whether half of the window has been delivered since the last grant."""
        return 2 * (self.limit - self.delivered) <= self.size

    def grant(self, now: float, round_trip: float, growth: int) -> int:
        """Raise the limit. Return by how many bytes the window has grown.

        :param now: the time, in seconds.
        :param round_trip: the round-trip time of the link, in seconds; 0 if it is not known, and then nothing grows.
        :param growth: by how many bytes the window may grow.
        """
        grown = min(self.size, growth) if growth > 0 and now - self.granted_at < 2 * round_trip else 0
        self.size += grown
        self.granted_at = now
        self.limit = max(self.limit, self.delivered + self.size)
        return grown

    def shrink(self, lowest: int) -> int:
        """Halve the window, as a grant is due. Return by how many bytes it has become smaller.

        Credit that was granted cannot be taken back. Half of it was used up, so it fits into what is left of the
        window.

        :param lowest: the size below which the window does not shrink, in bytes.
        """
        shrunk = max(0, self.size - max(self.size // 2, lowest, self.limit - self.delivered))
        self.size -= shrunk
        return shrunk

    def end(self) -> None:
        """Take back unused credit: the peer sends no more."""
        self.limit = self.received
        self.size = 0


class Windows:
    """How the receive windows of one link or peer connection grow and shrink.

    :param initial: the initial credit of each, in bytes.
    :param largest: the size up to which one may grow, in bytes.
    :param total: how many bytes may be granted in all of them.
    :ivar growth: by how much these and others may still grow; the owner may set another one.
    :ivar grown: by how many bytes these exceed the initial credit, since the last :meth:`measure`.
    :ivar is_short: memory is short because of these: they shrink. The owner sets this.
    :ivar is_full: memory is short because there are so many: there is no room for another one. The owner sets this.
    """

    __slots__ = ("_initial", "_largest", "_total", "grown", "growth", "is_full", "is_short")

    def __init__(self, initial: int, largest: int, total: int) -> None:
        self._initial = initial
        self._largest = largest
        self._total = total
        self.growth = Growth()
        self.grown = 0
        self.is_short = self.is_full = False

    def grant(self, window: ReceiveWindow, now: float, round_trip: float, granted: int) -> int:
        """Raise the limit of *window*, for which a grant is due. Return by how many bytes its size has changed.

        :param now: see :meth:`ReceiveWindow.grant`.
        :param round_trip: see :meth:`ReceiveWindow.grant`.
        :param granted: how many bytes are granted in all windows.
        """
        before, growth = window.size, self.growth
        # Windows may grow into half of the total; the other half is left for new streams. Those of one link leave at
        # least as much to others as they have grown.
        most = min(self._largest - before, self._total // 2 - granted, (growth.left - self.grown) // 2)
        if self.is_short:
            most = 0
            window.shrink(min(SMALLEST_WINDOW, self._initial))
        elif self.grown > 2 * growth.left:
            window.shrink(self._initial)
        window.grant(now, round_trip, most)
        change = window.size - before
        self.grown += change
        growth.left -= change
        return change

    def measure(self, windows: Iterable[ReceiveWindow]) -> int:
        """Return by how many bytes *windows*, all that there are, exceed the initial credit."""
        initial = self._initial
        self.grown = sum(window.size - initial for window in windows if window.size > initial)
        return self.grown
