"""What the parts of the WebRTC tunnel know of each other.

    signaling server <-> SignalLink <-> ISignalUser (a host or a client)
    Peer (IPeerConnectionUser) <-> IPeerConnection <-> aiortc
    a stream or a UDP flow (IChannelUser) <-> IChannel

Everything here is called in the reactor's thread and returns at once; nothing asynchronous crosses this border but
:meth:`IPeerConnection.close`. So another WebRTC stack can be put in without touching the rest.
"""

from __future__ import annotations

from zope.interface import Attribute, Interface


class ISignalUser(Interface):
    """What a :class:`~rtunnel.rtc.signaling.link.SignalLink` tells its user."""

    def signaling_up() -> None:
        """Connected and registered: messages can be sent. Called again after each reconnection."""

    def signaling_down(reason: str) -> None:
        """The connection is lost; it is taken up again by itself."""

    def signal_received(signal: object) -> None:
        """A :class:`rtunnel.wire.webrtc.signaling.Signal` that can be read; its payload was not looked at."""


class IChannel(Interface):
    """One data channel (RFC 8831). No method raises; on a channel that is closed, all do nothing."""

    label: str = Attribute("The label of its DCEP OPEN message (RFC 8832).")
    protocol: str = Attribute("The protocol of its DCEP OPEN message: the name of the service wanted.")
    reliable: bool = Attribute("Ordered, and without loss.")
    is_open: bool = Attribute("The other end has acknowledged it, and it is not closing.")

    def use(user: object) -> None:
        """Tell *user*, an :class:`IChannelUser`, from now on. To be called in the same turn in which the channel is
        got. Without a user, what comes on it is dropped."""

    def send(data: bytes) -> None:
        """Send a binary message. On a channel that is not open yet, nothing happens.

        A message on an unreliable channel goes before all those on reliable channels of which nothing was sent yet.
        Few of them wait: when more come, the oldest are dropped, which :attr:`IPeerConnection.datagrams_dropped`
        counts.
        """

    def send_text(text: str) -> None:
        """Send a text message."""

    def close() -> None:
        """Close it behind what was sent. The user is told :meth:`IChannelUser.channel_closed` when that is done."""


class IChannelUser(Interface):
    """What a data channel tells its user."""

    def channel_opened() -> None:
        """It may be sent on. Not called for a channel that the other end opened: that one is open."""

    def message_received(data: bytes) -> None:
        """A binary message; it may be empty."""

    def text_received(text: bytes) -> None:
        """A text message, as UTF-8 that nobody has looked at."""

    def channel_closed() -> None:
        """The other end closed it, or our close is done, or the connection is lost. Nothing follows."""


class IPeerConnection(Interface):
    """A connection to one peer: ICE, DTLS, SCTP, and data channels on top."""

    buffered: int = Attribute("Bytes that were sent on all channels and are not yet on their way.")
    round_trip: float = Attribute("Smoothed round-trip time in seconds; 0.0 while it is not known.")
    max_message: int = Attribute("Bytes of the largest message that the peer takes; known once it is connected.")
    datagrams_dropped: int = Attribute("Messages on unreliable channels that were dropped since they came too fast.")
    path: str = Attribute("'direct' or 'relayed' and the candidate pair, for a log line; empty before it is connected.")

    def offer() -> None:
        """Be the offering end. :meth:`IPeerConnectionUser.description_ready` follows."""

    def take_offer(sdp: str) -> None:
        """Be the answering end. :meth:`IPeerConnectionUser.description_ready` follows.

        :raises rtunnel.errors.BadDescription: this is no SDP, has media or no data channel, or lacks what ICE and
            DTLS need.
        """

    def take_answer(sdp: str) -> None:
        """The answer to our offer.

        :raises rtunnel.errors.BadDescription: see :meth:`take_offer`; or no answer is expected.
        """

    def take_candidate(candidate: object) -> None:
        """A :class:`~rtunnel.wire.webrtc.signaling.Candidate` of the peer. One that comes before the description is
        kept, so many and no more; one that cannot be used (malformed, of a protocol or a generation that we do not
        have) is ignored."""

    def open_channel(label: str, protocol: str = "", reliable: bool = True) -> IChannel:
        """Open a channel; unreliable means unordered and without retransmission."""

    def hold(count: int) -> None:
        """*count* received bytes wait for a slow reader that has no other way to stop its peer: SCTP's receive window
        is made smaller by them."""

    def release(count: int) -> None:
        """*count* of the bytes that were held wait no longer."""

    def close() -> object:
        """Close everything; a Deferred that fires when all sockets are closed. May be called again."""


class IPeerConnectionUser(Interface):
    """What a peer connection tells its user."""

    def description_ready(kind: str, sdp: str) -> None:
        """Our description, ``offer`` or ``answer``, to be sent to the peer."""

    def candidate_found(candidate: object) -> None:
        """A candidate of ours that is not in the description that was sent: a
        :class:`~rtunnel.wire.webrtc.signaling.Candidate` to be sent to the peer. An empty text: there are no more."""

    def connected() -> None:
        """Channels can be used."""

    def channel_arrived(channel: object) -> None:
        """The other end opened a channel, an :class:`IChannel`; give it a user, or close it."""

    def has_room() -> None:
        """:attr:`IPeerConnection.buffered` is small: send more, if there is more. Messages that are sent before this
        returns go out at once."""

    def lost(reason: str) -> None:
        """It could not be connected, or is connected no longer. Said once, and not after our own close. Channels are
        told :meth:`IChannelUser.channel_closed` before."""
