"""One end of a link: the state machine that server and client share, with its streams and their credit.

The I/O around it hands in bytes and the time, takes events and bytes, and calls :meth:`Link.tick` regularly. Nothing
that a peer sends makes a method raise.

On an extended link every stream has credit (docs/wire.rst, "Credit"), so the I/O always reads. A reference link has no
credit (docs/wire.rst, "With a reference peer"): the I/O must not read while :attr:`Link.reading_paused`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rtunnel.errors import Code, PeerError
from rtunnel.wire import frames, messages
from rtunnel.wire.credit import CREDIT_PAYLOAD, FIN_PAYLOAD, ReceiveWindow, SendWindow, Windows
from rtunnel.wire.events import (
    DataReceived,
    StreamClosed,
    StreamFinished,
    StreamLeft,
    StreamMoved,
    StreamReset,
    StreamWritable,
)
from rtunnel.wire.halves import BROKEN_MAX_STALL, LOW_WATER
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link_control import LinkControl, Mode
from rtunnel.wire.messages import Hello, WireError
from rtunnel.wire.stream import Stream

__all__ = ["REFERENCE_MAX_STALL", "REFERENCE_MAX_WAITING", "Link", "Mode"]

#: When this many bytes wait for one stream of a reference link, the link is not read ...
REFERENCE_MAX_WAITING = 1024 * 1024
#: ... and after this many seconds of that, the stream is reset.
REFERENCE_MAX_STALL = 30.0


class Link(LinkControl):
    """The base of :class:`~rtunnel.wire.server_link.ServerLink` and :class:`~rtunnel.wire.client_link.ClientLink`.

    :param hello: the HELLO that this end sends.
    :param limits: the bounds of this end.
    :param now: the time, in seconds on any clock that does not run backwards.
    :ivar streams: the open streams, by conn_id.
    :ivar lingering: streams that are over on the wire, while some of what they received is still to be delivered.
    :ivar on_stream_count: called with each change of :attr:`stream_count`.
    :ivar windows: how the streams' windows grow and shrink.
    """

    def __init__(self, hello: Hello, limits: LinkLimits, now: float) -> None:
        super().__init__(hello, limits, now)
        self.streams: dict[int, Stream] = {}
        self.lingering: set[Stream] = set()
        self.on_stream_count: Callable[[int], None] = lambda _change: None
        self.windows = Windows(limits.initial_credit, limits.max_window, limits.link_buffer)
        self._direct = 0
        self._handlers[frames.CLOSE_CONN] = self._receive_close
        self._credit_due: dict[int, Stream] = {}
        # How many bytes all streams may come to hold: their windows, or on a reference link what waits.
        self._granted = 0
        self._stalled: dict[int, tuple[Stream, float]] = {}
        # What they had sent, and when that was first seen.
        self._broken: dict[Stream, tuple[int, float]] = {}

    # State for the I/O

    @property
    def reading_paused(self) -> bool:
        """Whether the I/O must stop reading: too many bytes wait for a stream of this reference link, or answers."""
        too_many = bool(self._stalled) or self._outbox.answers_waiting > self._most_answers
        return too_many and self.mode is not Mode.CLOSED

    @property
    def has_data_to_send(self) -> bool:
        """Whether :meth:`data_to_send` would return anything."""
        if self.mode is Mode.CLOSED:
            return self._outbox.has_control
        return bool(self._outbox or self._credit_due)

    @property
    def stream_count(self) -> int:
        """How many streams there are: open, with bytes still to deliver, or on data connections."""
        return len(self.streams) + len(self.lingering) + self._direct

    @property
    def direct_streams(self) -> int:
        """How many streams between the same two ends are on data connections. The I/O sets this."""
        return self._direct

    @direct_streams.setter
    def direct_streams(self, count: int) -> None:
        change = count - self._direct
        self._direct = count
        if change:
            self.on_stream_count(change)

    def tick(self, now: float) -> None:
        """Handle time-outs and keepalive. Call this every ``life.tick_every`` seconds.

        :param now: the time, in seconds.
        """
        super().tick(now)
        if self.mode is Mode.REFERENCE:
            for stream, since in list(self._stalled.values()):
                if now - since >= REFERENCE_MAX_STALL:
                    self._reset_peer(stream, Code.STALLED, f"{stream.receive_window.waiting} bytes wait for a reader")
        for stream, (sent, since) in list(self._broken.items()):
            if stream.send_window.sent != sent:
                self._broken[stream] = (stream.send_window.sent, now)
            elif now - since >= BROKEN_MAX_STALL and stream.broken is not None:
                self.reset(stream, *stream.broken)

    # Bytes in

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the connection, cut anywhere.

        :param now: the time, in seconds.
        """
        if self.mode is Mode.CLOSED:
            return
        self._now = self.liveness.last_heard = now
        try:
            received = self._decoder.feed(data)
        except PeerError as error:
            self.fail(error.code, str(error))
            return
        streams = self.streams
        for frame_type, conn_id, payload in received:
            if frame_type == frames.DATA and (stream := streams.get(conn_id)) is not None:
                self._receive_stream_data(stream, payload)
            elif self.mode is Mode.AWAITING and self._take_first_frame(received):
                pass
            elif (handler := self._handlers.get(frame_type)) is not None:
                handler(conn_id, payload)
            else:
                self._ignore_stray(frame_type)
            if self.is_closed:
                return

    def _settle(self, peer: Hello | None) -> None:
        super()._settle(peer)
        if peer is not None:
            self._handlers |= {
                frames.CREDIT: self._receive_credit,
                frames.FIN: partial(self._receive_end, frames.FIN, StreamFinished),
                frames.MOVE: partial(self._receive_end, frames.MOVE, StreamMoved),
            }

    # Streams

    def _open(self, conn_id: int) -> Stream:
        if self.peer is None:
            send_limit, credit = None, 0
        else:
            send_limit, credit = self.peer.initial_credit, self.limits.initial_credit
        stream = Stream(conn_id, SendWindow(send_limit), ReceiveWindow(credit, self._now))
        self._granted += credit
        self.streams[conn_id] = stream
        self.on_stream_count(1)
        return stream

    def _why_full(self) -> str | None:
        """Return why the link cannot take another stream, or None."""
        if self.stream_count >= self.limits.max_streams:
            return f"the link has {self.stream_count} streams, its limit"
        if self.is_extended and self._granted + self.limits.initial_credit > self.limits.link_buffer:
            return f"the link may come to hold {self._granted} bytes, near its limit"
        if self.windows.is_full:
            return "this link holds too much of the process's memory (--memory)"
        return None

    def send(self, stream: Stream, data: bytes) -> None:
        """Queue *data* on *stream*. Afterwards call :meth:`data_to_send`, and then heed ``stream.wants_pause``."""
        if stream.put(data):
            self._outbox.schedule(stream)

    def finish(self, stream: Stream) -> None:
        """End the sending direction of *stream* behind what is queued; on a reference link, both directions."""
        if stream.open and not stream.ending and stream.broken is None:
            stream.ending = True
            self._outbox.schedule(stream)

    def move(self, stream: Stream) -> None:
        """End the sending direction of *stream* on this link behind what is queued: its source goes on elsewhere.

        If the stream was finished, this does nothing (docs/wire.rst, "A stream that moves").

        :raises RuntimeError: this is not an extended link.
        """
        if self.peer is None:
            raise RuntimeError("streams move on extended links only")
        if not stream.ending:
            self.finish(stream)
            stream.moving = stream.ending

    def reset(self, stream: Stream, code: str, message: str, *, behind: bool = False, elsewhere: bool = False) -> None:
        """End both directions of *stream*.

        :param code: an :class:`rtunnel.errors.Code`.
        :param message: the reason, for the peer's log.
        :param behind: send what is queued first. What the peer sends is dropped from now on.
        :param elsewhere: if the stream has moved, its reset goes out where it goes on, and so only bytes and MOVE here.
        """
        if stream.lingering:
            self._end_lingering(stream)
        elif stream.open and elsewhere and stream.sent_move:
            self.delivered(stream, stream.receive_window.waiting)
        elif stream.open and behind and (stream.queued or (stream.ending and not stream.sent_end)):
            stream.broken = (code, message)
            if stream.moving and not elsewhere:
                # The peer's stream may leave its link at MOVE, and then it would ignore the ERROR behind it.
                stream.moving = stream.ending = False
            self._broken[stream] = (stream.send_window.sent, self._now)
            self.delivered(stream, stream.receive_window.waiting)
            self._outbox.schedule(stream)
        elif stream.open:
            self._remove(stream)
            self._send_reset(stream.conn_id, code, message)

    def delivered(self, stream: Stream, count: int) -> None:
        """Note that *count* bytes of *stream* have left this process's memory."""
        window = stream.receive_window
        window.delivered += count
        if stream.lingering:
            self._granted -= count
            if not window.waiting:
                self._end_lingering(stream)
        elif not stream.open:
            return
        elif self.peer is None:
            self._granted -= count
            if self._stalled and 2 * window.waiting <= REFERENCE_MAX_WAITING:
                self._stalled.pop(stream.conn_id, None)
        elif stream.received_end:
            self._granted -= count
        elif window.grant_is_due:
            self._credit_due[stream.conn_id] = stream

    def _remove(self, stream: Stream, *, linger: bool = False) -> None:
        """Take *stream* off the wire. With *linger*, its waiting bytes still count until they are delivered."""
        stream.open = False
        stream.drop()
        del self.streams[stream.conn_id]
        self._credit_due.pop(stream.conn_id, None)
        self._stalled.pop(stream.conn_id, None)
        self._broken.pop(stream, None)
        window = stream.receive_window
        self._granted -= window.waiting if self.peer is None else window.reserved
        if linger and window.waiting:
            window.end()
            self._granted += window.waiting
            stream.lingering = True
            self.lingering.add(stream)
        else:
            self.on_stream_count(-1)

    def _end_lingering(self, stream: Stream) -> None:
        stream.lingering = False
        self.lingering.discard(stream)
        self.on_stream_count(-1)
        self._granted -= stream.receive_window.waiting

    def _receive_stream_data(self, stream: Stream, data: bytes) -> None:
        window = stream.receive_window
        if self.peer is None:
            self._granted += len(data)
            if window.waiting + len(data) >= REFERENCE_MAX_WAITING or self._granted >= self.limits.link_buffer:
                self._stalled.setdefault(stream.conn_id, (stream, self._now))
        elif stream.received_end:
            self._reset_peer(stream, Code.PROTOCOL, "DATA after FIN or MOVE")
            return
        elif window.received + len(data) > window.limit:
            self._reset_peer(stream, Code.FLOW_CONTROL, "more DATA than credit")
            return
        window.received += len(data)
        if stream.broken is not None:
            self.delivered(stream, len(data))
            return
        self._events.append(DataReceived(stream, data))

    def _reset_peer(self, stream: Stream, code: Code, message: str) -> None:
        """Reset *stream* because of what the peer did, and tell the I/O."""
        self.reset(stream, code, message)
        self._events.append(StreamReset(stream, code, message))

    def _receive_close(self, conn_id: int, _payload: bytes) -> None:
        stream = self.streams.get(conn_id)
        if stream is None:
            self._ignore_late(frames.CLOSE_CONN)
        else:
            self._remove(stream, linger=True)
            lost = StreamReset(stream, Code.CONNECTION_LOST, "closed by the peer")
            self._events.append(StreamClosed(stream) if self.peer is None else lost)

    def _receive_credit(self, conn_id: int, payload: bytes) -> None:
        stream = self.streams.get(conn_id)
        if stream is None:
            self._ignore_late(frames.CREDIT)
            return
        try:
            if len(payload) != CREDIT_PAYLOAD.size:
                raise ValueError(f"CREDIT of {len(payload)} bytes")
            raised = stream.send_window.raise_limit(*CREDIT_PAYLOAD.unpack(payload))
        except ValueError as error:
            self._reset_peer(stream, Code.FLOW_CONTROL, str(error))
            return
        if raised:
            self._outbox.schedule(stream)

    def _receive_end(
        self, frame_type: int, event: type[StreamFinished | StreamMoved], conn_id: int, payload: bytes
    ) -> None:
        """Take FIN or MOVE."""
        stream = self.streams.get(conn_id)
        if stream is None:
            self._ignore_late(frame_type)
            return
        window = stream.receive_window
        if stream.received_end or payload != FIN_PAYLOAD.pack(window.received):
            what = f"{frames.frame_name(frame_type)} does not fit the {window.received} bytes received"
            self._reset_peer(stream, Code.PROTOCOL, what)
            return
        self._granted -= window.reserved
        window.end()
        self._granted += window.reserved
        stream.received_end = True
        stream.received_move = frame_type == frames.MOVE
        self._credit_due.pop(conn_id, None)
        self._events.append(event(stream))
        if stream.sent_end:
            self._remove(stream, linger=True)

    def _receive_stream_error(self, conn_id: int, error: WireError) -> None:
        if (stream := self.streams.get(conn_id)) is None:
            self._ignore_late(frames.ERROR)
        else:
            self._remove(stream, linger=True)
            self._events.append(StreamReset(stream, error.code, error.message))

    # Bytes out

    def data_to_send(self, budget: int, now: float) -> list[bytes]:
        """Return what may go to the connection now: control frames, then DATA frames of the streams in turn.

        :param budget: about how many bytes of DATA.
        :param now: the time, in seconds.
        """
        self._now = now
        out = self._outbox.take_control()
        if self.mode is Mode.CLOSED:
            return out
        if self._credit_due:
            self._take_credits(out, now)
        for stream in self._outbox.take_turns(budget, out):
            if stream.ending or stream.broken:
                if stream.open and not stream.queued:
                    self._send_end(stream, out)
            elif stream.paused and stream.queued <= LOW_WATER:
                stream.paused = False
                self._events.append(StreamWritable(stream))
        return out

    def _take_credits(self, out: list[bytes], now: float) -> None:
        for stream in self._credit_due.values():
            window = stream.receive_window
            self._granted += self.windows.grant(window, now, self.liveness.round_trip, self._granted)
            payload = CREDIT_PAYLOAD.pack(window.limit, window.delivered)
            out.append(frames.encode_frame(frames.CREDIT, stream.conn_id, payload))
        self._credit_due.clear()

    def _send_end(self, stream: Stream, out: list[bytes]) -> None:
        if self.peer is None:
            out.append(frames.encode_frame(frames.CLOSE_CONN, stream.conn_id))
            self._remove(stream, linger=True)
            self._events.append(StreamClosed(stream))
            return
        if stream.ending and not stream.sent_end:
            out.append(stream.take_end())
            if stream.moving:
                self._broken.pop(stream, None)
            if stream.received_end:
                self._remove(stream, linger=True)
                if stream.moving:
                    self._events.append(StreamLeft(stream))
        if stream.broken is not None and stream.open and not stream.moving:
            error = messages.encode_error(WireError(messages.SCOPE_STREAM, *stream.broken))
            out.append(frames.encode_frame(frames.ERROR, stream.conn_id, error))
            self._remove(stream)
