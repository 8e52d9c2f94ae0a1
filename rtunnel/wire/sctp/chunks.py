"""The chunks of SCTP, and their numbers (RFC 9260, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

DATA = 0
INIT = 1
INIT_ACK = 2
SACK = 3
HEARTBEAT = 4
HEARTBEAT_ACK = 5
ABORT = 6
SHUTDOWN = 7
SHUTDOWN_ACK = 8
ERROR = 9
COOKIE_ECHO = 10
COOKIE_ACK = 11
SHUTDOWN_COMPLETE = 14
#: RFC 8260.
I_DATA = 64
#: RFC 6525.
RE_CONFIG = 130
#: RFC 4820.
PAD = 132
#: RFC 3758.
FORWARD_TSN = 192
#: RFC 8260.
I_FORWARD_TSN = 194

#: The types of chunks that this end knows, whether or not it does anything with them.
KNOWN = frozenset((*range(12), SHUTDOWN_COMPLETE, I_DATA, RE_CONFIG, PAD, FORWARD_TSN, I_FORWARD_TSN))

#: The flags of DATA and I-DATA: the last fragment, the first, unordered, and "acknowledge at once" (RFC 7053).
END, BEGIN, UNORDERED, IMMEDIATE = 1, 2, 4, 8

#: The sizes of the common header, and of the headers of DATA and I-DATA, in bytes.
COMMON_HEADER, DATA_HEADER, I_DATA_HEADER = 12, 16, 20

# Payload protocol identifiers (RFC 8831, section 8).
PPID_DCEP = 50
PPID_STRING = 51
PPID_BINARY = 53
PPID_STRING_EMPTY = 56
PPID_BINARY_EMPTY = 57


class ProtocolError(ValueError):
    """The peer broke the protocol. The text continues "it sent"."""


@dataclass(frozen=True, slots=True)
class Init:
    """INIT or INIT ACK.

    :ivar tag: with which packets to the sender are marked.
    :ivar window: the sender's receive window, in bytes.
    :ivar outbound: how many streams the sender would send on.
    :ivar inbound: how many it can receive.
    :ivar tsn: of its first DATA chunk.
    :ivar cookie: only in an INIT ACK.
    :ivar extensions: the types of chunks beyond RFC 9260 that it knows (RFC 5061, section 4.2.7).
    :ivar forward_tsn: whether it can take FORWARD TSN chunks.
    :ivar zero_checksum: whether it takes packets without a checksum because they come over DTLS (RFC 9653).
    :ivar unknown: parameters that it wants to hear of if they are not known, as they were sent.
    """

    tag: int
    window: int
    outbound: int
    inbound: int
    tsn: int
    cookie: bytes = b""
    extensions: frozenset[int] = frozenset()
    forward_tsn: bool = False
    zero_checksum: bool = False
    unknown: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Sack:
    """SACK.

    :ivar cumulative: all up to this TSN were received.
    :ivar window: what the sender can take beyond that, in bytes.
    :ivar gaps: what else was received: offsets from *cumulative*, both ends included.
    :ivar duplicates: TSNs that came more than once.
    """

    cumulative: int
    window: int
    gaps: tuple[tuple[int, int], ...] = ()
    duplicates: tuple[int, ...] = ()
