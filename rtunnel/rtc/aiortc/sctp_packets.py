"""A check of SCTP packets before aiortc parses them (RFC 9260, section 3.2.1)."""

from __future__ import annotations

import struct

from aiortc.rtcsctptransport import (
    SCTP_COMMON_HEADER_LENGTH,
    AbortChunk,
    ErrorChunk,
    HeartbeatAckChunk,
    HeartbeatChunk,
    InitAckChunk,
    InitChunk,
    ReconfigChunk,
)

_TYPE_AND_LENGTH = struct.Struct("!HH")
#: The offset of the parameters within a chunk, by its type.
_PARAMETERS_AT = {
    InitChunk.type: 20,
    InitAckChunk.type: 20,
    HeartbeatChunk.type: 4,
    HeartbeatAckChunk.type: 4,
    AbortChunk.type: 4,
    ErrorChunk.type: 4,
    ReconfigChunk.type: 4,
}


def parameters_are_sound(packet: bytes) -> bool:
    """Return whether aiortc can parse the packet; a parameter of length 0 would make it loop forever."""
    position, end = SCTP_COMMON_HEADER_LENGTH, len(packet)
    while position + _TYPE_AND_LENGTH.size <= end:
        kind, length = _TYPE_AND_LENGTH.unpack_from(packet, position)
        parameters = _PARAMETERS_AT.get(kind >> 8)
        if parameters is not None:
            at, last = position + parameters, min(position + length, end)
            while at + _TYPE_AND_LENGTH.size <= last:
                size = _TYPE_AND_LENGTH.unpack_from(packet, at)[1]
                if not size:
                    return False
                at += (size + 3) & ~3
        position += max((length + 3) & ~3, _TYPE_AND_LENGTH.size)
    return True
