"""The part of a link that does not depend on streams: negotiation, liveness, errors, and control frames out.

    awaiting --- the peer's first frame is HELLO ------------> extended ---+
        |                                                                  +--> closed
        +------- it is another frame, or a visitor comes ----> reference --+
                 before it

The negotiation is in docs/wire.rst, "Negotiation"; liveness in "Life"; errors in "Errors". :mod:`rtunnel.wire.link`
adds the streams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from math import inf

from rtunnel.errors import Code, TooMuchWaiting
from rtunnel.wire import frames, messages
from rtunnel.wire.data.keys import client_length, server_length
from rtunnel.wire.events import Established, Event, FrameIgnored, KeysReceived, LinkFailed
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.liveness import MAX_PING, Liveness
from rtunnel.wire.messages import Hello, WireError
from rtunnel.wire.outbox import Outbox


class Mode(Enum):
    """Which protocol a link speaks."""

    AWAITING = auto()
    REFERENCE = auto()
    EXTENDED = auto()
    CLOSED = auto()


class LinkControl:
    """Everything about a link except its streams.

    :param hello: the HELLO that this end sends.
    :param limits: the bounds of this end.
    :param now: the time, in seconds on any clock that does not run backwards.
    :ivar mode: which protocol the link speaks.
    :ivar peer: the peer's HELLO; None on a reference link.
    :ivar data_limits: the bounds of this end on data connections.
    :ivar capabilities: the capabilities that both ends named.
    :ivar life: tells how long the peer has been silent, and the round-trip time.
    :ivar ignored: how many frames of each meaningless kind have come.
    """

    def __init__(self, hello: Hello, limits: LinkLimits, now: float) -> None:
        self.hello = hello
        self.limits = self.data_limits = limits
        self.mode = Mode.AWAITING
        self.peer: Hello | None = None
        self.capabilities: frozenset[str] = frozenset()
        self.liveness = Liveness(limits, now)
        self.ignored: Counter[str] = Counter()
        self._now = now
        self._events: list[Event] = []
        self._handlers: dict[int, Callable[[int, bytes], None]] = {}
        self._outbox = Outbox(limits.max_streams)
        if hello.hedge:
            self._outbox.max_control += max(client_length(hello.hedge), server_length(hello.hedge))
        # How many bytes of answers may wait for the peer to read them. A client's end always reads.
        self._most_answers: float = inf
        self._decoder = frames.FrameDecoder(limits.max_frame)

    @property
    def is_extended(self) -> bool:
        """Whether both ends speak the extended protocol (docs/wire.rst, "Extended link")."""
        return self.mode is Mode.EXTENDED

    @property
    def has_keys(self) -> bool:
        """Whether both ends agree on keys, for data connections or datagrams (docs/wire.rst, "Keys of a link")."""
        return bool(self.capabilities & {messages.DIRECT, messages.UDP})

    @property
    def is_closed(self) -> bool:
        """Whether the link takes no more bytes, and sends only the control frames that are already queued."""
        return self.mode is Mode.CLOSED

    @property
    def held(self) -> int:
        """How many bytes of control frames are here: those that wait to be sent, and what has come of one."""
        return self._outbox.control_waiting + self._decoder.held

    @property
    def has_events(self) -> bool:
        """Whether :meth:`take_events` would return anything."""
        return bool(self._events)

    def take_events(self) -> list[Event]:
        """Return what has happened since the last call, in order."""
        events = self._events
        if events:
            self._events = []
        return events

    # Negotiation

    def _take_first_frame(self, received: list[frames.Frame]) -> bool:
        """Settle the mode by the first of these frames. Return whether that frame needs no further handling."""
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
        """Make this an extended link with *peer*; if that is None, a reference link."""
        self.peer = peer
        if peer is None:
            self.mode = Mode.REFERENCE
        else:
            self.mode = Mode.EXTENDED
            self.data_limits = self.limits.heard_within(peer.dead_after)
            self.capabilities = self.hello.capabilities & peer.capabilities
            self._handlers |= {
                frames.PING: self._receive_ping,
                frames.PONG: self._receive_pong,
                frames.ERROR: self._receive_error,
            }
        self._events.append(Established(peer))

    def _ignore(self, what: str, *, is_normal: bool = False) -> None:
        """Count a frame that means nothing here; the first of its kind is an event."""
        self.ignored[what] += 1
        if self.ignored[what] == 1:
            self._events.append(FrameIgnored(what, is_normal))

    def _ignore_stray(self, frame_type: int) -> None:
        if frame_type == frames.DATA:
            self._ignore_late(frame_type)
        else:
            kind = "an extended" if self.is_extended else "a reference"
            # A client sends KEYS before it knows whether the server wants data connections.
            self._ignore(f"{frames.frame_name(frame_type)} on {kind} link", is_normal=frame_type == frames.KEYS)

    def _ignore_late(self, frame_type: int) -> None:
        self._ignore(f"{frames.frame_name(frame_type)} for a stream that is not open", is_normal=True)

    # Liveness

    def ping(self, now: float) -> None:
        """Send a PING, unless the answer to an earlier one is due. A reference peer does not know PING.

        :param now: the time, in seconds.
        """
        if self.mode is Mode.EXTENDED and (payload := self.liveness.make_ping(now)) is not None:
            self._send(frames.PING, 0, payload)

    def tick(self, now: float) -> None:
        """Handle time-outs and keepalive. Call this every ``life.tick_every`` seconds.

        :param now: the time, in seconds.
        """
        self._now = now
        self.liveness.tick(now)
        if self.mode is Mode.EXTENDED:
            if self.liveness.is_dead:
                self.fail(Code.TIMEOUT, f"nothing heard for {self.limits.dead_after:g} s")
            elif self.liveness.is_silent:
                self.ping(now)

    def _receive_ping(self, _conn_id: int, payload: bytes) -> None:
        if len(payload) > MAX_PING:
            self._ignore(f"PING of more than {MAX_PING} bytes")
        else:
            self._outbox.set_pong(payload)

    def _receive_pong(self, _conn_id: int, payload: bytes) -> None:
        if not self.liveness.take_pong(payload, self._now):
            self._ignore("PONG without a PING", is_normal=True)

    # Data connections

    def send_keys(self, payload: bytes) -> None:
        """Send KEYS; see :mod:`rtunnel.wire.data.keys`."""
        self._send(frames.KEYS, 0, payload)

    def _receive_keys(self, _conn_id: int, payload: bytes) -> None:
        self._events.append(KeysReceived(payload))

    # Errors and the end

    def close(self, code: str, message: str) -> None:
        """End the link, and tell an extended peer why. Then send what :meth:`Link.data_to_send` returns and disconnect.

        :param code: an :class:`rtunnel.errors.Code`.
        :param message: the reason, for the peer's log.
        """
        if self.mode is Mode.EXTENDED:
            with suppress(TooMuchWaiting):
                error = WireError(messages.SCOPE_LINK, code, message)
                self._outbox.add_control(frames.ERROR, 0, messages.encode_error(error))
        self.mode = Mode.CLOSED

    def fail(self, code: str, message: str) -> None:
        """Like :meth:`close`, and tell the I/O by a :class:`LinkFailed` event."""
        if self.mode is not Mode.CLOSED:
            self.close(code, message)
            self._events.append(LinkFailed(code, message, by_peer=False))

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
        else:
            self._receive_stream_error(conn_id, error)

    def _receive_tunnel_error(self, number: int, error: WireError) -> None:
        """Take an ERROR with scope tunnel. Server and client read it differently."""
        raise NotImplementedError

    def _receive_stream_error(self, conn_id: int, error: WireError) -> None:
        """Take an ERROR with scope stream."""
        raise NotImplementedError

    # Control frames on their way out

    def _send(self, frame_type: int, conn_id: int, payload: bytes = b"", *, is_answer: bool = False) -> None:
        """Queue a control frame. The link fails if the peer does not read them."""
        if self.mode is Mode.CLOSED:
            return
        try:
            self._outbox.add_control(frame_type, conn_id, payload, is_answer=is_answer)
        except TooMuchWaiting as error:
            self.fail(error.code, str(error))

    def _send_error(self, scope: str, conn_id: int, code: str, message: str) -> None:
        error = messages.encode_error(WireError(scope, code, message))
        self._send(frames.ERROR, conn_id, error, is_answer=scope == messages.SCOPE_TUNNEL)

    def _send_reset(self, conn_id: int, code: str, message: str) -> None:
        if self.peer is None:
            self._send(frames.CLOSE_CONN, conn_id)
        else:
            self._send_error(messages.SCOPE_STREAM, conn_id, code, message)
