"""A data channel (RFC 8831, RFC 8832), between its user and its association."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from zope.interface import implementer

from rtunnel.rtc.interfaces import IChannel
from rtunnel.wire.sctp.chunks import PPID_BINARY, PPID_BINARY_EMPTY, PPID_STRING, PPID_STRING_EMPTY


class Carrier(Protocol):
    """What a channel needs of what carries it; see :class:`rtunnel.rtc.channels.data_channels.DataChannels`."""

    def send(self, channel: Channel, kind: int, data: bytes) -> None: ...
    def close_channel(self, channel: Channel) -> None: ...
    def tell(self, listener: Callable[..., None], *arguments: object) -> None: ...


class ChannelUser(Protocol):
    """:class:`rtunnel.rtc.interfaces.IChannelUser` for the type checker."""

    def channel_opened(self) -> None: ...
    def message_received(self, data: bytes) -> None: ...
    def text_received(self, text: bytes) -> None: ...
    def channel_closed(self) -> None: ...


@implementer(IChannel)
class Channel:
    """One data channel.

    :ivar stream: SCTP stream number; None until it is assigned.
    :ivar state: ``connecting``, ``open``, ``closing`` or ``closed``.
    """

    __slots__ = ("_carrier", "_user", "label", "protocol", "reliable", "state", "stream")

    def __init__(self, carrier: Carrier, label: str, protocol: str, reliable: bool, stream: int | None) -> None:
        self._carrier = carrier
        self._user: ChannelUser | None = None
        self.stream = stream
        self.label = label
        self.protocol = protocol
        self.reliable = reliable
        self.state = "connecting" if stream is None else "open"

    @property
    def is_open(self) -> bool:
        """See :class:`IChannel`."""
        return self.state == "open"

    @property
    def can_send(self) -> bool:
        """See :class:`IChannel`."""
        return self.state == "open" or (self.state == "connecting" and self.reliable and self.stream is not None)

    def use(self, user: object) -> None:
        """See :class:`IChannel`."""
        self._user = cast(ChannelUser, user)

    def send(self, data: bytes) -> None:
        """See :class:`IChannel`."""
        if self.can_send:
            self._carrier.send(self, PPID_BINARY if data else PPID_BINARY_EMPTY, data or b"\0")

    def send_text(self, text: str) -> None:
        """See :class:`IChannel`."""
        if self.can_send:
            self._carrier.send(self, PPID_STRING if text else PPID_STRING_EMPTY, text.encode() or b"\0")

    def close(self) -> None:
        """See :class:`IChannel`."""
        self._carrier.close_channel(self)

    # Called by the carrier

    def become(self, state: str) -> None:
        """Enter another state, and tell the user."""
        before, self.state = self.state, state
        if self._user is None or before == state:
            return
        if state == "open":
            self._carrier.tell(self._user.channel_opened)
        elif state == "closed":
            user, self._user = self._user, None
            self._carrier.tell(user.channel_closed)

    def got(self, data: bytes, *, text: bool) -> None:
        """Pass a message from the peer to the user."""
        if self._user is not None:
            self._carrier.tell(self._user.text_received if text else self._user.message_received, data)
