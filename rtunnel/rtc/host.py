"""``rtc-host``: offers services to clients, which find it by its ID and reach them through data channels.

    RtcHost
     +-- signaling     a SignalLink, registered under the host's ID
     +-- watch         once a second, checks for streams that do not move

When the turn of a client's offer comes, it makes a peer connection, a :class:`HostPeer`. Peer connections stay when
signaling is lost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.addresses import UdpAddress
from rtunnel.errors import BadDescription, BadSignal, Code
from rtunnel.reasons import reason_of
from rtunnel.relay.socket_end import PromptEnd
from rtunnel.relay.sockets import descriptor_limit
from rtunnel.rtc.aiortc.addresses import MAX_ADDRESSES, AddressWatch, local_addresses
from rtunnel.rtc.aiortc.dtls import SharedCertificate
from rtunnel.rtc.aiortc.sdp import read_description as read_session
from rtunnel.rtc.channels.channel import Channel
from rtunnel.rtc.interfaces import ISignalUser
from rtunnel.rtc.offered import Service, are_dialled_alike, services_of
from rtunnel.rtc.offers import MAX_CONNECTING, Offer, Turns, count_places, who_gives_way
from rtunnel.rtc.peer import Leaving, Peer
from rtunnel.rtc.rights.trusted import identity_of, trust_of
from rtunnel.rtc.rights.uses import Uses
from rtunnel.rtc.settings import HostSettings
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.rtc.streams import ChannelStreams
from rtunnel.rtc.traffic import LIMIT, History
from rtunnel.rtc.udp_client import show_service
from rtunnel.rtc.udp_host import HostFlows
from rtunnel.traffic.accounts import LINK
from rtunnel.upkeep.draining import DrainingService
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory, default_memory
from rtunnel.upkeep.periodic import PeriodicService, do_all
from rtunnel.upkeep.token_bucket import TokenBucket
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import (
    CANDIDATE,
    ERROR,
    OFFER,
    Candidate,
    Extension,
    Signal,
    read_candidate,
    read_description,
)

#: The label of a channel between the two ends themselves, never for a service (docs/wire.rst).
CONTROL = "rtunnel-control"
#: How many clients' candidates are kept before their offer comes, and how many candidates are kept for each client.
EARLY_CLIENTS = 64
EARLY_CANDIDATES = 32
#: How many offers of a client that is connected are answered in a second, and at once. A client makes one that is not
#: answered again once a second.
RESTARTS_PER_SECOND = 1.0
RESTARTS_AT_ONCE = 8


class HostPeer(Peer):
    """The peer connection to one client.

    :ivar since: when its offer was taken up, by the reactor's clock.
    :ivar use: what the client uses, and may use.
    """

    log = Logger()
    kind = "client"

    def __init__(self, host: RtcHost, offer: Offer) -> None:
        name = offer.sender
        super().__init__(
            host.reactor,
            host.settings,
            name,
            host.signaling,
            host.peer_ended,
            host.stream_ended,
            host.log_limiter,
            host.memory,
            host.history,
            host.certificate.for_connection(),
        )
        self.since = host.reactor.seconds()
        self._restarts = TokenBucket(RESTARTS_PER_SECOND, RESTARTS_AT_ONCE, self.since)
        self._host = host
        self._peer_extension = offer.description.extension
        self.use = host.uses.of(name)
        self._streams = self.use_streams(self._peer_extension)
        self._flows = HostFlows(
            host.reactor,
            self.connection,
            host.settings.max_flows,
            host.settings.udp_idle,
            host.log_limiter,
            clean_text(name),
            host.descriptors,
        )

    @property
    def heard_from(self) -> str:
        """See :attr:`rtunnel.rtc.interfaces.IPeerConnection.heard_from`."""
        return self.connection.heard_from

    @property
    def extension(self) -> Extension | None:
        """The extension that our description announces; None for a client that speaks the reference protocol."""
        return super().extension if self._peer_extension is not None else None

    def take_other_offer(self, sdp: str) -> None:
        """Answer a further offer of this connection: the client looks for another path."""
        if self._restarts.take(self._host.reactor.seconds()):
            self.connection.take_offer(sdp)

    def connected(self) -> None:
        """See :class:`Peer`."""
        if not self._host.has_room():
            self.give_up("there is no room for it (--max-clients)", LIMIT)
            return
        super().connected()
        self._host.log_limiter.info(
            "client {client} connected: {path}{protocol}",
            client=clean_text(self.name),
            peer=self.heard_from,
            path=self.connection.path,
            protocol="" if self._peer_extension is not None else " (reference protocol)",
        )

    def channel_arrived(self, channel: object) -> None:
        """Connect a channel of the client to the service that it asks for, or refuse it."""
        assert isinstance(channel, Channel)
        if channel.label == CONTROL:
            channel.close()
            return
        service = self._host.offered.get(channel.protocol)
        kind = "tcp" if channel.reliable else "udp"
        if self._host.is_draining:
            self._streams.refuse(channel, Code.SHUTTING_DOWN)
        elif service is None or service.settings.protocol != kind:
            self._host.log_limiter.warn(
                "client {client} asks for {service} over {kind}, which is not offered",
                client=clean_text(self.name),
                peer=self.heard_from,
                service=show_service(clean_text(channel.protocol)),
                kind=kind,
            )
            self._streams.refuse(channel, Code.UNKNOWN_SERVICE)
        elif isinstance(service.settings.remote, UdpAddress):
            self._flows.accept(channel, service.settings.remote, service.account, self.use.flow(channel.protocol))
        else:
            self._dial(self._streams, channel, service)

    def _dial(self, streams: ChannelStreams, channel: Channel, service: Service) -> None:
        assert service.endpoint is not None
        assert service.watch is not None
        watch = service.watch

        def failed(failure: Failure) -> None:
            log = self.log.debug if watch.failed(failure) else self._host.log_limiter.warn
            log("service {remote} cannot be reached: {error}", remote=service.settings.remote, error=reason_of(failure))

        end = PromptEnd(lambda _end: watch.answered(), self._host.visitors.discard)
        self.use.serve(end, channel.protocol)
        end.attach(streams.attach(channel, end))
        name = clean_text(self.name)
        self._host.visitors.serve(end, name, channel.protocol, 1, service.account, name, LINK)
        self.log.debug("{label} of client {client}", label=clean_text(channel.label), client=name)
        end.dial(service.endpoint, failed)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`Peer`."""
        yield from super().holdings()
        yield from self._flows.table.holdings()

    def _ended(self) -> None:
        super()._ended()
        self._flows.close()


@implementer(ISignalUser)
class RtcHost(DrainingService):
    """The host as a service.

    :param reactor: one that runs on asyncio; provides TCP, UDP, time and name resolution.
    """

    log = Logger()

    def __init__(self, reactor: Any, settings: HostSettings) -> None:
        super().__init__(reactor, "rtc-host", settings.drain, has_services=True)
        self.settings = settings
        self.identity = identity_of(settings)
        self.trust = trust_of(settings)
        self.log_limiter = LogLimiter(self.log, reactor)
        self.memory = Memory(settings.memory or default_memory(), reactor, self.log)
        self.history = History()
        self.is_draining = False
        self.offered = services_of(settings, reactor, self.visitors.accounts)
        self._peers: dict[str, HostPeer] = {}
        self._leaving = Leaving()
        self._early: OrderedDict[str, list[Candidate]] = OrderedDict()
        self._turns = Turns(reactor, self._make_place, self._answer)
        self._places = MAX_CONNECTING
        self._addresses = AddressWatch()
        self.certificate = SharedCertificate()
        self.uses = Uses(reactor)
        self.signaling = SignalLink(reactor, settings.signal, settings.id, self, is_host=True)
        self.signaling.setServiceParent(self)
        PeriodicService(reactor, "watch", 1.0, self._watch).setServiceParent(self)

    def use_services(self, settings: HostSettings) -> None:
        """Offer other services from now on. Connections to those of before go on."""
        before, found = self.offered, dict(services_of(settings, self.reactor, self.visitors.accounts))
        for name, service in before.items() if are_dialled_alike(settings, self.settings) else ():
            if name in found and found[name].settings == service.settings:
                found[name] = service
        self.offered = found
        for name, service in before.items():
            if found.get(name) is not service:
                service.stop()
        for name, service in found.items():
            if self.signaling.up and before.get(name) is not service:
                service.start(self.settings.id, self.log, self.log_limiter)

    def _watch(self) -> None:
        # What SCTP keeps is not announced; it comes slowly enough for a look each second.
        do_all([*(peer.tick for peer in self._peers.values()), self._look, self.memory.look, self.log_limiter.tick])

    def _look(self) -> None:
        if self._addresses.look():
            self.signaling.addresses_changed(self._addresses.addresses)

    @property
    def peers(self) -> Collection[HostPeer]:
        """The peer connections to clients."""
        return self._peers.values()

    # Called by signaling

    def signaling_up(self) -> None:
        """Log what this host offers, now that clients can find it, and whether its TCP services answer."""
        # Each client that connects takes a socket on each address.
        sockets = min(len(local_addresses(self.settings.ice.interfaces)), MAX_ADDRESSES)
        self._places = count_places(sockets + len(self.settings.ice.turn_servers), descriptor_limit())
        for service in self.offered.values():
            service.start(self.settings.id, self.log, self.log_limiter)

    def _stop_watches(self) -> None:
        for service in self.offered.values():
            service.stop()

    def signaling_down(self, reason: str) -> None:
        """Connected clients stay. Whether the services answer is found out again when signaling is back."""
        self._stop_watches()

    def signal_received(self, signal: object) -> None:
        """Handle a client's offer or candidate, or an error of the server."""
        assert isinstance(signal, Signal)
        try:
            if signal.type == OFFER:
                self._take_offer(signal)
            elif signal.type == CANDIDATE:
                self._take_candidate(signal)
            elif signal.type == ERROR:
                self._take_error(signal)
        except (BadSignal, BadDescription) as error:
            self.log_limiter.warn(
                "client {sender} sent an unusable message: {error}",
                sender=clean_text(signal.sender_id),
                error=str(error),
            )

    def _take_offer(self, signal: Signal) -> None:
        if self.is_draining or not signal.sender_id:
            return
        description = read_description(OFFER, signal.payload)
        peer = self._peers.get(signal.sender_id)
        if peer is not None and peer.connection.continues(description.sdp):
            peer.take_other_offer(description.sdp)
            return
        read_session(description.sdp)
        if not self.has_room(signal.sender_id):
            return
        dropped = self._turns.add(Offer(signal.sender_id, description, self._early.pop(signal.sender_id, [])))
        if dropped:
            self.log_limiter.warn(
                "offers come faster than they can be answered; one of client {sender} is dropped",
                sender=clean_text(dropped),
            )

    def has_room(self, client: str = "") -> bool:
        """Return whether one more client may be connected; log it if not.

        :param client: one that may already be.
        """
        count = sum(peer.is_connected for peer in self._peers.values() if peer.name != client)
        if count < self.settings.max_clients:
            return True
        self.log_limiter.warn("{count} clients, the limit (--max-clients): others are not answered", count=count)
        return False

    def _make_place(self, now: float) -> bool:
        connecting = [peer for peer in self._peers.values() if not peer.is_connected]
        if len(connecting) < self._places and len(self._leaving) < self._places:
            return True
        peer = who_gives_way(connecting, now)
        if peer is not None:
            peer.give_up("it gives way to others that want to connect", LIMIT)
        return peer is not None

    def _answer(self, offer: Offer) -> None:
        before = self._peers.pop(offer.sender, None)
        if before is not None:
            # The client has given up this connection, or it would not send another offer.
            self._leaving.close(before)
        peer = self._peers[offer.sender] = HostPeer(self, offer)
        peer.connection.take_offer(offer.description.sdp)
        for candidate in offer.candidates:
            peer.connection.take_candidate(candidate)

    def _take_candidate(self, signal: Signal) -> None:
        candidate = read_candidate(signal.payload)
        waiting = self._turns.waiting.get(signal.sender_id)
        if waiting is not None:
            waiting.take_candidate(candidate)
            return
        peer = self._peers.get(signal.sender_id)
        if peer is not None:
            peer.connection.take_candidate(candidate)
            return
        # A candidate may overtake its offer.
        early = self._early.setdefault(signal.sender_id, [])
        if len(early) < EARLY_CANDIDATES:
            early.append(candidate)
        if len(self._early) > EARLY_CLIENTS:
            self._early.popitem(last=False)

    def _take_error(self, signal: Signal) -> None:
        self._turns.waiting.discard(signal.sender_id)
        peer = self._peers.get(signal.sender_id)
        if peer is not None and not peer.is_connected:
            peer.give_up("it has left the signaling server")

    # Called by peers

    def peer_ended(self, peer: HostPeer, reason: str) -> None:
        """Forget a client whose connection is lost, or was never established."""
        if self._peers.get(peer.name) is peer:
            del self._peers[peer.name]
            self.stream_ended()
        self._leaving.close(peer)
        # IDs cost nothing. So lines are counted by address, and if there is none, all senders are counted as one.
        name, address = clean_text(peer.name), peer.heard_from
        self.log_limiter.info("client {sender} lost: {reason}", sender=name, peer=address, reason=reason)

    # Stopping

    async def refuse_visitors(self) -> None:
        """Leave the signaling server, which frees the ID, and accept no new channels."""
        self.is_draining = True
        self._turns.stop()
        self._stop_watches()
        await self.signaling.stopService()

    def streams_left(self) -> int:
        """See :class:`DrainingService`."""
        return sum(len(peer.streams) for peer in self._peers.values() if peer.streams is not None)

    async def close_links(self) -> None:
        """Close the peer connections, and wait until these and earlier ones are closed."""
        peers, self._peers = self._peers, {}
        for peer in peers.values():
            self._leaving.close(peer)
        await self._leaving.closed()
