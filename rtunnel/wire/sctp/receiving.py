"""The receiving half of an association: TSNs, gaps, the receive window (RFC 9260, sections 6.2, 6.5 and 6.7).

A hostile peer chooses the size, the numbers and the order of its chunks. The work for a chunk does not depend on how
many are kept, and what is kept is bounded by the window and by :data:`CHUNK_ROOM`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from rtunnel.wire.sctp.chunks import IMMEDIATE, ProtocolError
from rtunnel.wire.sctp.reassembly import Message, Reassembly
from rtunnel.wire.sctp.serial import unwrap

#: Bytes beyond the window up to which the next chunk is taken. The largest message must become complete in a window
#: that others have filled.
WINDOW_SLACK = 256 * 1024
#: One chunk may be kept for so many bytes of the window and the slack. While half of them are kept, no more are taken
#: out of order.
CHUNK_ROOM = 512
#: How many gaps are kept; a chunk that would make one more is dropped.
MAX_GAPS = 1024
#: How many duplicates are reported in a SACK.
MAX_DUPLICATES = 128
#: How far ahead of all that were received a TSN may be: a SACK tells it by an offset of 16 bits.
MAX_AHEAD = 0xFFFF
#: Bytes of memory that a chunk takes beside its payload while it is kept.
CHUNK_OVERHEAD = 512


class Inbound:
    """What was received.

    :param first_tsn: the first TSN of the peer, of 32 bits.
    :param window: the receive window, in bytes.
    :param max_streams: how many streams may be in use.
    :param interleaved: whether messages come in I-DATA chunks (RFC 8260).
    :ivar cumulative: up to here, each TSN was received or given up by the peer.
    :ivar messages: stream, payload protocol identifier and data of complete messages, in order. The user takes
        them and clears this list, which stays the same one.
    :ivar sack_due: an acknowledgement is due; it may be delayed.
    :ivar sack_now: an acknowledgement is due, and must not be delayed.
    :ivar chunks_received: chunks with new data that were taken.
    :ivar chunks_missed: chunks that had not come when a later one did.
    """

    __slots__ = (
        "_duplicates",
        "_firsts",
        "_interleaved",
        "_is_small",
        "_lasts",
        "_max_misordered",
        "_reassembly",
        "_room",
        "_runs",
        "_window",
        "chunks_missed",
        "chunks_received",
        "cumulative",
        "messages",
        "sack_due",
        "sack_now",
    )

    def __init__(self, first_tsn: int, window: int, max_streams: int, interleaved: bool) -> None:
        self.cumulative = first_tsn - 1
        self.sack_due = self.sack_now = False
        self.chunks_received = self.chunks_missed = 0
        self._interleaved = interleaved
        self._window = window
        #: The window less what waits above.
        self._room = window
        #: The last SACK told of a window that is nearly closed.
        self._is_small = False
        max_chunks = (window + WINDOW_SLACK) // CHUNK_ROOM
        self._max_misordered = max_chunks // 2
        self._reassembly = Reassembly(max_streams, max_chunks)
        self.messages: list[Message] = self._reassembly.messages
        self._runs = self._reassembly.fragments.runs
        #: The first and the last TSNs of what was received behind a gap.
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._duplicates: list[int] = []

    @property
    def kept(self) -> int:
        """Bytes of memory that chunks take which wait for others."""
        return self._reassembly.size + CHUNK_OVERHEAD * self._reassembly.chunks

    def data(self, tsn: int, flags: int, stream: int, number: int, kind: int, payload: bytes) -> None:
        """Take a DATA chunk.

        :param tsn: the TSN on the wire.
        :param number: the stream sequence number on the wire.
        :param kind: the payload protocol identifier.
        :raises ProtocolError: the peer broke the protocol.
        """
        if self._interleaved:
            raise ProtocolError("a DATA chunk where messages are interleaved")
        taken = self._take(tsn, flags, len(payload))
        if taken is not None:
            self._reassembly.data(taken, flags, stream, number, kind, payload)
            runs = self._runs
            if runs and (runs[0].last < self.cumulative or not runs[0].is_begun):
                self._reassembly.pass_to(self.cumulative)

    def i_data(self, tsn: int, flags: int, stream: int, number: int, kind_or_fsn: int, payload: bytes) -> None:
        """Take an I-DATA chunk.

        :param tsn: the TSN on the wire.
        :param number: the message identifier on the wire.
        :param kind_or_fsn: the payload protocol identifier of a first fragment, the number of any other.
        :raises ProtocolError: the peer broke the protocol.
        """
        if not self._interleaved:
            raise ProtocolError("an I-DATA chunk where messages are not interleaved")
        if self._take(tsn, flags, len(payload)) is not None:
            self._reassembly.i_data(flags, stream, number, kind_or_fsn, payload)

    def forward(self, cumulative: int, skipped: Iterable[tuple[int, int]]) -> None:
        """Take a FORWARD-TSN chunk (RFC 3758, section 3.6): messages that the peer has given up are not waited for.

        :param cumulative: its TSN on the wire.
        :param skipped: streams, and the stream sequence number on the wire up to which messages were given up.
        :raises ProtocolError: the peer broke the protocol.
        """
        if self._interleaved:
            raise ProtocolError("a FORWARD-TSN chunk where messages are interleaved")
        if self._forward(cumulative):
            for stream, number in skipped:
                self._reassembly.skip(stream, number, 16)
            self._reassembly.pass_to(self.cumulative)

    def i_forward(self, cumulative: int, skipped: Iterable[tuple[int, bool, int]]) -> None:
        """Take an I-FORWARD-TSN chunk (RFC 8260, section 2.3.1).

        :param cumulative: its TSN on the wire.
        :param skipped: streams, whether this is about messages without order, and the message identifier on the wire
            up to which they were given up.
        :raises ProtocolError: the peer broke the protocol.
        """
        if not self._interleaved:
            raise ProtocolError("an I-FORWARD-TSN chunk where messages are not interleaved")
        if self._forward(cumulative):
            for stream, unordered, number in skipped:
                if unordered:
                    self._reassembly.skip_unordered(stream, number)
                else:
                    self._reassembly.skip(stream, number, 32)

    def take_sack(self, most_gaps: int) -> tuple[int, int, list[tuple[int, int]], list[int]]:
        """Return what a SACK tells now, and note that it was told.

        :param most_gaps: how many gap blocks fit.
        :returns: the cumulative TSN; the window, in bytes; the first and the last of each gap block, as offsets from
            the cumulative TSN; the TSNs of duplicates.
        """
        cumulative, free = self.cumulative, self._room - self._reassembly.size
        self._is_small = free < self._window // 4
        self.sack_due = self.sack_now = False
        duplicates, self._duplicates = self._duplicates, []
        gaps: list[tuple[int, int]] = []
        if self._firsts:
            blocks = zip(self._firsts[:most_gaps], self._lasts[:most_gaps], strict=True)
            gaps = [(first - cumulative, last - cumulative) for first, last in blocks]
        return cumulative, max(free, 0), gaps, duplicates

    def hold(self, count: int) -> None:
        """Shrink the window by *count* bytes that were received and wait in memory."""
        self._room -= count

    def release(self, count: int) -> None:
        """Widen the window again. An acknowledgement is due at once if it was nearly closed and no longer is."""
        self._room += count
        if self._is_small and self._room - self._reassembly.size > self._window // 2:
            self.sack_due = self.sack_now = True

    def reset(self, streams: Iterable[int] | None) -> None:
        """Let streams begin anew (RFC 6525, section 5.2.2): their next number is 0. None: all of them."""
        self._reassembly.reset(streams)

    def _take(self, tsn: int, flags: int, size: int) -> int | None:
        """Note that a chunk of *size* bytes was received. Return its TSN; None: it is a duplicate, or is dropped."""
        self.sack_due = True
        following = self.cumulative + 1
        if tsn == following & 0xFFFFFFFF and not self._firsts and 0 < size <= self._room - self._reassembly.size:
            self.cumulative = following
            self.chunks_received += 1
            if flags & IMMEDIATE or self._is_small:
                self.sack_now = True
            return following
        if not size:
            raise ProtocolError("a chunk without data")
        # There is a gap, or this fills one, or comes again, or is too much.
        self.sack_now = True
        taken = unwrap(tsn, self.cumulative)
        return taken if self._place(taken, size) else None

    def _place(self, tsn: int, size: int) -> bool:
        """Note that a TSN was received, if it is new and there is room."""
        firsts, lasts = self._firsts, self._lasts
        cumulative = self.cumulative
        at = bisect_right(firsts, tsn)
        if tsn <= cumulative or (at and lasts[at - 1] >= tsn):
            if len(self._duplicates) < MAX_DUPLICATES:
                self._duplicates.append(tsn)
            return False
        free = self._room - self._reassembly.size
        if tsn == cumulative + 1:
            if size > free + WINDOW_SLACK:
                if size + self._reassembly.size > self._window + WINDOW_SLACK:
                    raise ProtocolError("incomplete messages that fill the receive window")
                return False
            self.chunks_received += 1
            self._advance(tsn)
            return True
        joins_before = at > 0 and lasts[at - 1] == tsn - 1
        joins_behind = at < len(firsts) and firsts[at] == tsn + 1
        if size > free or tsn - cumulative > MAX_AHEAD or self._reassembly.chunks >= self._max_misordered:
            return False
        if len(firsts) >= MAX_GAPS and not (joins_before or joins_behind):
            return False
        self.chunks_received += 1
        if at == len(firsts):
            self.chunks_missed += tsn - 1 - (lasts[-1] if lasts else cumulative)
        if joins_before and joins_behind:
            lasts[at - 1] = lasts[at]
            del firsts[at], lasts[at]
        elif joins_before:
            lasts[at - 1] = tsn
        elif joins_behind:
            firsts[at] = tsn
        else:
            firsts.insert(at, tsn)
            lasts.insert(at, tsn)
        return True

    def _advance(self, tsn: int) -> None:
        """Note that each TSN up to this one needs no waiting for, and what follows it without a gap."""
        firsts, lasts = self._firsts, self._lasts
        count = bisect_right(firsts, tsn + 1)
        if count:
            tsn = max(tsn, lasts[count - 1])
            del firsts[:count], lasts[:count]
        self.cumulative = tsn

    def _forward(self, cumulative: int) -> bool:
        """Note the TSN of a FORWARD-TSN or I-FORWARD-TSN chunk. Return whether it is new."""
        self.sack_due = True
        tsn = unwrap(cumulative, self.cumulative)
        if tsn <= self.cumulative:
            # A SACK may be lost.
            self.sack_now = True
            return False
        self._advance(tsn)
        if self._firsts:
            self.sack_now = True
        return True
