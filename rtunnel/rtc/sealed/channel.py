"""One sealed channel, between its user and a data channel."""

from __future__ import annotations

from typing import Protocol, cast

from zope.interface import implementer

from rtunnel.rtc.channels.channel import ChannelUser
from rtunnel.rtc.interfaces import IChannel, IChannelUser
from rtunnel.wire.webrtc.channel_messages import encode_reset
from rtunnel.wire.webrtc.sealed_messages import Seals


class Owner(Protocol):
    """What has the channel; see :class:`rtunnel.rtc.sealed.channels.SealedChannels`."""

    is_bound: bool

    @property
    def now(self) -> float: ...
    def sent(self, count: int) -> None: ...
    def forged(self) -> None: ...
    def broken(self, why: str) -> None: ...
    def forget(self, channel: SealedChannel) -> None: ...


@implementer(IChannel, IChannelUser)
class SealedChannel:
    """A channel whose messages are sealed.

    :param label: its real label.
    :param protocol: the name of the service that it is for.
    """

    __slots__ = ("_below", "_owner", "_seals", "_user", "label", "protocol", "reliable")

    def __init__(self, owner: Owner, label: str, protocol: str, reliable: bool) -> None:
        self._owner = owner
        self._below: IChannel | None = None
        self._seals: Seals | None = None
        self._user: ChannelUser | None = None
        self.label = label
        self.protocol = protocol
        self.reliable = reliable

    def carry(self, below: IChannel, seals: Seals) -> None:
        """Use the data channel *below*, which was just opened or has just arrived."""
        self._below, self._seals = below, seals
        below.use(self)

    @property
    def is_open(self) -> bool:
        """See :class:`IChannel`."""
        return self._below is not None and self._below.is_open

    @property
    def can_send(self) -> bool:
        """See :class:`IChannel`."""
        return self._below is not None and self._below.can_send

    def use(self, user: object) -> None:
        """See :class:`IChannel`."""
        self._user = cast(ChannelUser, user)

    def send(self, data: bytes) -> None:
        """See :class:`IChannel`."""
        self._send(data, text=False)

    def send_text(self, text: str) -> None:
        """See :class:`IChannel`."""
        self._send(text.encode(), text=True)

    def _send(self, message: bytes, *, text: bool) -> None:
        below = self._below
        # A message that is sealed and not sent would be missed.
        if below is not None and below.can_send and self._seals is not None:
            if not self._owner.is_bound:
                self._owner.sent(len(message))
            below.send(self._seals.seal(message, text=text))

    def close(self) -> None:
        """See :class:`IChannel`."""
        if self._below is not None:
            self._below.close()
        else:
            self.channel_closed()

    def cut(self, code: str, message: str) -> None:
        """Close the channel for this reason; its user is told at once, and gets nothing more."""
        if self.reliable:
            self.send_text(encode_reset(code, message))
        user, self._user = self._user, None
        self.close()
        if user is not None:
            user.channel_closed()

    def tick(self, now: float) -> None:
        """Forget keys that have had their time."""
        if self._seals is not None:
            self._seals.tick(now)

    # From the channel below

    def channel_opened(self) -> None:
        """See :class:`IChannelUser`."""
        if self._user is not None:
            self._user.channel_opened()

    def message_received(self, data: bytes) -> None:
        """Pass a message on, if it is authentic."""
        seals = self._seals
        if seals is None:
            return  # the end of all channels has come first, and of those below only later
        try:
            message, text = seals.open(data, self._owner.now if not self.reliable else 0.0)
        except ValueError as error:
            self._wrong(str(error))
            return
        user = self._user
        if user is None:
            return
        if text:
            user.text_received(message)
        else:
            user.message_received(message)

    def text_received(self, text: bytes) -> None:
        """Take no text: what is sealed is binary."""
        self._wrong("a text message that is not sealed")

    def _wrong(self, why: str) -> None:
        if self.reliable:
            self._owner.broken(why)
        else:
            self._owner.forged()

    def channel_closed(self) -> None:
        """See :class:`IChannelUser`."""
        self._owner.forget(self)
        self._below = self._seals = None
        user, self._user = self._user, None
        if user is not None:
            user.channel_closed()
