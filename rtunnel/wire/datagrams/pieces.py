"""Messages that are too long for one packet: cut into pieces, and put together again (docs/wire.rst, "Pieces").

piece = kind id index count part     ; kind = PIECE, id = u32, index = u8, count = u8
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from rtunnel.wire.datagrams.messages import MAX_MESSAGE, PIECE

_PIECE = Struct("!BIBB")
#: The most pieces that a message may have.
MAX_PIECES = 64
#: Seconds that the pieces of a message have to come.
TOGETHER = 1.0
#: How many bytes of pieces are kept, and of how many messages. The oldest message gives way.
MAX_KEPT = 1024 * 1024
MAX_MESSAGES = 256


def cut(message: bytes, most: int, id: int) -> list[bytes]:
    """Return *message* as pieces.

    :param most: the longest message that a packet can carry, in bytes.
    :param id: a number that messages shortly before and after do not have.
    :raises ValueError: it would take too many.
    """
    size = most - _PIECE.size
    count = -(-len(message) // size)
    if count > MAX_PIECES:
        raise ValueError(f"a message of {len(message)} bytes takes {count} pieces")
    # All of about the same size: a packet that is almost empty costs as much as a full one.
    size = -(-len(message) // count)
    return [_PIECE.pack(PIECE, id, index, count) + message[index * size : (index + 1) * size] for index in range(count)]


@dataclass(slots=True)
class _Message:
    parts: list[bytes | None]
    until: float
    missing: int
    held: int = 0


class Assembler:
    """Put pieces together.

    :ivar held: how many bytes are kept.
    """

    __slots__ = ("_messages", "held")

    def __init__(self) -> None:
        self._messages: dict[int, _Message] = {}
        self.held = 0

    def add(self, piece: bytes, now: float) -> bytes | None:
        """Take a piece. Return the message if it was the last one.

        :param now: the time, in seconds.
        :raises ValueError: the piece is malformed, or does not fit the others.
        """
        if len(piece) <= _PIECE.size:
            raise ValueError("a malformed PIECE")
        _, id, index, count = _PIECE.unpack_from(piece)
        if not index < count <= MAX_PIECES:
            raise ValueError("a malformed PIECE")
        self.tick(now)
        message = self._messages.get(id)
        if message is None:
            message = self._messages[id] = _Message([None] * count, now + TOGETHER, count)
        elif len(message.parts) != count:
            raise ValueError("a PIECE that does not fit the others")
        if message.parts[index] is not None:
            return None
        part = message.parts[index] = piece[_PIECE.size :]
        message.missing -= 1
        message.held += len(part)
        self.held += len(part)
        if message.held > MAX_MESSAGE:
            self._drop(id)
            raise ValueError("the pieces of a message that is too long")
        if not message.missing:
            self._drop(id)
            return b"".join(part for part in message.parts if part is not None)
        while self.held > MAX_KEPT or len(self._messages) > MAX_MESSAGES:
            self._drop(next(iter(self._messages)))
        return None

    def tick(self, now: float) -> None:
        """Drop what was not complete in time."""
        while self._messages:
            id, message = next(iter(self._messages.items()))
            if message.until > now:
                break
            self._drop(id)

    def _drop(self, id: int) -> None:
        self.held -= self._messages.pop(id).held
