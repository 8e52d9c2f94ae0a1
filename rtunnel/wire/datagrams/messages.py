"""The messages in packets, and on the data connection that takes a path's place (docs/wire.rst, "Messages of a path").

    message = kind rest      ; kind = u8

Each message stands for itself: none depends on another one that may have been lost.
"""

from __future__ import annotations

from struct import Struct

from rtunnel.wire.messages import clean_text

# About the path itself; never on a data connection.
#: A question whether packets of this size get through: a number (u32), and bytes that mean nothing.
PROBE = 0x01
#: The answer: the same number.
SEEN = 0x02
#: From the server to a new address of the client: eight random bytes.
CHALLENGE = 0x03
#: The answer, from there: the same bytes.
RESPONSE = 0x04
#: A part of a message that is too long for a packet; see :mod:`rtunnel.wire.datagrams.pieces`.
PIECE = 0x05

# About flows.
#: A datagram: the number of its flow (u32), and its bytes.
DATAGRAM = 0x10
#: From the server: a datagram of a flow that the client may not know: the flow (u32), the number of its tunnel (u32),
#: the length of the visitor's address (u8), that address as text, and the datagram's bytes.
FIRST = 0x11
#: From the client: it knows the flow (u32), so DATAGRAM will do.
KNOWN = 0x12
#: From the client: it does not know the flow (u32), or no longer, so FIRST is needed.
UNKNOWN = 0x13
#: From the server: the flow (u32) is over.
OVER = 0x14

#: The largest datagram that IP carries, in bytes.
MAX_DATAGRAM = 65507
#: The longest address of a visitor, in bytes.
MAX_VISITOR = 255

NUMBER = Struct("!BI")
_FIRST = Struct("!BIIB")
#: How many bytes longer a datagram gets in a message, at most.
MOST_ADDED = _FIRST.size + MAX_VISITOR
MAX_MESSAGE = MAX_DATAGRAM + MOST_ADDED


def encode_first(flow: int, tunnel: int, visitor: str, data: bytes) -> bytes:
    """Return FIRST.

    :param visitor: the visitor's address, ``host:port``.
    """
    name = visitor.encode("utf-8", "replace")[:MAX_VISITOR]
    return b"%b%b%b" % (_FIRST.pack(FIRST, flow, tunnel, len(name)), name, data)


def decode_first(message: bytes) -> tuple[int, int, str, bytes]:
    """Return what :func:`encode_first` was given.

    :raises ValueError: the message is malformed.
    """
    if len(message) < _FIRST.size:
        raise ValueError("a malformed FIRST")
    _, flow, tunnel, length = _FIRST.unpack_from(message)
    end = _FIRST.size + length
    if len(message) < end:
        raise ValueError("a malformed FIRST")
    return flow, tunnel, clean_text(message[_FIRST.size : end].decode("utf-8", "replace")), message[end:]


def encode_number(kind: int, number: int, data: bytes = b"") -> bytes:
    """Return any message that begins with a number of 32 bits."""
    return NUMBER.pack(kind, number) + data


def decode_number(message: bytes) -> int:
    """Return the number in such a message.

    :raises ValueError: the message is malformed.
    """
    if len(message) < NUMBER.size:
        raise ValueError(f"a malformed message of kind 0x{message[0]:02x}" if message else "an empty message")
    number: int = NUMBER.unpack_from(message)[1]
    return number
