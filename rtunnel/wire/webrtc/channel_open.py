"""The message that opens a data channel (DATA_CHANNEL_OPEN; RFC 8832, section 5.1)."""

from __future__ import annotations

import struct

#: The longest label, and the longest protocol, that we accept, in bytes.
MAX_NAME = 1024

#: The first byte of the message that opens a channel, and the whole of its answer (section 5.2).
OPEN, ACK = b"\x03", b"\x02"
_RELIABLE = 0x00
_UNORDERED_AND_NOT_REPEATED = 0x81
#: Message type, channel type, priority, reliability parameter, lengths of the label and of the protocol.
_HEADER = struct.Struct("!BBHLHH")


def encode_open(label: str, protocol: str, reliable: bool) -> bytes:
    """Encode the message.

    :param reliable: ordered and retransmitted, or neither.
    """
    kind = _RELIABLE if reliable else _UNORDERED_AND_NOT_REPEATED
    names = label.encode(), protocol.encode()
    return _HEADER.pack(OPEN[0], kind, 0, 0, len(names[0]), len(names[1])) + names[0] + names[1]


def decode_open(data: bytes) -> tuple[str, str, bool]:
    """Decode the message: the label, the protocol, and whether the channel is reliable and ordered.

    :raises ValueError: it is malformed, or one of its names is too long; the text says which.
    """
    if len(data) < _HEADER.size:
        raise ValueError("the message that opens it is cut off")
    _, kind, _, _, *lengths = _HEADER.unpack_from(data)
    names, at = [], _HEADER.size
    for what, length in zip(("label", "protocol"), lengths, strict=True):
        name = data[at : at + length]
        at += length
        if length > MAX_NAME:
            raise ValueError(f"its {what} is longer than {MAX_NAME} bytes")
        if len(name) < length:
            raise ValueError("the message that opens it is cut off")
        try:
            names.append(name.decode())
        except UnicodeDecodeError:
            raise ValueError(f"its {what} is not UTF-8") from None
    return names[0], names[1], kind == _RELIABLE
