"""What a peer sends to an association: packets are checked, and messages are put together from their chunks.

A hostile peer chooses the size, the numbers and the order of its chunks. aiortc goes through all that it keeps of a
stream for each chunk, and through all streams for each FORWARD-TSN: a byte of the peer could cost 340 microseconds.
Here the work for a DATA chunk does not depend on how many are kept, and a FORWARD-TSN or a SACK passes over them in
one go.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from typing import Any, cast

from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import (
    LOCAL_MAX_MESSAGE_SIZE,
    SCTP_COMMON_HEADER_LENGTH,
    SCTP_DATA_FIRST_FRAG,
    SCTP_DATA_LAST_FRAG,
    SCTP_DATA_UNORDERED,
    SCTP_TSN_MODULO,
    WEBRTC_DCEP,
    AbortChunk,
    DataChunk,
    ErrorChunk,
    ForwardTsnChunk,
    HeartbeatAckChunk,
    HeartbeatChunk,
    InboundStream,
    InitAckChunk,
    InitChunk,
    ReconfigChunk,
    RTCSctpTransport,
    SackChunk,
    StreamResetOutgoingParam,
    tsn_minus_one,
    tsn_plus_one,
)
from aiortc.utils import uint16_add, uint16_gt, uint32_gt
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.rtc.traffic import Traffic

#: The receive window, in bytes.
RECEIVE_WINDOW = 1024 * 1024
#: Bytes beyond the window up to which chunks are accepted; others are dropped, as RFC 9260, section 6.2, allows.
WINDOW_SLACK = LOCAL_MAX_MESSAGE_SIZE
#: Seconds by which an acknowledgement may be delayed.
SACK_DELAY = 0.02
#: How many chunks received out of order are kept: a receive window full of them, if they have full size.
MAX_MISORDERED = 1024
#: How many chunks are kept because their message is incomplete or not the next one. A peer sends one message after
#: another, so an honest peer causes no more than those out of order and those of the largest message.
MAX_KEPT = 2 * MAX_MISORDERED
#: How many gaps and duplicates fit into one SACK.
MAX_REPORTED = 128
#: How far ahead of all that were received a chunk may be: a SACK tells it by an offset of 16 bits.
MAX_AHEAD = 0xFFFF
#: How many chunks of one kind, other than DATA, are taken from one packet. They are small, and most must be answered.
#: An honest packet has one of each kind, or two RE-CONFIG chunks, which are a request and an answer.
MAX_CONTROL = 2

_TYPE_AND_LENGTH = struct.Struct("!HH")
#: The offset of the parameters within a chunk, by its type.
_PARAMETERS_AT = {
    InitChunk.type: 20,
    InitAckChunk.type: 20,
    HeartbeatChunk.type: 4,
    HeartbeatAckChunk.type: 4,
    AbortChunk.type: 4,
    ErrorChunk.type: 4,
    ReconfigChunk.type: 4,
}
#: A stream, a payload protocol identifier, and the message.
Message = tuple[int, int, bytes]


def parameters_are_sound(packet: bytes) -> bool:
    """Check the parameters of a packet's chunks (RFC 9260, section 3.2.1).

    :returns: whether aiortc can parse the packet; a parameter of length 0 would make it loop forever.
    """
    position, end = SCTP_COMMON_HEADER_LENGTH, len(packet)
    while position + _TYPE_AND_LENGTH.size <= end:
        kind, length = _TYPE_AND_LENGTH.unpack_from(packet, position)
        parameters = _PARAMETERS_AT.get(kind >> 8)
        if parameters is not None:
            at, last = position + parameters, min(position + length, end)
            while at + _TYPE_AND_LENGTH.size <= last:
                size = _TYPE_AND_LENGTH.unpack_from(packet, at)[1]
                if not size:
                    return False
                at += (size + 3) & ~3
        position += max((length + 3) & ~3, _TYPE_AND_LENGTH.size)
    return True


class Stream(InboundStream):
    """What is known of one stream.

    :ivar sequence_number: the number of the next message in order.
    :ivar waiting: complete messages that are not the next, by their number: the TSN of the first chunk.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[int, int] = {}


class Reassembly:
    """The chunks of messages that are incomplete, or not the next of their stream (RFC 9260, sections 6.6 and 6.9).

    The fragments of a message have consecutive TSNs. Those that have arrived form runs, each known by both of its ends.

    :ivar released: how many bytes :meth:`prune` and :meth:`drop` have removed in total.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, DataChunk] = {}
        #: The last TSN of each run by its first, and the other way round.
        self._last_of: dict[int, int] = {}
        self._first_of: dict[int, int] = {}
        #: The first TSNs of the runs that are not a whole message.
        self._incomplete: set[int] = set()
        self.released = 0

    def __len__(self) -> int:
        """The number of chunks that are kept."""
        return len(self._chunks)

    def add(self, chunk: DataChunk, stream: Stream) -> Iterator[Message]:
        """Take a chunk that was not received before. Yield the messages that can be delivered now.

        :raises ValueError: the peer broke the protocol.
        """
        number = chunk.stream_seq
        first = self._join(chunk)
        if first is None:
            return
        if chunk.flags & SCTP_DATA_UNORDERED:
            yield self._take(first)
        elif not uint16_gt(number, stream.sequence_number):
            yield self._take(first)
            if number == stream.sequence_number:
                stream.sequence_number = uint16_add(number, 1)
                yield from self._next(stream)
        elif number in stream.waiting:
            raise ValueError("two messages have the same number")
        else:
            stream.waiting[number] = first

    def skip(self, stream: Stream, number: int) -> Iterator[Message]:
        """Wait no longer for the messages up to this number (RFC 3758, section 3.6). Yield those that waited."""
        behind = uint16_add(number, 1)
        if uint16_gt(behind, stream.sequence_number):
            stream.sequence_number = behind
        passed = [one for one in stream.waiting if not uint16_gt(one, number)]
        for one in sorted(passed, key=lambda one: (one - behind) & 0xFFFF):
            yield self._take(stream.waiting.pop(one))
        yield from self._next(stream)

    def prune(self, tsn: int) -> None:
        """Drop incomplete messages of which a chunk up to *tsn* is missing: the peer does not send it any more."""
        # A peer may send a FORWARD-TSN in every packet, so the runs ahead of it are passed without a call for each.
        for first in [one for one in self._incomplete if (tsn - one) % SCTP_TSN_MODULO < SCTP_TSN_MODULO // 2]:
            is_begun = self._chunks[first].flags & SCTP_DATA_FIRST_FRAG
            if not is_begun or uint32_gt(tsn, self._last_of[first]):
                self._drop(first)

    def drop(self, streams: Collection[int]) -> None:
        """Drop everything of these streams, which were reset."""
        for first in [first for first in self._last_of if self._chunks[first].stream_id in streams]:
            self._drop(first)

    def _next(self, stream: Stream) -> Iterator[Message]:
        while (first := stream.waiting.pop(stream.sequence_number, None)) is not None:
            stream.sequence_number = uint16_add(stream.sequence_number, 1)
            yield self._take(first)

    def _join(self, chunk: DataChunk) -> int | None:
        """Add a chunk to the runs before and behind it. Return the first TSN of its message if that is complete."""
        tsn: int = chunk.tsn
        first = last = tsn
        if tsn in self._chunks:
            raise ValueError("two chunks have the same TSN")
        self._chunks[tsn] = chunk
        before, behind = tsn_minus_one(tsn), tsn_plus_one(tsn)
        if before in self._first_of and self._go_together(self._chunks[before], chunk):
            first = self._first_of.pop(before)
        if behind in self._last_of and self._go_together(chunk, self._chunks[behind]):
            last = self._last_of.pop(behind)
            self._incomplete.discard(behind)
        self._last_of[first], self._first_of[last] = last, first
        if self._is_complete(first, last):
            self._incomplete.discard(first)
            return first
        self._incomplete.add(first)
        return None

    @staticmethod
    def _go_together(one: DataChunk, two: DataChunk) -> bool:
        ends = one.flags & SCTP_DATA_LAST_FRAG or two.flags & SCTP_DATA_FIRST_FRAG
        return not ends and one.stream_id == two.stream_id

    def _is_complete(self, first: int, last: int) -> bool:
        begins = self._chunks[first].flags & SCTP_DATA_FIRST_FRAG
        return bool(begins and self._chunks[last].flags & SCTP_DATA_LAST_FRAG)

    def _remove(self, first: int) -> list[DataChunk]:
        self._incomplete.discard(first)
        last = self._last_of.pop(first)
        del self._first_of[last]
        count = (last - first) % SCTP_TSN_MODULO + 1
        return [self._chunks.pop((first + number) % SCTP_TSN_MODULO) for number in range(count)]

    def _take(self, first: int) -> Message:
        chunks = self._remove(first)
        return chunks[-1].stream_id, chunks[-1].protocol, b"".join(chunk.user_data for chunk in chunks)

    def _drop(self, first: int) -> None:
        self.released += sum(len(chunk.user_data) for chunk in self._remove(first))


class Receiver(RTCSctpTransport):
    """The receiving half of an association.

    :param max_channels: how many streams may be in use.
    :ivar traffic: what has passed, both ways.
    """

    log = Logger()

    def __init__(self, transport: RTCDtlsTransport, max_channels: int) -> None:
        super().__init__(transport)
        self._max_channels = max_channels
        self.traffic = Traffic()
        #: The last TSN that has come, while one before it has not.
        self._furthest = 0
        self._advertised_rwnd = RECEIVE_WINDOW
        self._window_is_small = False
        self._sack_timer: asyncio.TimerHandle | None = None
        self._reassembly = Reassembly()
        self._up = False
        #: Whether packets of the peer are ignored from now on.
        self._over = False

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task. A lost path is reported elsewhere, so its errors are ignored here."""
        asyncio.ensure_future(work).add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.log.failure("in an association", Failure(error))

    def hold(self, count: int) -> None:
        """Shrink the receive window by *count* bytes that were received and wait in memory."""
        self._advertised_rwnd -= count

    def release(self, count: int) -> None:
        """Widen the window again. Tell the peer at once if its window was nearly closed and no longer is."""
        self._advertised_rwnd += count
        if self._window_is_small and self._advertised_rwnd > RECEIVE_WINDOW // 2 and self._up:
            self._window_is_small = False
            self._run(self._send_sack_now())

    async def _send_sack(self) -> None:
        """Acknowledge every second packet at once, and others after :data:`SACK_DELAY` unless they show a loss (RFC
        9260, section 6.2)."""
        if self._over:
            return
        if self._sack_timer is None and not (self._sack_misordered or self._sack_duplicates or self._window_is_small):
            self._sack_needed = False
            self._sack_timer = asyncio.get_running_loop().call_later(SACK_DELAY, self._sack_is_late)
        else:
            await self._send_sack_now()

    async def _send_sack_now(self) -> None:
        self._stop_sack_timer()
        self._window_is_small = self._advertised_rwnd < RECEIVE_WINDOW // 4
        sack = SackChunk()
        sack.cumulative_tsn = self._last_received_tsn or 0
        sack.advertised_rwnd = max(0, self._advertised_rwnd)
        sack.duplicates, self._sack_duplicates = self._sack_duplicates, []
        for offset in sorted([(tsn - sack.cumulative_tsn) % SCTP_TSN_MODULO for tsn in self._sack_misordered]):
            if sack.gaps and offset == sack.gaps[-1][1] + 1:
                sack.gaps[-1] = (sack.gaps[-1][0], offset)
            elif len(sack.gaps) < MAX_REPORTED:
                sack.gaps.append((offset, offset))
            else:
                # A later packet reports what does not fit into this one.
                break
        self._sack_needed = False
        await self._send_chunk(sack)

    def _sack_is_late(self) -> None:
        self._run(self._send_sack_now())

    def _stop_sack_timer(self) -> None:
        timer, self._sack_timer = self._sack_timer, None
        if timer is not None:
            timer.cancel()

    def _get_inbound_stream(self, stream_id: int) -> Stream:
        stream = self._inbound_streams.get(stream_id)
        if stream is None:
            if len(self._inbound_streams) >= self._max_channels:
                raise ValueError("more streams than channels are possible")
            stream = self._inbound_streams[stream_id] = Stream()
        return cast(Stream, stream)

    async def _receive_data_chunk(self, chunk: DataChunk) -> None:
        if not chunk.user_data:
            raise ValueError("a DATA chunk without data")
        last, tsn = self._last_received_tsn, chunk.tsn
        if last is None:
            raise ValueError("a DATA chunk before the INIT")
        ahead = (tsn - last) % SCTP_TSN_MODULO
        self._sack_needed = True
        if tsn in self._sack_misordered or not uint32_gt(tsn, last):
            if len(self._sack_duplicates) < MAX_REPORTED:
                self._sack_duplicates.append(tsn)
            return
        room = self._advertised_rwnd + (WINDOW_SLACK if ahead == 1 else 0)
        if len(chunk.user_data) > room or ahead > MAX_AHEAD:
            return
        if ahead > 1 and len(self._sack_misordered) >= MAX_MISORDERED:
            return
        stream = self._get_inbound_stream(chunk.stream_id)
        self.traffic.packets_received += 1
        if ahead > 1:
            self._count_missed(tsn, self._furthest if self._sack_misordered else last)
        self._sack_misordered.add(tsn)
        self._advance(last)
        self._advertised_rwnd -= len(chunk.user_data)
        await self._deliver(self._reassembly.add(chunk, stream))
        if len(self._reassembly) > MAX_KEPT:
            raise ValueError("too many fragments")
        if self._reconfig_deferred is not None:
            await self._reset_deferred_streams()

    def _count_missed(self, tsn: int, furthest: int) -> None:
        beyond = (tsn - furthest) % SCTP_TSN_MODULO
        if beyond < SCTP_TSN_MODULO // 2:
            self.traffic.packets_missed += beyond - 1
            self._furthest = tsn

    def _advance(self, last: int) -> None:
        """Note that everything up to the TSN *last* was received, or need not be, and what follows it without a gap."""
        while (following := tsn_plus_one(last)) in self._sack_misordered:
            self._sack_misordered.discard(following)
            last = following
        self._last_received_tsn = last

    async def _deliver(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._advertised_rwnd += len(message[2])
            if message[1] != WEBRTC_DCEP:
                self.traffic.bytes_received += len(message[2])
            await self._receive(*message)

    async def _receive_forward_tsn_chunk(self, chunk: ForwardTsnChunk) -> None:
        """See aiortc. A message that the peer has given up is not waited for (RFC 3758)."""
        self._sack_needed = True
        last, tsn = self._last_received_tsn, chunk.cumulative_tsn
        if last is None:
            raise ValueError("a FORWARD-TSN chunk before the INIT")
        if not uint32_gt(tsn, last):
            return
        ahead = SCTP_TSN_MODULO // 2
        self._sack_misordered = {one for one in self._sack_misordered if 0 < (one - tsn) % SCTP_TSN_MODULO < ahead}
        self._advance(tsn)
        for stream_id, number in dict(chunk.streams).items():
            await self._deliver(self._reassembly.skip(self._get_inbound_stream(stream_id), number))
        self._release_after(self._reassembly.prune, self._last_received_tsn)
        await self._reset_deferred_streams()

    async def _receive_reconfig_param(self, param: Any) -> None:
        """See aiortc. A request that arrives behind a later one was answered: a copy must not reset anything anew."""
        if isinstance(param, StreamResetOutgoingParam):
            last = self._reconfig_response_seq
            if last is not None and uint32_gt(last, param.request_sequence):
                return
        await super()._receive_reconfig_param(param)

    async def _reset_deferred_streams(self) -> None:
        request = self._reconfig_deferred
        await super()._reset_deferred_streams()
        if request is not None and self._reconfig_deferred is None:
            self._release_after(self._reassembly.drop, set(request.streams))

    def _release_after(self, forget: Callable[[Any], None], what: object) -> None:
        """Let *forget* drop chunks, and widen the receive window by them."""
        before = self._reassembly.released
        forget(what)
        self._advertised_rwnd += self._reassembly.released - before
