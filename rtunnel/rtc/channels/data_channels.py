"""The data channels of a connection (RFC 8831, RFC 8832).

PeerConnection  <-  channels  <-  DataChannels  <-  Pump  <->  Association (pure)
                                                     |
                                                    Path (DTLS, UDP)
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

from rtunnel.rtc.channels.channel import Channel
from rtunnel.rtc.channels.pump import PacketPath, Pump
from rtunnel.rtc.traffic import Traffic
from rtunnel.wire.sctp.association import Association
from rtunnel.wire.sctp.chunks import (
    PPID_BINARY,
    PPID_BINARY_EMPTY,
    PPID_DCEP,
    PPID_STRING,
    PPID_STRING_EMPTY,
)
from rtunnel.wire.sctp.events import AssociationLimits, Event, ResetDone, StreamsReset, Up
from rtunnel.wire.webrtc.channel_open import ACK, OPEN, decode_open, encode_open

#: The SCTP port in our descriptions; each DTLS connection carries only one association.
PORT = 5000
#: The largest message that this end takes, in bytes.
MAX_MESSAGE = 256 * 1024
#: The largest that a peer takes that does not say (RFC 8841, section 6.1).
DEFAULT_MAX_MESSAGE = 64 * 1024
#: The largest packet for a peer that does not say what it takes, in bytes. No other stack sends larger ones, so most
#: were never tried with any.
DEFAULT_MAX_PACKET = 1188
#: What IPv6 and UDP add to a packet, in bytes.
_IP_AND_UDP = 48


class ChannelsUser(Protocol):
    """The user of the channels; see :class:`rtunnel.rtc.aiortc.peer_connection.PeerConnection`."""

    def association_up(self) -> None: ...
    def association_down(self) -> None: ...
    def association_broken(self, reason: str) -> None: ...
    def channel_arrived(self, channel: Channel) -> None: ...
    def has_room(self) -> None: ...


class DataChannels:
    """The channels of one connection.

    :param max_channels: channels that may be open at once, ours and the peer's together; a peer that opens more loses
        the connection.
    :ivar max_message: the largest message that the peer accepts, in bytes.
    """

    log = Logger()

    def __init__(self, user: ChannelsUser, max_channels: int) -> None:
        self._user = user
        self._max_channels = max_channels
        self._association: Association | None = None
        self._path: PacketPath | None = None
        self._pump: Pump | None = None
        self._loop = asyncio.get_running_loop()
        self._channels: dict[int, Channel] = {}
        #: Channels of ours that were opened before the association was up.
        self._early: list[Channel] = []
        #: Streams whose channel is closed here, and that the peer has not reset yet: no new channel may use them.
        self._half_reset: set[int] = set()
        #: Streams that the peer has reset first.
        self._reset_by_peer: set[int] = set()
        self._next_stream = 0
        self._over = False
        self._traffic = Traffic()
        self.max_message = DEFAULT_MAX_MESSAGE
        self._max_packet = DEFAULT_MAX_PACKET

    @property
    def buffered(self) -> int:
        """How many bytes were sent on reliable channels and have not been transmitted yet."""
        return self._association.buffered if self._association is not None else 0

    @property
    def kept(self) -> int:
        """How many bytes of memory take what is in flight, and what was received in parts or too early."""
        return self._association.kept if self._association is not None else 0

    @property
    def datagrams_dropped(self) -> int:
        """How many messages on unreliable channels were dropped because they came too fast."""
        return self._association.counts.dropped if self._association is not None else 0

    @property
    def round_trip(self) -> float:
        """The smoothed round-trip time in seconds; 0.0 if unknown."""
        return self._association.round_trip if self._association is not None else 0.0

    @property
    def traffic(self) -> Traffic:
        """What has passed: always the same object, which is brought up to date by this."""
        traffic = self._traffic
        if self._association is not None:
            counts = self._association.counts
            traffic.bytes_sent = counts.bytes_begun
            traffic.packets_sent, traffic.packets_lost = counts.sent, counts.repeated
            traffic.packets_received, traffic.packets_missed = counts.received, counts.missed
        return traffic

    # The association

    def start(
        self,
        path: PacketPath,
        *,
        initiates: bool,
        even: bool,
        peer_port: int,
        max_message: int | None,
        max_packet: int | None = None,
    ) -> None:
        """Establish the association.

        :param initiates: whether this end begins. If it does not, the peer must.
        :param even: whether our channels have even stream numbers: we are the client of DTLS (RFC 8832, section 6).
        :param peer_port: the peer's SCTP port.
        :param max_message: the largest message that it takes, in bytes; 0: any (RFC 8841, section 6.1); None: it does
            not say.
        :param max_packet: the largest packet; None: it does not say.
        """
        if self._over:
            return
        self._path = path
        if max_message is not None:
            self.max_message = max_message or MAX_MESSAGE
        self._max_packet = max_packet or DEFAULT_MAX_PACKET
        self._next_stream = 0 if even else 1
        now = time.monotonic()
        limits = AssociationLimits(
            max_open=self._max_channels, largest_packet=self._largest, overhead=path.overhead + _IP_AND_UDP
        )
        association = self._association = Association(PORT, peer_port, limits, os.urandom, self._more, now)
        self._pump = Pump(self._loop, association, path, self._deliver)
        if initiates:
            association.connect(now)
        self._pump.flush()

    @property
    def _largest(self) -> int:
        assert self._path is not None
        return min(self._path.largest, self._max_packet)

    def packets_received(self, packets: list[bytes]) -> None:
        """Take decrypted packets."""
        if self._pump is not None:
            self._pump.received(packets)

    def packet_too_big(self, size: int) -> None:
        """Take note that the system did not send a packet of *size* bytes, as its link does not take so much."""
        if self._association is not None:
            self._association.path.too_big(size, time.monotonic())

    def path_changed(self) -> None:
        """Take note that packets go another way from now on."""
        if self._association is not None and self._pump is not None:
            self._association.path_changed(self._largest, time.monotonic())
            self._pump.flush()

    def _more(self) -> None:
        # The user may have ended all when it was asked before, in the same burst.
        if not self._over:
            self.tell(self._user.has_room)

    def _flush_soon(self) -> None:
        if self._pump is not None:
            self._pump.flush_soon()

    # What has come

    def _deliver(self) -> None:
        association = self._association
        assert association is not None
        while association.messages or association.events:
            events, association.events = association.events, []
            messages, association.messages = association.messages, []
            # A stream may be in use again as soon as its reset is done, but it is over only behind its last message.
            self._take_events([event for event in events if isinstance(event, Up | ResetDone)])
            for stream, kind, data in messages:
                if self._over:
                    return
                self._take_message(stream, kind, data)
            self._take_events([event for event in events if not isinstance(event, Up | ResetDone)])

    def _take_events(self, events: list[Event]) -> None:
        for event in events:
            if self._over:
                return
            self._take_event(event)

    def _take_message(self, stream: int, kind: int, data: bytes) -> None:
        channel = self._channels.get(stream)
        if kind == PPID_DCEP:
            if data[:1] == OPEN:
                self._channel_arrives(stream, data)
            elif data[:1] == ACK and channel is not None and channel.state == "connecting":
                channel.become("open")
            return
        self._traffic.bytes_received += len(data)
        if channel is None:
            return
        if not channel.reliable and self._association is not None:
            self._association.datagram_came(time.monotonic())
        if kind in (PPID_BINARY, PPID_STRING):
            channel.got(data, text=kind == PPID_STRING)
        elif kind in (PPID_BINARY_EMPTY, PPID_STRING_EMPTY):
            channel.got(b"", text=kind == PPID_STRING_EMPTY)

    def _take_event(self, event: Event) -> None:
        if isinstance(event, Up):
            self.tell(self._user.association_up)
            # The user may close others when it is told of one, or end all.
            while self._early:
                self._assign(self._early.pop(0))
        elif isinstance(event, StreamsReset):
            for stream in list(self._channels) if event.streams is None else event.streams:
                self._peer_has_reset(stream)
        elif isinstance(event, ResetDone):
            for stream in event.streams:
                self._reset_is_done(stream)
        elif event.reason:
            self._over = True
            self.tell(self._user.association_broken, event.reason)
        else:
            self.tell(self._user.association_down)

    def tell(self, listener: Callable[..., None], *arguments: object) -> None:
        """Call *listener*, and log exceptions: a bug of ours must not look like a protocol violation of the peer."""
        try:
            listener(*arguments)
        except Exception:
            self.log.failure("in an event of an association")

    # Channels

    def open_channel(self, label: str, protocol: str, reliable: bool) -> Channel:
        """Open a channel (RFC 8832, section 5.1)."""
        channel = Channel(self, label, protocol, reliable, None)
        if self._association is not None and self._association.is_up:
            self._assign(channel)
        else:
            self._early.append(channel)
        return channel

    def _assign(self, channel: Channel) -> None:
        association = self._association
        assert association is not None
        number = self._next_stream
        while number in self._channels or number in self._half_reset:
            number += 2
        if number >= association.outbound_streams:
            channel.become("closed")
            return
        channel.stream = number
        self._channels[number] = channel
        self._put(number, PPID_DCEP, encode_open(channel.label, channel.protocol, channel.reliable))

    def send(self, channel: Channel, kind: int, data: bytes) -> None:
        """Send a message.

        :param kind: its payload protocol identifier (RFC 8831, section 8).
        """
        if channel.stream is not None:
            self._put(channel.stream, kind, data, reliable=channel.reliable)

    def _put(self, stream: int, kind: int, data: bytes, reliable: bool = True) -> None:
        if self._association is not None:
            self._association.send(stream, kind, data, reliable, None if reliable else 1, time.monotonic())
            self._flush_soon()

    def close_channel(self, channel: Channel) -> None:
        """Close a channel after what was sent on it."""
        if channel.state in ("closing", "closed"):
            return
        if channel.stream is None:
            self._early.remove(channel)
            channel.become("closed")
            return
        channel.become("closing")
        if self._association is not None:
            self._association.reset(channel.stream)
            self._flush_soon()

    def _channel_arrives(self, stream: int, data: bytes) -> None:
        association = self._association
        assert association is not None
        # The peer is using the stream again, so it has performed our reset, even if its answer was lost.
        for done in association.reset_is_known(stream):
            self._reset_is_done(done)
        if self._over:
            return
        self._half_reset.discard(stream)
        taken = self._channels.get(stream)
        if taken is not None:
            self._refuse("the stream already has a channel", taken)
            return
        if len(self._channels) >= self._max_channels:
            self._over = True
            association.abort("too many channels")
            self.tell(self._user.association_broken, f"more than {self._max_channels} channels")
            return
        try:
            label, protocol, reliable = decode_open(data)
        except ValueError as error:
            channel = self._channels[stream] = Channel(self, "", "", True, stream)
            self._refuse(str(error), channel)
            return
        channel = self._channels[stream] = Channel(self, label, protocol, reliable, stream)
        self._put(stream, PPID_DCEP, ACK)
        self.tell(self._user.channel_arrived, channel)

    def _refuse(self, why: str, channel: Channel) -> None:
        """Close *channel*: the message that opens it is invalid (RFC 8832, section 6)."""
        self.log.debug("a data channel on stream {stream} is closed: {why}", stream=channel.stream, why=why)
        self.close_channel(channel)

    def _peer_has_reset(self, stream: int) -> None:
        if stream in self._half_reset:
            self._half_reset.discard(stream)
            return
        channel = self._channels.get(stream)
        if channel is not None:
            self._reset_by_peer.add(stream)
            self.close_channel(channel)

    def _reset_is_done(self, stream: int) -> None:
        channel = self._channels.pop(stream, None)
        if channel is None:
            return
        if stream in self._reset_by_peer:
            self._reset_by_peer.discard(stream)
        else:
            self._half_reset.add(stream)
        channel.become("closed")

    # The receive window

    def hold(self, count: int) -> None:
        """Shrink the receive window by *count* bytes."""
        if self._association is not None:
            self._association.hold(count)

    def release(self, count: int) -> None:
        """Widen it again."""
        if self._association is not None:
            self._association.release(count)
            self._flush_soon()

    # Closing

    def drop(self) -> None:
        """Close all channels without telling the peer."""
        self._over = True
        if self._pump is not None:
            self._pump.stop()
        early, channels = self._early, list(self._channels.values())
        self._early = []
        self._channels.clear()
        for channel in (*early, *channels):
            channel.become("closed")

    def stop(self) -> None:
        """Tell the peer that the association is over, and the user of nothing more."""
        if self._association is not None and self._pump is not None:
            self._association.abort()
            self._pump.send_last()
        self.drop()
        self._traffic = self.traffic
        # No reference cycles: an association holds much, and would stay until the garbage collector comes.
        self._association = self._path = self._pump = None
        del self._user
