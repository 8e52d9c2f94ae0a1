"""A data channel (RFC 8831, RFC 8832), between its user and its association."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from aiortc.rtcsctptransport import WEBRTC_BINARY, WEBRTC_BINARY_EMPTY, WEBRTC_STRING, WEBRTC_STRING_EMPTY
from zope.interface import implementer

from rtunnel.rtc.interfaces import IChannel


class Carrier(Protocol):
    """What a channel needs of its association; see :class:`rtunnel.rtc.aiortc.sctp.Association`."""

    def send(self, channel: Channel, kind: int, data: bytes) -> None: ...
    def close_channel(self, channel: Channel) -> None: ...
    def tell(self, listener: Callable[..., None], *arguments: object) -> None: ...


class AssociationUser(Protocol):
    """The user of an association; see :class:`rtunnel.rtc.aiortc.peer_connection.PeerConnection`."""

    def association_up(self) -> None: ...
    def association_down(self) -> None: ...
    def association_broken(self, reason: str) -> None: ...
    def channel_arrived(self, channel: Channel) -> None: ...
    def has_room(self) -> None: ...


class ChannelUser(Protocol):
    """:class:`rtunnel.rtc.interfaces.IChannelUser` for the type checker."""

    def channel_opened(self) -> None: ...
    def message_received(self, data: bytes) -> None: ...
    def text_received(self, text: bytes) -> None: ...
    def channel_closed(self) -> None: ...


@implementer(IChannel)
class Channel:
    """One data channel. It replaces the ``RTCDataChannel`` that aiortc's association expects.

    :ivar id: SCTP stream number; None until it is assigned.
    :ivar readyState: ``connecting``, ``open``, ``closing`` or ``closed``.
    """

    __slots__ = ("_association", "_user", "id", "label", "protocol", "readyState", "reliable")

    # Attributes that aiortc reads from every channel.
    negotiated = False
    maxPacketLifeTime = None

    def __init__(self, association: Carrier, label: str, protocol: str, reliable: bool, id: int | None) -> None:
        self._association = association
        self._user: ChannelUser | None = None
        self.id = id
        self.label = label
        self.protocol = protocol
        self.reliable = reliable
        self.readyState = "connecting" if id is None else "open"

    @property
    def ordered(self) -> bool:
        """See RFC 8832, section 5.1."""
        return self.reliable

    @property
    def maxRetransmits(self) -> int | None:
        """See RFC 8832, section 5.1."""
        return None if self.reliable else 0

    @property
    def is_open(self) -> bool:
        """See :class:`IChannel`."""
        return self.readyState == "open"

    def use(self, user: object) -> None:
        """See :class:`IChannel`."""
        self._user = cast(ChannelUser, user)

    def send(self, data: bytes) -> None:
        """See :class:`IChannel`."""
        if self.readyState == "open":
            self._association.send(self, WEBRTC_BINARY if data else WEBRTC_BINARY_EMPTY, data or b"\0")

    def send_text(self, text: str) -> None:
        """See :class:`IChannel`."""
        if self.readyState == "open":
            self._association.send(self, WEBRTC_STRING if text else WEBRTC_STRING_EMPTY, text.encode() or b"\0")

    def close(self) -> None:
        """See :class:`IChannel`."""
        self._association.close_channel(self)

    # Called by the association

    def _setId(self, id: int) -> None:
        self.id = id

    def _addBufferedAmount(self, amount: int) -> None:
        """Do nothing: the association counts for itself."""

    def _setReadyState(self, state: str) -> None:
        before, self.readyState = self.readyState, state
        if self._user is None or before == state:
            return
        if state == "open":
            self._association.tell(self._user.channel_opened)
        elif state == "closed":
            user, self._user = self._user, None
            self._association.tell(user.channel_closed)

    def got(self, data: bytes, *, text: bool) -> None:
        """Pass a message from the peer to the user."""
        if self._user is not None:
            self._association.tell(self._user.text_received if text else self._user.message_received, data)
