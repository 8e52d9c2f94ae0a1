"""Data channels on aiortc's SCTP association (RFC 8831, RFC 8832, RFC 9260).

This subclass overrides private methods of aiortc's ``RTCSctpTransport``. Its public interface has no back-pressure and
no priorities, and a hostile peer makes its assertions fail. The differences:

- Nothing is queued ahead: when the association can send, it asks its user for more (:meth:`AssociationUser.has_room`).
- Messages on unreliable channels, and those that open channels, go before messages on reliable channels.
- The receive window is enforced, and shrinks by bytes that wait for a reader.
- What a peer sends costs no more work than its bytes are worth (:mod:`rtunnel.rtc.aiortc.inbound`).
- Whatever a peer sends ends as an event of a channel, or as one call of :meth:`AssociationUser.association_broken`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

from aiortc import rtcsctptransport
from aiortc.rtcdatachannel import RTCDataChannel
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import (
    DATA_CHANNEL_ACK,
    DATA_CHANNEL_OPEN,
    LOCAL_MAX_MESSAGE_SIZE,
    RECONFIG_RESULT_SUCCESS_PERFORMED,
    SCTP_RTO_MAX,
    SCTP_TSN_MODULO,
    USERDATA_MAX_LENGTH,
    WEBRTC_BINARY,
    WEBRTC_BINARY_EMPTY,
    WEBRTC_DCEP,
    WEBRTC_STRING,
    WEBRTC_STRING_EMPTY,
    BaseInitChunk,
    Chunk,
    CookieAckChunk,
    CookieEchoChunk,
    DataChunk,
    ReconfigChunk,
    RTCSctpCapabilities,
    RTCSctpTransport,
    SackChunk,
    StreamResetResponseParam,
)
from aiortc.utils import uint32_gt
from OpenSSL import SSL

from rtunnel.rtc.aiortc.channel import AssociationUser, Channel
from rtunnel.rtc.aiortc.congestion import DelayLimit
from rtunnel.rtc.aiortc.inbound import MAX_CONTROL, RECEIVE_WINDOW, Receiver, parameters_are_sound
from rtunnel.rtc.aiortc.send_queue import SendQueue
from rtunnel.wire.webrtc.channel_open import decode_open, encode_open

# aiortc takes round trips and the age of cookies by the time of day, which may be set back.
vars(rtcsctptransport)["time"] = SimpleNamespace(time=time.monotonic)

#: The shortest retransmission time-out, in seconds. RFC 9260 recommends 1; browsers use 0.4.
RTO_MIN = 0.4
#: The initial slow-start threshold, in bytes. Beyond what a socket of the peer holds (208 KiB of kernel memory by
#: default on Linux), doubling the window ends in the loss of many packets at once.
FIRST_THRESHOLD = 256 * 1024
#: The most bytes that are sent in one burst.
BURST = 4 * USERDATA_MAX_LENGTH
#: What a chunk costs in memory at most, in bytes: its object, and 1,200 bytes.
CHUNK_COST = 2048
#: How many bytes may be in flight, whatever window the peer advertises.
MAX_FLIGHT = 2 * 1024 * 1024


class Association(Receiver):
    """An SCTP association over DTLS, with data channels.

    :param max_channels: channels that may be open at once, ours and the peer's together; a peer that opens more loses
        the connection.
    """

    def __init__(self, transport: RTCDtlsTransport, user: AssociationUser, max_channels: int) -> None:
        super().__init__(transport, max_channels)
        self._user = user
        self._delay_limit = DelayLimit(time.monotonic())
        #: Whether there may be chunks to retransmit.
        self._retransmits = False
        #: The receive window that the peer last advertised. With nothing in flight, one message may be sent even if it
        #: is 0 (RFC 9260, section 6.1, rule A).
        self._peer_window = RECEIVE_WINDOW
        self._queue = SendQueue()
        #: How many chunks of each kind were in the present packet.
        self._control: Counter[int] = Counter()
        self._flushing = False
        self._flush_is_due = False
        #: Whether channels and queues were dropped.
        self._dropped = False

    @property
    def buffered(self) -> int:
        """How many bytes were sent on reliable channels and have not been transmitted yet."""
        return self._queue.stream_bytes + sum(len(chunk.user_data) for chunk in self._outbound_queue)

    @property
    def kept(self) -> int:
        """How many bytes of memory take the chunks that are in flight, or were received in parts or too early."""
        return (len(self._sent_queue) + len(self._outbound_queue) + len(self._reassembly)) * CHUNK_COST

    @property
    def datagrams_dropped(self) -> int:
        """How many messages on unreliable channels were dropped because they came too fast."""
        return self._queue.dropped

    @property
    def round_trip(self) -> float:
        """The smoothed round-trip time in seconds; 0.0 if unknown."""
        return self._srtt or 0.0

    @property
    def max_message(self) -> int:
        """The largest message that the peer accepts, in bytes."""
        return self._remote_max_message_size or LOCAL_MAX_MESSAGE_SIZE

    async def start_with(self, max_message: int | None, port: int) -> None:
        """Establish the association.

        :param max_message: ``a=max-message-size`` of the peer's description; None if it has none.
        :param port: the peer's SCTP port.
        """
        await self.start(None if max_message is None else RTCSctpCapabilities(maxMessageSize=max_message), port)

    # Sending

    def open_channel(self, label: str, protocol: str, reliable: bool) -> Channel:
        """Open a channel (RFC 8832, section 5.1)."""
        channel = Channel(self, label, protocol, reliable, None)
        self._queue.put(channel, WEBRTC_DCEP, encode_open(label, protocol, reliable))
        self._flush_soon()
        return channel

    def send(self, channel: Channel, kind: int, data: bytes) -> None:
        """Send a message.

        :param kind: its payload protocol identifier (RFC 8831, section 8).
        """
        if not channel.reliable:
            self._delay_limit.datagram(time.monotonic())
        self._queue.put(channel, kind, data)
        self._flush_soon()

    def close_channel(self, channel: Channel) -> None:
        """Close a channel after what was sent on it."""
        if channel.id is None and channel.readyState == "connecting":
            self._queue.remove(channel)
        self._data_channel_close(cast(RTCDataChannel, channel))

    def _data_channel_close(self, channel: RTCDataChannel) -> None:
        super()._data_channel_close(channel)
        # aiortc requests a reset at once only if no other is due.
        self._flush_soon()

    def _flush_soon(self) -> None:
        # A running flush sees what is queued.
        if not (self._flushing or self._flush_is_due):
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_is_due = False
        self._run(self._data_channel_flush())

    async def _data_channel_flush(self) -> None:
        """Send messages while the congestion window lets them start at once."""
        if self._association_state != self.State.ESTABLISHED or self._flushing:
            return
        self._flushing = True
        try:
            while not self._outbound_queue:
                has_window = not 0 < self._flight_size >= self._peer_window
                if has_window and self._queue.wants_streams:
                    self.tell(self._user.has_room)
                message = self._queue.take(streams=has_window)
                if message is None:
                    break
                await self._send_message(*message)
        finally:
            self._flushing = False
        await self._transmit_reconfig()

    async def _send_message(self, channel: Channel, kind: int, data: bytes) -> None:
        if channel.id is None:
            number = self._data_channel_id
            assert number is not None
            while number in self._data_channels:
                number += 2
            if number >= self._outbound_streams_count:
                channel._setReadyState("closed")
                return
            self._data_channels[number] = cast(RTCDataChannel, channel)
            channel._setId(number)
        if kind == WEBRTC_DCEP:
            await self._send(channel.id or 0, kind, data)
        else:
            self.traffic.bytes_sent += len(data)
            await self._send(
                channel.id or 0, kind, data, max_retransmits=channel.maxRetransmits, ordered=channel.ordered
            )

    async def _transmit(self) -> None:
        """Send what the congestion window allows. Go through everything in flight only after a loss."""
        if cast(int | None, self._fast_recovery_exit) is not None:
            self._retransmits = True
        if self._retransmits or self._forward_tsn_chunk is not None:
            await super()._transmit()
            self._retransmits = any(chunk._retransmit for chunk in self._sent_queue)
            return
        window = min(self._flight_size + BURST, self._cwnd)
        while self._outbound_queue and self._flight_size < window:
            chunk = self._outbound_queue.popleft()
            self._sent_queue.append(chunk)
            self._flight_size_increase(chunk)
            chunk._sent_count += 1
            chunk._sent_time = time.monotonic()
            await self._send_chunk(chunk)
            if self._t3_handle is None:
                self._t3_start()

    def _t3_expired(self) -> None:
        self._retransmits = True
        super()._t3_expired()

    def _maybe_abandon(self, chunk: DataChunk) -> bool:
        was_abandoned = chunk._abandoned
        is_abandoned = super()._maybe_abandon(chunk)
        self.traffic.packets_lost += is_abandoned and not was_abandoned
        return is_abandoned

    def _update_rto(self, R: float) -> None:
        super()._update_rto(R)
        window = self._delay_limit.window(self._cwnd, R, time.monotonic())
        if window < self._cwnd:
            self._ssthresh = self._cwnd if self._delay_limit.is_probing else window
            self._cwnd = window
        assert self._srtt is not None
        assert self._rttvar is not None
        self._rto = max(RTO_MIN, min(self._srtt + 4 * self._rttvar, SCTP_RTO_MAX))

    async def _transmit_reconfig(self) -> None:
        """Reset streams, but only those on which everything that was sent is acknowledged.

        RFC 6525 lets a request name data that is still under way, but some peers (werift) end the channel at once.
        """
        if not self._reconfig_queue or self._reconfig_request is not None:
            return
        busy = self._queue.streams_of()
        busy.update(chunk.stream_id for queue in (self._outbound_queue, self._sent_queue) for chunk in queue)
        # Each acknowledgement makes another attempt.
        later = [stream for stream in self._reconfig_queue if stream in busy]
        self._reconfig_queue = [stream for stream in self._reconfig_queue if stream not in busy]
        await super()._transmit_reconfig()
        self._reconfig_queue += later

    # Receiving

    async def _send_chunk(self, chunk: Chunk) -> None:
        if isinstance(chunk, DataChunk):
            if chunk._sent_count == 1:
                self.traffic.packets_sent += 1
            else:
                # Acknowledgements of what is in flight now say nothing of this copy.
                chunk._misses = -(self._flight_size // USERDATA_MAX_LENGTH)
                self.traffic.packets_lost += chunk._sent_count == 2
        try:
            await super()._send_chunk(chunk)
        except SSL.Error as error:
            # DTLS is closed; this chunk comes too late.
            raise ConnectionError(str(error)) from error

    async def _handle_data(self, data: bytes) -> None:
        if self._over or not parameters_are_sound(data):
            return
        self._control.clear()
        try:
            await super()._handle_data(data)
        except ConnectionError:
            # The answer cannot be sent because the transport below is closing. It reports that itself.
            pass
        except Exception as error:
            # aiortc raises many kinds of exceptions. Those of our users do not come here; see tell().
            self._break(f"an invalid SCTP packet ({type(error).__name__})")

    def _break(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._user.association_broken(reason)

    async def _receive_chunk(self, chunk: Chunk) -> None:
        # An earlier chunk of the packet may have ended the association.
        if self._over:
            return
        if not isinstance(chunk, DataChunk):
            self._control[chunk.type] += 1
            if self._control[chunk.type] > MAX_CONTROL:
                return
        if isinstance(chunk, BaseInitChunk) and (self._up or self._inbound_streams):
            # A late copy. The numbers of what has come stay as they are.
            return
        if isinstance(chunk, CookieEchoChunk) and self._up:
            # A copy: our answer was lost. It changes nothing.
            await self._send_chunk(CookieAckChunk())
            return
        if isinstance(chunk, ReconfigChunk):
            # There are no more in an honest one (RFC 6525, section 3.1).
            del chunk.params[2:]
        await super()._receive_chunk(chunk)

    async def _receive_sack_chunk(self, chunk: SackChunk) -> None:
        outstanding = (self._local_tsn - chunk.cumulative_tsn) % SCTP_TSN_MODULO
        if outstanding == 0 or uint32_gt(chunk.cumulative_tsn, self._local_tsn):
            self._break("a SACK for data that was not sent")
            return
        gaps, end = [], 0
        for gap in chunk.gaps:
            if end < gap[0] <= gap[1] < outstanding:
                gaps.append(gap)
                end = gap[1]
        chunk.gaps = gaps
        if gaps:
            self._retransmits = True
        self._peer_window = min(chunk.advertised_rwnd, MAX_FLIGHT)
        await super()._receive_sack_chunk(chunk)
        if not self._outbound_queue:
            await self._data_channel_flush()

    async def _data_channel_receive(self, stream_id: int, pp_id: int, data: bytes) -> None:
        if self._over:
            return
        channel = cast(Channel | None, self._data_channels.get(stream_id))
        if pp_id == WEBRTC_DCEP:
            if data[:1] == bytes([DATA_CHANNEL_OPEN]):
                await self._channel_arrives(stream_id, data)
            elif data[:1] == bytes([DATA_CHANNEL_ACK]) and channel is not None and channel.readyState == "connecting":
                channel._setReadyState("open")
            return
        if channel is None:
            return
        if not channel.reliable:
            self._delay_limit.datagram(time.monotonic())
        if pp_id in (WEBRTC_BINARY, WEBRTC_STRING):
            channel.got(data, text=pp_id == WEBRTC_STRING)
        elif pp_id in (WEBRTC_BINARY_EMPTY, WEBRTC_STRING_EMPTY):
            channel.got(b"", text=pp_id == WEBRTC_STRING_EMPTY)

    async def _channel_arrives(self, stream_id: int, data: bytes) -> None:
        if stream_id in self._data_channel_inbound_reset:
            await self._reset_is_performed(stream_id)
        if stream_id in self._data_channels:
            self._refuse("the stream already has a channel", cast(Channel, self._data_channels[stream_id]))
            return
        if len(self._data_channels) >= self._max_channels:
            self._break(f"more than {self._max_channels} channels")
            return
        try:
            label, protocol, reliable = decode_open(data)
        except ValueError as error:
            channel = Channel(self, "", "", True, stream_id)
            self._data_channels[stream_id] = cast(RTCDataChannel, channel)
            self._refuse(str(error), channel)
            return
        channel = Channel(self, label, protocol, reliable, stream_id)
        self._data_channels[stream_id] = cast(RTCDataChannel, channel)
        self._queue.put(channel, WEBRTC_DCEP, bytes([DATA_CHANNEL_ACK]))
        self._flush_soon()
        self.tell(self._user.channel_arrived, channel)

    def _refuse(self, why: str, channel: Channel) -> None:
        """Close *channel*: the message that opens it is invalid (RFC 8832, section 6)."""
        self.log.debug("a data channel on stream {stream} is closed: {why}", stream=channel.id, why=why)
        self.close_channel(channel)

    async def _reset_is_performed(self, stream_id: int) -> None:
        """Complete a reset whose answer was lost: the peer is already using the stream again."""
        request = self._reconfig_request
        if request is not None and stream_id in request.streams:
            await self._receive_reconfig_param(
                StreamResetResponseParam(request.request_sequence, RECONFIG_RESULT_SUCCESS_PERFORMED)
            )

    def tell(self, listener: Callable[..., None], *arguments: object) -> None:
        """Call *listener*, and log exceptions: a bug of ours must not look like a protocol violation of the peer."""
        try:
            listener(*arguments)
        except Exception:
            self.log.failure("in an event of an association")

    # Closing

    def drop(self) -> None:
        """Close all channels without telling the peer."""
        if not self._dropped:
            self._set_state(self.State.CLOSED)

    async def stop(self) -> None:
        """See aiortc. The user is told of nothing more."""
        await super().stop()
        del self._user

    def _set_state(self, state: RTCSctpTransport.State) -> None:
        super()._set_state(state)
        if state == self.State.ESTABLISHED and not self._up:
            self._up = True
            self._ssthresh = min(self._ssthresh, FIRST_THRESHOLD)
            self.tell(self._user.association_up)
        elif state == self.State.CLOSED and not self._dropped:
            self._over = self._dropped = True
            self._stop_sack_timer()
            for channel in self._queue.clear():
                channel._setReadyState("closed")
            self._outbound_queue.clear()
            self._sent_queue.clear()
            self.tell(self._user.association_down)
