"""The interfaces between the parts of the WebRTC tunnel.

    signaling server <-> SignalLink <-> ISignalUser (a host or a client)
    Peer (IPeerConnectionUser) <-> IPeerConnection <-> aiortc
    a stream or a UDP flow (IChannelUser) <-> IChannel      of IChannels: an IPeerConnection, or its sealed channels

All methods are called in the reactor's thread and return at once; only :meth:`IPeerConnection.close` returns a
Deferred.
"""

from __future__ import annotations

from collections.abc import Collection

from zope.interface import Attribute, Interface

from rtunnel.rtc.traffic import Traffic


class ISignalUser(Interface):
    """The user of a :class:`~rtunnel.rtc.signaling.link.SignalLink`."""

    def signaling_up() -> None:
        """Take note that the link is registered, and messages can be sent. Called again after each reconnection."""

    def signaling_down(reason: str) -> None:
        """Take note that the connection is lost. The link dials again by itself."""

    def signal_received(signal: object) -> None:
        """Take a :class:`rtunnel.wire.webrtc.signaling.Signal`. Its payload has not been validated."""


class IChannel(Interface):
    """One data channel (RFC 8831). No method raises. On a closed channel, all do nothing."""

    label: str = Attribute("The label of its DCEP OPEN message (RFC 8832).")
    protocol: str = Attribute("The protocol of its DCEP OPEN message: the name of the requested service.")
    reliable: bool = Attribute("Ordered and retransmitted.")
    is_open: bool = Attribute("The other end has acknowledged it, and it is not closing.")
    can_send: bool = Attribute(
        "Messages go out. If it is reliable, they do so behind the one that opens it, before that is acknowledged (RFC "
        "8832, section 6). Not every peer has somebody who takes them by then."
    )

    def use(user: object) -> None:
        """Set the user, an :class:`IChannelUser`. Call it in the turn of the reactor in which the channel was opened or
        arrived. Messages that come before there is a user are dropped. A later user takes the place of an earlier one.
        """

    def send(data: bytes) -> None:
        """Send a binary message. Do nothing unless :attr:`can_send`.

        A message on an unreliable channel goes before those on reliable channels that have not begun to be sent. Only a
        few of them may wait: beyond that the oldest are dropped, and :attr:`IPeerConnection.datagrams_dropped` counts
        them.
        """

    def send_text(text: str) -> None:
        """Send a text message."""

    def close() -> None:
        """Close the channel after what was sent. Then :meth:`IChannelUser.channel_closed` is called."""


class IChannelUser(Interface):
    """The user of a data channel."""

    def channel_opened() -> None:
        """Take note that the channel is open. Not called for a channel that the other end opened."""

    def message_received(data: bytes) -> None:
        """Take a binary message, which may be empty."""

    def text_received(text: bytes) -> None:
        """Take a text message, as bytes that should be UTF-8 but were not checked."""

    def channel_closed() -> None:
        """Take note that the channel is closed, by either end or because the connection is lost. Nothing follows."""


class IChannels(Interface):
    """Where streams and flows have their channels."""

    buffered: int = Attribute("Bytes that were sent on reliable channels and not transmitted yet.")
    round_trip: float = Attribute("Smoothed round-trip time in seconds; 0.0 while it is not known.")
    max_message: int = Attribute("The largest message that the peer accepts, in bytes; known once it is connected.")

    def open_channel(label: str, protocol: str = "", reliable: bool = True) -> IChannel:
        """Open a channel; unreliable means unordered and without retransmission."""

    def hold(count: int) -> None:
        """Shrink SCTP's receive window by *count* received bytes, which wait for a reader that has no other way to stop
        its peer."""

    def release(count: int) -> None:
        """Widen SCTP's receive window again by *count* of the bytes that were held."""


class IPeerConnection(IChannels):
    """A connection to one peer: ICE, DTLS, SCTP, and data channels on top."""

    kept: int = Attribute(
        "Bytes of memory taken by what is being sent, and by what was received in parts or too early."
    )
    datagrams_dropped: int = Attribute("Messages on unreliable channels that were dropped because they came too fast.")
    path: str = Attribute("'direct' or 'relayed' and the candidate pair, for a log line; empty before it is connected.")
    traffic: Traffic = Attribute("What has passed over it.")
    stage: str = Attribute("What it waits for until it is connected: 'signaling', 'path' or 'handshake'.")
    heard_from: str = Attribute(
        "The IP address, or the /64 of an IPv6 address, from which the peer has shown over the network that it has our "
        "description; empty before that."
    )

    fingerprints: tuple[bytes, bytes] = Attribute(
        "The SHA-256 of the certificates that this end and the peer have in DTLS; known once it is connected."
    )
    wants_restart: bool = Attribute("The path has failed, and the peer has not answered an offer for another one yet.")

    def offer() -> None:
        """Make an offer. :meth:`IPeerConnectionUser.description_ready` follows."""

    def restart() -> None:
        """Look for another path (ICE restart): make an offer. Streams and flows go on. Called again while there is no
        answer, it makes the offer again; otherwise a restart that is under way goes on."""

    def continues(sdp: str) -> bool:
        """Return whether an offer is about this connection, which is established, and not about a new one: it has the
        same fingerprints, and the same session number.

        :raises rtunnel.errors.BadDescription: see :meth:`take_offer`.
        """

    def addresses_changed(addresses: Collection[str]) -> None:
        """Take note of the addresses that this machine has now."""

    def take_offer(sdp: str) -> None:
        """Answer an offer: the first one, or one that continues this connection.
        :meth:`IPeerConnectionUser.description_ready` follows.

        :raises rtunnel.errors.BadDescription: this is not SDP, has media or no data channel, or lacks what ICE and
            DTLS need.
        """

    def take_answer(sdp: str) -> None:
        """Accept the answer to our offer.

        :raises rtunnel.errors.BadDescription: see :meth:`take_offer`; or no answer is expected.
        """

    def take_candidate(candidate: object) -> None:
        """Add a :class:`~rtunnel.wire.webrtc.signaling.Candidate` of the peer. A limited number of candidates is kept
        if they come before the description. One that cannot be used (malformed, another transport protocol, an earlier
        generation) is ignored."""

    def close() -> object:
        """Close everything. Return a Deferred that fires when all sockets are closed. May be called again."""


class IPeerConnectionUser(Interface):
    """The user of a peer connection."""

    def description_ready(kind: str, sdp: str) -> None:
        """Send our description to the peer. *kind* is ``offer`` or ``answer``."""

    def candidate_found(candidate: object) -> None:
        """Send a :class:`~rtunnel.wire.webrtc.signaling.Candidate` that is not in our description to the peer. An empty
        one means that there are no more."""

    def connected() -> None:
        """Take note that channels can be used."""

    def path_doubtful() -> None:
        """Take note that an answer of the peer is late. This may mean nothing."""

    def path_silent() -> None:
        """Take note that the path has failed. Without another one, the connection is lost in some seconds."""

    def path_changed() -> None:
        """Take note that another path is in use."""

    def channel_arrived(channel: object) -> None:
        """Take an :class:`IChannel` that the other end opened. Give it a user, or close it."""

    def has_room() -> None:
        """Send more, if there is more: :attr:`IPeerConnection.buffered` is small. Messages that are sent before this
        returns go out at once."""

    def lost(reason: str) -> None:
        """Take note that the connection could not be established, or is lost. Called once, and not after our own close.
        Before it, :meth:`IChannelUser.channel_closed` is called for all channels."""
