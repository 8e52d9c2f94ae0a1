"""What an association tells its user, what it counts, and the bounds that its user sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Up:
    """The association is established."""


@dataclass(frozen=True, slots=True)
class Down:
    """The association is over.

    :ivar reason: what broke it; empty if the peer has ended it.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class StreamsReset:
    """The peer has reset streams on which it sends: everything that it sent on them has come.

    :ivar streams: their numbers; None: all.
    """

    streams: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class ResetDone:
    """Streams on which we send begin anew, or the peer refuses that.

    :ivar streams: their numbers.
    """

    streams: tuple[int, ...]


class Counts(NamedTuple):
    """What has passed since the beginning. These numbers only grow.

    :ivar bytes_begun: bytes of messages, but those that open channels, whose sending has begun.
    :ivar dropped: messages that may be lost and were dropped because they came too fast.
    :ivar sent: chunks with data, each counted once.
    :ivar repeated: those of them that were sent again, or given up, as they were not acknowledged.
    :ivar received: chunks with data that came, each counted once.
    :ivar missed: chunks that had not come when a later one did.
    """

    bytes_begun: int
    dropped: int
    sent: int
    repeated: int
    received: int
    missed: int


Event = Up | Down | StreamsReset | ResetDone


@dataclass(frozen=True, slots=True)
class AssociationLimits:
    """The bounds of an association. Sizes are in bytes.

    :ivar max_streams: how many streams there are in each direction.
    :ivar max_open: on how many of them messages may be in progress.
    :ivar window: the receive window.
    :ivar interleaved_window: the same where messages are interleaved. Many may be incomplete at once then, and none of
        them can be delivered.
    :ivar base_packet: the size of a packet that every path takes.
    :ivar largest_packet: what the sockets and DTLS take.
    :ivar overhead: what IP, UDP and DTLS add to a packet.
    """

    max_streams: int = 65_535
    max_open: int = 1024
    window: int = 2 * 1024 * 1024
    interleaved_window: int = 6 * 1024 * 1024
    base_packet: int = 1_188
    largest_packet: int = 1_188
    overhead: int = 85
