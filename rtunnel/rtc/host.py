"""``rtc-host``: offers services to clients, which find it by its ID and reach them through data channels.

    RtcHost
     +-- signaling     a SignalLink, registered under the host's ID
     +-- invitations   those that are open
     +-- watch         once a second, checks for streams that do not move

When the turn of a client's offer comes, it makes a peer connection, a
:class:`~rtunnel.rtc.peers.host_peer.HostPeer`. Peer connections stay when
signaling is lost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.errors import BadDescription, BadSignal
from rtunnel.relay.sockets import descriptor_limit
from rtunnel.rtc.aiortc.addresses import MAX_ADDRESSES, AddressWatch, local_addresses
from rtunnel.rtc.aiortc.dtls import SharedCertificate
from rtunnel.rtc.aiortc.sdp import read_description as read_session
from rtunnel.rtc.interfaces import ISignalUser
from rtunnel.rtc.invitations.hosting import Invitations, OpenInvitation
from rtunnel.rtc.invitations.inviting import admit, invite_at_start
from rtunnel.rtc.offered import are_dialled_alike, services_of
from rtunnel.rtc.offers import MAX_CONNECTING, Offer, Turns, count_places, who_gives_way, who_has_most
from rtunnel.rtc.peer import Leaving
from rtunnel.rtc.peers.host_peer import HostPeer
from rtunnel.rtc.rights.own import OwnIdentity
from rtunnel.rtc.rights.trusted import say_if_open, trust_of
from rtunnel.rtc.rights.uses import Uses
from rtunnel.rtc.sealed.announced import not_enough
from rtunnel.rtc.sealed.sealing import Sealing
from rtunnel.rtc.settings import HostSettings
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.rtc.traffic import LIMIT, History
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.tls.hedge.threads import HedgeThreads
from rtunnel.upkeep.draining import DrainingService
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory, default_memory
from rtunnel.upkeep.periodic import PeriodicService, do_all
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.sealed_keys import Side
from rtunnel.wire.webrtc.signaling import (
    ANSWER,
    CANDIDATE,
    ERROR,
    OFFER,
    Candidate,
    Signal,
    read_candidate,
    read_description,
    refusal_payload,
)

#: How many clients' candidates are kept before their offer comes, and how many candidates are kept for each client.
EARLY_CLIENTS = 64
EARLY_CANDIDATES = 32


@implementer(ISignalUser)
class RtcHost(DrainingService):
    """The host as a service.

    :param reactor: one that runs on asyncio; provides TCP, UDP, time and name resolution.
    """

    log = Logger()

    def __init__(self, reactor: Any, settings: HostSettings) -> None:
        super().__init__(reactor, "rtc-host", settings.drain, has_services=True)
        self.settings = settings
        self.own = OwnIdentity(settings)
        self.trust = trust_of(settings)
        say_if_open(settings, self.trust)
        self.log_limiter = LogLimiter(self.log, reactor)
        self.memory = Memory(settings.memory or default_memory(), reactor, self.log)
        self.history = History()
        self.is_draining = False
        self.offered = services_of(settings, reactor, self.visitors.accounts)
        self._peers: dict[str, HostPeer] = {}
        # Connections that are being made in the name of a client whose own stays until they have proved to be its.
        self._newcomers: dict[str, HostPeer] = {}
        self._leaving = Leaving()
        self._early: OrderedDict[str, list[Candidate]] = OrderedDict()
        self._turns = Turns(reactor, self._make_place, self._answer)
        self._places = MAX_CONNECTING
        self._addresses = AddressWatch()
        self.certificate = SharedCertificate()
        self.uses = Uses(reactor)
        run = HedgeThreads(reactor).run
        self.sealing = Sealing(Side.HOST, self.own.now, self.trust, Hedges(reactor, settings.hedge), run)
        self.signaling = SignalLink(reactor, settings.signal, settings.id, self, is_host=True)
        self.signaling.setServiceParent(self)
        self.invitations = Invitations(reactor, settings.signal, settings.id, self.log_limiter, self._admit)
        self.invitations.setServiceParent(self)
        self._invites = settings.invite
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

    def look_at_identity(self) -> bool:
        """Return whether this end is another one, as the files of its certificate have changed."""
        return self.own.look(self.reactor.seconds(), self.sealing.use)

    def _watch(self) -> None:
        # What SCTP keeps is not announced; it comes slowly enough for a look each second.
        looks = self._look, self.look_at_identity, self.memory.look, self.log_limiter.tick
        do_all([*(peer.tick for peer in self.peers), *looks])

    def _look(self) -> None:
        if self._addresses.look():
            self.signaling.addresses_changed(self._addresses.addresses)

    @property
    def peers(self) -> Collection[HostPeer]:
        """The peer connections to clients."""
        return [*self._peers.values(), *self._newcomers.values()]

    # Called by signaling

    def signaling_up(self) -> None:
        """Log what this host offers, now that clients can find it, and whether its TCP services answer."""
        # Each client that connects takes a socket on each address.
        sockets = min(len(local_addresses(self.settings.ice.interfaces)), MAX_ADDRESSES)
        self._places = count_places(sockets + len(self.settings.ice.turn_servers), descriptor_limit())
        for service in self.offered.values():
            service.start(self.settings.id, self.log, self.log_limiter)
        if self._invites:
            self._invites = False
            Deferred.fromCoroutine(invite_at_start(self))

    def _admit(self, each: OpenInvitation, fingerprint: str) -> None:
        admit(self.settings, each, fingerprint)

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
        for peer in self._of(signal.sender_id):
            if peer.connection.continues(description.sdp):
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

    def _of(self, client: str) -> list[HostPeer]:
        """Return the peer connections in the name of a client, the newest first."""
        return [peer for peers in (self._newcomers, self._peers) if (peer := peers.get(client)) is not None]

    def has_room(self, client: str) -> bool:
        """Return whether an offer of a client may be taken up; log it if not.

        :param client: its ID, with which it may already be connected.
        """
        others = [peer for peer in self._peers.values() if peer.is_connected and peer.name != client]
        return len(others) < self.settings.max_clients or bool(who_has_most(others, "")) or self._is_full(len(others))

    def makes_room(self, peer: HostPeer) -> bool:
        """Return whether one more client may be connected, now that it is known who it is; log it if not.

        Where there is no room, whoever has more connections than it has by now loses the oldest of them.
        """
        others = [each for each in self._peers.values() if each.is_connected and each is not peer]
        if len(others) < self.settings.max_clients:
            return True
        crowd = who_has_most(others, peer.party)
        if not crowd:
            return self._is_full(len(others))
        crowd[0].give_up("it gives way to another client, as this one has several connections (--max-clients)", LIMIT)
        return True

    def _is_full(self, count: int) -> bool:
        self.log_limiter.warn("{count} clients, the limit (--max-clients): others are not answered", count=count)
        return False

    def _make_place(self, now: float) -> bool:
        connecting = [peer for peer in self.peers if not peer.is_connected]
        if len(connecting) < self._places and len(self._leaving) < self._places:
            return True
        peer = who_gives_way(connecting, now)
        if peer is not None:
            peer.give_up("it gives way to others that want to connect", LIMIT)
        return peer is not None

    def _answer(self, offer: Offer) -> None:
        refusal = not_enough(self.sealing, offer.description.extension)
        if refusal is not None:
            self.log_limiter.warn("client {sender} is refused: {why}", sender=clean_text(offer.sender), why=refusal.why)
            payload = refusal_payload(refusal.code, refusal.message)
            self.signaling.send(Signal(ANSWER, payload, offer.sender))
            return
        before = self._peers.get(offer.sender)
        peers = self._newcomers if before is not None and before.is_proved else self._peers
        replaced = peers.pop(offer.sender, None)
        if replaced is not None:
            # The client has given up this connection, or it would not send another offer.
            self._leaving.close(replaced)
        peer = peers[offer.sender] = HostPeer(self, offer)
        peer.connection.take_offer(offer.description.sdp)
        for candidate in offer.candidates:
            peer.connection.take_candidate(candidate)

    def _take_candidate(self, signal: Signal) -> None:
        candidate = read_candidate(signal.payload)
        waiting = self._turns.waiting.get(signal.sender_id)
        if waiting is not None:
            waiting.take_candidate(candidate)
            return
        peers = self._of(signal.sender_id)
        for peer in peers:
            peer.connection.take_candidate(candidate)
        if peers:
            return
        # A candidate may overtake its offer.
        early = self._early.setdefault(signal.sender_id, [])
        if len(early) < EARLY_CANDIDATES:
            early.append(candidate)
        if len(self._early) > EARLY_CLIENTS:
            self._early.popitem(last=False)

    def _take_error(self, signal: Signal) -> None:
        self._turns.waiting.discard(signal.sender_id)
        for peer in self._of(signal.sender_id):
            if not peer.is_connected:
                peer.give_up("it has left the signaling server")

    # Called by peers

    def takes_place(self, peer: HostPeer) -> bool:
        """Return whether a peer connection that has come about is the one of its client; an earlier one gives way then.

        Whoever runs the signaling server can make offers in any name. So a client that has proved who it is loses its
        connection to nobody but itself.
        """
        if self._newcomers.get(peer.name) is not peer:
            return True
        before = self._peers[peer.name]
        if before.is_proved and before.party != peer.party:
            return False
        self._peers[peer.name] = self._newcomers.pop(peer.name)
        self._leaving.close(before)
        return True

    def peer_ended(self, peer: HostPeer, reason: str) -> None:
        """Forget a client whose connection is lost, or was never established."""
        lost = "client {sender} lost: {reason}"
        if self._newcomers.get(peer.name) is peer:
            del self._newcomers[peer.name]
            lost = "client {sender} stays connected; another connection in its name came to nothing: {reason}"
        elif self._peers.get(peer.name) is peer:
            del self._peers[peer.name]
            if newcomer := self._newcomers.pop(peer.name, None):
                self._peers[peer.name] = newcomer
            self.stream_ended()
        self._leaving.close(peer)
        # IDs cost nothing. So lines are counted by address, and if there is none, all senders are counted as one.
        name, address = clean_text(peer.name), peer.heard_from
        self.log_limiter.info(lost, sender=name, peer=address, reason=reason)

    # Stopping

    async def refuse_visitors(self) -> None:
        """Leave the signaling server, which frees the ID, and accept no new channels."""
        self.is_draining = True
        self._turns.stop()
        self._stop_watches()
        await self.invitations.stopService()
        await self.signaling.stopService()

    def streams_left(self) -> int:
        """See :class:`DrainingService`."""
        return sum(len(peer.streams) for peer in self._peers.values() if peer.streams is not None)

    async def close_links(self) -> None:
        """Close the peer connections, and wait until these and earlier ones are closed."""
        peers, self._peers, self._newcomers = self.peers, {}, {}
        for peer in peers:
            self._leaving.close(peer)
        await self._leaving.closed()
