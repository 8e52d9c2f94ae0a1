"""Credit: how much the sender of one direction of a stream may send (docs/wire.rst, "Credit").

Limits are offsets from the beginning of the stream, as in QUIC's MAX_STREAM_DATA (RFC 9000, section 4.1). So a lost or
repeated update cannot make the two ends disagree.
"""

from __future__ import annotations

from struct import Struct

#: The payload of CREDIT: the limit, and how many bytes have been delivered.
CREDIT_PAYLOAD = Struct("!QQ")
#: The payload of FIN: how many bytes were sent in this direction.
FIN_PAYLOAD = Struct("!Q")
#: The largest offset. No honest stream comes near it (it is QUIC's largest integer, RFC 9000, section 16).
MAX_OFFSET = 2**62 - 1


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

    def end(self) -> None:
        """Take back unused credit: the peer sends no more."""
        self.limit = self.received
        self.size = 0
