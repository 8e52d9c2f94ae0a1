"""One end of a link: the state machine that both ends share.

    awaiting --- HELLO as the peer's first frame ---> extended --+
        |                                                        +--> closed
        +--- any other first frame, or a first visitor -> reference --+

An extended link gives every stream credit, and so never has to stop reading. On a reference link (docs/wire.rst) there
is no credit: the I/O must stop reading while :attr:`Link.reading_paused`.

The I/O around it hands in bytes and the time, takes events and bytes, and calls :meth:`Link.tick` now and then. Nothing
that a peer sends makes a method raise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

from rtunnel.errors import Code, PeerError, TooMuchWaiting
from rtunnel.wire import frames, messages
from rtunnel.wire.credit import CREDIT_PAYLOAD, FIN_PAYLOAD, ReceiveWindow, SendWindow
from rtunnel.wire.events import (
    DataReceived,
    Established,
    Event,
    FrameIgnored,
    LinkFailed,
    StreamClosed,
    StreamFinished,
    StreamReset,
    StreamWritable,
)
from rtunnel.wire.halves import LOW_WATER
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.liveness import MAX_PING, SignsOfLife
from rtunnel.wire.messages import Hello, WireError
from rtunnel.wire.outbox import Outbox
from rtunnel.wire.stream import Stream

#: With a reference peer: bytes waiting for one stream at which the link stops reading ...
REFERENCE_MAX_WAITING = 1024 * 1024
#: ... and seconds of that after which the stream is reset.
REFERENCE_MAX_STALL = 30.0


def _nobody_counts(_change: int) -> None:
    pass


class Mode(Enum):
    """What a link speaks."""

    AWAITING = auto()
    REFERENCE = auto()
    EXTENDED = auto()
    CLOSED = auto()


class Link:
    """What :class:`~rtunnel.wire.server_link.ServerLink` and :class:`~rtunnel.wire.client_link.ClientLink` share.

    :param hello: what we say of ourselves.
    :param limits: our bounds.
    :ivar peer: the peer's HELLO; None on a reference link.
    :ivar capabilities: what both ends named.
    :ivar life: when the peer was heard, and the round-trip time.
    :ivar ignored: how often which kind of frame had no meaning.
    :ivar on_count: called with each change of :attr:`stream_count`, where the I/O wants to know.
    """

    def __init__(self, hello: Hello, limits: LinkLimits, now: float) -> None:
        self.hello = hello
        self.limits = limits
        self.mode = Mode.AWAITING
        self.peer: Hello | None = None
        self.capabilities: frozenset[str] = frozenset()
        self.streams: dict[int, Stream] = {}
        self.life = SignsOfLife(limits, now)
        self.ignored: Counter[str] = Counter()
        self.on_count: Callable[[int], None] = _nobody_counts
        self._direct = 0
        self._now = now
        self._decoder = frames.FrameDecoder(limits.max_frame)
        self._events: list[Event] = []
        self._handlers: dict[int, Callable[[int, bytes], None]] = {frames.CLOSE_CONN: self._receive_close}
        self._outbox = Outbox(limits.max_streams)
        self._credit_due: dict[int, Stream] = {}
        # What we may come to hold: the windows of extended peers, what stalls on reference links.
        self._granted = 0
        self._lingering = 0
        self._stalled: dict[int, tuple[Stream, float]] = {}

    # What the I/O asks

    @property
    def is_extended(self) -> bool:
        """Both ends speak what docs/wire.rst calls the extended link."""
        return self.mode is Mode.EXTENDED

    @property
    def is_closed(self) -> bool:
        """Nothing more is taken or sent, but what is queued."""
        return self.mode is Mode.CLOSED

    @property
    def reading_paused(self) -> bool:
        """The I/O must not read from the connection: a stream of a reference link has too much waiting."""
        return bool(self._stalled) and self.mode is not Mode.CLOSED

    @property
    def has_data_to_send(self) -> bool:
        """Whether :meth:`data_to_send` would give anything."""
        if self.mode is Mode.CLOSED:
            return self._outbox.has_control
        return bool(self._outbox or self._credit_due)

    @property
    def has_events(self) -> bool:
        """Whether :meth:`take_events` would give anything."""
        return bool(self._events)

    @property
    def stream_count(self) -> int:
        """Streams that count: open ones, those with bytes still to deliver, and those on connections of their own."""
        return len(self.streams) + self._lingering + self._direct

    @property
    def direct_streams(self) -> int:
        """Streams of the same two ends that have connections of their own; the I/O says how many."""
        return self._direct

    @direct_streams.setter
    def direct_streams(self, count: int) -> None:
        change = count - self._direct
        self._direct = count
        if change:
            self.on_count(change)

    def take_events(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events = self._events
        if events:
            self._events = []
        return events

    # Bytes in

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the connection, cut anywhere. *now* is in seconds."""
        if self.mode is Mode.CLOSED:
            return
        self._now = self.life.last_heard = now
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

    def _ignore_stray(self, frame_type: int) -> None:
        if frame_type == frames.DATA:
            self._ignore_late(frame_type)
        else:
            self._ignore(
                f"{frames.frame_name(frame_type)} on {'an extended' if self.is_extended else 'a reference'} link"
            )

    def _take_first_frame(self, received: list[frames.Frame]) -> bool:
        """Settle the mode by the first of these frames; whether that used it up."""
        frame_type, _, payload = received[0]
        peer = None
        if frame_type == frames.HELLO:
            try:
                peer = messages.decode_hello(payload)
            except ValueError as error:
                self._ignore(f"malformed HELLO ({error})")
        self._settle(peer)
        return frame_type == frames.HELLO

    def _settle(self, peer: Hello | None) -> None:
        self.peer = peer
        if peer is None:
            self.mode = Mode.REFERENCE
        else:
            self.mode = Mode.EXTENDED
            self.capabilities = self.hello.capabilities & peer.capabilities
            self._handlers |= {
                frames.CREDIT: self._receive_credit,
                frames.FIN: self._receive_fin,
                frames.PING: self._receive_ping,
                frames.PONG: self._receive_pong,
                frames.ERROR: self._receive_error,
            }
        self._events.append(Established(peer))

    def _ignore(self, what: str, *, is_normal: bool = False) -> None:
        self.ignored[what] += 1
        if self.ignored[what] == 1:
            self._events.append(FrameIgnored(what, is_normal))

    def _ignore_late(self, frame_type: int) -> None:
        self._ignore(f"{frames.frame_name(frame_type)} for a stream that is not open", is_normal=True)

    # Streams

    def _open(self, conn_id: int) -> Stream:
        if self.peer is None:
            send_limit, credit = None, 0
        else:
            send_limit, credit = self.peer.initial_credit, self.limits.initial_credit
        stream = Stream(conn_id, SendWindow(send_limit), ReceiveWindow(credit, self._now))
        self._granted += credit
        self.streams[conn_id] = stream
        self.on_count(1)
        return stream

    def _why_full(self) -> str | None:
        """Why there cannot be another stream; None if there can."""
        if self.stream_count >= self.limits.max_streams:
            return f"the link has {self.stream_count} streams, its limit"
        if self.is_extended and self._granted + self.limits.initial_credit > self.limits.link_buffer:
            return f"the link may come to hold {self._granted} bytes, near its limit"
        return None

    def send(self, stream: Stream, data: bytes) -> None:
        """Queue *data* on *stream*. Heed ``stream.wants_pause`` once :meth:`data_to_send` has had its turn."""
        if not stream.open or stream.ending or not data:
            return
        stream.put(data)
        self._outbox.schedule(stream)

    def finish(self, stream: Stream) -> None:
        """Send no more on *stream*, behind what is queued. To a reference peer this ends both directions."""
        if stream.open and not stream.ending:
            stream.ending = True
            self._outbox.schedule(stream)

    def reset(self, stream: Stream, code: str, message: str) -> None:
        """End both directions of *stream* at once."""
        if stream.lingering:
            self._end_lingering(stream)
        elif stream.open:
            self._remove(stream)
            self._send_reset(stream.conn_id, code, message)

    def delivered(self, stream: Stream, count: int) -> None:
        """*count* bytes of *stream* have left our memory."""
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
        """Take *stream* off the wire; with *linger*, what it received is still to be delivered."""
        stream.open = False
        stream.drop()
        del self.streams[stream.conn_id]
        self._credit_due.pop(stream.conn_id, None)
        self._stalled.pop(stream.conn_id, None)
        if linger and stream.receive_window.waiting:
            stream.lingering = True
            self._lingering += 1
        else:
            window = stream.receive_window
            self._granted -= window.waiting if self.peer is None else window.reserved
            self.on_count(-1)

    def _end_lingering(self, stream: Stream) -> None:
        stream.lingering = False
        self._lingering -= 1
        self.on_count(-1)
        self._granted -= stream.receive_window.waiting

    def _receive_stream_data(self, stream: Stream, data: bytes) -> None:
        window = stream.receive_window
        window.received += len(data)
        if self.peer is None:
            self._granted += len(data)
            if window.waiting >= REFERENCE_MAX_WAITING or self._granted >= self.limits.link_buffer:
                self._stalled.setdefault(stream.conn_id, (stream, self._now))
        elif stream.received_end:
            self._reset_peer(stream, Code.PROTOCOL, "DATA after FIN")
            return
        elif window.received > window.limit:
            self._reset_peer(stream, Code.FLOW_CONTROL, "more DATA than credit")
            return
        self._events.append(DataReceived(stream, data))

    def _reset_peer(self, stream: Stream, code: Code, message: str) -> None:
        """The peer broke the rules of one stream."""
        self.reset(stream, code, message)
        self._events.append(StreamReset(stream, code, message))

    def _receive_close(self, conn_id: int, _payload: bytes) -> None:
        stream = self.streams.get(conn_id)
        if stream is None:
            self._ignore_late(frames.CLOSE_CONN)
        elif self.peer is None:
            self._remove(stream, linger=True)
            self._events.append(StreamClosed(stream))
        else:
            self._remove(stream)
            self._events.append(StreamReset(stream, Code.CONNECTION_LOST, "closed by the peer"))

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

    def _receive_fin(self, conn_id: int, payload: bytes) -> None:
        stream = self.streams.get(conn_id)
        if stream is None:
            self._ignore_late(frames.FIN)
            return
        window = stream.receive_window
        if stream.received_end or payload != FIN_PAYLOAD.pack(window.received):
            self._reset_peer(stream, Code.PROTOCOL, f"FIN does not fit the {window.received} bytes received")
            return
        self._granted -= window.reserved
        window.end()
        self._granted += window.reserved
        stream.received_end = True
        self._credit_due.pop(conn_id, None)
        self._events.append(StreamFinished(stream))
        if stream.sent_end:
            self._remove(stream, linger=True)

    # Signs of life and errors

    def ping(self, now: float) -> None:
        """Ask for a sign of life, unless an answer is already due. Reference peers cannot be asked."""
        if self.mode is Mode.EXTENDED and (payload := self.life.ask(now)) is not None:
            self._send(frames.PING, 0, payload)

    def tick(self, now: float) -> None:
        """Look after everything that is due by time. Call it every ``life.tick_every`` seconds."""
        self._now = now
        self.life.tick(now)
        if self.mode is Mode.REFERENCE:
            for stream, since in list(self._stalled.values()):
                if now - since >= REFERENCE_MAX_STALL:
                    self._reset_peer(stream, Code.STALLED, f"{stream.receive_window.waiting} bytes wait for a reader")
        elif self.mode is Mode.EXTENDED:
            if self.life.is_dead:
                self.fail(Code.TIMEOUT, f"nothing heard for {self.limits.dead_after:g} s")
            elif self.life.is_silent:
                self.ping(now)

    def _receive_ping(self, _conn_id: int, payload: bytes) -> None:
        if len(payload) > MAX_PING:
            self._ignore(f"PING of more than {MAX_PING} bytes")
        else:
            self._outbox.set_pong(payload)

    def _receive_pong(self, _conn_id: int, payload: bytes) -> None:
        if not self.life.take_answer(payload, self._now):
            self._ignore("PONG without a PING", is_normal=True)

    def _receive_error(self, conn_id: int, payload: bytes) -> None:
        try:
            error = messages.decode_error(payload)
        except ValueError as reason:
            self._ignore(f"malformed ERROR ({reason})")
            return
        if error.scope == messages.SCOPE_LINK:
            self.mode = Mode.CLOSED
            self._events.append(LinkFailed(error.code, error.message, by_peer=True))
        elif error.scope == messages.SCOPE_TUNNEL:
            self._receive_tunnel_error(conn_id, error)
        elif (stream := self.streams.get(conn_id)) is None:
            self._ignore_late(frames.ERROR)
        else:
            self._remove(stream)
            self._events.append(StreamReset(stream, error.code, error.message))

    def _receive_tunnel_error(self, number: int, error: WireError) -> None:
        raise NotImplementedError

    def close(self, code: str, message: str) -> None:
        """End the link; an extended peer is told why. Close the connection after :meth:`data_to_send`."""
        if self.mode is Mode.EXTENDED:
            with suppress(TooMuchWaiting):
                error = WireError(messages.SCOPE_LINK, code, message)
                self._outbox.add_control(frames.ERROR, 0, messages.encode_error(error))
        self.mode = Mode.CLOSED

    def fail(self, code: str, message: str) -> None:
        """As :meth:`close`, and tell the I/O of it by :class:`LinkFailed`."""
        if self.mode is not Mode.CLOSED:
            self.close(code, message)
            self._events.append(LinkFailed(code, message, by_peer=False))

    # Bytes out

    def data_to_send(self, budget: int, now: float) -> list[bytes]:
        """What may go to the connection now: control frames, then about *budget* bytes of streams, in turn."""
        self._now = now
        out = self._outbox.take_control()
        if self.mode is Mode.CLOSED:
            return out
        if self._credit_due:
            self._take_credits(out, now)
        for stream in self._outbox.take_turns(budget, out):
            if stream.ending:
                if stream.open and not stream.queued:
                    self._send_end(stream, out)
            elif stream.paused and stream.queued <= LOW_WATER:
                stream.paused = False
                self._events.append(StreamWritable(stream))
        return out

    def _take_credits(self, out: list[bytes], now: float) -> None:
        limits = self.limits
        for stream in self._credit_due.values():
            window = stream.receive_window
            # Growth may use half of the link's bound; the rest is for new streams.
            growth = min(limits.max_window - window.size, limits.link_buffer // 2 - self._granted)
            self._granted += window.grant(now, self.life.round_trip, growth)
            payload = CREDIT_PAYLOAD.pack(window.limit, window.delivered)
            out.append(frames.encode_frame(frames.CREDIT, stream.conn_id, payload))
        self._credit_due.clear()

    def _send_end(self, stream: Stream, out: list[bytes]) -> None:
        if self.peer is None:
            out.append(frames.encode_frame(frames.CLOSE_CONN, stream.conn_id))
            self._remove(stream, linger=True)
            self._events.append(StreamClosed(stream))
        elif not stream.sent_end:
            out.append(frames.encode_frame(frames.FIN, stream.conn_id, FIN_PAYLOAD.pack(stream.send_window.sent)))
            stream.sent_end = True
            if stream.received_end:
                self._remove(stream, linger=True)

    def _send(self, frame_type: int, conn_id: int, payload: bytes = b"") -> None:
        """Queue a control frame."""
        if self.mode is Mode.CLOSED:
            return
        try:
            self._outbox.add_control(frame_type, conn_id, payload)
        except TooMuchWaiting as error:
            self.fail(error.code, str(error))

    def _send_reset(self, conn_id: int, code: str, message: str) -> None:
        if self.peer is None:
            self._send(frames.CLOSE_CONN, conn_id)
        else:
            self._send_error(messages.SCOPE_STREAM, conn_id, code, message)

    def _send_error(self, scope: str, conn_id: int, code: str, message: str) -> None:
        self._send(frames.ERROR, conn_id, messages.encode_error(WireError(scope, code, message)))
