"""What was sent and is not acknowledged, and what has to be sent again (RFC 9260, sections 6.1 to 6.3; RFC 3758)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from rtunnel.wire.sctp.chunks import BEGIN, ProtocolError, Sack
from rtunnel.wire.sctp.codec import data_chunk, encode_skipped, i_data_chunk
from rtunnel.wire.sctp.gaps import Gaps
from rtunnel.wire.sctp.outstanding import BLACK_HOLE, CHUNK_COST, Chunk, are_all_in, skipped
from rtunnel.wire.sctp.path.congestion import Congestion
from rtunnel.wire.sctp.path.delay_limit import DelayLimit
from rtunnel.wire.sctp.path.losses import Rack, RoundTrips
from rtunnel.wire.sctp.scheduler import Message, Scheduler
from rtunnel.wire.sctp.serial import unwrap


class Sending:
    """The sending half of an association.

    :param first_tsn: of the first chunk.
    :param peer_window: the peer's receive window, in bytes.
    :param scheduler: knows whether I-DATA chunks are sent.
    :ivar acked_to: the last TSN up to which everything arrived.
    :ivar lost: the chunks that are to be sent again, by TSN.
    :ivar kept: how many bytes of memory take the chunks that are not acknowledged.
    :ivar flight: how many bytes are in flight: sent, and neither acknowledged nor lost.
    :ivar peer_window: what the peer can still take beyond what is acknowledged.
    :ivar probe_due: whether one packet is to be sent in spite of the congestion window (RFC 8985, section 7.3).
    :ivar forward_due: whether the peer is to be told what is given up.
    :ivar sent: how many chunks were sent, each counted once.
    :ivar repeated: how many of them were sent again, or given up.
    :ivar timeouts: how many times in a row nothing was acknowledged in time.
    :ivar largest_stuck: the size of the largest chunk that was lost again and again; the caller sets it back.
    """

    def __init__(
        self,
        first_tsn: int,
        peer_window: int,
        scheduler: Scheduler,
        congestion: Congestion,
        delay_limit: DelayLimit,
        round_trips: RoundTrips,
    ) -> None:
        self._interleaved = scheduler.interleaved
        self._scheduler = scheduler
        self._congestion = congestion
        self._delay_limit = delay_limit
        self._round_trips = round_trips
        self._rack = Rack()
        self._next_tsn = first_tsn
        self.acked_to = first_tsn - 1
        #: The chunks behind :attr:`acked_to`, and of them those in flight, in the order of their sending. What is
        #: neither in flight nor lost arrived out of order, or is given up.
        self._outstanding: dict[int, Chunk] = {}
        self._in_flight: OrderedDict[int, Chunk] = OrderedDict()
        self.lost: dict[int, Chunk] = {}
        #: The last TSN of each stream.
        self._last_of: dict[int, int] = {}
        #: What arrived out of order, and the highest TSN that ever arrived.
        self._gaps = Gaps()
        self._highest = self.acked_to
        #: Everything up to here is acknowledged or given up (RFC 3758: Advanced.Peer.Ack.Point).
        self._given_up_to = self._passed_to = self.acked_to
        self._told_to, self._told_at = self.acked_to, 0.0  # What the last FORWARD TSN said, and when.
        self._next_number = self._last_number = 0
        #: The last packet that was sent when a loss was noticed: losses up to it are one event.
        self._episode_ends = -1
        self._timer_from = self._probe_from = 0.0
        self._probes = 0
        self._reordering_ends: float | None = None
        self.flight = self.kept = 0
        self.peer_window = peer_window
        self.probe_due = self.forward_due = False
        self.sent = self.repeated = self.timeouts = self.largest_stuck = 0

    def change_path(self, congestion: Congestion, delay_limit: DelayLimit, now: float) -> None:
        """Send everything again that is in flight: the path is another one."""
        self._congestion, self._delay_limit = congestion, delay_limit
        self._rack = Rack()
        self._timer_from = self._probe_from = now
        self._episode_ends = self._next_number
        self._probes = self.timeouts = 0
        self._lose_all()

    def is_busy(self, stream: int) -> bool:
        """Whether something on *stream* is not acknowledged."""
        return self._last_of.get(stream, self.acked_to) > self.acked_to

    def forget(self, stream: int) -> None:
        """Keep nothing of *stream*, which begins anew."""
        self._last_of.pop(stream, None)

    # Sending

    def begin_packet(self) -> None:
        """Count a packet, whose chunks follow."""
        self._next_number += 1

    def put(self, message: Message, payload: bytes | memoryview, flags: int, now: float) -> bytes:
        """Return the chunk for a fragment of *message*, which is now in flight."""
        tsn = self._next_tsn
        self._next_tsn = tsn + 1
        if self._interleaved:
            kind = message.kind if flags & BEGIN else message.fragments - 1
            wire = i_data_chunk(tsn, flags, message.stream, message.number, kind, payload)
        else:
            wire = data_chunk(tsn, flags, message.stream, message.number, message.kind, payload)
        chunk = Chunk(tsn, wire, message)
        if message.most_sends is not None:
            message.tsns.append(tsn)
        self._outstanding[tsn] = chunk
        self._last_of[message.stream] = tsn
        self.kept += chunk.size + CHUNK_COST
        self.sent += 1
        self._launch(chunk, now)
        return wire

    def _launch(self, chunk: Chunk, now: float) -> None:
        if not self.flight:
            self._timer_from = now
        self._probe_from = now
        chunk.number = self._last_number = self._next_number
        chunk.sent_at = now
        chunk.sends += 1
        self._in_flight[chunk.tsn] = chunk
        self.flight += chunk.size

    def take_lost(self, room: int, now: float) -> bytes | None:
        """Return the next chunk that is to be sent again if it has at most *room* bytes. It is now in flight again."""
        chunk = next(iter(self.lost.values()))
        if chunk.size > room:
            return None
        del self.lost[chunk.tsn]
        if chunk.tsn == self.acked_to + 1:
            self._timer_from = now
        self._launch(chunk, now)
        if chunk.sends > BLACK_HOLE:
            self.largest_stuck = max(self.largest_stuck, chunk.size)
        return chunk.wire

    def repeat_newest(self) -> None:
        """Send the newest chunk again: there is nothing new with which to probe."""
        if self._in_flight:
            self._lose(next(reversed(self._in_flight.values())))

    # Acknowledgements

    def acknowledge(self, sack: Sack, limited: bool, now: float) -> None:
        """Take an acknowledgement.

        :param limited: whether more would have been sent, but for the congestion window.
        :raises ProtocolError: it is of something that was never sent.
        """
        cumulative = unwrap(sack.cumulative, self.acked_to)
        if cumulative < self.acked_to:
            return
        if cumulative > self.acked_to:
            self._timer_from = now
        if cumulative >= self._next_tsn:
            raise ProtocolError("an acknowledgement of something that was never sent")
        before, highest = self.flight, self._highest
        count, newest = self._pass(cumulative, highest)
        if sack.gaps:
            more, newer = self._take_gaps(cumulative, sack.gaps, highest)
            count += more
            if newer is not None and (newest is None or newer.number > newest.number):
                newest = newer
        if sack.window and not self.peer_window and not count and (head := self._in_flight.get(cumulative + 1)):
            # The peer had no room for it. If it dropped more, this one's acknowledgement will tell.
            self._lose(head)
        self.peer_window = sack.window
        rack, times = self._rack, self._round_trips
        rack.passed_over = self._gaps.count
        sample: float | None = None
        if newest is not None:
            if newest.sends == 1:
                sample = now - newest.sent_at
                times.measured(sample)
                self._limit_delay(sample, now)
            rack.arrived(newest.number, newest.sent_at, newest.sends > 1, times.shortest, now)
            self._probe_from = now
            self._probes = self.timeouts = 0
        if sack.duplicates:
            rack.repeated_needlessly(self._next_number)
        if self._in_flight:
            self._detect(now)
        if count and rack.newest > self._episode_ends:
            self._congestion.acked(count, before, rack.newest, self._next_number, sample, times.smoothed, limited, now)
        self._given_up_to = max(self._given_up_to, cumulative)
        self._advance()
        if self._given_up_to > cumulative and (cumulative >= self._told_to or now >= self._told_at + times.smoothed):
            # The last FORWARD TSN had no room for all, or was lost.
            self.forward_due = True

    def _limit_delay(self, round_trip: float, now: float) -> None:
        congestion = self._congestion
        window = self._delay_limit.window(congestion.window, round_trip, now)
        if window < congestion.window:
            congestion.limit(window, congestion.window if self._delay_limit.is_probing else None)

    def _pass(self, cumulative: int, highest: int) -> tuple[int, Chunk | None]:
        """Drop what is acknowledged. Return how many bytes were not known to have arrived, and which was sent last."""
        outstanding, in_flight, lost = self._outstanding, self._in_flight, self.lost
        count = freed = released = 0
        newest, number = None, -1
        for tsn in range(self.acked_to + 1, cumulative + 1):
            chunk = outstanding.pop(tsn)
            released += chunk.size
            if in_flight.pop(tsn, None) is not None:
                freed += chunk.size
                if tsn < highest and chunk.sends == 1:
                    self._rack.reordered()
            elif lost.pop(tsn, None) is None:
                continue
            count += chunk.size
            if chunk.number >= number:
                newest, number = chunk, chunk.number
        self.flight -= freed
        self.kept -= released + CHUNK_COST * (cumulative - self.acked_to)
        self.acked_to = cumulative
        if self._gaps.count:
            self._gaps.pass_to(cumulative)
        if cumulative > self._highest:
            self._highest = cumulative
        return count, newest

    def _take_gaps(self, cumulative: int, gaps: Sequence[tuple[int, int]], highest: int) -> tuple[int, Chunk | None]:
        """Note what arrived out of order."""
        count, newest = 0, None
        for offset, end in gaps:
            if cumulative + end >= self._next_tsn:
                raise ProtocolError("an acknowledgement of something that was never sent")
            # A block that begins before its time, or has no end, has nothing new.
            for first, last in self._gaps.add(cumulative + max(offset, 1), cumulative + end):
                self._highest = max(self._highest, last)
                for tsn in range(first, last + 1):
                    if (chunk := self._arrived_early(tsn, highest)) is not None:
                        count += chunk.size
                        if newest is None or chunk.number >= newest.number:
                            newest = chunk
        return count, newest

    def _arrived_early(self, tsn: int, highest: int) -> Chunk | None:
        chunk = self._in_flight.pop(tsn, None)
        if chunk is not None:
            self.flight -= chunk.size
            if tsn < highest and chunk.sends == 1:
                self._rack.reordered()
            return chunk
        return self.lost.pop(tsn, None)

    # Losses

    def _detect(self, now: float) -> None:
        """Find out what is lost (RFC 8985, section 6.2)."""
        rack, times = self._rack, self._round_trips
        recovering = rack.newest <= self._episode_ends
        lost, self._reordering_ends = rack.overdue(self._in_flight.values(), times, recovering, now)
        newest = -1
        for chunk in lost:
            newest = max(newest, chunk.number)
            self._lose(chunk)
        if newest > self._episode_ends:
            self._episode_ends = self._next_number
            self._congestion.congested(self.flight + sum(chunk.size for chunk in lost), now)

    def _lose(self, chunk: Chunk) -> None:
        if self._in_flight.pop(chunk.tsn, None) is None:
            # It was given up with an earlier fragment.
            return
        self.flight -= chunk.size
        if chunk.sends == 1:
            self.repeated += 1
        most = chunk.message.most_sends
        if most is not None and chunk.sends >= most:
            self._abandon(chunk.message)
        else:
            self.lost[chunk.tsn] = chunk

    def _abandon(self, message: Message) -> None:
        """Give a message up, with all of its fragments (RFC 3758, section 3.5)."""
        message.abandoned = True
        if message.at < message.size:
            # The peer may have all that was sent. A TSN that is not sent, and given up, tells it that this is not all.
            tsn = self._last_of[message.stream] = self._next_tsn
            self._outstanding[tsn] = Chunk(tsn, b"", message)
            self._next_tsn += 1
            self.kept += CHUNK_COST
        self._scheduler.abandon(message)
        for tsn in message.tsns:
            chunk = self._in_flight.pop(tsn, None)
            if chunk is not None:
                self.flight -= chunk.size
            self.lost.pop(tsn, None)
        self._advance()

    def _advance(self) -> None:
        """Find out up to where all is given up, or a datagram that arrived: else one loss a round trip would be told.

        What must arrive ends this, as a peer may drop what it has out of order.
        """
        at, outstanding = max(self._passed_to, self._given_up_to), self._outstanding
        given_up_to = self._given_up_to
        while (chunk := outstanding.get(at + 1)) is not None:
            if chunk.message.abandoned:
                given_up_to = at + 1
            elif chunk.message.most_sends is None or chunk.tsn in self._in_flight or chunk.tsn in self.lost:
                break
            at += 1
        self._passed_to = at
        if given_up_to > self._given_up_to:
            self._given_up_to = given_up_to
            self.forward_due = True

    def take_forward(self, now: float) -> bytes:
        """Return a chunk that tells the peer what is given up."""
        self.forward_due = False
        told_to, numbers = skipped(self._outstanding, self.acked_to, self._given_up_to, self._interleaved)
        if told_to > self._told_to:
            # The time-out waits for the oldest chunk: now for this in its place.
            self._timer_from = now
        self._told_to, self._told_at = told_to, now
        return encode_skipped(told_to, numbers, self._interleaved)

    # Time

    def next_time(self) -> float | None:
        """When :meth:`tick` is to be called; None: not by itself."""
        times = self._round_trips
        if self._in_flight:
            due = self._timer_from + times.timeout
            if not self.timeouts:
                alone = are_all_in(self._last_number, self._in_flight)
                due = min(due, self._probe_from + times.probe_timeout(alone, self._probes))
            if self._reordering_ends is not None:
                due = min(due, self._reordering_ends)
            return due
        if self._outstanding and not self.lost:
            return self._timer_from + times.timeout
        return None

    def tick(self, now: float) -> bool:
        """Do what is due by time. Return whether the retransmission time-out has passed."""
        times = self._round_trips
        if not self._in_flight:
            if self._outstanding and not self.lost and now >= self._timer_from + times.timeout:
                self._timer_from = now
                times.back_off()
                self._lose_all()
            return False
        if self._reordering_ends is not None and now >= self._reordering_ends:
            self._detect(now)
            if not self._in_flight:
                return False
        if now >= self._timer_from + times.timeout:
            self._timed_out(now)
            return True
        alone = are_all_in(self._last_number, self._in_flight)
        if now >= self._probe_from + times.probe_timeout(alone, self._probes) and not self.timeouts:
            if not self._probes:
                self._timer_from = now
            self._probes += 1
            self.probe_due = True
        return False

    def _timed_out(self, now: float) -> None:
        """Count everything in flight as lost (RFC 9260, section 6.3.3)."""
        if self.peer_window:
            self._congestion.timed_out(self.flight, now)
        else:
            # The peer has dropped it, and not the path.
            for chunk in self._in_flight.values():
                chunk.sends = min(chunk.sends, 2)
        self._round_trips.back_off()
        self.timeouts += 1
        self._episode_ends = self._next_number
        self._lose_all()
        self._timer_from = self._probe_from = now

    def _lose_all(self) -> None:
        for chunk in list(self._in_flight.values()):
            self._lose(chunk)
        head = self._outstanding.get(self.acked_to + 1)
        if head is not None and head.message.abandoned:
            self.forward_due = True
        elif head is not None and head.tsn not in self.lost:
            self._renege()
        self.lost = dict(sorted(self.lost.items()))
        self._reordering_ends = None

    def _renege(self) -> None:
        """The peer has dropped what it had reported as received out of order: it may (RFC 9260, section 6.2)."""
        self._gaps = Gaps()
        self._passed_to = self.acked_to
        for tsn, chunk in self._outstanding.items():
            if not chunk.message.abandoned:
                self.lost[tsn] = chunk
