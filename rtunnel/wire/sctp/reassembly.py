"""Messages are put together from their fragments, and brought into order (RFC 9260, sections 6.5, 6.6 and 6.9; RFC
8260, section 2).

The fragments of a message have consecutive numbers: TSNs in DATA chunks, fragment sequence numbers (FSNs) of their own
in I-DATA chunks. Those that have come form runs, sorted by number, so that the work for a chunk does not depend on how
much is kept. All numbers except those named as being of the wire are unbounded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Generic, TypeVar

from rtunnel.wire.sctp.chunks import BEGIN, END, UNORDERED, ProtocolError
from rtunnel.wire.sctp.serial import unwrap

#: The flags of a message in one chunk.
WHOLE = BEGIN | END

#: A stream, a payload protocol identifier, and the message.
Message = tuple[int, int, bytes]
T = TypeVar("T")


class Sorted(Generic[T]):
    """Values sorted by number."""

    __slots__ = ("numbers", "values")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.values: list[T] = []

    def get(self, number: int) -> T | None:
        """Return the value of *number*, or None."""
        at = bisect_left(self.numbers, number)
        return self.values[at] if at < len(self.numbers) and self.numbers[at] == number else None

    def insert(self, number: int, value: T) -> None:
        """Add a value whose number is not there yet."""
        at = bisect_left(self.numbers, number)
        self.numbers.insert(at, number)
        self.values.insert(at, value)

    def remove(self, number: int) -> None:
        """Remove the value of *number*, which is there."""
        at = bisect_left(self.numbers, number)
        del self.numbers[at], self.values[at]

    def pop_to(self, number: int) -> list[T]:
        """Remove and return all values up to *number*."""
        count = bisect_right(self.numbers, number)
        found = self.values[:count]
        del self.numbers[:count], self.values[:count]
        return found


class Run:
    """Fragments of one message that follow each other.

    :param last: the number of the last fragment.
    :param flags: those of the chunk.
    :param message: tells the message from those around it.
    :ivar is_begun: the first fragment of the message is among them.
    :ivar is_ended: the last fragment of the message is among them.
    """

    __slots__ = ("is_begun", "is_ended", "kind", "last", "message", "parts")

    def __init__(self, last: int, flags: int, message: int, kind: int, payload: bytes) -> None:
        self.last = last
        self.is_begun = bool(flags & BEGIN)
        self.is_ended = bool(flags & END)
        self.message = message
        self.kind = kind
        self.parts = [payload]


class Runs:
    """Runs of fragments, none of them a whole message, sorted by the number of the first fragment."""

    __slots__ = ("firsts", "runs")

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.runs: list[Run] = []

    def add(self, number: int, flags: int, message: int, kind: int, payload: bytes) -> Run | None:
        """Add a fragment, which is not a whole message. If that completes its message, remove and return the message.

        :raises ProtocolError: there is a fragment with this number.
        """
        runs = self.runs
        if not runs:
            self.firsts.append(number)
            runs.append(Run(number, flags, message, kind, payload))
            return None
        run = runs[-1]
        if run.last + 1 == number and run.message == message and not flags & BEGIN and not run.is_ended:
            run.parts.append(payload)
            run.last = number
            if flags & END:
                run.is_ended = True
                if run.is_begun:
                    self.firsts.pop()
                    return runs.pop()
            return None
        return self._join(number, flags, message, kind, payload)

    def _join(self, number: int, flags: int, message: int, kind: int, payload: bytes) -> Run | None:
        """Add a fragment to the run before it and the run behind it."""
        firsts, runs = self.firsts, self.runs
        at = bisect_right(firsts, number)
        before = runs[at - 1] if at else None
        if before is not None and before.last >= number:
            raise ProtocolError("two fragments with the same number")
        if before is not None and (
            before.last + 1 != number or before.message != message or flags & BEGIN or before.is_ended
        ):
            before = None
        behind = runs[at] if at < len(runs) and firsts[at] == number + 1 else None
        if behind is not None and (behind.message != message or flags & END or behind.is_begun):
            behind = None
        if before is not None:
            run, at = before, at - 1
            run.parts.append(payload)
            run.last = number
            run.is_ended = bool(flags & END)
            if behind is not None:
                run.parts += behind.parts
                run.last, run.is_ended = behind.last, behind.is_ended
                del firsts[at + 1], runs[at + 1]
        elif behind is not None:
            run = behind
            run.parts.insert(0, payload)
            run.is_begun, run.kind = bool(flags & BEGIN), kind
            firsts[at] = number
        else:
            run = Run(number, flags, message, kind, payload)
            firsts.insert(at, number)
            runs.insert(at, run)
        if not (run.is_begun and run.is_ended):
            return None
        del firsts[at], runs[at]
        return run


class Stream:
    """What is known of one stream.

    :ivar following: the number of the next message in order: an SSN, or the MID of an I-DATA chunk.
    :ivar waiting: complete messages that are not the next, with their payload protocol identifiers.
    :ivar partial: the fragments of messages in order, by MID. This and the next three are of I-DATA chunks.
    :ivar unordered: the fragments of messages that may come in any order, by MID.
    :ivar recent: the MID of one that came lately.
    :ivar oldest: the smallest MID of such a message that the peer has not given up.
    """

    __slots__ = ("following", "oldest", "partial", "recent", "unordered", "waiting")

    def __init__(self) -> None:
        self.following = 0
        self.waiting: Sorted[tuple[int, bytes]] | None = None
        self.partial: Sorted[Runs] | None = None
        self.unordered: Sorted[Runs] | None = None
        self.recent = self.oldest = 0


class Reassembly:
    """Takes chunks, each once, and has complete messages.

    :param max_streams: how many streams may be in use.
    :param max_chunks: how many chunks may be kept.
    :ivar messages: those that can be delivered; the user takes them away.
    :ivar fragments: of messages in DATA chunks, by TSN.
    :ivar size: bytes that are kept.
    :ivar chunks: chunks that are kept. A complete message that is not the next counts as one.
    """

    __slots__ = ("_max_chunks", "_max_streams", "_streams", "chunks", "fragments", "messages", "size")

    def __init__(self, max_streams: int, max_chunks: int) -> None:
        self._max_streams = max_streams
        self._max_chunks = max_chunks
        self._streams: dict[int, Stream] = {}
        self.fragments = Runs()
        self.messages: list[Message] = []
        self.size = self.chunks = 0

    def data(self, tsn: int, flags: int, stream: int, number: int, kind: int, payload: bytes) -> None:
        """Take a DATA chunk that was not received before.

        :param number: the SSN of 16 bits from the wire.
        :raises ProtocolError: the peer broke the protocol.
        """
        if flags & WHOLE != WHOLE:
            self.size += len(payload)
            self.chunks += 1
            # The SSN of a message without order means nothing.
            message = ~stream if flags & UNORDERED else stream << 16 | number
            run = self.fragments.add(tsn, flags, message, kind, payload)
            if run is None:
                if self.chunks > self._max_chunks:
                    raise ProtocolError("too many fragments of incomplete messages")
                return
            kind, payload = self._join(run)
        one = self._streams.get(stream) or self._stream(stream)
        if flags & UNORDERED:
            self.messages.append((stream, kind, payload))
        elif number == one.following & 0xFFFF:
            one.following += 1
            self.messages.append((stream, kind, payload))
            if one.waiting is not None:
                self._deliver_next(stream, one)
        else:
            self._place(stream, one, unwrap(number, one.following, 16), kind, payload)

    def pass_to(self, tsn: int) -> None:
        """Drop what will never be complete, as each TSN up to *tsn* was received or given up by the peer."""
        firsts, runs = self.fragments.firsts, self.fragments.runs
        count = 0
        for first, run in zip(firsts, runs, strict=True):
            if first > tsn or (run.is_begun and run.last >= tsn):
                break
            self._drop(run)
            count += 1
        del firsts[:count], runs[:count]

    def i_data(self, flags: int, stream: int, number: int, kind_or_fsn: int, payload: bytes) -> None:
        """Take an I-DATA chunk that was not received before.

        :param number: the MID of 32 bits from the wire.
        :raises ProtocolError: the peer broke the protocol.
        """
        one = self._streams.get(stream) or self._stream(stream)
        kind = kind_or_fsn
        if flags & WHOLE != WHOLE:
            run = self._add_interleaved(one, flags, number, kind_or_fsn, payload)
            if run is None:
                return
            kind, payload = self._join(run)
        if flags & UNORDERED:
            self.messages.append((stream, kind, payload))
        else:
            self._place(stream, one, unwrap(number, one.following), kind, payload)

    def skip(self, stream: int, number: int, bits: int) -> None:
        """Wait no longer for the messages of a stream up to this number, whose *bits* bits are from the wire.

        :raises ProtocolError: too many streams.
        """
        one = self._streams.get(stream) or self._stream(stream)
        number = unwrap(number, one.following, bits)
        if number < one.following:
            return
        one.following = number + 1
        if one.partial is not None:
            self._drop_all(one.partial.pop_to(number))
        if one.waiting is not None:
            self._deliver(stream, one.waiting.pop_to(number))
            self._deliver_next(stream, one)

    def skip_unordered(self, stream: int, number: int) -> None:
        """Drop the incomplete messages that have no order, up to this MID of 32 bits from the wire.

        :raises ProtocolError: too many streams.
        """
        one = self._streams.get(stream) or self._stream(stream)
        number = unwrap(number, one.recent)
        # Fragments that are on their way would not be given up again.
        one.recent, one.oldest = number, max(one.oldest, number + 1)
        if one.unordered is not None:
            self._drop_all(one.unordered.pop_to(number))

    def reset(self, streams: Iterable[int] | None) -> None:
        """Forget these streams, or all of them.

        A message in DATA chunks that is incomplete goes with the next chunk, which has no part of it.
        """
        for name in list(self._streams) if streams is None else streams:
            one = self._streams.pop(name, None)
            if one is None:
                continue
            for partial in (one.partial, one.unordered):
                if partial is not None:
                    self._drop_all(partial.values)
            if one.waiting is not None:
                self.size -= sum(len(payload) for _, payload in one.waiting.values)
                self.chunks -= len(one.waiting.values)

    def _stream(self, name: int) -> Stream:
        if len(self._streams) >= self._max_streams:
            raise ProtocolError("data on more streams than there may be channels")
        one = self._streams[name] = Stream()
        return one

    def _add_interleaved(self, one: Stream, flags: int, number: int, fsn: int, payload: bytes) -> Run | None:
        """Add a fragment of an I-DATA chunk. Return its message if that is complete."""
        if flags & UNORDERED:
            mid, messages = unwrap(number, one.recent), one.unordered
            if mid < one.oldest:
                return None
            one.recent = mid
            if messages is None:
                messages = one.unordered = Sorted()
        else:
            mid, messages = unwrap(number, one.following), one.partial
            if mid < one.following:
                return None
            if messages is None:
                messages = one.partial = Sorted()
        kind = 0
        if flags & BEGIN:
            # The first one has the payload protocol identifier in the place of its number, 0.
            kind, fsn = fsn, 0
        elif not fsn:
            raise ProtocolError("a fragment with number 0 that is not the first")
        runs = messages.get(mid)
        if runs is None:
            runs = Runs()
            messages.insert(mid, runs)
        self.size += len(payload)
        self.chunks += 1
        run = runs.add(fsn, flags, 0, kind, payload)
        if run is None:
            if self.chunks > self._max_chunks:
                raise ProtocolError("too many fragments of incomplete messages")
        else:
            messages.remove(mid)
            if runs.runs:
                raise ProtocolError("a fragment behind the last of its message")
        return run

    def _join(self, run: Run) -> tuple[int, bytes]:
        payload = b"".join(run.parts)
        self.size -= len(payload)
        self.chunks -= len(run.parts)
        return run.kind, payload

    def _place(self, stream: int, one: Stream, number: int, kind: int, payload: bytes) -> None:
        """Deliver a complete message if it is the next of its stream, or keep it, or drop it if it was given up."""
        if number == one.following:
            one.following += 1
            self.messages.append((stream, kind, payload))
            self._deliver_next(stream, one)
        elif number > one.following:
            if one.waiting is None:
                one.waiting = Sorted()
            if one.waiting.get(number) is not None:
                raise ProtocolError("two messages with the same number")
            one.waiting.insert(number, (kind, payload))
            self.size += len(payload)
            self.chunks += 1
            if self.chunks > self._max_chunks:
                raise ProtocolError("too many messages out of order")

    def _deliver_next(self, stream: int, one: Stream) -> None:
        """Deliver those of the waiting messages that are next."""
        waiting, following = one.waiting, one.following
        if waiting is None:
            return
        for number in waiting.numbers:
            if number != following:
                break
            following += 1
        one.following = following
        self._deliver(stream, waiting.pop_to(following - 1))
        if not waiting.numbers:
            one.waiting = None

    def _deliver(self, stream: int, messages: list[tuple[int, bytes]]) -> None:
        for kind, payload in messages:
            self.size -= len(payload)
            self.messages.append((stream, kind, payload))
        self.chunks -= len(messages)

    def _drop(self, run: Run) -> None:
        self.size -= sum(map(len, run.parts))
        self.chunks -= len(run.parts)

    def _drop_all(self, messages: Iterable[Runs]) -> None:
        for runs in messages:
            for run in runs.runs:
                self._drop(run)
