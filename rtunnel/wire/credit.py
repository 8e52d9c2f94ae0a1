"""Credit: how much a sender may send on one direction of a stream (docs/wire.rst, "Credit").

Limits are absolute offsets from the beginning of the stream, as in QUIC's MAX_STREAM_DATA (RFC 9000, section 4.1), so
a lost or repeated update cannot make the two ends disagree.
"""

from __future__ import annotations

from struct import Struct

#: Payload of CREDIT: the limit, and how many bytes have been delivered.
CREDIT_PAYLOAD = Struct("!QQ")
#: Payload of FIN: all DATA bytes sent in this direction.
FIN_PAYLOAD = Struct("!Q")
#: No offset of an honest stream comes near this (the largest QUIC varint).
MAX_OFFSET = 2**62 - 1


class SendWindow:
    """What the peer allows us to send.

    :param limit: the peer's initial credit, in bytes; None for a peer that knows no credit.
    """

    __slots__ = ("limit", "sent")

    def __init__(self, limit: int | None) -> None:
        self.limit = MAX_OFFSET if limit is None else limit
        self.sent = 0

    @property
    def available(self) -> int:
        """Bytes that may be sent now."""
        return self.limit - self.sent

    def raise_limit(self, limit: int, delivered: int) -> bool:
        """Take a CREDIT frame; True if it allows more than before. A lower limit is ignored.

        :raises ValueError: the frame is impossible: more delivered than was sent, or an offset out of range.
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
    """What we allow the peer to send, growing while it is what holds the stream back.

    A grant is due when half the window has been delivered. If that half went by in less than two round trips, the
    sender is (nearly) waiting for us, and the window doubles: it settles at four to eight times rate times round trip.

    :param size: the initial credit, in bytes; 0 once nothing more will come.
    :param now: the time of the opening, in seconds on any clock that does not run backwards.
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
        """What this stream may come to hold in memory: its whole window, as the next grant fills it up again."""
        return self.size or self.limit - self.delivered

    @property
    def waiting(self) -> int:
        """Bytes received and not yet delivered: what this stream holds in memory."""
        return self.received - self.delivered

    @property
    def grant_is_due(self) -> bool:
        """Half of the window has been delivered since the last grant."""
        return 2 * (self.limit - self.delivered) <= self.size

    def grant(self, now: float, round_trip: float, growth: int) -> int:
        """Raise the limit; the number of bytes that the window grew by.

        :param round_trip: of the link, in seconds; 0 if not known yet, then nothing grows.
        :param growth: how much larger the window may become, in bytes.
        """
        grown = min(self.size, growth) if growth > 0 and now - self.granted_at < 2 * round_trip else 0
        self.size += grown
        self.granted_at = now
        self.limit = max(self.limit, self.delivered + self.size)
        return grown

    def end(self) -> None:
        """Nothing more will come: what was granted beyond it is void."""
        self.limit = self.received
        self.size = 0
