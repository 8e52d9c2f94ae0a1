"""What the user at one end of the bed has sent, and whether the other end's gets it as the stream promises."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Any

from rtunnel.wire.sctp.events import Down, StreamsReset
from tests.wire.sctp.bed import End

_PATTERN = Random(1).randbytes(1 << 20)


@dataclass(frozen=True)
class Promise:
    """What a stream promises, as a data channel does.

    :ivar most_sends: how often a message may be sent; None: until it arrives.
    """

    ordered: bool = True
    most_sends: int | None = None

    @property
    def is_reliable(self) -> bool:
        return self.most_sends is None


@dataclass
class Sent:
    """A message on its way."""

    time: float
    kind: int
    data: bytes


@dataclass
class Stream:
    promise: Promise
    on_its_way: deque[Sent] = field(default_factory=deque)
    bytes_sent: int = 0
    bytes_received: int = 0
    lost: int = 0
    #: Seconds from the user to the user.
    delays: list[float] = field(default_factory=list)


class Ledger:
    """The books of one direction.

    :ivar resets: streams whose reset has come to the receiver.
    """

    def __init__(self, sender: End) -> None:
        self.sender, self.receiver = sender, sender.peer
        self.streams: dict[int, Stream] = {}
        self.resets: list[int] = []
        self.received = 0
        self._count = 0
        self.receiver.take_message, self.receiver.take_event = self._take_message, self._take_event
        self.may_end = False

    def open(self, stream: int, promise: Promise = Promise()) -> None:
        self.streams[stream] = Stream(promise)

    def send(self, stream: int, size: int, kind: int = 53) -> bytes:
        """Send a message of *size* bytes, and return it. No two are alike, if they are long enough."""
        self._count += 1
        begin = self._count * 7919 % (len(_PATTERN) // 2)
        data = self._count.to_bytes(4, "big")[:size] + _PATTERN[begin : begin + max(0, size - 4)]
        data = (data * (size // len(data) + 1))[:size]
        books, end = self.streams[stream], self.sender
        books.on_its_way.append(Sent(end.bed.now, kind, data))
        books.bytes_sent += size
        end.bed.heard()
        promise = books.promise
        end.association.send(stream, kind, data, promise.ordered, promise.most_sends, end.bed.now)
        return data

    def reset(self, stream: int) -> None:
        """Close the stream; what was sent before arrives before that."""
        self.sender.association.reset(stream)

    @property
    def owed(self) -> int:
        """How many messages are on their way that must arrive."""
        return sum(len(each.on_its_way) for each in self.streams.values() if each.promise.is_reliable)

    def _take_event(self, event: Any) -> None:
        if isinstance(event, StreamsReset):
            for stream in event.streams if event.streams is not None else [*self.streams]:
                self.take_reset(stream)
        elif isinstance(event, Down) and not self.may_end:
            raise AssertionError(f"it is over: {event.reason}")

    def take_reset(self, stream: int) -> None:
        self.resets.append(stream)
        books = self.streams[stream]
        assert not (books.promise.is_reliable and books.on_its_way), f"stream {stream} was closed before its messages"
        books.lost += len(books.on_its_way)
        books.on_its_way.clear()

    def _take_message(self, stream: int, kind: int, data: bytes) -> None:
        books = self.streams[stream]
        waiting, promise = books.on_its_way, books.promise
        assert waiting, f"stream {stream}: a message that was not sent, or came twice"
        if promise.ordered and promise.is_reliable:
            found = 0
        else:
            # Messages of few bytes may be alike: which of them came cannot be told, and does not matter.
            found = next((n for n, sent in enumerate(waiting) if sent.data == data and sent.kind == kind), -1)
            assert found >= 0, f"stream {stream}: a message that was not sent, came twice, or out of order"
        sent = waiting[found]
        assert (sent.kind, len(sent.data)) == (kind, len(data)), (
            f"stream {stream}: {len(data)} for {len(sent.data)} bytes"
        )
        assert sent.data == data, f"stream {stream}: other bytes"
        del waiting[found]
        if promise.ordered:
            for _ in range(found):
                waiting.popleft()
                books.lost += 1
        books.delays.append(self.receiver.bed.now - sent.time)
        books.bytes_received += len(data)
        self.received += len(data)


def ledgers(one: End, two: End) -> tuple[Ledger, Ledger]:
    """The books of both directions; the bed knows what is owed."""
    both = Ledger(one), Ledger(two)
    bed = one.bed
    before = bed.owed
    bed.owed = lambda: before() or any(each.owed for each in both)
    return both
