"""Visitors of ports and TLS names whose bytes are measured, on data connections and on the link.

    visitor -- LocalSocket <-> MeteredRelay <-> RecordSocket ==== the client
            -- MeteredEnd  <-> a stream of the link, or RecordStream (see rtunnel/shaping/ends.py)

Where nothing is limited, neither is there. What has come from the client and waits for its turn is no more than a
record, or the window of a stream.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from rtunnel.relay.local_socket import LocalSocket
from rtunnel.relay.pipes import Pipe
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.reverse.metering.meter import Meter
from rtunnel.shaping.shaper import MOST_PIECE

_NOTHING = memoryview(b"")


class MeteredRelay:
    """Between a local socket and its data connection, each of which takes it for the other.

    :param far: the data connection; see :class:`~rtunnel.relay.interfaces.IFar`.
    :param kept: called with the number of bytes that stay in memory.
    :ivar local: the socket; set it before anything is passed.
    """

    __slots__ = (
        "_far",
        "_has_ended",
        "_is_far_full",
        "_is_fast",
        "_is_local_full",
        "_kept",
        "_meter",
        "_rest",
        "local",
        "payload",
    )

    def __init__(self, far: RecordSocket, meter: Meter, kept: Callable[[int], None]) -> None:
        self.local: LocalSocket | None = None
        self._far: RecordSocket | None = far
        self._meter = meter
        self._kept = kept
        self._is_far_full = self._is_local_full = self._has_ended = False
        # What has come from the client and is not delivered yet.
        self._rest = _NOTHING
        self.payload = far.payload[: meter.piece]
        self._is_fast = meter.piece >= MOST_PIECE
        meter.attach(self._go_up, self._go_down, self._abort)

    def start(self) -> None:
        """Read from now on, or when it is the visitor's turn."""
        if self.local is None or self._far is None:
            return
        if not self._meter.down.may_pass():
            self._far.stop_reading()
        if self._meter.up.may_pass():
            self.local.start()

    def _go_up(self) -> bool:
        if self.local is not None and not self._is_far_full:
            self.local.has_room()
            self.local.doRead()
        return True

    def _go_down(self) -> bool:
        had_rest = bool(self._rest)
        self._deliver_rest()
        if self._far is not None and not (self._is_local_full or self._rest or self._meter.down.is_waiting):
            self._far.resume_reading()
            if not had_rest:
                self._far.doRead()
        return True

    def _abort(self) -> None:
        if self.local is not None:
            self.local.abort()

    def _leave(self) -> tuple[LocalSocket | None, RecordSocket | None]:
        self._meter.close()
        local, far, self.local, self._far = self.local, self._far, None, None
        return local, far

    @property
    def may_splice(self) -> bool:
        """See :class:`IFar` and :class:`~rtunnel.reverse.carriers.record_interfaces.ILocal`.

        The bandwidth must be so high that this does not make it jerky.
        """
        local, far = self.local, self._far
        return self._is_fast and local is not None and far is not None and local.may_splice and far.may_splice

    # For the local socket, see IFar

    @property
    def held(self) -> int:
        """See :class:`IFar`."""
        return len(self._rest) + (0 if self._far is None else self._far.held)

    def send_data(self, count: int) -> bool:
        """See :class:`IFar`."""
        return self._sent(count, self._far is None or self._far.send_data(count))

    def send_pipe(self, pipe: Pipe) -> bool:
        """See :class:`IFar`."""
        count = pipe.count
        assert self._far is not None
        return self._sent(count, self._far.send_pipe(pipe))

    def _sent(self, count: int, has_room: bool) -> bool:
        self._is_far_full = not has_room
        return self._meter.up.passed(count) and has_room

    def finish(self, count: int = 0) -> bool:
        """See :class:`IFar`."""
        self._meter.up.passed(count)
        return self._far is None or self._far.finish(count)

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """See :class:`IFar`."""
        _, far = self._leave()
        if far is not None:
            far.reset(code, message, behind=behind)

    def drop(self) -> None:
        """See :class:`IFar`."""
        if self._far is not None:
            self._far.drop()

    def stop_reading(self) -> None:
        """See :class:`IFar`."""
        self._is_local_full = True
        if self._far is not None:
            self._far.stop_reading()

    def resume_reading(self) -> None:
        """See :class:`IFar`."""
        self._is_local_full = False
        self._deliver_rest()
        if self._far is not None and not (self._is_local_full or self._rest or self._meter.down.is_waiting):
            self._far.resume_reading()

    # For the data connection, see ILocal

    def deliver(self, data: memoryview, flags: int = 0) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.ILocal`."""
        if self.local is None:
            return
        if len(data) <= self._meter.piece and not self._rest:
            self.local.deliver(data, flags)
            self._delivered(len(data))
        else:
            self._rest = memoryview(b"".join((self._rest, data)))
            self._deliver_rest()
            if (self._rest or self._meter.down.is_waiting) and self._far is not None:
                self._far.stop_reading()
            self._kept(len(self._rest))

    def _deliver_rest(self, *, at_once: bool = False) -> None:
        while self._rest and self.local is not None:
            if not at_once and (self._is_local_full or self._meter.down.is_waiting):
                return
            piece, self._rest = self._rest[: self._meter.piece], self._rest[self._meter.piece :]
            self.local.deliver(piece)
            self._meter.down.passed(len(piece))
        if self._has_ended and self.local is not None:
            self._has_ended = False
            self.local.far_ended()

    def deliver_pipe(self, pipe: Pipe) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.ILocal`."""
        count = pipe.count
        assert self.local is not None
        self.local.deliver_pipe(pipe)
        self._delivered(count)

    def _delivered(self, count: int) -> None:
        if not self._meter.down.passed(count) and self._far is not None:
            self._far.stop_reading()

    def far_ended(self) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.ILocal`."""
        self._has_ended = True
        self._deliver_rest()

    def far_over(self) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.ILocal`. What is left goes out at once."""
        self._deliver_rest(at_once=True)
        local, _ = self._leave()
        if local is not None:
            local.far_over()

    def far_reset(self, code: str, message: str) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.ILocal`. What is left goes out at once."""
        self._deliver_rest(at_once=True)
        local, _ = self._leave()
        if local is not None:
            local.far_reset(code, message)

    def has_room(self) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.ILocal`."""
        self._is_far_full = False
        if self.local is not None and not self._meter.up.is_waiting:
            self.local.has_room()


def relay_for(
    meter: Meter | None,
    poller: Any,
    sock: socket.socket,
    far: RecordSocket,
    on_end: Callable[[LocalSocket], None],
    kept: Callable[[int], None],
) -> tuple[LocalSocket, LocalSocket | MeteredRelay]:
    """Relay between a visitor's socket and a data connection. Return the socket, and what the connection takes for it.

    :param meter: measures the visitor's bytes; None: nothing does.
    """
    if meter is None:
        relay = LocalSocket(poller, sock, far, on_end, kept)
        return relay, relay
    between = MeteredRelay(far, meter, kept)
    between.local = relay = LocalSocket(poller, sock, between, on_end, kept)
    return relay, between
