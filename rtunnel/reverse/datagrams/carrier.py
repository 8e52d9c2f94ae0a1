"""What carries the datagrams of a link: its UDP path; a data connection where UDP does not get through.

flows -- Datagrams -- Path -- BatchSocket        while packets get through
                   -- Fallback -- RecordSocket   otherwise
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rtunnel.relay.udp.sockets import Address
from rtunnel.reverse.datagrams.fallback import Fallback, NewestBytes
from rtunnel.upkeep.periodic import Repeated
from rtunnel.wire.datagrams.path import Path

#: Seconds between two looks at what is due, while there are datagrams and for some seconds longer. A link that rests is
#: looked at with everything else of it, once a second.
TICK_EVERY = 0.25
AWAKE = 3.0
#: Seconds that a new path has to open before a data connection takes its place.
GRACE = 1.0
#: Seconds that datagrams are kept when there is no way for them.
KEPT = 5.0

#: Sends packets, each to its address; see :meth:`~rtunnel.relay.udp.batches.BatchSocket.send_all`.
SendAll = Callable[[Sequence[tuple[bytes, Address]], Callable[[int], None]], None]


class IDatagramsUser(Protocol):
    """The flows of one end of a link."""

    def received(self, message: bytes) -> None:
        """Take a message about a flow.

        :raises ValueError: an honest peer does not send this.
        """

    def holds(self, count: int) -> None:
        """Take note that *count* bytes are kept in memory."""

    def need_connection(self) -> None:
        """Provide a data connection by :meth:`Datagrams.fall_back_on`, if this end can."""

    def way_changed(self, by_path: bool) -> None:
        """Take note that datagrams now go by the path, or by a data connection."""


class Datagrams:
    """One end.

    :ivar path: the UDP path; None if there is none.
    :ivar malformed: how many messages were not understood.
    """

    def __init__(self, clock: Any, user: IDatagramsUser) -> None:
        self._clock = clock
        self._user = user
        self.path: Path[Address] | None = None
        self._send_all: SendAll | None = None
        self._fallback: Fallback | None = None
        self._grace_until = 0.0
        # What neither can carry yet, and until when it is kept.
        self._waiting = NewestBytes()
        self._kept_until = 0.0
        self._by_path: bool | None = None
        self._ticks = Repeated(clock, "the tick of a UDP path", self._tick)
        self._awake_until = 0.0
        self._asked_at = -TICK_EVERY
        self._closed = False
        self._flushing: Any = None
        self.malformed = 0

    @property
    def held(self) -> int:
        """How many bytes of memory this takes."""
        path = 0 if self.path is None else self.path.held
        return path + self._waiting.bytes + (0 if self._fallback is None else self._fallback.held)

    def use_path(self, path: Path[Address], send_all: SendAll) -> None:
        """Use *path* from now on.

        :param send_all: sends its packets.
        """
        self.path = path
        self._send_all = send_all
        now = self._clock.seconds()
        self._grace_until = now + GRACE
        self._wake(now)
        self.tick(now)

    def fall_back_on(self, fallback: Fallback) -> None:
        """Use a data connection, in place of the last one, while the path is not open."""
        former, self._fallback = self._fallback, fallback
        if former is not None:
            former.close()
        if self._closed:
            fallback.close()
        self._send_waiting()

    def lost_connection(self, fallback: Fallback) -> None:
        """Take note that a data connection is over."""
        if self._fallback is fallback:
            self._fallback = None

    # Messages

    def send(self, message: bytes) -> None:
        """Send a message about a flow. On a path it goes out with the next :meth:`flush`."""
        path, now = self.path, self._clock.seconds()
        if now >= self._awake_until - AWAKE / 2 and not self._closed:
            self._wake(now)
        if path is not None and path.is_open:
            path.send(message, now)
        elif self._fallback is not None:
            self._went(by_path=False)
            self._fallback.send(message)
            if self._fallback.held:
                self._user.holds(len(message))
        elif not self._closed:
            if not self._waiting.bytes:
                self._kept_until = now + KEPT
            self._waiting.put(message)
            self._user.holds(len(message))
            self._ask(now)

    def flush(self) -> None:
        """Send the packets of the path. Call this after some messages, and after some packets that have come."""
        if self.path is not None and self._send_all is not None and (packets := self.path.take()):
            self._send_all(packets, self._too_large)

    def flush_soon(self) -> None:
        """Flush once others have had their turn: what comes one by one from another link leaves together."""
        if self._flushing is None and not self._closed:
            self._flushing = self._clock.callLater(0, self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = None
        self.flush()

    def receive_packet(self, packet: bytes, source: Address) -> None:
        """Take a packet that has the path's id."""
        path = self.path
        if path is None:
            return
        was_open = path.is_open
        message = path.receive(packet, source, self._clock.seconds())
        if path.is_open and not was_open:
            self._went(by_path=True)
            self._send_waiting()
        if message is not None:
            self.receive(message)
        elif path.held:
            self._user.holds(len(packet))

    def receive(self, message: bytes) -> None:
        """Take a message that has come whole."""
        try:
            self._user.received(message)
        except ValueError:
            self.malformed += 1

    def _too_large(self, size: int) -> None:
        if self.path is not None:
            self.path.too_large(size, self._clock.seconds())

    def _send_waiting(self) -> None:
        for message in self._waiting.take():
            self.send(message)

    def _went(self, *, by_path: bool) -> None:
        if by_path != self._by_path:
            self._by_path = by_path
            self._user.way_changed(by_path)

    # Time

    def _wake(self, now: float) -> None:
        self._awake_until = now + AWAKE
        if not self._ticks.is_running:
            self._ticks.start(TICK_EVERY)

    def _tick(self) -> None:
        now = self._clock.seconds()
        self.tick(now)
        if now >= self._awake_until:
            self._ticks.stop()

    def tick(self, now: float) -> None:
        """Do what is due by time. Call this about once a second.

        :param now: the time, in seconds.
        """
        path = self.path
        if path is not None:
            path.tick(now)
            self.flush()
            if path.is_open and self._fallback is not None and self._fallback.is_idle(now):
                self._fallback.close()
        if self._waiting.bytes:
            if now >= self._kept_until:
                self._waiting.take()  # nobody wants them any more
            else:
                self._ask(now)

    def _ask(self, now: float) -> None:
        """Ask for a data connection, if it is time for that."""
        if now >= max(self._grace_until, self._asked_at + TICK_EVERY):
            self._asked_at = now
            self._user.need_connection()

    def abort(self) -> None:
        """Lose what is kept, as its memory is needed."""
        self._waiting.take()
        if self.path is not None:
            self.path.drop_pieces()
        if self._fallback is not None:
            self._fallback.close()

    def close(self) -> None:
        """Send no more: the link is over. May be called twice."""
        self._closed = True
        self._ticks.stop()
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self._waiting.take()
        self.path = None
        if self._fallback is not None:
            self._fallback.close()
