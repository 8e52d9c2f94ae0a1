"""``rtc-client``: forwards connections to local ports to the services of a host, through data channels.

    RtcClient
     +-- signaling     a SignalLink, under a random ID
     +-- forwards      a Listener (TCP) or UdpListener for each
     +-- watch         once a second, checks time-outs

There is one peer connection to the host. When it is lost, another one is set up. Meanwhile the local ports stay open,
and new connections wait for up to ``--wait-timeout``::

    waiting for signaling -> connecting -> connected -> backing off -> connecting ...
"""

from __future__ import annotations

import uuid
from collections import deque
from dataclasses import replace
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel import delayed_calls
from rtunnel.errors import BadDescription, BadSignal
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.udp.flows import FlowTable
from rtunnel.rtc.aiortc.addresses import AddressWatch
from rtunnel.rtc.forwards import Forwards
from rtunnel.rtc.interfaces import ISignalUser
from rtunnel.rtc.invitations.invited import Invited
from rtunnel.rtc.peer import Leaving
from rtunnel.rtc.peers.client_peer import ClientPeer
from rtunnel.rtc.rights.own import OwnIdentity
from rtunnel.rtc.rights.trusted import say_if_open, trust_of
from rtunnel.rtc.sealed.sealing import Sealing
from rtunnel.rtc.settings import ClientSettings
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.rtc.traffic import History
from rtunnel.rtc.udp_client import why_refused
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.tls.hedge.threads import HedgeThreads
from rtunnel.upkeep.backoff import Backoff
from rtunnel.upkeep.draining import DrainingService
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory, default_memory
from rtunnel.upkeep.periodic import PeriodicService, do_all
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.sealed_keys import Side
from rtunnel.wire.webrtc.signaling import ANSWER, CANDIDATE, ERROR, Signal

#: The shortest time between two attempts, in seconds, when a local connection waits for the host.
KNOCK = 1.0
#: How many seconds the host has to answer an offer.
ANSWER_TIMEOUT = 10.0
#: How many seconds after the signaling server could not pass it on an offer for another path is made again.
OFFER_AGAIN = 0.25


@implementer(ISignalUser)
class RtcClient(DrainingService):
    """The client as a service.

    :param reactor: one that runs on asyncio; provides TCP, UDP, time and name resolution.
    """

    log = Logger()

    def __init__(self, reactor: Any, settings: ClientSettings) -> None:
        super().__init__(reactor, "rtc-client", settings.drain)
        self.settings = settings
        self.own = OwnIdentity(settings)
        self.trust = trust_of(settings)
        say_if_open(settings, self.trust)
        self.log_limiter = LogLimiter(self.log, reactor)
        self.memory = Memory(settings.memory or default_memory(), reactor, self.log)
        self.history = History()
        self._peer: ClientPeer | None = None
        self._leaving = Leaving()
        self._is_draining = False
        self._backoff = Backoff(settings.signal.reconnect_min, settings.signal.reconnect_max)
        self._retry: IDelayedCall | None = None
        self._last_attempt = float("-inf")
        self._offer_again: IDelayedCall | None = None
        self._addresses = AddressWatch()
        self._said = ""
        #: Local connections that wait for the host: until when, and for which service.
        self._waiting: deque[tuple[float, SocketEnd, str]] = deque()
        self.signaling = SignalLink(reactor, settings.signal, str(uuid.uuid4()), self, is_host=False)
        self.signaling.setServiceParent(self)
        self.flow_table = FlowTable(reactor, settings.max_flows, settings.udp_idle)
        run = HedgeThreads(reactor).run
        self.sealing = Sealing(Side.CLIENT, self.own.now, self.trust, Hedges(reactor, settings.hedge), run)
        #: The way to the host, if its ID is not known yet; None: it is.
        self.invited = None if settings.invitation is None else Invited(self, settings.invitation, self.trust)
        self.forwards = Forwards(self, settings.forwards)
        self.forwards.setServiceParent(self)
        PeriodicService(reactor, "watch", 1.0, self._watch).setServiceParent(self)

    def set_backoff(self, shortest: float, longest: float) -> None:
        """Set the bounds of the time between two attempts to reach the host, in seconds."""
        self._backoff = Backoff(shortest, longest)

    def look_at_identity(self) -> bool:
        """Return whether this end is another one, as the files of its certificate have changed."""
        return self.own.look(self.reactor.seconds(), self.sealing.use)

    def _watch(self) -> None:
        do_all([self._look, self._watch_peer, self._watch_waiting, self.look_at_identity, self.log_limiter.tick])

    def _look(self) -> None:
        if self._addresses.look():
            self.signaling.addresses_changed(self._addresses.addresses)
            if self._peer is not None:
                self._peer.connection.addresses_changed(self._addresses.addresses)

    def _watch_peer(self) -> None:
        peer = self._peer
        if peer is None:
            # If an attempt could not even begin, nothing else would begin another.
            self._connect()
            return
        peer.tick()
        peer.restart()
        if not peer.is_answered and self.reactor.seconds() - self._last_attempt >= ANSWER_TIMEOUT:
            peer.give_up(f"no answer within {ANSWER_TIMEOUT:.0f} s")

    def _watch_waiting(self) -> None:
        now = self.reactor.seconds()
        while self._waiting and self._waiting[0][0] <= now:
            _, end, _ = self._waiting.popleft()
            self.log_limiter.warn("a local connection is closed: host '{id}' is not connected", id=self.settings.id)
            end.abort()
        # What SCTP keeps is not announced; it comes slowly enough for this.
        self.memory.look()

    @property
    def peer(self) -> ClientPeer | None:
        """The peer connection to the host, also while it is being made."""
        return self._peer

    @property
    def why_not(self) -> str:
        """Why the last attempt to connect to the host failed; empty if it did not."""
        return self._said

    @property
    def waiting(self) -> int:
        """How many local connections wait for the host."""
        return len(self._waiting)

    # Local connections

    def forward(self, end: SocketEnd, service: str) -> None:
        """Forward a local connection to a service of the host, now or once the host is connected."""
        peer = self._peer
        if peer is not None and peer.is_connected:
            peer.forward(end, service)
        elif len(self._waiting) >= self.settings.limits.max_streams:
            end.abort()
        else:
            # Read nothing from the connection before it has a stream.
            end.pause()
            self._waiting.append((self.reactor.seconds() + self.settings.wait_timeout, end, service))
            self._knock()

    def connection_reset(self, service: str, code: str, message: str) -> None:
        """Log why, if the host refused a local connection."""
        if why := why_refused(code, message, service):
            self.log_limiter.warn("host '{id}' refuses a connection: {why}", id=self.settings.id, why=why)

    def _knock(self) -> None:
        """Shorten a long back-off, because a local connection waits for the host."""
        if self._retry is not None and self._retry.active():
            wait = max(0.0, self._last_attempt + KNOCK - self.reactor.seconds())
            if self._retry.getTime() - self.reactor.seconds() > wait:
                self._retry.reset(wait)

    # The peer connection

    def host_found(self, host: str) -> None:
        """Connect to the host with this ID: the code of an invitation leads there."""
        self.settings = replace(self.settings, id=host)
        self._connect()

    def _connect(self) -> None:
        if self._peer is not None or self._is_draining or not self.signaling.up or not self.settings.id:
            return
        if self._retry is not None and self._retry.active():
            return
        self._last_attempt = self.reactor.seconds()
        if not self._said:
            self.log.info("connecting to host '{id}'", id=self.settings.id)
        self._peer = ClientPeer(self, self.settings.id)
        self._peer.connection.offer()

    def peer_connected(self, peer: ClientPeer) -> None:
        """Forward the connections that wait: the host is connected."""
        self.forwards.connected(peer.channels)
        waiting, self._waiting = self._waiting, deque()
        for _, end, service in waiting:
            if end in self.visitors:
                peer.forward(end, service)
                end.resume()

    def peer_accepted(self, peer: ClientPeer) -> None:
        """Log it: the host has accepted this client."""
        self._backoff.reset()
        self._said = ""
        self.log.info(
            "connected to host '{id}': {path}{protocol}{sealed}",
            id=self.settings.id,
            path=peer.connection.path,
            protocol="" if peer.peer_extension is not None else " (reference protocol)",
            sealed="" if peer.sealed is None else f"; {peer.sealed.shown}",
        )
        if peer.sealed is None:
            self.log.warn(
                "host '{id}' does not seal its channels: whoever runs the signaling server can read and change what "
                "they carry; update it, or refuse it with --host-key",
                id=self.settings.id,
            )

    def peer_ended(self, peer: ClientPeer, reason: str) -> None:
        """Schedule another attempt: the connection is lost, or the host cannot be reached."""
        self._leaving.close(peer)
        if peer is not self._peer:
            return
        self._peer = None
        try:
            do_all([self.stream_ended, self.forwards.disconnected])
        finally:
            self._back_off(peer, reason)

    def _back_off(self, peer: ClientPeer, reason: str) -> None:
        if self._is_draining or (self.invited is not None and self.invited.connection_failed(peer, reason)):
            return
        wait = self._backoff.next_wait()
        log = self.log.debug if reason == self._said else self.log.warn
        self._said = reason
        log(
            "host '{id}' {what}: {reason}; next attempt in {wait:.1f} s",
            id=self.settings.id,
            what="lost" if peer.was_connected else "cannot be reached",
            reason=reason,
            wait=wait,
        )
        self._retry = self.reactor.callLater(wait, self._try_again)
        if self._waiting:
            self._knock()

    def _try_again(self) -> None:
        self._retry = None
        self._connect()

    # Called by signaling

    def signaling_up(self) -> None:
        """See :class:`ISignalUser`."""
        if self.invited is not None:
            self.invited.signaling_up()
        self._connect()
        if self._peer is not None:
            self._peer.restart()

    def signaling_down(self, reason: str) -> None:
        """Give up an offer without an answer, since it may be lost. An established connection stays."""
        peer = self._peer
        if peer is None or not peer.needs_id or self.signaling.is_reference:
            # The server may still have the old connection, and we would have to wait for our old ID.
            self.signaling.identity = str(uuid.uuid4())
        if self.invited is not None:
            self.invited.signaling_down()
        if peer is not None and not peer.is_answered:
            peer.give_up("signaling is lost")

    def signal_received(self, signal: object) -> None:
        """Handle the host's answer or candidate, or an error of the server."""
        assert isinstance(signal, Signal)
        if self.invited is not None and self.invited.signal_received(signal):
            return
        peer = self._peer
        if peer is None or signal.sender_id != self.settings.id:
            return
        try:
            if signal.type == ANSWER:
                peer.take_answer(signal.payload)
            elif signal.type == CANDIDATE:
                peer.take_candidate(signal.payload)
            elif signal.type == ERROR and not peer.is_connected:
                peer.give_up(clean_text(str(signal.payload)))
            elif signal.type == ERROR and (self._offer_again is None or not self._offer_again.active()):
                # The host may have come back to the server just now.
                self._offer_again = self.reactor.callLater(OFFER_AGAIN, peer.restart)
        except (BadSignal, BadDescription) as error:
            self.log_limiter.warn(
                "host '{id}' sent an unusable message: {error}", id=self.settings.id, error=str(error)
            )
            if signal.type == ANSWER and not peer.is_connected:
                peer.give_up(str(error))

    # Stopping

    async def refuse_visitors(self) -> None:
        """Close the local ports and the connections that wait for the host. UDP flows continue."""
        self._is_draining = True
        if self.invited is not None:
            self.invited.stop()
        for call in (self._retry, self._offer_again):
            delayed_calls.cancel(call)
        await self.forwards.close()
        waiting, self._waiting = self._waiting, deque()
        for _, end, _ in waiting:
            end.abort()
        await self.signaling.stopService()

    def streams_left(self) -> int:
        """See :class:`DrainingService`."""
        peer = self._peer
        return len(peer.streams) if peer is not None and peer.streams is not None else 0

    async def close_links(self) -> None:
        """Close the peer connection, and wait until this one and earlier ones are closed."""
        peer, self._peer = self._peer, None
        self.forwards.disconnected()
        if peer is not None:
            self._leaving.close(peer)
        await self._leaving.closed()
