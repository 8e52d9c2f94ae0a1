"""One end of one peer connection, with its streams: what host and client have in common.

    signaling <-> Peer <-> IPeerConnection
                    +-- ChannelStreams <-> SocketEnd <-> TCP
                    +-- UDP flows (at a host a HostFlows; at a client a ClientFlows for each forward)

A peer is made for one attempt to connect and never used again. It ends once, by :meth:`Peer.lost` or :meth:`close`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.rtc.aiortc.channel import Channel
from rtunnel.rtc.aiortc.peer_connection import PeerConnection
from rtunnel.rtc.interfaces import IPeerConnectionUser
from rtunnel.rtc.settings import EndSettings
from rtunnel.rtc.streams import ChannelStreams
from rtunnel.upkeep.few_lines import FewLines
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import (
    CANDIDATE,
    Candidate,
    Description,
    Extension,
    Signal,
    candidate_payload,
    description_payload,
    read_candidate,
)

#: Channels of a peer that are neither streams nor flows yet or any more.
SPARE_CHANNELS = 64


@implementer(IPeerConnectionUser)
class Peer:
    """One attempt to connect to one peer, and what comes of it.

    :param name: the peer's ID.
    :param send: takes a message for it to the signaling server; false if that is not possible now.
    :param on_end: called with this and the reason when it is lost; not after :meth:`close`.
    :param few: of the process, for what peers can make us log.
    :ivar is_connected: channels can be used.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: EndSettings,
        name: str,
        send: Callable[[Signal], bool],
        on_end: Callable[[Any, str], None],
        few: FewLines,
    ) -> None:
        self.reactor = reactor
        self.settings = settings
        self.name = name
        self.is_connected = False
        self.streams: ChannelStreams | None = None
        self._send = send
        self._on_end = on_end
        self._few = few
        #: Of the connection's dropped datagrams, those that were told.
        self._dropped = 0
        # At each end there may be as many on their way out as there are in use.
        channels = 2 * (settings.limits.max_streams + settings.max_flows) + SPARE_CHANNELS
        self.connection = PeerConnection(settings.ice, self, channels, few)

    @property
    def extension(self) -> Extension | None:
        """What we say of ourselves in our description."""
        return Extension(self.settings.limits.initial_credit)

    def take_candidate(self, payload: object) -> None:
        """A candidate message of the peer.

        :raises BadSignal: it is malformed.
        """
        self.connection.take_candidate(read_candidate(payload))

    def use_streams(self, peer: Extension | None) -> ChannelStreams:
        """The streams of this connection, now that it is known what the peer can do."""
        self.streams = ChannelStreams(self.connection, self.reactor, self.settings.limits, peer)
        return self.streams

    def tick(self) -> None:
        """A second has passed."""
        if self.streams is not None:
            self.streams.tick()
        dropped = self.connection.datagrams_dropped
        if dropped > self._dropped:
            self._few.warn(
                "{count} UDP datagrams for {peer} are dropped: they come faster than they can be sent",
                count=dropped - self._dropped,
                peer=clean_text(self.name),
            )
            self._dropped = dropped

    # What the connection tells

    def description_ready(self, kind: str, sdp: str) -> None:
        """Send it to the peer."""
        payload = description_payload(kind, Description(sdp, self.extension))
        if not self._send(Signal(kind, payload, self.name)):
            self.give_up("signaling is lost")

    def candidate_found(self, candidate: object) -> None:
        """Send it to the peer. Without signaling, the connection does with what the peer knows."""
        if isinstance(candidate, Candidate):
            self._send(Signal(CANDIDATE, candidate_payload(candidate), self.name))

    def connected(self) -> None:
        """Channels can be used."""
        self.is_connected = True

    def channel_arrived(self, channel: object) -> None:
        """The peer opened a channel; a client has nothing to offer."""
        if isinstance(channel, Channel):
            channel.close()

    def has_room(self) -> None:
        """Send more."""
        if self.streams is not None:
            self.streams.has_room()

    def lost(self, reason: str) -> None:
        """It is over, or did not come about."""
        self._ended()
        self._on_end(self, reason)

    # The end

    def give_up(self, reason: str) -> None:
        """End it from this side, as if it were lost."""
        self.connection.close()
        self.lost(reason)

    def close(self) -> Deferred[None]:
        """End it; fires when everything is closed."""
        closed = self.connection.close()
        self._ended()
        return closed

    def _ended(self) -> None:
        self.is_connected = False
        if self.streams is not None:
            self.streams.reset_all(Code.CONNECTION_LOST)


class Leaving:
    """Peers that are being closed; a process that ends waits for them."""

    def __init__(self) -> None:
        self._peers: set[Peer] = set()

    def __len__(self) -> int:
        return len(self._peers)

    def close(self, peer: Peer) -> None:
        """Close *peer*, which may be so already."""
        self._peers.add(peer)
        peer.close().addCallback(lambda _: self._peers.discard(peer))

    async def closed(self) -> None:
        """Wait until all of them are closed."""
        await gatherResults([peer.close() for peer in self._peers])
