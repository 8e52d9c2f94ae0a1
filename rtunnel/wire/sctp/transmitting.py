"""What goes into packets, and when: windows, pacing, the size of packets (RFC 9260, sections 6.1, 6.10 and 7).

A packet takes as many chunks as it has room for. Nothing is queued for later: when there is room, the user is asked for
more.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from rtunnel.wire.sctp.chunks import COMMON_HEADER, DATA_HEADER, I_DATA_HEADER, Sack
from rtunnel.wire.sctp.codec import Envelope, encode_probe
from rtunnel.wire.sctp.path.congestion import Congestion
from rtunnel.wire.sctp.path.delay_limit import DelayLimit
from rtunnel.wire.sctp.path.losses import RoundTrips
from rtunnel.wire.sctp.path.mtu import PathMtu
from rtunnel.wire.sctp.path.pacing import Pacer
from rtunnel.wire.sctp.scheduler import Scheduler
from rtunnel.wire.sctp.sending import Sending

#: How many bytes :meth:`Transmitter.transmit` returns at once: what one system call takes.
BURST = 64 * 1024
#: How many bytes may be in flight, whatever window the peer advertises.
MAX_FLIGHT = 4 * 1024 * 1024
#: Enough room for any chunk.
_ANY = 1 << 16

#: What a probe carries: the number of the path, and the size of the packet.
_PROBE = Struct("!II")


class Transmitter:
    """Makes the packets of an association that is established.

    :param path: how large they may be.
    :param more: called when there is room to send; it may put messages into *scheduler*.
    :ivar sending: knows what is in flight.
    """

    def __init__(
        self,
        envelope: Envelope,
        path: PathMtu,
        scheduler: Scheduler,
        more: Callable[[], None],
        first_tsn: int,
        peer_window: int,
        now: float,
    ) -> None:
        self._envelope = envelope
        self._path = path
        self._scheduler = scheduler
        self._more = more
        self._base = self._size = path.size
        segment = self._size - COMMON_HEADER
        self._pacer = Pacer(segment)
        self._congestion = Congestion(segment)
        self.delay_limit = DelayLimit(now)
        self.round_trips = RoundTrips()
        self.sending = Sending(first_tsn, peer_window, scheduler, self._congestion, self.delay_limit, self.round_trips)
        self._oversized: list[bytes] = []
        self._header = I_DATA_HEADER if scheduler.interleaved else DATA_HEADER
        #: When pacing lets the next burst out.
        self._pace_at: float | None = None
        #: Whether more would have been sent, but for the congestion window or pacing.
        self._is_limited = False
        self._heard_at = now
        #: How many paths there were before.
        self._path_number = 0

    def acknowledged(self, sack: Sack, now: float) -> None:
        """Take an acknowledgement.

        :raises ProtocolError: it is of something that was never sent.
        """
        self._heard_at = now
        self.sending.acknowledge(sack, self._is_limited, now)
        if self._congestion.window > MAX_FLIGHT:
            self._congestion.window = MAX_FLIGHT
        if not self.sending.timeouts:
            self._path.timeouts = 0

    def probe_acknowledged(self, information: bytes, now: float) -> None:
        """Take what a HEARTBEAT carried that the peer acknowledges. On an earlier path it says nothing of this one."""
        self._heard_at = now
        if len(information) == _PROBE.size:
            number, size = _PROBE.unpack(information)
            if number == self._path_number:
                self._path.acked(size, now)

    def path_changed(self, now: float) -> None:
        """See :meth:`Association.path_changed`."""
        self._path_number += 1
        self._path.restart()
        self.round_trips.forget()
        self._size = self._path.size
        self._congestion = Congestion(self._size - COMMON_HEADER)
        self._pacer = Pacer(self._size - COMMON_HEADER)
        self.delay_limit = DelayLimit(now)
        self.sending.change_path(self._congestion, self.delay_limit, now)

    def is_busy(self, stream: int) -> bool:
        """Whether something on *stream* waits, or is not acknowledged."""
        return self.sending.is_busy(stream) or self._scheduler.is_busy(stream)

    def next_time(self) -> float | None:
        """When to call :meth:`transmit`, if nothing comes before; None: not by itself."""
        if self.sending.forward_due:
            # It was given up as packets were made.
            return 0.0
        times = [self.sending.next_time(), self._pace_at, self._path.next_time]
        return min((each for each in times if each is not None), default=None)

    def transmit(self, packets: list[bytes], controls: list[bytes], now: float) -> None:
        """Append packets to *packets*: with the chunks *controls*, and with as much data as may be sent now."""
        path = self._path
        size = path.probe(now, self._heard_at)
        if size is not None:
            packets.append(
                self._envelope.seal(encode_probe(_PROBE.pack(self._path_number, size), size - COMMON_HEADER))
            )
        if path.size != self._size:
            self._size = path.size
            self._congestion.segment = self._pacer.packet = path.size - COMMON_HEADER
        capacity = path.size - COMMON_HEADER
        parts, room = self._pack(packets, controls, capacity)
        congestion, sending = self._congestion, self.sending
        rate = congestion.pacing_rate(self.round_trips.smoothed)
        paced = self._pacer.allowance(rate, now)
        window = congestion.window - sending.flight
        allowed = min(window, paced)
        if sending.probe_due:
            self._prepare_probe()
            allowed = max(allowed, 1)
        elif not sending.flight and paced > 0:
            allowed = max(allowed, 1)
        spent = self._fill(packets, parts, room, capacity, min(allowed, BURST), now)
        if spent:
            self._pacer.sent(spent, now)
        self._is_limited = allowed <= spent
        waits_for_pacing = self._is_limited and paced <= spent < window
        self._pace_at = self._pacer.next_time(rate, now) if waits_for_pacing else None

    def take_oversized(self) -> list[bytes]:
        """Return packets that are larger than the path takes: IP has to fragment them.

        A chunk keeps its size when it is sent again, though the path has become narrower.
        """
        oversized, self._oversized = self._oversized, []
        return oversized

    def tick(self, now: float) -> None:
        """Find out what is lost by now, and whether packets have become too large for the path."""
        sending, path = self.sending, self._path
        timed_out, stuck = sending.tick(now), sending.largest_stuck
        sending.largest_stuck = 0
        # What a full receiver drops says nothing of the path.
        if path.size > self._base and sending.peer_window >= path.size:
            if timed_out:
                path.timed_out(now)
            if stuck + COMMON_HEADER > self._base:
                path.restart()

    def _pack(self, packets: list[bytes], controls: list[bytes], capacity: int) -> tuple[list[bytes], int]:
        """Return the chunks that the next packet begins with, and its room. Chunks that are too many get packets."""
        parts: list[bytes] = []
        room = capacity
        for part in controls:
            if len(part) > room and parts:
                packets.append(self._envelope.seal(b"".join(parts)))
                parts, room = [], capacity
            parts.append(part)
            room -= len(part)
        return parts, room

    def _fill(self, packets: list[bytes], parts: list[bytes], room: int, capacity: int, budget: int, now: float) -> int:
        """Append packets with about *budget* bytes of data, the first behind *parts*. Return how many they have."""
        seal, begin, header, allowed = self._envelope.seal, self.sending.begin_packet, self._header, budget
        begin()
        while allowed > 0:
            wire = self._next(room, room == capacity, now)
            if wire is not None:
                parts.append(wire)
                count = len(wire)
                allowed -= count
                room -= count
                if room > header and allowed > 0:
                    continue
            elif not parts:
                break
            (packets if room >= 0 else self._oversized).append(seal(b"".join(parts)))
            parts, room = [], capacity
            begin()
        if parts:
            packets.append(seal(b"".join(parts)))
        return budget - allowed

    def _next(self, room: int, is_empty: bool, now: float) -> bytes | None:
        """Return the next chunk with data, if one of at most *room* bytes may be sent.

        :param is_empty: whether it would be the first of its packet. Then a chunk that is sent again may be larger.
        """
        sending, scheduler = self.sending, self._scheduler
        if sending.lost:
            return sending.take_lost(_ANY if is_empty else room, now)
        streams = sending.peer_window > sending.flight or not sending.flight
        if streams and scheduler.wants_streams:
            self._more()
        if not scheduler.has_some:
            return None
        found = scheduler.take((room - self._header) & ~3, streams=streams)
        return sending.put(*found, now) if found is not None else None

    def _prepare_probe(self) -> None:
        """Have something to send in spite of the congestion window."""
        sending, scheduler = self.sending, self._scheduler
        sending.probe_due = False
        if sending.lost:
            return
        if scheduler.wants_streams:
            self._more()
        if not scheduler.has_some or sending.peer_window <= sending.flight:
            sending.repeat_newest()
