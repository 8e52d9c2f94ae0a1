"""``rtunnel-server``: many clients on a control port, their visitors on public ports.

    TunnelServer
     +-- control port     its Door classifies connections; a ServerSession for each link
     +-- guard            checks certificates and the clients file once a second
     +-- shared port      visitors for any client that serves port 0 (only with --public-listen); closed without one
     +-- host names       the HTTP port and the HTTPS port (only with --http-listen and --https-listen)
     +-- UDP path         datagrams of all links, to and from their clients
     +-- idle visitors    closes visitors that are silent for too long (only with --visitor-idle)

Ports that clients ask for come and go with them, in ``PublicPorts``.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from rtunnel.access.admission import Admission
from rtunnel.access.passwords import Passwords, PasswordThreads
from rtunnel.access.public import NAMED, SHARED, Public
from rtunnel.cluster.interface import IDirectory
from rtunnel.errors import Code, Refused
from rtunnel.relay.bare_port import LandingFactory
from rtunnel.relay.poller import poller_for
from rtunnel.relay.sockets import descriptor_limit, format_address
from rtunnel.reverse.carriers.data_connections import DataPool
from rtunnel.reverse.carriers.kept import KeptConnections
from rtunnel.reverse.cluster.tunnels import PublishingServer
from rtunnel.reverse.datagrams.path_port import PathPort
from rtunnel.reverse.door import Door
from rtunnel.reverse.fronts.http import HttpFront
from rtunnel.reverse.fronts.named import NamedPorts
from rtunnel.reverse.fronts.sni import SniFront
from rtunnel.reverse.metering.metering import Metering
from rtunnel.reverse.public import Owner
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.guard import Guard
from rtunnel.reverse.server.held import Heir, Lobby
from rtunnel.reverse.server.hosts import HostNames
from rtunnel.reverse.server.ports import PublicPorts
from rtunnel.reverse.server.refusals import Refusals
from rtunnel.reverse.server.roster import Roster
from rtunnel.reverse.server.session import ServerSession
from rtunnel.reverse.server.shared import SharedPort
from rtunnel.reverse.settings import DATA_PLANES, ServerSettings
from rtunnel.reverse.web.forwarded import TrustedProxies
from rtunnel.reverse.web.interfaces import SETTLE
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.upkeep import AGENT
from rtunnel.upkeep.listening import Listener
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory, default_memory
from rtunnel.upkeep.periodic import PeriodicService
from rtunnel.wire.client_link import WITHDRAW
from rtunnel.wire.data.tickets import Tickets
from rtunnel.wire.messages import CHECK, DIRECT_ONLY, HOSTS, RULES, UDP, UDP_PATH, Hello
from rtunnel.wire.opening import Opening
from rtunnel.wire.server_link import ServerLink, StreamIds

if TYPE_CHECKING:
    from rtunnel.tls.identity import Peer

#: The share of our descriptors that links may hold, however high ``--max-links`` is: visitors need some too.
LINKS_SHARE = 1 / 2


class TunnelServer(PublishingServer):
    """The server as a service.

    :param reactor: provides TCP, time and name resolution.
    :param directory: of the cluster; None: this server is alone.
    """

    log = Logger()

    def __init__(self, reactor: Any, settings: ServerSettings, directory: IDirectory | None = None) -> None:
        super().__init__(reactor, settings, directory)
        self.handshake_timeout, self.max_frame = settings.handshake_timeout, settings.limits.max_frame
        self.admission = Admission(settings.admission)
        self.sessions: Roster[ServerSession] = Roster()
        self._by_session: dict[tuple[str, str], ServerSession] = {}
        self.data_plane, self.hedges = settings.plane, Hedges(reactor, settings.hedge)
        self.pool_size = settings.pool if settings.plane != "mux" else 0
        self.takes_data_connections = bool(self.pool_size)
        self.tickets: Tickets[DataPool] = Tickets()
        self.kept: KeptConnections[DataPool] = KeptConnections(
            reactor, settings.limits.dead_after, self._may_stay, self._is_elsewhere
        )
        self.log_limiter = LogLimiter(self.log, reactor)
        self.metering = Metering(self, settings.state_dir)
        self.metering.setServiceParent(self)
        self.memory = Memory(settings.memory or default_memory(), reactor, self.log)
        self.poller = poller_for(reactor)
        # If a client wants its visitors on data connections only, it gets that wherever data connections are on.
        planes = DATA_PLANES[settings.plane] | ({DIRECT_ONLY} if DATA_PLANES[settings.plane] else set())
        self.hello = Hello(
            session=self.directory.session,
            initial_credit=settings.limits.initial_credit,
            agent=AGENT,
            capabilities=frozenset({WITHDRAW, UDP, UDP_PATH, HOSTS, RULES, CHECK}) | planes,
            hedge=settings.hedge,
            dead_after=settings.limits.dead_after,
        )
        self.ids = StreamIds()
        self._stopping = self._full = False
        self.visitors.on_change = self._visitors_changed
        self.lobby = lobby = Lobby(self.visitors, self.memory, self.poller, self.log_limiter)
        self.refusals = Refusals(reactor)
        self.ports = PublicPorts(reactor, settings.public_interface, lobby, self.refusals, self.claims)
        self.shared_port = SharedPort(reactor, settings, lobby, self.refusals)
        self.shared_backends = self.shared_port.group
        self.door = Door(self)
        self.tls = self.door.build_tls(reactor, settings, self.sessions.has_link_from)
        self.control = Listener(reactor, settings.control_listen, self.door, "control port", "--control-listen")
        self.control.setServiceParent(self)
        self.guard = Guard(reactor, self, self.tls)
        self.guard.setServiceParent(self)
        if self.shared is not None:
            self.shared.setServiceParent(self)
        self.names = HostNames(reactor, lobby, self.refusals, self.claims)
        self.sni = SniFront(self)
        self.http, self.named = self._build_named_ports()
        # Behind the ports without which nothing starts.
        self.path_port = PathPort(reactor, self.poller, settings.udp_listen, lambda: self.control.host)
        self.path_port.setServiceParent(self)
        self.nodes.setServiceParent(self)  # who have to know where the control port is
        self._idle: PeriodicService | None = None
        self.watch_idle(settings.visitor_idle)

    def _build_named_ports(self) -> tuple[HttpFront, NamedPorts]:
        reactor, settings = self.reactor, self.settings
        threads = PasswordThreads(reactor)
        threads.setServiceParent(self)
        http = HttpFront(self, Passwords(threads.run, reactor.seconds), TrustedProxies(settings.trusted_proxies))
        fronts: dict[str, LandingFactory] = {"http": http, "https": self.sni}
        named = NamedPorts(reactor, settings, self.names, fronts)
        named.setServiceParent(self)
        http.service().setServiceParent(self)
        return http, named

    def startService(self) -> None:
        """See :class:`Service`."""
        super().startService()
        self.guard.warn_if_open()

    def watch_idle(self, seconds: float) -> None:
        """Close visitors that are silent for so long; 0: none."""
        if self._idle is not None:
            self._idle.disownServiceParent()
            self._idle = None
        if seconds:
            self._idle = PeriodicService(self.reactor, "idle visitors", seconds, self._abort_idle_visitors)
            self._idle.setServiceParent(self)

    def group_of(self, public: Public) -> Group | None:
        """Return who serves a place, or is waited for there; None: nobody."""
        if public == SHARED:
            return self.shared_port.group
        return (self.names if public.protocol in NAMED else self.ports).find(public)

    def leave_waiting_to(self, heir: Heir) -> None:
        """Let visitors who wait, now or from now on, do so in another process."""
        self.lobby.heir = heir
        for group in (self.shared_port.group, *self.ports.groups, *self.names.groups):
            group.hand_on()

    # Clients

    def serves_silent_client(self, *, has_certificate: bool) -> bool:
        """See :class:`~rtunnel.reverse.door.IHouse`."""
        can_serve = self.shared is not None and not self._stopping and not self.hedges
        return can_serve and not self.admission.needs_hello(has_certificate=has_certificate)

    def build_session(self, identity: Peer | None) -> ServerSession:
        """Build a session for a link. It has no place in the roster before its client is let in."""
        link = ServerLink(self.hello, self.settings.limits, self.reactor.seconds(), self.ids, time.time)
        return ServerSession(self, link, self.reactor, identity)

    def take_in(self, session: ServerSession) -> None:
        """Give the link of a client that is let in a place, or check whether it may keep it.

        A link that the same client had before is dropped as dead.

        :raises Refused: it may have no place.
        """
        former = self._former(session)
        if former is not None:
            former.lose(f"the same client came back from {session.peer_name}")
        if session.node:
            self.nodes.sessions[session] = None
        else:
            self._give_place(session)
        if session.known_as is not None:
            self._by_session[session.known_as] = session
            session.adopt(self.kept.take(session.known_as))

    def _give_place(self, session: ServerSession) -> None:
        self.sessions.rename(session)
        try:
            self.admission.check_link(session.client_name, self.sessions.links_besides(session))
        except Refused as refusal:
            self.log_limiter.warn("client {peer} refused: {why}", peer=session.peer_name, why=refusal.message)
            raise
        if session not in self.sessions:
            self._make_room(session)
            self.sessions.add(session)
            self._full = False

    def _may_stay(self, session: Any) -> bool:
        """Whether the client of a lost link would still be let in."""
        identity: Peer | None = session.identity
        if identity is None or self.tls is None:
            return bool(session.may_stay)
        is_void = identity.why_expired or self.tls.credentials.now.why_revoked(identity)
        return not is_void and bool(session.may_stay)

    def _former(self, session: ServerSession) -> ServerSession | None:
        """Find out by what the client is known once it is back; return the link that it has had up to now."""
        if session.link.peer is None or session.known_as is not None:
            return None
        proof = session.identity.fingerprint if session.identity is not None else session.client_name
        session.known_as = (session.link.peer.session, proof)
        return self._by_session.get(session.known_as)

    def _make_room(self, session: ServerSession) -> None:
        if len(self.sessions) < min(self.settings.max_links, descriptor_limit() * LINKS_SHARE):
            return
        first_to_go = self.sessions.first_to_go_for(session)
        if first_to_go is None:
            if not self._full:
                self._full = True
                limit = "{count} links, the limit (--max-links): others are closed"
                self.log_limiter.warn(limit, count=len(self.sessions))
            raise Refused(Code.LIMIT, "the server has no room for another link")
        first_to_go.lose("all links are taken, and another client has fewer", session.peer_name, Code.LIMIT)

    def streams_changed(self, session: ServerSession, change: int) -> None:
        """Take note that the link of *session* has *change* more streams."""
        self.sessions.count(session, change)
        if self._stopping:
            self.stream_ended()

    def _visitors_changed(self, owner: Any, count: int) -> None:
        """Tell the group of a tunnel how many visitors that has now. Requests are counted elsewhere."""
        if isinstance(owner, Owner) and owner.session is not None:
            backend = owner.session.backends.get(owner.number)
            if backend is not None and backend.group is not None and backend.group.public.protocol != "http":
                backend.group.set_load(backend, count)

    def expect(self, opening: Opening, address: IAddress) -> Callable[[socket.socket], None] | None:
        """See :class:`~rtunnel.reverse.door.IHouse`."""
        self.descriptors.make_room()
        found = self.tickets.find(opening.ticket, self.reactor.seconds())
        if found is not None:
            pool, ticket = found
            if pool.is_sealed == bool(opening.client_random):
                return partial(pool.take, ticket, opening.client_random)
        self.log_limiter.warn(
            "data connection from {peer} closed: {why}",
            peer=format_address(address),
            why="its ticket is unknown, was used, or has expired"
            if found is None
            else "one end seals its records, and the other does not",
        )
        return None

    def session_lost(self, session: ServerSession) -> None:
        """Free everything that *session* had. May be called twice."""
        if not session.has_place:
            return
        self.sessions.discard(session)
        self.nodes.sessions.pop(session, None)
        self.stream_ended()
        if session.known_as is not None and self._by_session.get(session.known_as) is session:
            del self._by_session[session.known_as]
        if session.streams_outlive and session.known_as is not None:
            for backend in session.backends.values():
                self.ports.park(backend, session.known_as, self.settings.limits.dead_after)
        # Who leaves in good order, or was sent away, is not waited for.
        is_away = session.streams_outlive and not self._stopping and self._may_stay(session)
        hold = self.settings.hold if is_away else 0.0
        close = partial(self.close_tunnel, hold=hold, goes_elsewhere=self._stopping and not session.node)
        freed = [place for backend in session.backends.values() if (place := close(backend))]
        if session.link.peer is not None or session.backends:
            what = f"visitors wait {hold:g} s for it" if hold else "freed"
            places = f"; {what}: {', '.join(public.short for public in freed)}" if freed else ""
            self.log_limiter.info(
                "client {peer} gone{places}", admitted=session.admitted, peer=session.peer_name, places=places
            )
        session.backends.clear()

    def _abort_idle_visitors(self) -> None:
        if count := self.visitors.abort_idle():
            self.log.info("{count} idle visitors closed", count=count)

    # The end

    async def refuse_visitors(self) -> None:
        """Stop listening on all ports. Links stay for the streams that they carry."""
        self._stopping = True
        await self.control.stop_listening()
        self.door.close()
        await self.shared_port.stop_listening()
        await self.named.stop_listening()
        await self.sni.settle(SETTLE if self.may_wait else 0.0)
        if self.may_wait:
            await self.http.settle(self.reactor)
        self.names.close()
        self.http.stop()
        await self.ports.stop_listening()
        if self.let_go is not None:
            await self.let_go()

    def streams_left(self) -> int:
        """See :class:`DrainingService`."""
        return (
            self.nodes.streams
            + len(self.kept)
            + sum(len(each.link.streams) + each.link.direct_streams for each in self.links)
        )

    async def close_links(self) -> None:
        """Tell every client that the server is going down, and close its link."""
        self.kept.close()
        for session in self.links:
            session.close(Code.SHUTTING_DOWN, "the server is going down")
        await self.sessions.all_gone()
