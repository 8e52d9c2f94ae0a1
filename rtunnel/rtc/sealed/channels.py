"""The sealed channels of a peer connection: for streams and flows it is what an unsealed peer connection is.

What comes before the other end is accepted is held, with a bound; what this end opens before it is accepted waits
where it would be too much for the other end to hold.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from rtunnel.rtc.interfaces import IChannel, IChannels, IChannelUser, IPeerConnection
from rtunnel.rtc.sealed.channel import SealedChannel
from rtunnel.wire.data.keys import Root
from rtunnel.wire.webrtc.sealed_keys import Side
from rtunnel.wire.webrtc.sealed_messages import LONGER
from rtunnel.wire.webrtc.sealed_open import LABEL, Arriving, Opening

#: How many channels, and bytes on reliable ones, a client sends before the host has accepted it ...
EARLY_CHANNELS, EARLY_BYTES = 64, 128 * 1024
#: ... and how many a host holds by then. A message that was allowed may go beyond what the client sends.
HELD_CHANNELS, HELD_BYTES = 2 * EARLY_CHANNELS, 4 * EARLY_BYTES
#: What a message takes beside its bytes. Both ends count it.
PER_MESSAGE = 64
#: What a client has buffered by its own account when it has sent as much: more than streams or credit go on with.
_FULL = 1 << 30


class ChannelsUser(Protocol):
    """The user of the channels; see :class:`rtunnel.rtc.sealed.end.SealedEnd`."""

    def sealed_channel_arrived(self, channel: SealedChannel) -> None: ...
    def channel_not_sealed(self, channel: IChannel) -> None: ...
    def broken(self, why: str) -> None: ...


@implementer(IChannelUser)
class _Held:
    """A channel of the other end, which is not accepted yet."""

    def __init__(self, owner: SealedChannels, channel: IChannel) -> None:
        self._owner = owner
        self.channel = channel
        self.messages: list[bytes] = []
        self.is_closed = False
        channel.use(self)

    def channel_opened(self) -> None:
        """Do nothing: the other end has opened it."""

    def message_received(self, data: bytes) -> None:
        """Keep a message; lose a datagram if too much waits."""
        if self._owner.has_held(len(data) + PER_MESSAGE, may_lose=not self.channel.reliable):
            self.messages.append(data)

    def text_received(self, text: bytes) -> None:
        """End the connection: what is sealed is binary."""
        self._owner.broken("a text message that is not sealed")

    def channel_closed(self) -> None:
        """Take note that nothing more comes."""
        self.is_closed = True


@implementer(IChannels)
class SealedChannels:
    """All sealed channels of one connection.

    :param connection: carries them.
    :param side: which end this is.
    :param clock: provides the time.
    :ivar is_bound: whether the other end has accepted this one.
    :ivar open: the channels that are not closed.
    :ivar datagrams_forged: how many messages on unreliable channels were not authentic.
    """

    def __init__(self, connection: IPeerConnection, side: Side, user: ChannelsUser, clock: IReactorTime) -> None:
        self._connection = connection
        self._side = side
        self._user = user
        self._clock = clock
        self._opening: Opening | None = None
        self._arriving: Arriving | None = None
        self._waiting: list[SealedChannel] = []
        self._held: list[_Held] = []
        self._early_bytes = 0
        self._is_over = False
        self.held = 0
        self.is_bound = False
        self.open: dict[SealedChannel, None] = {}
        self.datagrams_forged = 0

    def start(self, root: Root) -> None:
        """Begin: the other end is accepted."""
        self._opening, self._arriving = Opening(root, self._side), Arriving(root, self._side)
        self._open_waiting()

    def take_held(self) -> None:
        """Take the channels that have come before."""
        held, self._held, self.held = self._held, [], 0
        for each in held:
            if not self._is_over:
                self._take(each.channel, each)

    def bound(self) -> None:
        """Send whatever there is: the other end has accepted this one."""
        self.is_bound = True
        self._open_waiting()

    # See IChannels

    @property
    def buffered(self) -> int:
        """See :class:`IChannels`."""
        return self._connection.buffered if self.is_bound or self._early_bytes < EARLY_BYTES else _FULL

    @property
    def round_trip(self) -> float:
        """See :class:`IChannels`."""
        return self._connection.round_trip

    @property
    def max_message(self) -> int:
        """See :class:`IChannels`."""
        return self._connection.max_message - LONGER

    def hold(self, count: int) -> None:
        """See :class:`IChannels`."""
        self._connection.hold(count)

    def release(self, count: int) -> None:
        """See :class:`IChannels`."""
        self._connection.release(count)

    def open_channel(self, label: str, protocol: str = "", reliable: bool = True) -> SealedChannel:
        """See :class:`IChannels`."""
        channel = SealedChannel(self, label, protocol, reliable)
        self.open[channel] = None
        if self._opening is None or (not self.is_bound and self._opening.ordinal >= EARLY_CHANNELS):
            self._waiting.append(channel)
        else:
            self._open(channel, self._opening)
        return channel

    def _open_waiting(self) -> None:
        while self._waiting and self._opening is not None:
            if not self.is_bound and self._opening.ordinal >= EARLY_CHANNELS:
                break
            channel = self._waiting.pop(0)
            # It may have been closed in the meantime.
            if channel in self.open:
                self._open(channel, self._opening)

    def _open(self, channel: SealedChannel, opening: Opening) -> None:
        if self._is_over:
            return
        try:
            protocol, seals = opening.open(channel.label, channel.protocol, reliable=channel.reliable)
        except ValueError:
            # Its user does not know it yet.
            self._clock.callLater(0, channel.channel_closed)
            return
        channel.carry(self._connection.open_channel(LABEL, protocol, channel.reliable), seals)

    # Channels of the other end

    def channel_arrived(self, channel: IChannel) -> None:
        """Take a data channel that the other end has opened."""
        if self._is_over:
            channel.close()
        elif channel.label != LABEL:
            self._user.channel_not_sealed(channel)
        elif self._arriving is not None:
            self._take(channel, None)
        elif len(self._held) < HELD_CHANNELS:
            self._held.append(_Held(self, channel))
        else:
            self.broken(f"more than {HELD_CHANNELS} channels before its bind")

    def has_held(self, count: int, *, may_lose: bool) -> bool:
        """Return whether *count* bytes more may be held; if not, the connection ends, unless they may be lost."""
        if self.held + count <= HELD_BYTES:
            self.held += count
            return True
        if not may_lose:
            self.broken(f"more than {HELD_BYTES} bytes before its bind")
        return False

    def _take(self, below: IChannel, held: _Held | None) -> None:
        assert self._arriving is not None
        try:
            label, service, seals = self._arriving.take(below.protocol, reliable=below.reliable)
        except ValueError as error:
            below.close()
            self.broken(str(error))
            return
        channel = SealedChannel(self, label, service, below.reliable)
        self.open[channel] = None
        channel.carry(below, seals)
        self._user.sealed_channel_arrived(channel)
        if held is None:
            return
        for message in held.messages:
            if not self._is_over:
                channel.message_received(message)
        if held.is_closed:
            channel.channel_closed()

    # Called by channels

    @property
    def now(self) -> float:
        """The time, in seconds."""
        return self._clock.seconds()

    def sent(self, count: int) -> None:
        """Count bytes that go out before the other end has accepted this one."""
        self._early_bytes += count + PER_MESSAGE

    def forged(self) -> None:
        """Count a datagram that was not authentic."""
        self.datagrams_forged += 1

    def broken(self, why: str) -> None:
        """End the connection: the other end has sent what it may not."""
        if not self._is_over:
            self._user.broken(why)

    def forget(self, channel: SealedChannel) -> None:
        """Stop counting a channel that is closed."""
        self.open.pop(channel, None)

    # From the owner

    def tick(self) -> None:
        """Forget keys that have had their time. Call this once a second."""
        now = self._clock.seconds()
        for channel in self.open:
            channel.tick(now)

    def end(self) -> None:
        """Take and send nothing more. The users of all channels are told that they are closed."""
        if self._is_over:
            return
        self._is_over = True
        self._held, self._waiting, self.held = [], [], 0
        for channel in list(self.open):
            channel.channel_closed()
        self._opening = self._arriving = None
        # No reference cycles.
        forgotten: Any = None
        self._user = forgotten
