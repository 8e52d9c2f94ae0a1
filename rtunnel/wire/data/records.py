"""Records: what travels on a data connection (docs/wire.rst, "Records").

    record = kind length number payload
    kind   = u8
    length = u24             ; big-endian, bytes of payload, with the tag of a sealed one
    number = u32             ; big-endian, of the stream

Bytes are read where the reader wants them (``target``), and ``feed`` tells which records are complete. Buffers are
shared by all readers, so what ``feed`` returns is good until the next call.
"""

from __future__ import annotations

from mmap import ACCESS_COPY, mmap
from struct import Struct
from typing import Protocol

from rtunnel.wire.data.frozen import Fields, State, text_of
from rtunnel.wire.data.seal import TAG, Seal
from rtunnel.wire.messages import clean_text

HEADER = Struct("!II")
HEADER_SIZE = HEADER.size

DATA = 0x01
END = 0x02
RESET = 0x03
ALIVE = 0x04
OPEN = 0x05
DONE = 0x06
#: A kind with this bit means nothing bad to whoever does not know it.
IGNORABLE = 0x80

#: The longest payload of a plain DATA record, in bytes. It is passed on in pieces as they come.
MAX_PLAIN = 1024 * 1024
#: The longest sealed record, in bytes of payload and tag. It has to be complete before it can be unsealed.
MAX_SEALED = 256 * 1024 + TAG
#: The same before both ends are proved.
MAX_UNPROVED = 64
#: The longest payload of a record that is not DATA, in bytes.
MAX_CONTROL = 4096
_LONGEST = {END: 0, ALIVE: 0, DONE: 0}

#: The size of a read of sealed records, in bytes, and of plain ones, of which more is spliced. Each event causes one
#: read only, so that no connection holds up the others.
READ_SIZE, READ_PLAIN = 512 * 1024, 128 * 1024


def buffer(size: int) -> memoryview:
    """Return *size* zero bytes that can be written, which take no memory until they are: most of them never are.

    A process that forks has its own from then on.
    """
    return memoryview(mmap(-1, size, access=ACCESS_COPY))


_IN = buffer(READ_SIZE)
_IN_PLAIN = _IN[:READ_PLAIN]
_OPENED = buffer(READ_SIZE + MAX_SEALED)
_OPENING = Struct("!II")
#: The first half of the header of a DATA record that is so many bytes long, less that number.
_WHOLE = (DATA << 24) - HEADER_SIZE

#: ``(kind, number, payload)``; of a plain DATA record, the payload may be a part.
Record = tuple[int, int, memoryview]


def _check(kind: int, length: int, most: int) -> None:
    """Check the length of a payload.

    :raises ValueError: it is too long, or a DATA record is empty.
    """
    if not (0 < length <= most if kind == DATA else length <= _LONGEST.get(kind, MAX_CONTROL)):
        raise ValueError(f"a record of kind 0x{kind:02x} of {length} bytes")


class Reader(Protocol):
    """Cuts what comes into records.

    :ivar left: bytes that are still to come of the payload of a plain DATA record.
    :ivar number: of that record's stream.
    :ivar most: the longest record that is taken, in bytes; set it lower before the ends are proved.
    :ivar taken: how many bytes of memory incomplete records have taken since this was set to 0. A header is enough for
        a whole record's.
    """

    left: int
    number: int
    most: int
    taken: int

    def target(self) -> memoryview:
        """Return where the next bytes are to be read to."""

    def feed(self, count: int) -> list[Record]:
        """Take note that *count* bytes were read to :meth:`target`, and return the records that they complete.

        :raises ValueError: this is no record that an honest peer sends.
        """

    def rest(self) -> None:
        """Free what is not needed before the next record."""

    def freeze(self) -> State:
        """Return what another process needs to go on reading, but for the seal."""

    def thaw(self, frozen: Fields) -> None:
        """Go on where another reader was when :meth:`freeze` was called. This one must be new.

        :raises ValueError: it was not called for this.
        """

    @property
    def held(self) -> int:
        """How many bytes of memory are taken by an incomplete record."""


class PlainReader:
    """Reads plain records."""

    __slots__ = ("_held", "left", "most", "number", "taken")

    def __init__(self) -> None:
        self._held = b""
        # Nobody needs to know of what is held here, a control record at most.
        self.left = self.number = self.taken = 0
        self.most = MAX_PLAIN

    def target(self) -> memoryview:
        """See :class:`Reader`."""
        return _IN_PLAIN

    def feed(self, count: int) -> list[Record]:
        """See :class:`Reader`."""
        if not (self._held or self.left):
            # Mostly it is one DATA record and nothing else.
            first, number = HEADER.unpack_from(_IN)
            if first == _WHOLE + count and HEADER_SIZE < count <= HEADER_SIZE + self.most:
                return [(DATA, number, _IN[HEADER_SIZE:count])]
        data = _IN[:count]
        if self._held:
            data = memoryview(self._held + data)
            self._held = b""
        records: list[Record] = []
        size = len(data)
        offset = 0
        if self.left:
            offset = min(self.left, size)
            self.left -= offset
            records.append((DATA, self.number, data[:offset]))
        while size - offset >= HEADER_SIZE:
            first, number = HEADER.unpack_from(data, offset)
            kind, length = first >> 24, first & 0xFFFFFF
            start = offset + HEADER_SIZE
            end = start + length
            _check(kind, length, self.most)
            if end > size:
                if kind != DATA:
                    break
                self.left, self.number = end - size, number
                end = size
            if end > start or kind != DATA:
                records.append((kind, number, data[start:end]))
            offset = end
        if offset < size:
            self._held = bytes(data[offset:])
        return records

    def rest(self) -> None:
        """See :class:`Reader`."""

    def freeze(self) -> State:
        """See :class:`Reader`."""
        return {"part": text_of(self._held), "left": self.left, "number": self.number}

    def thaw(self, frozen: Fields) -> None:
        """See :class:`Reader`."""
        self._held = frozen.data("part", HEADER_SIZE + MAX_CONTROL)
        self.left = frozen.number("left", MAX_PLAIN)
        self.number = frozen.number("number", 2**32 - 1)
        if self._held and self.left:
            raise ValueError("parts of two records")

    @property
    def held(self) -> int:
        """See :class:`Reader`."""
        return len(self._held)


class SealedReader:
    """Reads sealed records, and opens them.

    :param seal: of what the other end sends.
    """

    __slots__ = ("_have", "_record", "left", "most", "number", "seal", "taken")

    def __init__(self, seal: Seal) -> None:
        self.seal = seal
        # The record of which a part has come; as long as it is not known how long it is, only its header.
        self._record: memoryview | None = None
        self._have = 0
        self.left = self.number = self.taken = 0
        self.most = MAX_SEALED

    def target(self) -> memoryview:
        """See :class:`Reader`."""
        return _IN if self._record is None else self._record[self._have :]

    def feed(self, count: int) -> list[Record]:
        """See :class:`Reader`."""
        if self._record is None:
            return self._cut(_IN[:count])
        self._have += count
        record = self._record
        if self._have < len(record):
            return []
        self._record = None
        return self._cut(record)

    def _cut(self, data: memoryview) -> list[Record]:
        records: list[Record] = []
        size = len(data)
        offset = opened = 0
        while size - offset >= HEADER_SIZE:
            first, number = HEADER.unpack_from(data, offset)
            start = offset + HEADER_SIZE
            end = start + (first & 0xFFFFFF)
            kind, length = first >> 24, end - start - TAG
            if not TAG <= end - start <= self.most:
                raise ValueError(f"a sealed record of {end - start} bytes")
            _check(kind, length, self.most)
            if end > size:
                break
            payload = _OPENED[opened : opened + length]
            self.seal.unseal(data[offset:start], data[start:end], payload)
            records.append((kind, number, payload))
            opened += length
            offset = end
        if offset < size:
            self._hold(data[offset:])
        return records

    def _hold(self, data: memoryview) -> None:
        """Keep a part of a record, with room for the rest."""
        have = len(data)
        needed = HEADER_SIZE
        if have >= HEADER_SIZE:
            needed += HEADER.unpack_from(data)[0] & 0xFFFFFF
        self.taken += needed
        self._record = memoryview(bytearray(needed))
        self._record[:have] = data
        self._have = have

    def rest(self) -> None:
        """See :class:`Reader`."""
        self.seal.rest()

    def freeze(self) -> State:
        """See :class:`Reader`."""
        part = b"" if self._record is None else bytes(self._record[: self._have])
        return {"part": text_of(part)}

    def thaw(self, frozen: Fields) -> None:
        """See :class:`Reader`."""
        part = frozen.data("part", HEADER_SIZE + MAX_SEALED)
        if len(part) >= HEADER_SIZE:
            length = HEADER.unpack_from(part)[0] & 0xFFFFFF
            if not len(part) - HEADER_SIZE < length <= MAX_SEALED:
                raise ValueError("more than a part of a record")
        if part:
            self._hold(memoryview(part))

    @property
    def held(self) -> int:
        """See :class:`Reader`."""
        return 0 if self._record is None else len(self._record)


def encode_opening(tunnel: int, moved: int, visitor: str) -> bytes:
    """Return the payload of OPEN.

    :param tunnel: the number of the tunnel.
    :param moved: the conn_id of the link's stream that goes on here; 0 for a new one.
    :param visitor: the visitor's address, ``host:port``.
    """
    return _OPENING.pack(tunnel, moved) + visitor.encode()


def decode_opening(payload: bytes) -> tuple[int, int, str]:
    """Return what :func:`encode_opening` was given.

    :raises ValueError: it is malformed.
    """
    if len(payload) < _OPENING.size:
        raise ValueError("a malformed OPEN record")
    tunnel, moved = _OPENING.unpack_from(payload)
    return tunnel, moved, clean_text(payload[_OPENING.size :].decode("utf-8", "replace"))


def encode_reason(code: str, message: str) -> bytes:
    """Return the payload of RESET.

    :param code: an :class:`rtunnel.errors.Code`.
    :param message: the reason, for logs.
    """
    return f"{code}\0{message}".encode("utf-8", "replace")[:MAX_CONTROL]


def decode_reason(payload: bytes) -> tuple[str, str]:
    """Return what :func:`encode_reason` was given, in a form that can be logged."""
    code, _, message = payload.decode("utf-8", "replace").partition("\0")
    return clean_text(code) or "unknown", clean_text(message)
