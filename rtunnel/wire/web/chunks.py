"""Bodies in chunks (RFC 9112, section 7.1)."""

from __future__ import annotations

import re
from typing import Any

from rtunnel.wire.web.heads import BadHead

#: The longest line between the chunks of a body, and the most empty lines before a request, in bytes.
MAX_LINE = 4096
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*)?\r\n")
_CRLF = b"\r\n"


class Chunks:
    """A body in chunks. Extensions and trailers are read and dropped.

    :ivar is_over: it is complete.
    """

    __slots__ = ("_held", "_left", "_line", "is_over")

    def __init__(self) -> None:
        self.is_over = False
        self._held = b""
        # Bytes of a chunk that are still to come, with the CRLF behind it; and what the next line is.
        self._left = 0
        self._line = _SIZE

    def feed(self, data: bytes, events: list[Any]) -> bytes:
        """Take bytes, and add what they have of the body to *events*; return what comes behind it.

        :raises BadHead: they are no chunks.
        """
        # In one event, as whoever sends on what is in it pays for each.
        pieces: list[bytes] = []
        try:
            position = self._read(data, pieces)
        finally:
            if pieces:
                events.append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        return data[position:]

    def _read(self, data: bytes, pieces: list[bytes]) -> int:
        position = 0
        while not self.is_over and position < len(data):
            if self._left > 2:
                piece = data[position : position + self._left - 2]
                position += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
            elif self._left:
                if data[position] != _CRLF[2 - self._left]:
                    raise BadHead(400, "a chunk of the body is longer than it says")
                position += 1
                self._left -= 1
            else:
                position = self._read_line(data, position)
        return position

    def _read_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position) + 1
        self._held += data[position : end or len(data)]
        if len(self._held) > MAX_LINE:
            raise BadHead(400, "a line between the chunks of the body is too long")
        if not end:
            return len(data)
        line, self._held = self._held, b""
        found = self._line.fullmatch(line)
        if found is None:
            raise BadHead(400, "the chunks of the body are malformed")
        if self._line is _SIZE:
            size = int(found[1], 16)
            if size:
                self._left = size + 2
            else:
                self._line = _TRAILER
        elif line == _CRLF:
            self.is_over = True
        return end
