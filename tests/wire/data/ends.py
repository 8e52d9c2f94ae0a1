"""Ends of data connections without a network. Records are packed and parsed here with ``struct`` alone.

:class:`End` does with bytes what the socket of a data connection does, and remembers what each stream brought.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from struct import Struct

from rtunnel.wire.data.connection import DataConnection, Ended, Opened, WasReset
from rtunnel.wire.data.keys import connection_seals
from rtunnel.wire.data.records import MAX_CONTROL, MAX_SEALED, PlainReader, Reader, SealedReader
from rtunnel.wire.data.seal import TAG, Cipher, Seal
from rtunnel.wire.limits import LinkLimits

DATA, END, RESET, ALIVE, OPEN, DONE = 1, 2, 3, 4, 5, 6
HEADER = Struct("!II")
LIMITS = LinkLimits(keepalive_interval=5.0, dead_after=15.0)
NOW = 1000.0

Record = tuple[int, int, bytes]
"""Kind, number of the stream, and payload."""


def raw(kind: int, number: int = 0, payload: bytes = b"") -> bytes:
    """Encode a plain record."""
    return HEADER.pack(kind << 24 | len(payload), number) + payload


def sealed(seal: Seal, kind: int, number: int = 0, payload: bytes = b"") -> bytes:
    """Encode and seal a record."""
    header = HEADER.pack(kind << 24 | len(payload) + TAG, number)
    out = bytearray(len(payload) + TAG)
    seal.seal(header, payload, memoryview(out))
    return header + out


def parse(data: bytes) -> list[Record]:
    """Parse plain records, all of them whole."""
    found = []
    while data:
        first, number = HEADER.unpack_from(data)
        end = HEADER.size + (first & 0xFFFFFF)
        assert len(data) >= end, "a record is cut short"
        found.append((first >> 24, number, data[HEADER.size : end]))
        data = data[end:]
    return found


def opening(tunnel: int, moved: int = 0, visitor: bytes = b"192.0.2.1:5000") -> bytes:
    """Encode the payload of OPEN."""
    return HEADER.pack(tunnel, moved) + visitor


def seals(cipher: Cipher = Cipher.AES_256_GCM) -> tuple[tuple[Seal, Seal], tuple[Seal, Seal]]:
    """Return the seals of the server's end and of the client's end of one connection."""
    server, client = (
        connection_seals(bytes(32), b"c" * 32, b"s" * 32, cipher, is_client=is_client) for is_client in (False, True)
    )
    return server, client


def feed(reader: Reader, data: bytes, cuts: Iterable[int] = ()) -> Iterator[Record]:
    """Read *data*, cut at these offsets and wherever the reader takes no more at once. Yield its records."""
    start = 0
    for end in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        while start < end:
            target = reader.target()
            count = min(len(target), end - start)
            target[:count] = data[start : start + count]
            start += count
            yield from [(kind, number, bytes(payload)) for kind, number, payload in reader.feed(count)]


@dataclass
class Got:
    """What an end has received of one stream."""

    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    was_reset: bool = False


class End:
    """One end of a data connection.

    :param both: its seals; None: records are plain.
    :ivar out: what it has sent.
    :ivar got: what it has received, by number of the stream.
    """

    def __init__(self, both: tuple[Seal, Seal] | None = None, *, is_server: bool) -> None:
        self.reader: Reader = PlainReader() if both is None else SealedReader(both[1])
        if both is not None:
            self.reader.most = MAX_SEALED
        self.state = DataConnection(LIMITS, both[0] if both is not None else None, NOW, is_server=is_server)
        self.is_server = is_server
        self.out = bytearray()
        self.got: dict[int, Got] = {}

    def open(self) -> None:
        """Open the next stream."""
        self.out += self.state.open(3, "192.0.2.1:5000")
        self.got[self.state.number] = Got()

    def receive(self, data: bytes, cuts: Iterable[int] = ()) -> None:
        """Read *data*, and send the answers.

        :raises ValueError: this is nothing that an honest peer sends.
        """
        for kind, number, payload in feed(self.reader, data, cuts):
            if kind == DATA and self.state.takes_data and number == self.state.number:
                self.got[number].data += payload
            else:
                self.take(self.state.receive(kind, number, memoryview(payload)))

    def take(self, event: Opened | Ended | WasReset | None) -> None:
        """Note an event, and send the answer."""
        number = self.state.number
        if isinstance(event, Opened):
            assert number not in self.got
            self.got[number] = Got()
        elif isinstance(event, Ended):
            assert not self.got[number].ended
            self.got[number].ended = True
            self.out += event.answer
        elif isinstance(event, WasReset):
            self.got[number].was_reset = True
            self.out += event.answer


def survives(end: End, pieces: Iterable[bytes]) -> str:
    """Check that what an end holds is bounded whatever comes. Return why it ends the connection; empty if it does not.

    Between the pieces its own user does all that it may.
    """
    state = end.state
    most = HEADER.size + (MAX_CONTROL if isinstance(end.reader, PlainReader) else MAX_SEALED)
    for number, piece in enumerate(pieces):
        try:
            end.receive(piece)
        except ValueError as error:
            return str(error)
        assert end.reader.held <= most
        assert not (state.takes_data and state.is_free)
        state.has_heard = True
        state.tick(NOW + number, is_reading=True, can_send=True)
        if number % 5 == 1:
            end.out += state.end()
        elif number % 5 == 3:
            end.out += state.reset("test", "")
        elif end.is_server and state.can_open:
            end.open()
    return ""
