"""One end of a data connection after ATTACH: its streams, one after the other, their ends, and signs of life.

The rules are in docs/wire.rst, "Records". The I/O hands in all records but DATA of the open stream, sends what the
methods return, and says when bytes have come or gone. Nothing that a peer sends makes a method raise anything but
``ValueError``.

    free --- OPEN ---> open --- END of the server and DONE of the client, or RESET both ways ---> free

The client sends END if it has not got the server's END yet, and DONE as soon as both directions have ended. Without
DONE, the next visitor's bytes could lie behind those of the last one that a slow service has still to read.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtunnel.wire.data import records
from rtunnel.wire.data.frozen import Fields, State
from rtunnel.wire.data.records import ALIVE, DATA, DONE, END, HEADER, HEADER_SIZE, IGNORABLE, OPEN, RESET
from rtunnel.wire.data.seal import TAG, Seal
from rtunnel.wire.halves import BROKEN_MAX_STALL
from rtunnel.wire.limits import LinkLimits

#: The last number that a stream can have.
LAST = 2**32 - 1
# What makes out where a stream is, besides its number; and what was measured at the last tick.
_FLAGS = ("is_free", "takes_data", "has_sent", "has_heard", "_sent_end", "_got_end", "_sent_reset", "_got_reset")
_TIMES = ("_quiet", "_silence", "_unanswered")


@dataclass(frozen=True, slots=True)
class Opened:
    """At the client: a visitor has come.

    :ivar tunnel: the number of the tunnel, which the client may not have.
    :ivar moved: the conn_id of the link's stream that goes on here; 0 for a new one.
    :ivar visitor: the visitor's address, ``host:port``; empty if unknown.
    """

    tunnel: int
    moved: int
    visitor: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The other end sends no more on this stream.

    :ivar answer: what to send now; it may be empty.
    """

    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class WasReset:
    """The other end has reset the stream.

    :ivar code: an :class:`rtunnel.errors.Code`, or another one that the peer sent.
    :ivar message: the reason, for logs.
    :ivar answer: what to send now.
    """

    code: str
    message: str
    answer: bytes


Event = Opened | Ended | WasReset


class DataConnection:
    """The state of one end.

    :param limits: the bounds of this end; only ``keepalive_interval`` and ``dead_after`` count.
    :param seal: of what this end sends; None: records are plain.
    :ivar is_server: which end this is.
    :ivar number: of the present or last stream; 0 before the first one.
    :ivar takes_data: DATA of that stream is wanted.
    :ivar tick_every: seconds between two calls of :meth:`tick`.
    :ivar is_free: no stream is open.
    :ivar has_sent: set by the I/O when it sends, and cleared by :meth:`tick`.
    :ivar has_heard: the same, for bytes that come.
    """

    __slots__ = (
        "_got_end",
        "_got_reset",
        "_limits",
        "_quiet",
        "_seal",
        "_sent_end",
        "_sent_reset",
        "_silence",
        "_ticked_at",
        "_unanswered",
        "has_heard",
        "has_sent",
        "is_free",
        "is_server",
        "number",
        "takes_data",
        "tick_every",
    )

    def __init__(self, limits: LinkLimits, seal: Seal | None, now: float, *, is_server: bool) -> None:
        self._limits = limits
        self._seal = seal
        self.is_server = is_server
        self.tick_every = min(1.0, limits.keepalive_interval / 2)
        self.number = 0
        self.is_free = True
        self.takes_data = False
        self._sent_end = self._got_end = self._sent_reset = self._got_reset = False
        self.has_sent = self.has_heard = False
        self._ticked_at = now
        # Seconds for which this end has sent nothing, has heard nothing, and has waited for something that is due.
        self._quiet = self._silence = self._unanswered = 0.0

    # For another process

    def freeze(self) -> State:
        """Return what another process needs to go on with this connection, but for the seals."""
        state: State = {name.lstrip("_"): getattr(self, name) for name in (*_FLAGS, *_TIMES)}
        return {"number": self.number, "keepalive_interval": self._limits.keepalive_interval, **state}

    def thaw(self, frozen: Fields) -> None:
        """Be what another one was when :meth:`freeze` was called. This one must be new. Time in between counts for
        neither end.

        :raises ValueError: it was not called for this.
        """
        self.number = frozen.number("number", LAST)
        if frozen.has("keepalive_interval"):
            # The other end may want it so; it says so again only for connections that are made later.
            self._limits = self._limits.heard_within(3 * frozen.seconds("keepalive_interval"))
            self.tick_every = min(1.0, self._limits.keepalive_interval / 2)
        for name in _FLAGS:
            setattr(self, name, frozen.flag(name.lstrip("_")))
        for name in _TIMES:
            setattr(self, name, frozen.seconds(name.lstrip("_")))
        if (not self.is_free and not self.number) or (self.takes_data and (self.is_free or self._got_end)):
            raise ValueError("a stream that cannot be")

    # Records out

    def pack(self, kind: int, payload: bytes | memoryview = b"") -> bytes:
        """Return a whole record of the present stream."""
        if self._seal is None:
            return HEADER.pack(kind << 24 | len(payload), self.number) + payload
        record = memoryview(bytearray(HEADER_SIZE + len(payload) + TAG))
        HEADER.pack_into(record, 0, kind << 24 | len(payload) + TAG, self.number)
        self._seal.seal(record[:HEADER_SIZE], payload, record[HEADER_SIZE:])
        return bytes(record)

    @property
    def can_open(self) -> bool:
        """Whether the next visitor can have this connection."""
        return self.is_free and self.number < LAST

    @property
    def has_ended(self) -> bool:
        """Whether both ends have ended the present or last stream, which may not be over yet."""
        return self._sent_end and self._got_end

    def open(self, tunnel: int, visitor: str, moved: int = 0) -> bytes:
        """Open the next stream; only at the server, and if :attr:`can_open`. Return the record.

        The parameters are those of :func:`~rtunnel.wire.data.records.encode_opening`.
        """
        if not (self.is_server and self.can_open):
            raise RuntimeError("this data connection is not free")
        self._begin(self.number + 1)
        return self.pack(OPEN, records.encode_opening(tunnel, moved, visitor))

    def end(self) -> bytes:
        """End the sending direction. Return the record; empty if it has ended before."""
        if self.is_free or self._sent_end or self._sent_reset:
            return b""
        is_over = self._got_end and not self.is_server
        record = self.pack(DONE if is_over else END)
        self._sent_end = True
        if is_over:
            self._over()
        return record

    def reset(self, code: str, message: str) -> bytes:
        """Reset the stream. What comes of it from now on is dropped. Return the record; empty if there is none to send.

        :param code: an :class:`rtunnel.errors.Code`.
        :param message: the reason, for the other end's log.
        """
        if self.is_free or self._sent_reset:
            return b""
        self._sent_reset = True
        self.takes_data = False
        return self.pack(RESET, records.encode_reason(code, message))

    def alive(self) -> bytes:
        """Return a sign of life."""
        return self.pack(ALIVE)

    # Records in

    def receive(self, kind: int, number: int, payload: memoryview) -> Event | None:
        """Take a record. The I/O need not hand in DATA of the present stream while :attr:`takes_data`.

        :raises ValueError: an honest peer does not send this.
        """
        if kind == ALIVE:
            return None
        if kind == OPEN:
            return self._receive_open(number, payload)
        if kind not in (DATA, END, RESET, DONE):
            if kind & IGNORABLE:
                return None
            raise ValueError(f"a record of the unknown kind 0x{kind:02x}")
        if number != self.number or not number:
            raise ValueError(f"a record of stream {number} where {self.number} is the present one")
        if kind == RESET:
            return self._receive_reset(payload)
        if self._sent_reset and not self._got_reset:
            return None
        if self.is_free or (self._got_end and kind != DONE):
            raise ValueError("a record behind the end of a stream")
        if kind == DATA:
            return None
        return self._receive_end() if kind == END else self._receive_done()

    def _receive_open(self, number: int, payload: memoryview) -> Opened:
        if self.is_server or not self.is_free or number != self.number + 1:
            raise ValueError(f"OPEN of stream {number} behind {self.number}")
        opened = Opened(*records.decode_opening(bytes(payload)))
        self._begin(number)
        return opened

    def _receive_end(self) -> Ended:
        self._got_end = True
        self.takes_data = False
        if self.is_server or not self._sent_end:
            return Ended()
        self._over()
        return Ended(self.pack(DONE))

    def _receive_done(self) -> Ended | None:
        if not (self.is_server and self._sent_end):
            raise ValueError("DONE before END")
        is_news = not self._got_end
        self._over()
        return Ended() if is_news else None

    def _receive_reset(self, payload: memoryview) -> WasReset | None:
        # To a client, the stream may have been over already when the server reset it.
        if self._got_reset or (self.is_free and self.is_server):
            raise ValueError("RESET of a stream that is over")
        self._got_reset = True
        self._over()
        if self._sent_reset:
            return None
        code, message = records.decode_reason(bytes(payload))
        return WasReset(code, message, self.pack(RESET, records.encode_reason(code, "")))

    def _begin(self, number: int) -> None:
        self.number = number
        self.is_free = False
        self.takes_data = True
        self._sent_end = self._got_end = self._sent_reset = self._got_reset = False

    def _over(self) -> None:
        self.is_free = True
        self.takes_data = False

    # Life

    def tick(self, now: float, *, is_reading: bool, can_send: bool) -> bytes:
        """Measure the silence of both ends. Return a sign of life if one is due.

        :param now: the time, in seconds.
        :param is_reading: otherwise nothing can be heard of the other end, because our own side is slow.
        :param can_send: otherwise what is due waits behind other bytes.
        """
        # Time during which this process was stopped, so that ticks came late, does not count as the other end's. But
        # the other end has heard nothing meanwhile: what was sent since the last tick may have been sent before.
        late = max(0.0, now - self._ticked_at - 2 * self.tick_every)
        passed = max(0.0, now - self._ticked_at - late)
        self._ticked_at = now
        self._silence = 0.0 if self.has_heard or not is_reading else self._silence + passed
        self._quiet = late + (0.0 if self.has_sent else self._quiet + passed)
        is_due = not can_send if self.is_free else self._sent_reset
        self._unanswered = self._unanswered + passed if is_due else 0.0
        self.has_heard = self.has_sent = False
        # At the last tick before the time is up. The half is for ticks that come a little early.
        if can_send and self._quiet > self._limits.keepalive_interval - 1.5 * self.tick_every:
            self._quiet = 0.0
            return self.alive()
        return b""

    @property
    def silence(self) -> float:
        """Seconds for which nothing was heard of the other end, although this end was listening."""
        return self._silence

    def progressed(self) -> None:
        """Take note that the other end has taken some of what lies before our RESET, or behind the last stream."""
        self._unanswered = 0.0

    @property
    def is_stalled(self) -> bool:
        """Whether the other end is of no use: it does not answer a RESET, because its own side takes nothing; it does
        not prove itself; or it does not take what waits although the stream is over.
        """
        return self._unanswered > BROKEN_MAX_STALL

    @property
    def is_dead(self) -> bool:
        """Whether that is too long, or would be before the next tick."""
        return self._silence > self._limits.dead_after - self.tick_every
