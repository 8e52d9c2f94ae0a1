"""An association: what comes in, what goes out, and when (RFC 9260).

The caller passes the packets that came, calls :meth:`Association.transmit` until there is nothing more to send, takes
what happened, and calls again when :meth:`Association.next_time` has come. One function is called back: for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rtunnel.wire.sctp import chunks
from rtunnel.wire.sctp.chunks import COMMON_HEADER, DATA, DATA_HEADER, I_DATA, I_DATA_HEADER, ProtocolError, Sack
from rtunnel.wire.sctp.codec import (
    DATA_BODY,
    HEAD,
    I_DATA_BODY,
    Envelope,
    acknowledge_heartbeat,
    chunk,
    decode_forward_tsn,
    decode_i_forward_tsn,
    decode_sack,
    encode_sack,
    heartbeat_information,
    parameter,
)
from rtunnel.wire.sctp.events import AssociationLimits, Counts, Down, Event, ResetDone, StreamsReset, Up
from rtunnel.wire.sctp.handshake import Handshake, Stage
from rtunnel.wire.sctp.path.mtu import PathMtu
from rtunnel.wire.sctp.receiving import Inbound
from rtunnel.wire.sctp.reset import Resets
from rtunnel.wire.sctp.scheduler import Message, Scheduler
from rtunnel.wire.sctp.transmitting import Transmitter

#: Seconds by which an acknowledgement may be delayed (RFC 9260, section 6.2: at most 0.2).
SACK_DELAY = 0.02
#: A SACK for more packets than that is repeated after this delay: some peers (Pion) wait a second for one that is lost.
MAX_UNREPEATED = 2
#: How many chunks other than DATA are taken from one packet. An honest packet has fewer.
MAX_CONTROL = 8
#: How many answers may wait to be sent. Beyond that the peer's requests are not answered.
MAX_ANSWERS = 64
#: How many gaps one SACK reports.
MAX_GAPS = 128

# Causes of errors (RFC 9260, section 3.3.10).
_UNRECOGNIZED_CHUNK, _ABORT_BY_USER, _PROTOCOL_VIOLATION = 6, 12, 13


@dataclass(frozen=True, slots=True)
class _Established:
    """What there is once the handshake is over."""

    transmitter: Transmitter
    inbound: Inbound
    resets: Resets


class Association:
    """One association.

    :param port: our port; *peer_port* is the peer's.
    :param entropy: returns as many random bytes as it is asked for.
    :param more: called when there is room to send; it may call :meth:`send`.
    :param now: the time; all times are seconds on a clock that never runs backwards.
    :ivar messages: what came: streams, payload protocol identifiers, and messages. The caller takes and clears it.
    :ivar events: what else happened, in order: :class:`Up` and :class:`ResetDone` before messages, the others behind
        them. The caller takes and clears it.
    :ivar path: the size of packets.
    :ivar interleaved: whether both ends mix the fragments of messages (RFC 8260).
    """

    def __init__(
        self,
        port: int,
        peer_port: int,
        limits: AssociationLimits,
        entropy: Callable[[int], bytes],
        more: Callable[[], None],
        now: float,
    ) -> None:
        self._limits = limits
        self._more = more
        self._handshake = Handshake(limits.window, limits.max_streams, entropy)
        self._envelope = Envelope(port, peer_port, self._handshake.ours.tag)
        self._scheduler = Scheduler()
        self._halves: _Established | None = None
        self._over = False
        #: Chunks, and whole packets, that are to be sent.
        self._answers: list[bytes] = []
        self._packets: list[bytes] = []
        #: Packets with data that are not acknowledged, and when they must be.
        self._unacknowledged = 0
        self._sack_at: float | None = None
        self.messages: list[tuple[int, int, bytes]] = []
        self.events: list[Event] = []
        self.path = PathMtu(limits.base_packet, limits.largest_packet, limits.overhead)
        self.interleaved = False

    # What is going on

    @property
    def is_up(self) -> bool:
        """Whether messages can be exchanged."""
        return self._halves is not None and not self._over

    @property
    def buffered(self) -> int:
        """How many bytes of messages on reliable channels wait to be sent."""
        return self._scheduler.stream_bytes

    @property
    def kept(self) -> int:
        """About how many bytes of memory the association takes for what it sends and receives."""
        halves = self._halves
        return halves.transmitter.sending.kept + halves.inbound.kept if halves is not None else 0

    @property
    def round_trip(self) -> float:
        """The smoothed round-trip time in seconds; 0.0 if unknown."""
        return self._halves.transmitter.round_trips.smoothed if self._halves is not None else 0.0

    @property
    def outbound_streams(self) -> int:
        """How many streams this end may send on."""
        peer = self._handshake.peer
        return min(self._limits.max_streams, peer.inbound) if peer is not None else 0

    @property
    def counts(self) -> Counts:
        """What has passed."""
        scheduler, halves = self._scheduler, self._halves
        begun = scheduler.bytes_begun, scheduler.dropped
        if halves is None:
            return Counts(*begun, 0, 0, 0, 0)
        sending, inbound = halves.transmitter.sending, halves.inbound
        return Counts(*begun, sending.sent, sending.repeated, inbound.chunks_received, inbound.chunks_missed)

    # Commands

    def connect(self, now: float) -> None:
        """Begin the handshake. The peer may do so too."""
        self._handshake.start(now)

    def send(self, stream: int, kind: int, data: bytes, ordered: bool, most_sends: int | None, now: float) -> None:
        """Send a message, once the association is up.

        :param kind: its payload protocol identifier.
        :param data: not empty.
        :param most_sends: how often it may be sent; None: until it arrives.
        """
        if self._over:
            return
        if most_sends is not None:
            self.datagram_came(now)
        self._scheduler.put(Message(stream, kind, data, ordered, most_sends))

    def datagram_came(self, now: float) -> None:
        """Take note of a message that may be lost: delay matters on this path."""
        if self._halves is not None:
            self._halves.transmitter.delay_limit.datagram(now)

    def reset(self, stream: int) -> None:
        """Reset an outgoing stream once everything on it is acknowledged; :class:`ResetDone` follows."""
        if self._halves is not None:
            self._halves.resets.request(stream)

    def reset_is_known(self, stream: int) -> tuple[int, ...]:
        """Take note that the peer uses a stream anew, so that it must have performed our reset of it.

        :returns: which resets are done by that; no event follows.
        """
        if self._halves is None:
            return ()
        self._halves.resets.confirm(stream)
        return self._finish_resets(self._halves)

    def hold(self, count: int) -> None:
        """Shrink the receive window: so many bytes wait for a reader."""
        if self._halves is not None:
            self._halves.inbound.hold(count)

    def release(self, count: int) -> None:
        """Widen the receive window again."""
        if self._halves is not None:
            self._halves.inbound.release(count)

    def path_changed(self, largest: int, now: float) -> None:
        """Begin anew with what is known of the path: it is another one. Send again what may have been lost on the old.

        :param largest: the size of the largest packet that can be sent on it, in bytes.
        """
        self.path.largest = largest
        if self._halves is not None:
            self._halves.transmitter.path_changed(now)

    def abort(self, reason: str = "") -> None:
        """End the association. :meth:`transmit` returns one last packet; no event follows."""
        if not self._over:
            self._end(chunk(chunks.ABORT, parameter(_ABORT_BY_USER, reason.encode())) if self.is_up else None)

    def _end(self, last_chunk: bytes | None) -> None:
        self._over = True
        self._packets = [self._envelope.seal(last_chunk)] if last_chunk is not None else []
        self._scheduler.clear()

    # What comes in

    def receive(self, packets: Iterable[bytes], now: float) -> None:
        """Take packets. What is not a packet of this association is dropped."""
        envelope = self._envelope
        for packet in packets:
            if self._over:
                break
            try:
                if envelope.is_ours(packet):
                    self._take(packet, now)
                elif (init := envelope.initial(packet)) is not None:
                    self._take_init(init, now)
            except ProtocolError as error:
                self._end(chunk(chunks.ABORT, parameter(_PROTOCOL_VIOLATION)))
                self.events.append(Down(str(error)))
        if self._halves is not None:
            self._note_what_came(self._halves)

    def _take(self, packet: bytes, now: float) -> None:
        at, end = COMMON_HEADER, len(packet)
        inbound = self._halves.inbound if self._halves is not None else None
        expected = I_DATA if self.interleaved else DATA
        has_data, controls = False, 0
        while at + 4 <= end:
            kind, flags, length = HEAD.unpack_from(packet, at)
            last = at + length
            if length < 4 or last > end:
                raise ProtocolError("a chunk that is cut off")
            if kind == expected and inbound is not None:
                has_data = True
                if length <= (I_DATA_HEADER if kind == I_DATA else DATA_HEADER):
                    raise ProtocolError("a chunk without data")
                if kind == I_DATA:
                    tsn, stream, _, number, ppid = I_DATA_BODY.unpack_from(packet, at + 4)
                    inbound.i_data(tsn, flags, stream, number, ppid, packet[at + I_DATA_HEADER : last])
                else:
                    tsn, stream, number, ppid = DATA_BODY.unpack_from(packet, at + 4)
                    inbound.data(tsn, flags, stream, number, ppid, packet[at + DATA_HEADER : last])
            else:
                controls += 1
                if controls > MAX_CONTROL or not self._take_control(kind, packet[at + 4 : last], now):
                    break
                if inbound is None and self._halves is not None:
                    inbound, expected = self._halves.inbound, I_DATA if self.interleaved else DATA
            at = (last + 3) & ~3
        if has_data:
            self._acknowledge_soon(now)

    def _acknowledge_soon(self, now: float) -> None:
        self._unacknowledged += 1
        if self._sack_at is None:
            self._sack_at = now + SACK_DELAY

    def _take_init(self, body: bytes, now: float) -> None:
        if len(self._packets) < MAX_ANSWERS and (answer := self._handshake.answer(body, now)) is not None:
            self._packets.append(self._envelope.seal_for(*answer))

    def _take_control(self, kind: int, body: bytes, now: float) -> bool:
        """Take a chunk other than DATA. Return whether to go on with the packet."""
        if kind == chunks.SACK and self._halves is not None:
            self._halves.transmitter.acknowledged(decode_sack(body), now)
        elif kind == chunks.COOKIE_ECHO:
            if self._handshake.echoed(body, now):
                self._establish(now)
                self._answer(chunk(chunks.COOKIE_ACK))
        elif kind == chunks.INIT_ACK:
            self._handshake.acknowledged(body, now)
        elif kind == chunks.COOKIE_ACK:
            self._handshake.completed()
            self._establish(now)
        elif kind == chunks.ABORT:
            self._end(None)
            self.events.append(Down(""))
        elif kind == chunks.SHUTDOWN:
            # The peer closes its connection; there is nobody to whom to send the rest.
            self._end(chunk(chunks.SHUTDOWN_ACK))
            self.events.append(Down(""))
        elif kind == chunks.HEARTBEAT:
            self._answer(acknowledge_heartbeat(body))
        elif self._halves is not None:
            return self._take_other(kind, body, self._halves, now)
        return not self._over

    def _take_other(self, kind: int, body: bytes, halves: _Established, now: float) -> bool:
        if kind == chunks.FORWARD_TSN and not self.interleaved:
            halves.inbound.forward(*decode_forward_tsn(body))
            self._acknowledge_soon(now)
        elif kind == chunks.I_FORWARD_TSN and self.interleaved:
            halves.inbound.i_forward(*decode_i_forward_tsn(body))
            self._acknowledge_soon(now)
        elif kind == chunks.RE_CONFIG:
            halves.resets.receive(body, halves.inbound.cumulative)
        elif kind == chunks.HEARTBEAT_ACK:
            halves.transmitter.probe_acknowledged(heartbeat_information(body), now)
        elif kind not in chunks.KNOWN:
            # The highest bits say whether to complain, and whether to read on (RFC 9260, section 3.2).
            if kind & 0x40:
                self._answer(chunk(chunks.ERROR, parameter(_UNRECOGNIZED_CHUNK, HEAD.pack(kind, 0, 4))))
            return bool(kind & 0x80)
        return True

    def _answer(self, answer: bytes) -> None:
        if len(self._answers) < MAX_ANSWERS:
            self._answers.append(answer)

    def _establish(self, now: float) -> None:
        handshake, peer = self._handshake, self._handshake.peer
        if handshake.stage is not Stage.ESTABLISHED or self._halves is not None or peer is None:
            return
        first_tsn, envelope, limits = handshake.ours.tsn, self._envelope, self._limits
        envelope.address(peer.tag)
        envelope.zero_checksum = peer.zero_checksum
        self.interleaved = self._scheduler.interleaved = {chunks.I_DATA, chunks.I_FORWARD_TSN} <= peer.extensions
        window = limits.interleaved_window if self.interleaved else limits.window
        self._halves = _Established(
            Transmitter(envelope, self.path, self._scheduler, self._more, first_tsn, peer.window, now),
            Inbound(peer.tsn, window, limits.max_open, self.interleaved),
            Resets(first_tsn, peer.tsn, limits.max_streams),
        )
        self.events.append(Up())

    def _note_what_came(self, halves: _Established) -> None:
        inbound, resets = halves.inbound, halves.resets
        if resets.deferred_to is not None and inbound.cumulative >= resets.deferred_to:
            resets.arrived(inbound.cumulative)
        if inbound.messages:
            self.messages += inbound.messages
            inbound.messages.clear()
        if resets.by_peer or resets.all_by_peer:
            streams = None if resets.all_by_peer else tuple(resets.by_peer)
            resets.by_peer, resets.all_by_peer = [], False
            inbound.reset(streams)
            self.events.append(StreamsReset(streams))
        if resets.confirmed or resets.refused:
            self.events.append(ResetDone(self._finish_resets(halves)))

    def _finish_resets(self, halves: _Established) -> tuple[int, ...]:
        confirmed, refused = halves.resets.take_done()
        for stream in confirmed:
            self._scheduler.forget(stream)
            halves.transmitter.sending.forget(stream)
        return (*confirmed, *refused)

    # What goes out

    def next_time(self) -> float | None:
        """When to call :meth:`transmit`, if nothing comes before; None: not by itself."""
        if self._over:
            return None
        if self._halves is None:
            return self._handshake.next_time
        times = [self._halves.transmitter.next_time(), self._sack_at, self._halves.resets.next_time]
        return min((each for each in times if each is not None), default=None)

    def transmit(self, now: float) -> list[bytes]:
        """Return packets to send now, in order, about 64 KiB. Call it again until there are none."""
        packets, self._packets = self._packets, []
        if self._over:
            return packets
        if (halves := self._halves) is not None:
            halves.transmitter.tick(now)
            halves.transmitter.transmit(packets, self._controls(halves, now), now)
            return packets
        if (due := self._handshake.take(now)) is not None:
            packets.append(self._envelope.seal_for(*due))
        return packets

    def take_oversized(self) -> list[bytes]:
        """Return packets that :meth:`transmit` has left out because IP has to fragment them."""
        return self._halves.transmitter.take_oversized() if self._halves is not None else []

    def _controls(self, halves: _Established, now: float) -> list[bytes]:
        """Return the chunks that go before data."""
        controls, self._answers = self._answers, []
        sending, resets = halves.transmitter.sending, halves.resets
        if self._sack_is_due(halves.inbound, now):
            cumulative, window, gaps, duplicates = halves.inbound.take_sack(MAX_GAPS)
            controls.append(encode_sack(Sack(cumulative, window, tuple(gaps), tuple(duplicates))))
            repeats = self._unacknowledged > MAX_UNREPEATED
            self._unacknowledged, self._sack_at = 0, now + SACK_DELAY if repeats else None
        if sending.forward_due:
            controls.append(sending.take_forward(now))
        transmitter = halves.transmitter
        bodies = resets.take(transmitter.is_busy, sending.acked_to, transmitter.round_trips.timeout, now)
        controls += [chunk(chunks.RE_CONFIG, body) for body in bodies]
        return controls

    def _sack_is_due(self, inbound: Inbound, now: float) -> bool:
        """Whether to acknowledge now: every second packet, gaps, what has waited, and what can go with data."""
        if inbound.sack_now or self._unacknowledged > 1 or (self._unacknowledged and self._scheduler.has_some):
            return True
        return self._sack_at is not None and now >= self._sack_at
