"""TCP streams over the data channels of one peer connection, with bounded memory at both ends.

    SocketEnd (IStreamUser) <-> IStream | a stream | IChannelUser <-> IChannel

What is written waits here, not in the channels: aiortc's queue is one for all, so a stream that may put all its bytes
there delays every other. The streams take turns, a message each, and only while little waits below.

What is received is bounded by credit where the peer knows it. A reference peer does not: there the bytes that wait
for slow readers are taken off SCTP's receive window, which stops all streams of that peer, so that one which does not
move at all has to go.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.rtc.interfaces import IChannel, IChannelUser, IPeerConnection
from rtunnel.wire.halves import HIGH_WATER, LOW_WATER
from rtunnel.wire.limits import ChannelLimits
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.channel_messages import decode_control, encode_credit, encode_fin, encode_reset
from rtunnel.wire.webrtc.channel_stream import ChannelStream
from rtunnel.wire.webrtc.signaling import Extension

#: Bytes of a message that we send.
MESSAGE = 16384
#: Streams send while the connection has fewer bytes than these waiting ...
LOW = 16384
#: ... and credit is granted while it has fewer than these: a peer that sends and takes nothing could make it grow.
CREDIT_ROOM = 4 * LOW
#: With a reference peer: seconds without any delivery after which a stream has to go ...
MAX_STALL = 30.0
#: ... if more than so many bytes wait in all streams together.
STALLING = 512 * 1024


class ChannelStreams:
    """All streams of a peer connection. Its owner passes on :meth:`has_room`, calls :meth:`tick` every second, and
    :meth:`reset_all` when the connection is lost (in the same turn) or closed.

    :param peer: what the other end said of itself; None: it speaks the reference protocol.
    """

    log = Logger()

    def __init__(
        self, connection: IPeerConnection, clock: IReactorTime, limits: ChannelLimits, peer: Extension | None
    ) -> None:
        self.connection = connection
        self.clock = clock
        self.limits = limits
        self.peer = peer
        self._streams: set[_Stream] = set()
        self._turns: deque[_Stream] = deque()
        self._credit_due: dict[_Stream, None] = {}
        self._sending = False
        # Of the connection's buffer: what is granted to the peer; with a reference peer, what waits for readers.
        self._reserved = 0
        self._waiting: dict[_Stream, None] = {}
        self._closed: list[_Stream] = []

    def __len__(self) -> int:
        """Streams that are not over; one whose last bytes are still on their way counts."""
        return len(self._streams)

    def attach(self, channel: IChannel, user: IStreamUser) -> IStream:
        """A stream over *channel*, which was just opened or has just arrived.

        If there is no room for another one, the channel is refused and the stream is over. The user is told
        :meth:`IStreamUser.was_reset` in the reactor's next turn, when it knows the stream.
        """
        limits, now = self.limits, self.clock.seconds()
        send_limit = None if self.peer is None else self.peer.initial_credit
        stream = _Stream(self, channel, user, ChannelStream(send_limit, limits.initial_credit, now), now)
        credit = 0 if self.peer is None else limits.initial_credit
        if len(self._streams) >= limits.max_streams or self._reserved + credit > limits.peer_buffer:
            stream.machine.end()
            self.refuse(channel, Code.LIMIT)
            self.clock.callLater(0, user.was_reset, Code.LIMIT, "the peer connection has no room for another stream")
            return stream
        self._streams.add(stream)
        self.reserve(stream, credit)
        stream.machine.opened = channel.is_open
        channel.use(stream)
        return stream

    def refuse(self, channel: IChannel, code: Code) -> None:
        """Close *channel*, for this reason; what still comes on it is dropped."""
        if self.peer is not None:
            channel.send_text(encode_reset(code, ""))
        channel.close()

    def reset_all(self, code: Code) -> None:
        """Reset every stream that is not at its end."""
        for stream in list(self._streams):
            stream.fail(code, "the peer connection ends")

    def tick(self) -> None:
        """Look after streams that do not move. Call it about once in a second."""
        if self.peer is not None or self._reserved <= STALLING:
            return
        late = self.clock.seconds() - MAX_STALL
        stalled = [stream for stream in self._waiting if stream.delivered_at <= late]
        for stream in sorted(stalled, key=lambda stream: stream.reserved, reverse=True):
            stream.fail(Code.STALLED, f"{stream.reserved} bytes wait for a reader")
            if self._reserved <= STALLING:
                break

    # Sending

    def has_room(self) -> None:
        """Send, in turn, while the connection has room. Cheap when there is nothing."""
        if self._sending:
            return
        connection, turns = self.connection, self._turns
        self._sending = True
        try:
            if self._credit_due:
                self._grant_credit()
            most = min(MESSAGE, connection.max_message)
            while turns and connection.buffered < LOW:
                turns.popleft().send_message(most)
        finally:
            self._sending = False

    def schedule(self, stream: _Stream) -> None:
        """*stream* can send: it gets its turn, behind all those that have one."""
        if not stream.machine.scheduled:
            stream.machine.scheduled = True
            self._turns.append(stream)

    def grant(self, stream: _Stream) -> None:
        """*stream* is due to grant credit."""
        self._credit_due[stream] = None
        self._grant_credit()

    def _grant_credit(self) -> None:
        connection, limits, due = self.connection, self.limits, self._credit_due
        while due and connection.buffered < CREDIT_ROOM:
            stream = next(iter(due))
            del due[stream]
            window = stream.machine.receive_window
            # As with links: windows grow up to half of the buffer, so that there is room for new streams.
            growth = min(limits.max_window - window.size, limits.peer_buffer // 2 - self._reserved)
            window.grant(self.clock.seconds(), connection.round_trip, growth)
            self.reserve(stream, window.size)
            stream.channel.send_text(encode_credit(window.limit))

    # What streams tell of themselves

    def close_soon(self, stream: _Stream) -> None:
        """The channel of *stream* is closed, which to a reference peer is a proper end; a lost connection closes
        channels as well, and is no end that anybody may take for the whole. Which it is shows within this turn."""
        self._closed.append(stream)
        if len(self._closed) == 1:
            self.clock.callLater(0, self._close_now)

    def _close_now(self) -> None:
        closed, self._closed = self._closed, []
        for stream in closed:
            stream.close()

    def reserve(self, stream: _Stream, amount: int) -> None:
        """So much of the connection's buffer is for *stream* now."""
        change = amount - stream.reserved
        if not change:
            return
        stream.reserved = amount
        self._reserved += change
        if self.peer is not None:
            return
        if change > 0:
            self._waiting[stream] = None
            self.connection.hold(change)
            return
        if not amount:
            del self._waiting[stream]
        self.connection.release(-change)

    def shed(self) -> None:
        """A reference peer sends on, whatever the window says: the stream with the most bytes waiting has to go."""
        if self._reserved > self.limits.peer_buffer:
            worst = max(self._waiting, key=lambda stream: stream.reserved)
            worst.fail(Code.STALLED, f"{worst.reserved} bytes wait for a reader")

    def grant_no_more(self, stream: _Stream) -> None:
        """*stream* has received all."""
        self._credit_due.pop(stream, None)

    def send_no_more(self, stream: _Stream) -> None:
        """*stream* sends no more, neither bytes nor credit."""
        self.grant_no_more(stream)
        if stream.machine.scheduled:
            stream.machine.scheduled = False
            self._turns.remove(stream)

    def forget(self, stream: _Stream) -> None:
        """*stream* is over."""
        self._streams.discard(stream)


@implementer(IStream, IChannelUser)
class _Stream:
    """One stream, between its channel and its user.

    :ivar reserved: bytes of the connection's buffer that are for it.
    :ivar delivered_at: when a byte of it was last delivered, or began to wait; with a reference peer only.
    """

    __slots__ = ("_streams", "_user", "channel", "delivered_at", "machine", "reserved")

    def __init__(
        self, streams: ChannelStreams, channel: IChannel, user: IStreamUser, machine: ChannelStream, now: float
    ) -> None:
        self._streams = streams
        self._user = user
        self.channel = channel
        self.machine = machine
        self.reserved = 0
        self.delivered_at = now

    # From the user

    def write(self, data: bytes) -> None:
        """See :class:`IStream`."""
        machine = self.machine
        if not machine.put(data):
            return
        if machine.can_send and not machine.scheduled:
            self._streams.schedule(self)
            self._streams.has_room()
        if machine.queued >= HIGH_WATER and not machine.paused:
            machine.paused = True
            self._user.pause()

    def finish(self) -> None:
        """See :class:`IStream`."""
        self.machine.ending = True
        if self.machine.end_is_due:
            self._send_end()

    def reset(self, code: str, message: str) -> None:
        """See :class:`IStream`."""
        machine = self.machine
        if machine.open:
            if machine.extended and machine.opened:
                self.channel.send_text(encode_reset(code, message))
            self._break()
        else:
            # At its proper end, with bytes that will not be delivered any more.
            self._streams.reserve(self, 0)

    def delivered(self, count: int) -> None:
        """See :class:`IStream`."""
        machine = self.machine
        window = machine.receive_window
        window.delivered += count
        if not self.reserved:
            return
        if not machine.extended:
            self.delivered_at = self._streams.clock.seconds()
            self._streams.reserve(self, min(self.reserved, window.waiting))
        elif machine.received_end:
            self._streams.reserve(self, window.waiting)
        elif window.grant_is_due and machine.opened:
            self._streams.grant(self)

    # From the channel

    def channel_opened(self) -> None:
        """What was written before goes out."""
        machine = self.machine
        if not machine.open:
            return
        machine.opened = True
        if machine.extended and not machine.received_end and machine.receive_window.grant_is_due:
            self._streams.grant(self)
        if machine.end_is_due:
            self._send_end()
        elif machine.can_send:
            self._streams.schedule(self)
            self._streams.has_room()

    def message_received(self, data: bytes) -> None:
        """Bytes of the stream."""
        machine = self.machine
        if not data or not machine.open:
            return
        fault = machine.receive(len(data))
        if fault is not None:
            self.fail(*fault)
            return
        self._user.data_received(data)
        if not machine.extended and machine.open:
            self._count_waiting()

    def text_received(self, text: bytes) -> None:
        """A control message; bytes of the stream where the peer does not know them."""
        machine = self.machine
        if not machine.extended:
            self.message_received(text)
            return
        if not machine.open:
            return
        try:
            control = decode_control(text)
        except ValueError as error:
            self.fail(Code.PROTOCOL, str(error))
            return
        if control.reset is not None:
            self._break()
            self._tell_reset(control.reset, control.message or "reset by the peer")
            return
        if control.credit is not None and machine.send_window.raise_limit(control.credit, 0) and machine.can_send:
            self._streams.schedule(self)
            self._streams.has_room()
        if control.fin is not None and machine.open:
            self._receive_fin(control.fin)

    def channel_closed(self) -> None:
        """The end of both directions to a reference peer; to one of ours too late, or too early."""
        machine = self.machine
        if not machine.open:
            self._streams.forget(self)
        elif machine.extended:
            self._break()
            self._tell_reset(Code.CONNECTION_LOST, "the channel was closed before the end of the stream")
        else:
            self._streams.close_soon(self)

    def fail(self, code: str, message: str) -> None:
        """Reset it, and tell the user. One that is at its end only has a tail to lose, and only if readers stall."""
        if self.machine.open or (not self.machine.extended and self.reserved):
            self.reset(code, message)
            self._tell_reset(code, message)

    # For its turn

    def send_message(self, most: int) -> None:
        """Send one message of at most *most* bytes, and take another turn if there are more."""
        machine = self.machine
        machine.scheduled = False
        self.channel.send(machine.next_message(most))
        if machine.ending:
            if machine.end_is_due:
                self._send_end()
        elif machine.paused and machine.queued <= LOW_WATER:
            machine.paused = False
            self._user.resume()
        if machine.can_send:
            self._streams.schedule(self)

    # Ends

    def close(self) -> None:
        """The channel was closed, and the connection was not lost."""
        if self.machine.open:
            self._end()
            self._streams.forget(self)
            self._user.closed()

    def _send_end(self) -> None:
        machine = self.machine
        machine.sent_end = True
        if not machine.extended:
            # Its last bytes may still come; they do until the channel is closed.
            self.channel.close()
            return
        self.channel.send_text(encode_fin(machine.send_window.sent))
        if machine.received_end:
            self._end()
            self.channel.close()

    def _receive_fin(self, total: int) -> None:
        machine = self.machine
        fault = machine.receive_fin(total)
        if fault is not None:
            self.fail(*fault)
            return
        self._streams.grant_no_more(self)
        self._streams.reserve(self, machine.receive_window.waiting)
        if machine.sent_end:
            self._end()
            self.channel.close()
        self._user.finished()

    def _end(self) -> None:
        self.machine.end()
        self._streams.send_no_more(self)

    def _break(self) -> None:
        """It is over at once; nothing of it is kept."""
        self._end()
        self._streams.forget(self)
        self._streams.reserve(self, 0)
        self.channel.close()

    def _tell_reset(self, code: str, message: str) -> None:
        self._streams.log.debug(
            "stream {label} was reset: {code}: {text}", label=clean_text(self.channel.label), code=code, text=message
        )
        self._user.was_reset(code, message)

    def _count_waiting(self) -> None:
        waiting = self.machine.receive_window.waiting
        if waiting > self.reserved:
            if not self.reserved:
                self.delivered_at = self._streams.clock.seconds()
            self._streams.reserve(self, waiting)
            self._streams.shed()
