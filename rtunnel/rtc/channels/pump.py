"""Drives an association by packets and by time, in asyncio's loop.

A message costs no task and no callback of the loop: the packets of one wake-up are taken together, and answered
together. There is one timer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from rtunnel.wire.sctp.association import Association

#: How many bursts are sent before other sockets have their turn.
BURSTS = 8
#: A timer that is early by so many seconds is left as it is.
EARLY = 0.001


class PacketPath(Protocol):
    """What carries packets; see :class:`rtunnel.rtc.aiortc.records.Path`."""

    @property
    def overhead(self) -> int: ...
    @property
    def largest(self) -> int: ...
    def send(self, packets: list[bytes], *, fragments: bool = False) -> None: ...
    def close(self) -> None: ...


class Pump:
    """What moves packets between an association and its path.

    :param deliver: called to take away what has come.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        association: Association,
        path: PacketPath,
        deliver: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._association = association
        self._path = path
        self._deliver = deliver
        self._is_stopped = self._is_working = self._is_asked = self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def received(self, packets: list[bytes]) -> None:
        """Take packets that have come."""
        if not self._is_stopped:
            self._association.receive(packets, time.monotonic())
            self.flush()

    def flush_soon(self) -> None:
        """Flush in the loop's next turn: more may be queued until then."""
        if self._is_working:
            self._is_asked = True
        elif not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._is_due = False
        self.flush()

    def flush(self) -> None:
        """Pass on what has come, send what may be sent, and set the timer."""
        if self._is_stopped or self._is_working:
            return
        self._is_working = True
        try:
            self._deliver()
            self._send_bursts()
        finally:
            self._is_working = False
        self._set_timer(self._association.next_time())

    def _send_bursts(self) -> None:
        association, path = self._association, self._path
        for _ in range(BURSTS):
            # What is asked for while packets are made may come too late for them.
            self._is_asked = False
            packets = association.transmit(time.monotonic())
            oversized = association.take_oversized()
            if oversized:
                path.send(oversized, fragments=True)
            if packets:
                path.send(packets)
            elif not oversized and not self._is_asked:
                return
        self._is_due = True
        self._loop.call_soon(self._flush_now)

    def _set_timer(self, at: float | None) -> None:
        if at is None or self._is_stopped:
            # A timer that is still set does no harm.
            return
        if self._timer is not None:
            if self._timer_at <= at + EARLY:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(self._loop.time() + max(at - time.monotonic(), 0.0), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.flush()

    def stop(self) -> None:
        """Do nothing any more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def send_last(self) -> None:
        """Send the packet that tells the peer that the association is over."""
        self._path.send(self._association.transmit(time.monotonic()))
