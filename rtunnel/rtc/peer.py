"""One end of a peer connection, with its streams: what host and client have in common.

    signaling <-> Peer <-> IPeerConnection
                    +-- SealedEnd, if both ends seal: its channels take the place of those of the connection
                    +-- ChannelStreams <-> SocketEnd <-> TCP
                    +-- UDP flows (at a host a HostFlows; at a client a ClientFlows for each forward)

A peer is made for one attempt to connect, and is not reused. It ends once, by :meth:`Peer.lost` or :meth:`Peer.close`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.relay.udp.flows import Flow
from rtunnel.rtc.aiortc.dtls import Certificate
from rtunnel.rtc.aiortc.peer_connection import PeerConnection
from rtunnel.rtc.channels.channel import Channel
from rtunnel.rtc.interfaces import IChannel, IChannels, IPeerConnectionUser
from rtunnel.rtc.sealed.channel import SealedChannel
from rtunnel.rtc.sealed.end import SealedEnd
from rtunnel.rtc.sealed.sealing import Confirmation, Sealing
from rtunnel.rtc.settings import EndSettings
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.rtc.streams import ChannelStreams
from rtunnel.rtc.traffic import History, Lately
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.sealed_keys import Side
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

#: Spare channels, for those that are not yet, or no longer, a stream or flow.
SPARE_CHANNELS = 64


@implementer(IPeerConnectionUser)
class Peer:
    """One attempt to connect to one peer, and the connection that results.

    :param name: the peer's ID.
    :param signaling: leads to it.
    :param on_end: called with this peer and the reason when it is lost; not after :meth:`close`.
    :param stream_ended: called whenever a stream is over.
    :param log_limiter: for log lines that peers can cause.
    :param certificate: see :class:`PeerConnection`.
    :param memory: what the process may hold.
    :param history: where it is counted.
    :param sealing: seals the channels, if the other end does so too.
    :ivar sealed: the sealed channels; None: the other end does not seal, or has not said so yet.
    :ivar is_connected: whether channels can be used.
    :ivar was_connected: whether they ever could, and the other end agreed.
    :ivar lately: how much was lost in the last seconds.
    """

    log = Logger()
    #: What the peer is, for log lines.
    kind = ""

    def __init__(
        self,
        reactor: Any,
        settings: EndSettings,
        name: str,
        signaling: SignalLink,
        on_end: Callable[[Any, str], None],
        stream_ended: Callable[[], None],
        log_limiter: LogLimiter,
        memory: Memory,
        history: History,
        sealing: Sealing,
        certificate: Certificate | None = None,
    ) -> None:
        self.reactor = reactor
        self.settings = settings
        self.name = name
        self.is_connected = False
        self.streams: ChannelStreams | None = None
        self.sealed: SealedEnd | None = None
        self.sealing = sealing
        self.memory = memory
        self._history = history
        self.was_connected = self._is_over = False
        self._signaling = signaling
        self._on_end = on_end
        self._stream_ended = stream_ended
        self._log_limiter = log_limiter
        #: How many of the connection's dropped datagrams were already logged.
        self._dropped = 0
        # At each end, as many channels may be closing as are in use.
        channels = 2 * (settings.limits.max_streams + settings.max_flows) + SPARE_CHANNELS
        self.connection = connection = PeerConnection(settings.ice, self, channels, log_limiter, certificate)
        self.lately = Lately(lambda: connection.traffic)

    @property
    def title(self) -> str:
        """What to call the peer in a log line."""
        return f"{self.kind} '{clean_text(self.name)}'"

    @property
    def extension(self) -> Extension | None:
        """The extension that our description announces."""
        credit, hedge = self.settings.limits.initial_credit, self.sealing.hedges.names
        return Extension(credit, ice_restart=True, seal=True, hedge=hedge)

    @property
    def channels(self) -> IChannels:
        """Where streams and flows have their channels."""
        return self.connection if self.sealed is None else self.sealed.channels

    def confirmation(self) -> Confirmation | None:
        """Return what confirms the invitation with which this connection is made; None: there is none."""
        return None

    def seal(self) -> None:
        """Seal the channels: both ends announce it."""
        peer_id = self.name if self.sealing.side is Side.CLIENT else ""
        self.sealed = SealedEnd(self.sealing, self.connection, peer_id, self.reactor, self, self.confirmation)

    def take_candidate(self, payload: object) -> None:
        """Add the candidate of a candidate message.

        :raises BadSignal: it is malformed.
        """
        self.connection.take_candidate(read_candidate(payload))

    def use_streams(self, peer: Extension | None) -> ChannelStreams:
        """Make the streams of this connection, once it is known what the peer supports."""
        self.streams = ChannelStreams(
            self.channels, self.reactor, self.settings.limits, peer, self._stream_ended, self.memory
        )
        self.memory.join(self)
        return self.streams

    def tick(self) -> None:
        """Check for stalled streams, and whether the peer is still accepted; log dropped datagrams. Call this once a
        second."""
        self.lately.tick()
        if self.sealed is not None:
            if not self.sealed.tick():
                return
        elif self.is_connected and self.sealing.needs_seals:
            self.give_up("its channels are not sealed, and are not accepted any more")
            return
        if self.streams is not None:
            self.streams.tick()
        dropped = self.connection.datagrams_dropped
        if dropped > self._dropped:
            self._log_limiter.warn(
                "{count} UDP datagrams for {name} are dropped: they come faster than they can be sent",
                count=dropped - self._dropped,
                name=clean_text(self.name),
                peer=self.connection.heard_from,
            )
            self._dropped = dropped

    # Memory, see IParty

    @property
    def payer(self) -> str:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        return clean_text(self.name)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        held = self.sealed.held if self.sealed is not None else 0
        yield self.connection.kept + held, self
        if self.streams is not None:
            yield from self.streams.holdings()

    def free(self, holding: Any) -> None:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        if holding is self:
            self.give_up("it holds too much memory (--memory)")
        elif isinstance(holding, Flow):
            holding.end("it holds too much memory")
        elif self.streams is not None:
            self.streams.give_up(holding)

    def set_short(self, is_short: bool, is_full: bool) -> None:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        if self.streams is not None:
            windows = self.streams.buffer.windows
            windows.is_short, windows.is_full = is_short, is_full

    def measure_growth(self) -> int:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        return 0 if self.streams is None else self.streams.measure_growth()

    # Called by the connection

    def description_ready(self, kind: str, sdp: str) -> None:
        """Send our description to the peer."""
        payload = description_payload(kind, Description(sdp, self.extension))
        if not self._signaling.send(Signal(kind, payload, self.name)) and not self.is_connected:
            self.give_up("signaling is lost")

    def candidate_found(self, candidate: object) -> None:
        """Send our candidate to the peer. If signaling is down, the peer must make do with those that it has."""
        if isinstance(candidate, Candidate):
            self._signaling.send(Signal(CANDIDATE, candidate_payload(candidate), self.name))

    def connected(self) -> None:
        """Seal the channels, if both ends do so."""
        if self.sealed is not None:
            self.sealed.connected()
            return
        if self.sealing.trust.is_closed:
            # It was open when they were introduced.
            self.give_up("its channels are not sealed, and are not accepted any more")
            return
        self.ready()
        if self.is_connected:
            self.accepted()

    def ready(self) -> None:
        """Note that channels can be used."""
        self.is_connected = True

    def accepted(self) -> None:
        """Note that the other end agrees."""
        self.was_connected = True
        self._history.connected[self.connection.path.partition(",")[0]] += 1

    def path_doubtful(self) -> None:
        """Find out whether signaling works, which another path would need."""
        self._signaling.prove()

    def path_silent(self) -> None:
        """Make sure that there is signaling: the other end, or this one, needs it for another path."""
        self._log_limiter.info(
            "the path to {title} no longer works",
            title=self.title,
            peer=self.connection.heard_from,
        )
        self._signaling.must_be_proved()

    def path_changed(self) -> None:
        """Log the path that is in use now."""
        self._log_limiter.info(
            "the path to {title} has changed: {path}",
            title=self.title,
            path=self.connection.path,
            peer=self.connection.heard_from,
        )

    def channel_arrived(self, channel: object) -> None:
        """Take a channel that the peer opened."""
        assert isinstance(channel, Channel)
        if self.sealed is not None:
            self.sealed.channel_arrived(channel)
        else:
            self.take_channel(channel)

    def sealed_channel_arrived(self, channel: SealedChannel) -> None:
        """See :class:`rtunnel.rtc.sealed.end.EndUser`."""
        self.take_channel(channel)

    def take_channel(self, channel: IChannel) -> None:
        """Close a channel that the peer opened: only a host offers services."""
        channel.close()

    def sealing_failed(self) -> None:
        """See :class:`rtunnel.rtc.sealed.end.EndUser`."""
        self.is_connected = False
        if self.streams is not None:
            self.streams.reset_all(Code.CONNECTION_LOST)

    def has_room(self) -> None:
        """Let the streams send more."""
        if self.streams is not None:
            self.streams.has_room()

    def lost(self, reason: str) -> None:
        """Tell the owner that the connection is lost, or could not be established."""
        self._fail(self.connection.stage)
        why = self.sealed.why if self.sealed is not None else ""
        self._end()
        self._on_end(self, why or reason)

    # Closing

    def give_up(self, reason: str, failure: str = "") -> None:
        """End the connection from this side, as if it were lost.

        :param failure: as what it counts if it was not connected yet; empty: by what it waited for.
        """
        self.connection.close()
        self._fail(failure or self.connection.stage)
        self._end()
        self._on_end(self, reason)

    def _fail(self, failure: str) -> None:
        if not (self.was_connected or self._is_over):
            self._history.failed[failure] += 1

    def close(self) -> Deferred[None]:
        """End the connection. Return a Deferred that fires when everything is closed."""
        closed = self.connection.close()
        self._end()
        return closed

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._history.gone += self.connection.traffic
            self._history.datagrams_dropped += self.connection.datagrams_dropped
            if self.sealed is not None:
                self.sealed.close()
        # Whatever it raises, the owner is told, and a client makes another connection.
        try:
            self._ended()
        except Exception:
            self.log.failure("at the end of a peer connection")

    def _ended(self) -> None:
        self.is_connected = False
        self.memory.leave(self)
        if self.streams is not None:
            self.streams.reset_all(Code.CONNECTION_LOST)


class Leaving:
    """Peers that are being closed. The process waits for them before it ends."""

    def __init__(self) -> None:
        self._peers: set[Peer] = set()

    def __len__(self) -> int:
        return len(self._peers)

    def close(self, peer: Peer) -> None:
        """Close *peer*, which may already be closed."""
        self._peers.add(peer)
        peer.close().addCallback(lambda _: self._peers.discard(peer))

    async def closed(self) -> None:
        """Wait until all of these peers are closed."""
        await gatherResults([peer.close() for peer in self._peers])
