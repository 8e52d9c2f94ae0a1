"""Both ends of a data connection, from ATTACH to the frame behind which it is a stream (docs/wire.rst).

    server:  available --- open() ---> used
              |     ^
         a PING    the PONG that is due
         goes out   |
              v     |
             asking

    client:  attaching --- PING ---> attached --- NEW_CONN ---> used
                 |                                               ^
                 +-----------------------------------------------+

Only the server asks, and it uses no connection on which an answer is due: so when NEW_CONN goes out nothing is on its
way from the client, and all that comes behind it, both ways, is the stream's, with no frame around it.

The I/O hands in bytes and the time, sends what ``data_to_send`` gives after each call, and calls ``tick`` about every
``tick_every`` seconds. A machine whose ``error`` says something, or that ``is_dead``, has nothing more to say: its
connection is to be closed. Nothing that a peer sends makes a method raise.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtunnel.wire import frames, messages
from rtunnel.wire.frames import HEADER, HEADER_SIZE
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.liveness import MAX_PING, Liveness

#: The longest NEW_CONN that a client takes on a data connection, in bytes of payload.
MAX_NEW_CONN = 4096
#: A client that wants to be asked more often than this, in seconds, is not.
MIN_PING_EVERY = 1.0

_PING = frames.encode_frame(frames.PING, 0)
_PONG = frames.encode_frame(frames.PONG, 0)
_MAX_PAYLOAD = {frames.PING: MAX_PING, frames.NEW_CONN: MAX_NEW_CONN}


class ServerDataConnection:
    """The server's end, once the ticket of ATTACH was found good. It asks with the first tick, if it is not used yet.

    :param limits: our bounds; only ``keepalive_interval`` and ``dead_after`` count.
    :param now: the time, in seconds.
    :param ping_every: seconds of silence after which the client wants to be asked; None: when we want to.
    :ivar error: how the client broke the protocol; empty: it did not.
    :ivar is_used: NEW_CONN was given out; whatever comes is the stream's, and is not to be handed in here.
    :ivar tick_every: seconds between two calls of :meth:`tick`.
    """

    __slots__ = ("_ask_at", "_due", "_held", "_liveness", "_out", "_ping_every", "error", "is_used", "tick_every")

    def __init__(self, limits: LinkLimits, now: float, ping_every: float | None = None) -> None:
        self.error = ""
        self.is_used = False
        interval = limits.keepalive_interval
        self._ping_every = interval if ping_every is None else min(interval, max(ping_every, MIN_PING_EVERY))
        self.tick_every = min(1.0, self._ping_every / 2)
        self._liveness = Liveness(limits, now)
        # By the first PING the client learns that its ticket was taken.
        self._ask_at = now
        # The answer that is due, and what of it has come.
        self._due = self._held = self._out = b""

    @property
    def is_available(self) -> bool:
        """A visitor can have it: the client was there a moment ago, and nothing is on its way from it."""
        return not (self._due or self.is_used or self.error)

    @property
    def is_dead(self) -> bool:
        """The client did not answer in time."""
        return bool(self._due) and self._liveness.is_dead

    def data_to_send(self) -> bytes:
        """What is to go out now; empty: nothing."""
        out, self._out = self._out, b""
        return out

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the connection, cut anywhere."""
        if self.error or not data:
            return
        held = self._held + data
        if not self._due.startswith(held):
            self.error = "bytes that answer no PING"
            self._held = b""
        elif len(held) < len(self._due):
            self._held = held
        else:
            self._due = self._held = b""
            self._liveness.last_heard = now
            self._ask_at = now + self._ping_every

    def tick(self, now: float, *, may_ask: bool = True) -> None:
        """Look after what is due by time.

        :param may_ask: a PING is, if it is due; else it waits.
        """
        if self.is_used or self.error:
            return
        self._liveness.tick(now)
        # A process that was stopped asks too early, which does no harm.
        if may_ask and not self._due and now >= self._ask_at:
            self._due, self._out = _PONG, _PING

    def open(self, conn_id: int, tunnel: int, visitor: str) -> bytes:
        """Use it for a *visitor* (``host:port``) of *tunnel*: what to send ahead of the stream's first byte.

        :raises RuntimeError: it is not available.
        """
        if not self.is_available:
            raise RuntimeError("a data connection that is not available")
        self.is_used = True
        return frames.encode_frame(frames.NEW_CONN, conn_id, messages.encode_visitor(tunnel, visitor))


@dataclass(frozen=True, slots=True)
class Used:
    """The data connection is a stream from now on.

    :ivar conn_id: the stream's number, for logs.
    :ivar tunnel: which tunnel it is of; the client may not have it.
    :ivar visitor: ``host:port``, empty if unknown.
    :ivar rest: the stream's first bytes, which have come already.
    """

    conn_id: int
    tunnel: int
    visitor: str
    rest: bytes


class ClientDataConnection:
    """The client's end. ATTACH is the first thing it sends.

    :param ticket: from TICKETS; used for nothing else.
    :param limits: our bounds; only ``keepalive_interval``, which the server is told, and ``dead_after`` count.
    :param now: the time, in seconds.
    :ivar error: how the server broke the protocol; empty: it did not.
    :ivar is_attached: the server is known to have taken the ticket.
    :ivar is_used: :class:`Used` was told; whatever comes is the stream's, and is not to be handed in here.
    """

    __slots__ = ("_attach", "_held", "_liveness", "_pong", "error", "is_attached", "is_used")

    def __init__(self, ticket: str, limits: LinkLimits, now: float) -> None:
        self.error = ""
        self.is_attached = False
        self.is_used = False
        self._liveness = Liveness(limits, now)
        self._attach = frames.encode_frame(frames.ATTACH, 0, messages.encode_attach(ticket, limits.keepalive_interval))
        self._pong = b""
        self._held = b""

    @property
    def tick_every(self) -> float:
        """Seconds between two calls of :meth:`tick`."""
        return self._liveness.tick_every

    @property
    def is_dead(self) -> bool:
        """Nothing was heard of the server for too long."""
        return self._liveness.is_dead and not self.is_used

    def data_to_send(self) -> bytes:
        """What is to go out now; empty: nothing."""
        out = self._attach + self._pong
        self._attach = self._pong = b""
        return out

    def tick(self, now: float) -> None:
        """Count silence."""
        self._liveness.tick(now)

    def receive_data(self, data: bytes, now: float) -> Used | None:
        """Take bytes from the connection, cut anywhere; :class:`Used` once."""
        if self.is_used or self.error:
            return None
        self._liveness.last_heard = now
        try:
            return self._read(self._held + data)
        except ValueError as error:
            self.error = str(error)
            self._held = self._pong = b""
            return None

    def _read(self, data: bytes) -> Used | None:
        start = 0
        while len(data) - start >= HEADER_SIZE:
            frame_type, conn_id, length = HEADER.unpack_from(data, start)
            if (most := _MAX_PAYLOAD.get(frame_type)) is None:
                raise ValueError(f"{frames.frame_name(frame_type)} on a data connection")
            if length > most:
                raise ValueError(f"{frames.frame_name(frame_type)} of {length} bytes; the limit is {most}")
            end = start + HEADER_SIZE + length
            if end > len(data):
                break
            payload = data[start + HEADER_SIZE : end]
            if frame_type == frames.NEW_CONN:
                return self._use(conn_id, payload, data[end:])
            self.is_attached = True
            # A server waits for the answer before it asks again; one that does not gets the last answer only.
            self._pong = frames.encode_frame(frames.PONG, 0, payload)
            start = end
        self._held = data[start:]
        return None

    def _use(self, conn_id: int, payload: bytes, rest: bytes) -> Used:
        if self._pong:
            raise ValueError("NEW_CONN before the answer to a PING")
        if conn_id == 0:
            raise ValueError("NEW_CONN without a number")
        try:
            tunnel, visitor = messages.decode_visitor(payload)
        except ValueError as error:
            raise ValueError(f"malformed NEW_CONN ({error})") from None
        self.is_attached = self.is_used = True
        self._held = b""
        return Used(conn_id, tunnel, visitor, rest)
