"""A peer that is spoken by hand, and may say anything."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator

from rtunnel.wire.sctp import chunks
from rtunnel.wire.sctp.association import Association
from rtunnel.wire.sctp.chunks import BEGIN, END, UNORDERED, Init, Sack
from rtunnel.wire.sctp.codec import (
    OUR_EXTENSIONS,
    Envelope,
    chunk,
    data_chunk,
    decode_init,
    decode_sack,
    encode_forward_tsn,
    encode_i_forward_tsn,
    encode_init,
    encode_sack,
    i_data_chunk,
    parameter,
)
from rtunnel.wire.sctp.events import AssociationLimits, Down
from tests.wire.sctp.packets import chunks_of

PORT = 5000
WHOLE = BEGIN | END
DCEP, STRING, BINARY = 50, 51, 53
HEARTBEAT = chunk(chunks.HEARTBEAT, parameter(1, b"1234"))
#: The extensions of a peer that cannot put together messages that are interleaved.
FEW = frozenset(OUR_EXTENSIONS) - {chunks.I_DATA, chunks.I_FORWARD_TSN}


class Speaker:
    """Makes chunks and packets with the numbers that are next, or with others.

    :ivar tsn: of the next chunk.
    """

    def __init__(self, envelope: Envelope, tsn: int, interleaved: bool) -> None:
        self.envelope = envelope
        self.tsn = tsn
        self.interleaved = interleaved
        self._numbers: dict[tuple[int, int], int] = {}
        self._fragments: dict[tuple[int, int], int] = {}

    def data(self, stream: int, kind: int, payload: bytes, flags: int = WHOLE, tsn: int | None = None) -> bytes:
        """A chunk with data; its other numbers are the next."""
        if tsn is None:
            tsn, self.tsn = self.tsn, self.tsn + 1
        key = stream, flags & UNORDERED
        number = self._numbers.get(key, 0)
        fragment = 0 if flags & BEGIN else self._fragments.get(key, 0) + 1
        self._fragments[key] = fragment
        if flags & END and (self.interleaved or not flags & UNORDERED):
            self._numbers[key] = number + 1
        if self.interleaved:
            return i_data_chunk(tsn, flags, stream, number, fragment or kind, payload)
        return data_chunk(tsn, flags, stream, number, kind, payload)

    def begin_anew(self, stream: int) -> None:
        """Count the messages on *stream* from 0 again: it was reset."""
        self._numbers.pop((stream, 0), None)
        self._numbers.pop((stream, UNORDERED), None)

    def forward(self, tsn: int, streams: Iterable[tuple[int, int]] = ()) -> bytes:
        if self.interleaved:
            return encode_i_forward_tsn(tsn, [(stream, False, number) for stream, number in streams])
        return encode_forward_tsn(tsn, streams)

    def packet(self, *some: bytes) -> bytes:
        return self.envelope.seal(b"".join(some))


def packed(some: Iterable[bytes], each: int) -> list[bytes]:
    """The bodies of packets with so many of these chunks."""
    listed = list(some)
    return [b"".join(listed[at : at + each]) for at in range(0, len(listed), each)]


def reset(number: int, last_tsn: int, *streams: int, extra: bytes = b"") -> bytes:
    """A chunk with a request to reset streams."""
    body = struct.pack("!LLL", number % 2**32, 0, last_tsn % 2**32) + b"".join(
        struct.pack("!H", one) for one in streams
    )
    return chunk(chunks.RE_CONFIG, parameter(13, body + extra))


def values(packets: Iterable[bytes], kind: int) -> Iterator[bytes]:
    """The values of all chunks of a type in packets."""
    for packet in packets:
        for found, _, begin, end in chunks_of(packet):
            if found == kind:
                yield packet[begin:end]


def kinds(packet: bytes) -> list[int]:
    """The types of a packet's chunks."""
    return [kind for kind, _, _, _ in chunks_of(packet)]


class Hostile(Speaker):
    """A peer that shakes hands as it should, and then does as it likes.

    :ivar deliver: takes packets to the victim.
    :ivar sent: what the victim has sent. Append to it.
    :ivar first_tsn: of the victim, and the number of its first request, too.
    """

    def __init__(self, *, interleaved: bool = False, window: int = 1 << 20, tsn: int = 2**32 - 3) -> None:
        super().__init__(Envelope(PORT, PORT, 0), tsn, interleaved)
        self._request = tsn
        self.tag = 77
        extensions = frozenset(OUR_EXTENSIONS) if interleaved else FEW
        self.init = Init(self.tag, window, 65535, 65535, tsn, b"", extensions, forward_tsn=True)
        self.deliver: Callable[[list[bytes]], None]
        self.sent: list[bytes] = []
        self.cookie = b""
        self.first_tsn = 0

    def put(self, *some: bytes) -> None:
        """One packet of these chunks."""
        self.deliver([self.packet(*some)])

    def begin(self) -> Init:
        """Send an INIT, and return its answer."""
        self.deliver([self.envelope.seal_for(0, encode_init(chunks.INIT, self.init))])
        return decode_init(list(values(self.sent, chunks.INIT_ACK))[-1])

    def shake_hands(self) -> None:
        answer = self.begin()
        self.envelope.address(answer.tag)
        self.first_tsn, self.cookie = answer.tsn, answer.cookie
        self.put(chunk(chunks.COOKIE_ECHO, answer.cookie))
        assert list(values(self.sent, chunks.COOKIE_ACK))

    def reset(self, *streams: int, again: bool = False) -> None:
        """Ask for a reset of streams, under the next number or the one before."""
        if again:
            self._request -= 1
        self.put(reset(self._request, self.tsn - 1, *streams))
        self._request += 1

    def acknowledge(self, window: int = 1 << 20) -> None:
        """Acknowledge all that has come."""
        self.put(encode_sack(Sack(self.highest, window)))

    @property
    def highest(self) -> int:
        """The highest TSN of the victim so far."""
        tsns = [int.from_bytes(body[:4]) for body in values(self.sent, chunks.I_DATA if self.interleaved else 0)]
        return max(((tsn - self.first_tsn) % 2**32 for tsn in tsns), default=-1) + self.first_tsn

    def sacks(self) -> list[Sack]:
        return [decode_sack(body) for body in values(self.sent, chunks.SACK)]


class Attack(Hostile):
    """A hostile peer of an association without anything around it.

    :ivar victim: the association.
    :ivar now: the time.
    :ivar messages: what the victim has delivered.
    """

    def __init__(
        self, *, interleaved: bool = False, tsn: int = 2**32 - 3, window: int = 1 << 20, **limits: int
    ) -> None:
        super().__init__(interleaved=interleaved, window=window, tsn=tsn)
        self.now = 1000.0
        self.victim = Association(
            PORT, PORT, AssociationLimits(**limits), random.Random(1).randbytes, lambda: None, self.now
        )
        self.deliver = self._deliver
        self.messages: list[tuple[int, int, bytes]] = []
        self.shake_hands()

    def _deliver(self, packets: list[bytes]) -> None:
        self.victim.receive(packets, self.now)
        self.messages += self.victim.messages
        self.victim.messages.clear()
        self.hear()

    def hear(self) -> None:
        """Take what the victim sends now."""
        while packets := self.victim.transmit(self.now):
            self.sent += packets

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        ends = self.now + seconds
        while (due := self.victim.next_time()) is not None and due <= ends:
            self.now = max(self.now, due)
            self.hear()
        self.now = ends

    @property
    def why(self) -> str | None:
        """Why the victim has ended the association; None: it has not."""
        return next((event.reason for event in self.victim.events if isinstance(event, Down)), None)

    def still_works(self) -> None:
        """The victim takes a message, and acknowledges it."""
        stream = 50_001
        self.put(self.data(stream, BINARY, b"still there"))
        self.wait(0.3)
        assert self.messages[-1] == (stream, BINARY, b"still there")
        self.messages.pop()
        assert self.sacks()[-1].cumulative == (self.tsn - 1) % 2**32
        assert self.why is None

    def is_cut_off(self) -> None:
        """The victim has said that this peer broke the protocol, and is deaf from then on."""
        assert self.why
        assert "\n" not in self.why
        assert kinds(self.sent[-1]) == [chunks.ABORT]
        count, told = len(self.sent), len(self.messages)
        self.put(self.data(50_001, BINARY, b"x"))
        self.put(chunk(chunks.ABORT))
        self.wait(100)
        assert (len(self.sent), len(self.messages)) == (count, told)
        assert len(self.victim.events) == 2


class Waiting(Attack):
    """A peer that has not shaken hands."""

    def shake_hands(self) -> None:
        pass


def send(peer: Attack, *sizes: int) -> None:
    """The victim sends messages."""
    for size in sizes:
        peer.victim.send(1, BINARY, bytes(size), True, None, peer.now)
    peer.hear()
