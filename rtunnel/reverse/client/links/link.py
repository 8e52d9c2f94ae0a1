"""One link of a client: dials a server, serves, dials again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Hashable
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.addresses import DialAddress
from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.dial import Dial
from rtunnel.relay.sockets import QuietFactory
from rtunnel.reverse.carriers.kept import KeptConnections
from rtunnel.reverse.carriers.sockets import Taker
from rtunnel.reverse.client.data_connections import DataConnections
from rtunnel.reverse.client.interfaces import Cancellable
from rtunnel.reverse.client.links.interfaces import ILinks
from rtunnel.reverse.client.links.targets import Target, address_key, find_targets, in_turn
from rtunnel.reverse.client.pace import Pace
from rtunnel.reverse.client.proxied import ProxiedEndpoint
from rtunnel.reverse.client.session import ClientSession
from rtunnel.reverse.datagrams.client_flows import ClientFlows
from rtunnel.reverse.settings import DATA_PLANES, ClientSettings
from rtunnel.upkeep import AGENT
from rtunnel.upkeep.held_connection import HeldConnection
from rtunnel.wire.client_link import WITHDRAW, ClientLink
from rtunnel.wire.messages import HOSTS, RULES, UDP, Hello

if TYPE_CHECKING:
    from cryptography import x509

    from rtunnel.tls.identity import Peer

#: Seconds after which a link to which no server is left looks its names up again.
LOOK_UP_EVERY = 30.0
#: Seconds that the server has to end a link that another process has taken over, and between two looks.
LET_GO, LOOK_EVERY = 5.0, 0.02


class _SessionFactory(QuietFactory):
    def __init__(self, service: LinkService) -> None:
        self._service = service

    def buildProtocol(self, addr: IAddress | None) -> ClientSession:
        return self._service.build_session()


def _unless_cancelled(failure: Failure, failed: Callable[[str], None]) -> None:
    if not failure.check(CancelledError):
        failed(reason_of(failure))


def _destination(settings: ClientSettings, server: DialAddress) -> object:
    """Return a value that differs when settings lead to a server by another way, or know it by something else."""
    tls = settings.of(server).tls
    return settings.via, None if tls is None else (tls.server_name, tls.pins)


class LinkService(HeldConnection[ClientSession]):
    """Holds one link, and dials again when it is lost: the same server, or another one to which no link leads.

    :param links: the links of which it is one.
    :ivar number: which of them, from 0.
    :ivar target: where it leads or may lead now; None: nowhere yet.
    :ivar waits: there are fewer servers than links, so it leads nowhere.
    """

    log = Logger()
    _kind = "server"

    def __init__(self, links: ILinks, number: int) -> None:
        settings, reactor = links.settings, links.reactor
        super().__init__(reactor, self._name(settings, settings.server), settings.reconnect_min, settings.reconnect_max)
        self.setName(f"link {number + 1}")
        self._links = links
        self.number = number
        self.settings = settings
        self._visitors = links.visitors
        self.tls_hosts = links.tls_hosts
        self.connect_timeout = settings.connect_timeout
        self.dial_timeout = settings.dial_timeout
        self._use_proxy(settings)
        self.memory = links.memory
        self.poller = links.poller
        self.hedges = links.hedges
        self.wanted = links.wanted
        self.flows = ClientFlows(reactor, links.poller, links.visitors.descriptors)
        self.target: Target | None = None
        # Those that are still to be tried before the next wait; the key of the one that worked last; and that of one
        # that sent us away, or fell silent.
        self._round: list[Target] = []
        self._last: Hashable = None
        self._left: Hashable = None
        self._says_target = False
        self._waiting: Deferred[None] | None = None
        self.waits = False
        self.kept: KeptConnections[DataConnections] = KeptConnections(
            reactor, settings.limits.dead_after, self._may_stay
        )
        # Where the current link leads first: to the server, or to the proxy.
        self._server_now: DialAddress | None = None
        self._address_now: tuple[int, Any] | None = None
        self._endpoint_now: Any = None
        self._hello = Hello(
            session=self._session_name,
            initial_credit=settings.limits.initial_credit,
            agent=AGENT,
            # Also what no tunnel needs now: one that does may come later.
            capabilities=DATA_PLANES[settings.plane] | {WITHDRAW, RULES, UDP, HOSTS},
            token=settings.token,
            hedge=settings.hedge,
            dead_after=settings.limits.dead_after,
        )
        #: Whether another process has taken the link over.
        self.has_successor = False

    def _name(self, settings: ClientSettings, target: object) -> str:
        way = "" if settings.via is None else f" through the proxy {settings.via}"
        return f"{self._kind} {target}{way}"

    @property
    def _session_name(self) -> str:
        """By which a server knows this link when it comes back: what is before the plus is that of the process."""
        return self._links.session_name + (f"+{self.number}" if self.number else "")

    def rename(self) -> None:
        """Use the present name of the process for the next link."""
        self._hello = replace(self._hello, session=self._session_name)

    @property
    def has_others(self) -> bool:
        """Whether the client has other links."""
        return self._links.has_several

    @property
    def server(self) -> str:
        """Where the link leads or may lead, for people."""
        return str(self.target or self.settings.server)

    @property
    def places(self) -> Collection[Hashable]:
        """The keys of the targets to which no other link may lead: ours, and the address that its name has."""
        if self.target is None:
            return ()
        peer: Any = self.session.transport.getPeer() if self.session is not None and not self.is_proxied else None
        is_at = isinstance(peer, IPv4Address | IPv6Address) and self.target.address.host is not None
        return (self.target.key, address_key(peer.host, peer.port)) if is_at else (self.target.key,)

    def await_successor(self) -> None:
        """Let another process take the link over: dial no more, and keep what outlives the link."""
        self.dial_no_more()
        self.kept.patience = inf
        if self.session is not None:
            self.session.linger(is_on=True)

    def go_on(self) -> None:
        """Undo :meth:`await_successor`."""
        self.kept.patience = self.settings.limits.dead_after
        if self.session is not None:
            self.session.linger(is_on=False)
        self.dial_again()

    async def _let_go(self) -> None:
        """Wait until the server has ended the link, which another process has taken over."""
        session = self.session
        until = self.reactor.seconds() + LET_GO
        while session is not None and session.connected_now:
            if self.reactor.seconds() >= until:
                session.drop()
            await deferLater(self.reactor, LOOK_EVERY)

    def _use_proxy(self, settings: ClientSettings) -> None:
        self.is_proxied = settings.via is not None
        self.pace = Pace(self.reactor, settings.reconnect_min, settings.reconnect_max) if self.is_proxied else None

    def use(self, settings: ClientSettings) -> None:
        """Use other settings: for the next link or, if the server of this one is none of theirs, or reached by another
        way, for one that is made at once. Then streams on data connections go on as if the link had been lost.
        """
        before, self.settings = self.settings, settings
        self.connect_timeout = settings.connect_timeout
        credit, self.kept.patience = settings.limits.initial_credit, settings.limits.dead_after
        self._hello = replace(self._hello, initial_credit=credit, dead_after=self.kept.patience, token=settings.token)
        server = before.server if self.target is None else self.target.server
        stays = server in settings.servers and _destination(before, server) == _destination(settings, server)
        if stays and (self.session is not None or before.servers == settings.servers):
            self.set_waits(settings.reconnect_min, settings.reconnect_max)
        else:
            self._use_proxy(settings)
            self.forget()
            self.dial_anew(self._name(settings, settings.server), settings.reconnect_min, settings.reconnect_max)
            self._links.moved()

    def forget(self) -> None:
        """Lead nowhere for the moment."""
        self._round = []
        self.target = None

    @property
    def place(self) -> list[Any] | None:
        """The target, as JSON has it, for the process that takes the place of this."""
        return None if self.target is None else [str(self.target.server), self.target.ip]

    def begin_at(self, place: list[Any] | None) -> bool:
        """Begin with another process's :attr:`place`. Return whether it is among the servers; None may be any."""
        if place is None:
            return True
        for server in self.settings.servers:
            if str(server) == place[0]:
                self._last = Target(server, str(place[1])).key
                return True
        return False

    @property
    def session(self) -> ClientSession | None:
        """The current link, or None."""
        return self.connection

    def build_session(self) -> ClientSession:
        """Return a session for a connection that is being made."""
        return self._new_session(ClientSession)

    def _new_session(self, kind: type[ClientSession]) -> ClientSession:
        if not self._links.are_up():
            self.wanted.begin_link()
        assert self.target is not None
        link = ClientLink(self._hello, self.settings.limits, self.reactor.seconds())
        settings = self.settings.of(self.target.server)
        return kind(settings, link, self.reactor, self._visitors, self, self.wanted)

    def _may_stay(self, session: ClientSession) -> bool:
        self.look_at_files()
        return not any(self.why_void(server) for server in session.servers)

    def why_void(self, server: Peer) -> str:
        """See :class:`TlsDialler`."""
        tls = self._links.tls
        return tls.why_void(server) if tls is not None else ""

    def has_later(self, shown: x509.Certificate) -> bool:
        """See :class:`TlsDialler`."""
        tls = self._links.tls
        return tls is not None and tls.has_later(shown) and self._links.may_renew()

    def look_at_files(self) -> None:
        """See :class:`TlsDialler`."""
        if self._links.tls is not None:
            self._links.tls.look_at_files()

    def dial_server(self, made: Callable[[socket.socket], None], failed: Callable[[str], None]) -> Cancellable:
        """Connect to the server of the current link, for a data connection."""
        if self._server_now is None:
            self._server_now = self._first_address
            peer: Any = self.session.transport.getPeer() if self.session is not None else None
            if self._server_now.host is not None and isinstance(peer, IPv4Address | IPv6Address):
                # A name may stand for several servers, and costs a look-up.
                self._server_now = replace(self._server_now, host=peer.host)
            self._address_now = None if self.is_proxied else self._server_now.socket_address()
            self._endpoint_now = self._endpoint(self._server_now)
        if self._address_now is not None:
            dial = Dial(self.poller, made, lambda error: failed(reason_of(error)))
            dial.start(*self._address_now)
            return dial
        dialling: Deferred[Any] = self._endpoint_now.connect(QuietFactory.forProtocol(partial(Taker, made, failed)))
        dialling.addErrback(_unless_cancelled, failed)
        return dialling

    @property
    def _first_address(self) -> DialAddress:
        """Where connections lead first: to the server, or to the proxy."""
        assert self.target is not None
        return self.target.address if self.settings.via is None else self.settings.via.address

    def _endpoint(self, first: DialAddress) -> IStreamClientEndpoint:
        """Return the endpoint of the server by way of *first*, which is as :attr:`_first_address`."""
        endpoint, via = first.endpoint(self.reactor, self.connect_timeout), self.settings.via
        if via is None:
            return endpoint
        assert self.target is not None
        proxied: IStreamClientEndpoint = ProxiedEndpoint(
            self.reactor, endpoint, via, self.target.server, self.connect_timeout
        )
        return proxied

    def begin(self) -> None:
        """See :class:`HeldConnection`. Where the link leads is said once it is known."""
        self._says_target = True

    async def _choose(self) -> Target:
        """Return the next target to which no other link leads; wait until there is one."""
        while True:
            if not self._round:
                targets = await find_targets(self.reactor, self.settings)
                self._round = in_turn(targets, self._last, self._left)
                self._left = None
                self._links.are_fewer(len(targets))
            while self._round:
                target = self._round.pop(0)
                if self._links.is_free(target, self):
                    self.waits = False
                    return target
            self.target, self.waits = None, True
            await self._until_moved()

    async def _until_moved(self) -> None:
        """Wait until another link leads elsewhere, or names may have other addresses."""
        self._waiting = waiting = Deferred[None]()
        call = self.reactor.callLater(LOOK_UP_EVERY, self.others_moved)
        try:
            await waiting
        finally:
            if call.active():
                call.cancel()

    def others_moved(self) -> None:
        """Look again for a target, if there was none."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    def next_at_once(self) -> str:
        """See :class:`HeldConnection`."""
        self._round = [target for target in self._round if self._links.is_free(target, self)]
        return self._name(self.settings, self._round[0]) if self._round else ""

    async def dial(self) -> ClientSession:
        """See :class:`HeldConnection`."""
        target = await self._choose()
        before, self.target = self.target, target
        self._peer = self._leads_to = self._name(self.settings, target)
        if self._says_target:
            self._says_target = False
            super().begin()
        if before is not None and before.key != target.key:
            self._links.moved()
        if target.problem is not None:
            raise target.problem
        endpoint = self._endpoint(self._first_address)
        session: Any
        if self._links.tls is not None:
            session = await self._links.tls.connect(endpoint, self.build_session, target.server.host or "")
        else:
            session = await endpoint.connect(_SessionFactory(self))
        self._server_now = None
        return cast(ClientSession, session)

    def lost(self, session: ClientSession, reason: str) -> str:
        """See :class:`HeldConnection`."""
        if session.was_useful:
            self.was_useful()
            self._round = []
            self._last = None if self.target is None else self.target.key
            self._left = self._last if session.peer_has_left or session.end_code == Code.TIMEOUT else None
        count = len(self.kept)
        who = "1 visitor goes" if count == 1 else f"{count} visitors go"
        return f"link to {self._peer} lost: {reason}" + (f"; {who} on without it" if count else "")

    def give_up(self, session: ClientSession) -> None:
        """See :class:`HeldConnection`."""
        session.why_lost = "the settings lead elsewhere now"
        session.drop()

    def leave(self, session: ClientSession) -> None:
        """See :class:`HeldConnection`."""
        session.close(Code.SHUTTING_DOWN, "the client is going down")

    async def _stop(self) -> None:
        await super()._stop()
        self.kept.close()
        self.flows.close()

    async def withdraw(self, has_time: Callable[[], bool]) -> None:
        """Give up the tunnels, so that the server frees their ports, and dial no more.

        :param has_time: see :meth:`ClientSession.withdraw`.
        """
        self.dial_no_more()
        if self.has_successor:
            await self._let_go()
        elif self.session is not None:
            await self.session.withdraw(has_time)

    @property
    def streams_left(self) -> int:
        """How many streams the link still carries, or has left."""
        session = self.session
        held = len(session.link.streams) + session.link.direct_streams if session is not None else 0
        return held + len(self.kept)
