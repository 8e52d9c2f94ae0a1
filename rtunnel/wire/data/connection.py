"""One end of a data connection after ATTACH: its streams, one after the other, their ends, and signs of life.

The rules are in docs/wire.rst, "Records". The I/O hands in all records but DATA of the open stream, sends what the
methods return, and says when bytes have come or gone. Nothing that a peer sends makes a method raise anything but
``ValueError``.

    free --- OPEN ---> open --- END both ways, and DONE of the client; or RESET both ways ---> free

Without DONE, the next visitor's bytes could lie behind those that a slow service has still to read of the last one's.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtunnel.wire.data import records
from rtunnel.wire.data.records import ALIVE, DATA, DONE, END, HEADER, HEADER_SIZE, IGNORABLE, OPEN, RESET
from rtunnel.wire.data.seal import TAG, Seal
from rtunnel.wire.halves import BROKEN_MAX_STALL
from rtunnel.wire.limits import LinkLimits

#: The last number that a stream can have.
LAST = 2**32 - 1


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
#: The payload of an END whose sender has the other end's.
_DONE = b"\x01"


class DataConnection:
    """The state of one end.

    :param limits: the bounds of this end; only ``keepalive_interval`` and ``dead_after`` count.
    :param seal: of what this end sends; None: records are plain.
    :ivar number: of the present or last stream; 0 before the first one.
    :ivar takes_data: DATA of that stream is wanted.
    :ivar is_free: no stream is open.
    :ivar has_sent: set by the I/O when it sends, and cleared by :meth:`tick`.
    :ivar has_heard: the same, for bytes that come.
    """

    __slots__ = (
        "_got_end",
        "_got_reset",
        "_is_done",
        "_is_server",
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
        "number",
        "takes_data",
    )

    def __init__(self, limits: LinkLimits, seal: Seal | None, now: float, *, is_server: bool) -> None:
        self._limits = limits
        self._seal = seal
        self._is_server = is_server
        self.number = 0
        self.is_free = True
        self.takes_data = False
        self._sent_end = self._got_end = self._sent_reset = self._got_reset = self._is_done = False
        self.has_sent = self.has_heard = False
        self._ticked_at = now
        # Seconds for which this end has sent nothing, has heard nothing, and has waited for the answer to its RESET.
        self._quiet = self._silence = self._unanswered = 0.0

    # Records out

    def pack(self, kind: int, payload: bytes = b"") -> bytes:
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

    def open(self, tunnel: int, visitor: str, moved: int = 0) -> bytes:
        """Open the next stream; only at the server, and if :attr:`can_open`. Return the record.

        The parameters are those of :func:`~rtunnel.wire.data.records.encode_opening`.
        """
        if not (self._is_server and self.can_open):
            raise RuntimeError("this data connection is not free")
        self._begin(self.number + 1)
        return self.pack(OPEN, records.encode_opening(tunnel, moved, visitor))

    def end(self) -> bytes:
        """End the sending direction. Return the record; empty if it has ended before."""
        if self.is_free or self._sent_end or self._sent_reset:
            return b""
        # Whoever has the server's END has read everything.
        record = self.pack(END, _DONE if self._got_end and not self._is_server else b"")
        self._sent_end = True
        self._settle()
        return record

    def reset(self, code: str, message: str) -> bytes:
        """Reset the stream. What comes of it from now on is dropped. Return the record; empty if there is none to send.

        :param code: an :class:`rtunnel.errors.Code`.
        :param message: the reason, for the other end's log.
        """
        self.takes_data = False
        if self.is_free or self._sent_reset:
            return b""
        record = self.pack(RESET, records.encode_reason(code, message))
        self._sent_reset = True
        self._settle()
        return record

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
        if number != self.number or self.is_free:
            # The server reset a stream before it knew that to us both its ends had come already.
            if kind == RESET and number == self.number and not self._is_server:
                return None
            raise ValueError(f"a record of stream {number} where {self.number} is the present one")
        if kind == RESET:
            return self._receive_reset(payload)
        if kind == DONE and self._is_server and self._got_end and self._sent_end and not payload:
            self._is_done = True
            self._settle()
            return None
        if self._got_end or kind == DONE:
            raise ValueError("a record behind the end of a stream")
        return self._receive_end(bytes(payload)) if kind == END else None

    def _receive_end(self, payload: bytes) -> Ended | None:
        if payload and not (self._is_server and self._sent_end and payload == _DONE):
            raise ValueError("a malformed END")
        self._got_end = True
        self.takes_data = False
        self._is_done = not self._is_server or bool(payload)
        is_news = not self._sent_reset
        answer = self.pack(DONE) if is_news and self._sent_end and not self._is_server else b""
        self._settle()
        return Ended(answer) if is_news else None

    def _receive_open(self, number: int, payload: memoryview) -> Opened:
        if self._is_server or not self.is_free or number != self.number + 1:
            raise ValueError(f"OPEN of stream {number} behind {self.number}")
        opened = Opened(*records.decode_opening(bytes(payload)))
        self._begin(number)
        return opened

    def _receive_reset(self, payload: memoryview) -> WasReset | None:
        self._got_reset = True
        code, message = records.decode_reason(bytes(payload))
        answer = b"" if self._sent_reset else self.reset(code, "")
        self._settle()
        return WasReset(code, message, answer) if answer else None

    def _begin(self, number: int) -> None:
        self.number = number
        self.is_free = False
        self.takes_data = True
        self._sent_end = self._got_end = self._sent_reset = self._got_reset = self._is_done = False

    def _settle(self) -> None:
        if (self._sent_end and self._got_end and self._is_done) or (self._sent_reset and self._got_reset):
            self.is_free = True
            self.takes_data = False

    # Life

    def tick(self, now: float, *, is_reading: bool, can_send: bool) -> bytes:
        """Measure the silence of both ends. Return a sign of life if one is due.

        :param now: the time, in seconds.
        :param is_reading: otherwise nothing can be heard of the other end, because our own side is slow.
        :param can_send: otherwise what is due waits behind other bytes.
        """
        # Time during which this process was stopped, so that ticks came late, does not count.
        passed = min(max(0.0, now - self._ticked_at), 2 * self.tick_every)
        self._ticked_at = now
        self._silence = 0.0 if self.has_heard or not is_reading else self._silence + passed
        self._quiet = 0.0 if self.has_sent else self._quiet + passed
        self._unanswered = self._unanswered + passed if self._sent_reset and not self.is_free else 0.0
        self.has_heard = self.has_sent = False
        if can_send and self._quiet + self.tick_every > self._limits.keepalive_interval:
            self._quiet = 0.0
            return self.alive()
        return b""

    @property
    def tick_every(self) -> float:
        """Seconds between two calls of :meth:`tick`."""
        return min(1.0, self._limits.keepalive_interval / 2)

    @property
    def silence(self) -> float:
        """Seconds for which nothing was heard of the other end, although this end was listening."""
        return self._silence

    @property
    def is_stalled(self) -> bool:
        """Whether a RESET is not answered: the other end has not read it, because its own side takes nothing."""
        return self._unanswered > BROKEN_MAX_STALL

    @property
    def is_dead(self) -> bool:
        """Whether that is too long."""
        return self._silence > self._limits.dead_after
