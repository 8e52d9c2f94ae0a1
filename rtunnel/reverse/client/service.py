"""``rtunnel-client``: holds a link to the server, and connects its visitors to local services.

TunnelClient
 +-- certificates   of names whose TLS ends here; only if there are any
 +-- link           dials, serves, dials again; a ClientSession each
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.acme.settings import AcmeSettings
from rtunnel.addresses import DialAddress
from rtunnel.errors import Code, ConfigError, StartupError
from rtunnel.reasons import reason_of
from rtunnel.relay.dial import Dial
from rtunnel.relay.poller import poller_for
from rtunnel.relay.sockets import QuietFactory
from rtunnel.reverse.carriers.kept import KeptConnections
from rtunnel.reverse.carriers.sockets import Taker
from rtunnel.reverse.client.data_connections import DataConnections
from rtunnel.reverse.client.pace import Pace
from rtunnel.reverse.client.proxied import ProxiedEndpoint
from rtunnel.reverse.client.session import ClientSession
from rtunnel.reverse.client.tls_hosts import TlsHosts
from rtunnel.reverse.client.visits import Cancellable
from rtunnel.reverse.client.wanted import WantedTunnels
from rtunnel.reverse.datagrams.client_flows import ClientFlows
from rtunnel.reverse.settings import DATA_PLANES, ClientSettings, TunnelSettings
from rtunnel.services.files.tree import check_directory
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.upkeep import AGENT
from rtunnel.upkeep.draining import DrainingService
from rtunnel.upkeep.held_connection import HeldConnection
from rtunnel.upkeep.memory import Memory, default_memory
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.client_link import WITHDRAW, ClientLink
from rtunnel.wire.messages import HOSTS, RULES, UDP, Hello

if TYPE_CHECKING:
    from cryptography import x509

    from rtunnel.reverse.client.tls_dialler import TlsDialler
    from rtunnel.tls.identity import Peer
    from rtunnel.tls.policy import TlsSettings

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


def _name(settings: ClientSettings) -> str:
    way = "" if settings.via is None else f" through the proxy {settings.via}"
    return f"server {settings.server}{way}"


def _destination(settings: ClientSettings) -> object:
    """Return a value that differs when settings lead to another server, or by another way."""
    tls = settings.tls
    return settings.server, settings.via, None if tls is None else (tls.server_name, tls.pins)


class LinkService(HeldConnection[ClientSession]):
    """Holds one link to the server, and dials again when it is lost."""

    log = Logger()

    def __init__(self, reactor: Any, settings: ClientSettings, visitors: Visitors) -> None:
        super().__init__(reactor, _name(settings), settings.reconnect_min, settings.reconnect_max)
        self.setName("link")
        self.settings = settings
        self._visitors = visitors
        self.tls_hosts = TlsHosts(reactor, settings, visitors.accounts)
        self.connect_timeout = settings.connect_timeout
        self.dial_timeout = settings.dial_timeout
        self._use_proxy(settings)
        self.memory = Memory(settings.memory or default_memory(), reactor, self.log)
        self.poller = poller_for(reactor)
        self.flows = ClientFlows(reactor, visitors.descriptors)
        self.kept: KeptConnections[DataConnections] = KeptConnections(
            reactor, settings.limits.dead_after, self._may_stay
        )
        # Where the current link leads first: to the server, or to the proxy.
        self._server_now: DialAddress | None = None
        self._address_now: tuple[int, Any] | None = None
        self._endpoint_now: Any = None
        # One session name for the life of the process, by which the server recognises us when we come back.
        self._hello = Hello(
            session=secrets.token_hex(16),
            initial_credit=settings.limits.initial_credit,
            agent=AGENT,
            # Also what no tunnel needs now: one that does may come later.
            capabilities=DATA_PLANES[settings.plane] | {WITHDRAW, RULES, UDP, HOSTS},
            token=settings.token,
            hedge=settings.hedge,
        )
        self.hedges = Hedges(reactor, settings.hedge)
        self.wanted = WantedTunnels(reactor, settings, self.tls_hosts, visitors.accounts)
        self._tls = None if settings.tls is None else self._build_tls(settings.tls, settings.connect_timeout)
        #: Whether another process has taken the link over.
        self.has_successor = False

    def _build_tls(self, tls: TlsSettings, connect_timeout: float) -> TlsDialler:
        from rtunnel.reverse.client.tls_dialler import TlsDialler

        return TlsDialler(self.reactor, tls, connect_timeout)

    def apply(self, tunnels: Sequence[TunnelSettings], acme: AcmeSettings | None) -> Deferred[None]:
        """Serve these tunnels from now on; see :meth:`TunnelClient.apply`."""
        self.tls_hosts.use(tunnels, acme)
        self.wanted.use(tunnels)
        return succeed(None) if self.session is None else self.session.sync()

    @property
    def session_name(self) -> str:
        """By which the server knows this client when it comes back."""
        return self._hello.session

    @session_name.setter
    def session_name(self, name: str) -> None:
        self._hello = replace(self._hello, session=name)

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
        """Use other settings: for the next link or, if they lead to another server or by another way, for one that is
        made at once. Then streams on data connections go on as if the link had been lost.

        :raises ConfigError: the files of TLS cannot be used, so nothing changes.
        """
        if settings.tls is not None:
            self._tls = self._build_tls(settings.tls, settings.connect_timeout)
        before, self.settings = self.settings, settings
        self.connect_timeout = settings.connect_timeout
        self.kept.patience = settings.limits.dead_after
        self._hello = replace(self._hello, initial_credit=settings.limits.initial_credit, token=settings.token)
        if _destination(before) == _destination(settings):
            self.set_waits(settings.reconnect_min, settings.reconnect_max)
        else:
            self._use_proxy(settings)
            self.dial_anew(_name(settings), settings.reconnect_min, settings.reconnect_max)

    @property
    def session(self) -> ClientSession | None:
        """The current link, or None."""
        return self.connection

    def build_session(self) -> ClientSession:
        """Return a session for a connection that is being made."""
        return self._new_session(ClientSession)

    def _new_session(self, kind: type[ClientSession]) -> ClientSession:
        self.wanted.begin_link()
        link = ClientLink(self._hello, self.settings.limits, self.reactor.seconds())
        return kind(self.settings, link, self.reactor, self._visitors, self, self.wanted)

    def _may_stay(self, session: ClientSession) -> bool:
        self.look_at_files()
        return session.identity is None or not self.why_void(session.identity)

    def why_void(self, server: Peer) -> str:
        """See :class:`TlsDialler`."""
        return self._tls.why_void(server) if self._tls is not None else ""

    def has_later(self, shown: x509.Certificate) -> bool:
        """See :class:`TlsDialler`."""
        return self._tls is not None and self._tls.has_later(shown)

    def look_at_files(self) -> None:
        """See :class:`TlsDialler`."""
        if self._tls is not None:
            self._tls.look_at_files()

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
        return self.settings.server if self.settings.via is None else self.settings.via.address

    def _endpoint(self, first: DialAddress) -> IStreamClientEndpoint:
        """Return the endpoint of the server by way of *first*, which is as :attr:`_first_address`."""
        endpoint, via = first.endpoint(self.reactor, self.connect_timeout), self.settings.via
        if via is None:
            return endpoint
        proxied: IStreamClientEndpoint = ProxiedEndpoint(
            self.reactor, endpoint, via, self.settings.server, self.connect_timeout
        )
        return proxied

    async def dial(self) -> ClientSession:
        """See :class:`HeldConnection`."""
        endpoint = self._endpoint(self._first_address)
        session: Any
        if self._tls is not None:
            session = await self._tls.connect(endpoint, self.build_session)
        else:
            session = await endpoint.connect(_SessionFactory(self))
        self._server_now = None
        return cast(ClientSession, session)

    def lost(self, session: ClientSession, reason: str) -> str:
        """See :class:`HeldConnection`."""
        if session.was_useful:
            self.was_useful()
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


class TunnelClient(DrainingService):
    """The client as a service.

    :param reactor: provides TCP, time and name resolution.
    """

    def __init__(self, reactor: Any, settings: ClientSettings) -> None:
        super().__init__(reactor, "rtunnel-client", settings.drain, has_services=True)
        self.link = LinkService(reactor, settings, self.visitors)
        self._https = self.link.tls_hosts.https
        self._end_tls()
        self.link.setServiceParent(self)

    def startService(self) -> None:
        """Begin. By now this is the user of ``twistd --uid``.

        :raises StartupError: he may not read a directory that is to be served.
        """
        try:
            self._check_directories(wanted.settings for wanted in self.link.wanted)
        except ConfigError as error:
            raise StartupError(str(error)) from error
        super().startService()

    def apply(self, tunnels: Sequence[TunnelSettings], acme: AcmeSettings | None = None) -> Deferred[None]:
        """Serve these tunnels from now on, and no others. Those that are the same as before are not touched.

        New visitors of one that goes are refused, and those it has finish, however long that takes. Where the server
        need not know of a change, as of another service, it is made without a gap. Otherwise the tunnel is given up,
        and asked for again at once.

        :param acme: where certificates come from; None: as before.
        :returns: fires when visitors of what has gone are refused here, which the server may have sent before it knew.
        :raises ConfigError: this cannot be done, and nothing has changed.
        """
        if self.is_stopping:
            raise ConfigError("the client is going down")
        self._check_directories(tunnels)
        applied = self.link.apply(tunnels, acme)
        self._end_tls()
        return applied

    @property
    def settings(self) -> ClientSettings:
        """The settings in use."""
        return self.link.settings

    @settings.setter
    def settings(self, settings: ClientSettings) -> None:
        self.link.settings = settings

    def _end_tls(self) -> None:
        hosts = self.link.tls_hosts
        if hosts.are_there and hosts.parent is None:
            hosts.setServiceParent(self)
            hosts.threads.setServiceParent(self)

    def _check_directories(self, tunnels: Iterable[TunnelSettings]) -> None:
        for directory in {tunnel.local.directory for tunnel in tunnels}:
            if directory is not None:
                check_directory(directory)

    async def refuse_visitors(self) -> None:
        """See :meth:`LinkService.withdraw`."""
        await self.link.withdraw(lambda: self.may_wait)
        self._https.stop()
        session = self.link.session
        if session is not None:
            session.link.on_stream_count = lambda _change: self.stream_ended()
            session.ended.addCallback(lambda _reason: self.stream_ended())

    def streams_left(self) -> int:
        """See :class:`DrainingService`."""
        session = self.link.session
        held = len(session.link.streams) + session.link.direct_streams if session is not None else 0
        return held + len(self.link.kept)

    async def close_links(self) -> None:
        """Close the link to the server."""
        await self.link.stopService()
