"""The receiving half of the streams of a peer connection: how much they may hold in memory.

Between two rtunnel ends, credit bounds this. A reference peer knows no credit: the bytes that wait for slow readers are
taken off SCTP's receive window, which stops all streams of that peer, so a stream that does not move at all is reset.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from rtunnel.errors import Code
from rtunnel.rtc.interfaces import IChannel, IChannels
from rtunnel.rtc.sending import LOW
from rtunnel.wire.credit import Windows
from rtunnel.wire.limits import ChannelLimits
from rtunnel.wire.webrtc.channel_messages import encode_credit
from rtunnel.wire.webrtc.channel_stream import ChannelStream

#: Credit is granted only while fewer than this many bytes wait in the connection: otherwise a peer that sends but does
#: not read could make them grow without bound.
CREDIT_ROOM = 4 * LOW
#: With a reference peer, a stream is reset after this many seconds without any delivery ...
MAX_STALL = 30.0
#: ... if more than this many bytes wait in all streams together.
STALLING = 512 * 1024


class Receiver(Protocol):
    """A stream, as the buffer knows it.

    :ivar reserved: how many bytes of the connection's buffer are reserved for it; only the buffer sets this.
    :ivar delivered_at: with a reference peer only: when a byte of it was last delivered, or began to wait.
    """

    channel: IChannel
    machine: ChannelStream
    reserved: int
    delivered_at: float

    def fail(self, code: str, message: str) -> None:
        """Reset the stream."""


class ReceiveBuffer:
    """The memory of one peer connection for bytes that have not been delivered.

    :param extended: whether the peer knows credit.
    :ivar reserved: how many bytes are granted to the peer; with a reference peer, how many wait for readers.
    :ivar credit_due: streams that should grant credit, and wait for room to send it.
    :ivar holding: the streams for which something is reserved.
    :ivar windows: how the streams' windows grow and shrink.
    """

    def __init__(self, connection: IChannels, clock: IReactorTime, limits: ChannelLimits, *, extended: bool) -> None:
        self._connection = connection
        self._clock = clock
        self._limits = limits
        self._extended = extended
        self.reserved = 0
        self.credit_due: dict[Receiver, None] = {}
        self.holding: dict[Receiver, None] = {}
        self.windows = Windows(limits.initial_credit, limits.max_window, limits.peer_buffer)

    @property
    def has_room(self) -> bool:
        """Whether there is room for another stream."""
        return not self.windows.is_full and self.reserved + self._initial_credit <= self._limits.peer_buffer

    @property
    def _initial_credit(self) -> int:
        return self._limits.initial_credit if self._extended else 0

    def add(self, stream: Receiver) -> None:
        """Reserve the initial credit of *stream*."""
        self._reserve(stream, self._initial_credit)

    def remove(self, stream: Receiver) -> None:
        """Free what is reserved for *stream*: nothing more of it will be delivered."""
        self.grant_no_more(stream)
        self._reserve(stream, 0)

    def received(self, stream: Receiver) -> None:
        """Count bytes that came on *stream* and are not delivered yet. Only with a reference peer.

        If such a peer ignores the window, the stream with the most bytes waiting is reset.
        """
        waiting = stream.machine.receive_window.waiting
        if waiting <= stream.reserved:
            return
        if not stream.reserved:
            stream.delivered_at = self._clock.seconds()
        self._reserve(stream, waiting)
        if self.reserved > self._limits.peer_buffer:
            worst = max(self.holding, key=lambda stream: stream.reserved)
            self._give_up(worst)

    def delivered(self, stream: Receiver, count: int) -> None:
        """Free *count* bytes, or grant them again: the user of *stream* has taken them."""
        machine = stream.machine
        window = machine.receive_window
        window.delivered += count
        if not stream.reserved:
            return
        if not self._extended:
            stream.delivered_at = self._clock.seconds()
            self._reserve(stream, min(stream.reserved, window.waiting))
        elif machine.received_end or not machine.open:
            self._reserve(stream, window.waiting)
        elif machine.opened:
            self.grant(stream)

    def end(self, stream: Receiver) -> None:
        """Free what *stream* will not use, because no more will be received on it."""
        self.grant_no_more(stream)
        self._reserve(stream, stream.machine.receive_window.waiting)

    def grant(self, stream: Receiver) -> None:
        """Grant credit to *stream* if it is due, now or when there is room to send it."""
        if stream.machine.receive_window.grant_is_due:
            self.credit_due[stream] = None
            self.grant_due()

    def grant_no_more(self, stream: Receiver) -> None:
        """Grant *stream* no more credit."""
        self.credit_due.pop(stream, None)

    def grant_due(self) -> None:
        """Grant the credit that is due, while the connection has room."""
        connection, due = self._connection, self.credit_due
        while due and connection.buffered < CREDIT_ROOM:
            stream = next(iter(due))
            del due[stream]
            window = stream.machine.receive_window
            self.windows.grant(window, self._clock.seconds(), connection.round_trip, self.reserved)
            self._reserve(stream, window.size)
            stream.channel.send_text(encode_credit(window.limit))

    def tick(self) -> None:
        """If much waits, reset streams of a reference peer that do not move. Call this about once a second."""
        if self._extended or self.reserved <= STALLING:
            return
        late = self._clock.seconds() - MAX_STALL
        stalled = [stream for stream in self.holding if stream.delivered_at <= late]
        for stream in sorted(stalled, key=lambda stream: stream.reserved, reverse=True):
            self._give_up(stream)
            if self.reserved <= STALLING:
                break

    def _give_up(self, stream: Receiver) -> None:
        stream.fail(Code.STALLED, f"{stream.reserved} bytes wait for a reader")
        self.remove(stream)

    def _reserve(self, stream: Receiver, amount: int) -> None:
        change = amount - stream.reserved
        if not change:
            return
        stream.reserved = amount
        self.reserved += change
        if not amount:
            del self.holding[stream]
        elif change == amount:
            self.holding[stream] = None
        if self._extended:
            return
        if change > 0:
            self._connection.hold(change)
        else:
            self._connection.release(-change)
