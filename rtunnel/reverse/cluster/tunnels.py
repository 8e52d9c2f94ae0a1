"""The tunnels of a server: which of them its clients may have, here and in the whole cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.task import deferLater

from rtunnel.access.admission import Admission
from rtunnel.access.public import SHARED, Public
from rtunnel.access.rules import read_rules
from rtunnel.cluster.interface import IDirectory
from rtunnel.cluster.memory import MemoryDirectory
from rtunnel.errors import Code, ConfigError, Refused
from rtunnel.reverse.carriers.data_connections import DataPool
from rtunnel.reverse.carriers.kept import KeptConnections
from rtunnel.reverse.cluster.claims import Claims, link_of, owner_of
from rtunnel.reverse.cluster.leaving import let_go_of_clients
from rtunnel.reverse.cluster.nodes import Nodes, unknown_node
from rtunnel.reverse.fronts.named import NamedPorts
from rtunnel.reverse.metering.metering import Metering
from rtunnel.reverse.server.granted import grant
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.held import anybody
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.ports import PublicPorts
from rtunnel.reverse.server.roster import Roster
from rtunnel.reverse.server.shared import SharedPort
from rtunnel.reverse.settings import ServerSettings
from rtunnel.upkeep.draining import DrainingService
from rtunnel.upkeep.listening import Listener
from rtunnel.upkeep.memory import Memory
from rtunnel.wire.messages import Hello
from rtunnel.wire.tunnel_request import TunnelRequest

if TYPE_CHECKING:
    from rtunnel.reverse.server.hosts import HostNames
    from rtunnel.reverse.server.session import ServerSession


class PublishingServer(DrainingService):
    """A server, as far as tunnels are concerned.

    :param directory: of the cluster; None: this server is alone.
    :ivar claims: the places that its clients hold.
    :ivar nodes: the other servers.
    :ivar let_go: awaited once nobody new comes, when the server stops.
    """

    admission: Admission
    metering: Metering
    sessions: Roster[ServerSession]
    ports: PublicPorts
    names: HostNames
    named: NamedPorts
    shared_port: SharedPort
    shared_backends: Group
    control: Listener
    memory: Memory
    kept: KeptConnections[DataPool]
    hello: Hello
    _stopping: bool

    def __init__(self, reactor: Any, settings: ServerSettings, directory: IDirectory | None) -> None:
        super().__init__(reactor, "rtunnel-server", settings.drain)
        self.settings = settings
        own: Any = MemoryDirectory(reactor) if directory is None else directory
        own.setServiceParent(self)
        self.directory: IDirectory = own
        self.claims = Claims(reactor, self.directory)
        self.nodes = Nodes(reactor, self, self.directory)
        self.let_go: Callable[[], Awaitable[None]] | None = self._let_go if self.directory.is_cluster else None

    @property
    def shared(self) -> Listener | None:
        """The shared public port; None: there is none."""
        return self.shared_port.listener

    def _may_stay(self, session: Any) -> bool:
        raise NotImplementedError

    async def _let_go(self) -> None:
        """Let clients go on at other nodes, if this one has time to wait for their streams."""
        if self.may_wait and self.nodes.links:
            await let_go_of_clients(self, "this node of the cluster is going down")
            # Before the links to other nodes end, these hear that visitors may wait. The last client is about to go.
            await self.sessions.all_gone()
            await deferLater(self.reactor, 0)

    def _is_elsewhere(self, session: Any) -> bool:
        """Whether the client of a lost link has one to another node."""
        return session.known_as is not None and self.nodes.has_client(link_of(session.known_as))

    @property
    def links(self) -> list[ServerSession]:
        """All links that were let in: those of clients, and those of other nodes."""
        return [*self.sessions, *self.nodes.sessions]

    async def open_tunnel(self, backend: Backend, request: TunnelRequest) -> str:
        """Let *backend* serve visitors. Return the public address, ``host:port``.

        :raises Refused: the client cannot have the port.
        """
        public = self._place_for(backend, request)
        grant(self.admission, backend)
        holder = "other nodes" if backend.is_elsewhere else " ".join(backend.session.holder).strip()
        backend.account = self.visitors.accounts.of(holder, str(public))
        if public == SHARED:
            address = self.shared_port.open(backend)
        else:
            address = await (self.named if public.host else self.ports).claim(public, backend)
            self.claims.check(backend)
            backend.public = public
        self.nodes.publish(backend)
        return address

    def check_request(self, backend: Backend, request: TunnelRequest) -> None:
        """Check whether :meth:`open_tunnel` would let *backend* serve visitors now. Nothing is opened, or kept.

        :raises Refused: it would not.
        """
        if (public := self._place_for(backend, request)) != SHARED:
            (self.names if public.host else self.ports).check(public, backend)

    def _place_for(self, backend: Backend, request: TunnelRequest) -> Public:
        """Read the rules of *backend*. Return the place that its client may have, as far as itself is concerned.

        :raises Refused: it may have none.
        """
        if self._stopping:
            raise Refused(Code.SHUTTING_DOWN, "the server is going down")
        try:
            backend.rules = read_rules(request.rules, request.protocol)
        except ConfigError as error:
            raise Refused(Code.BAD_REQUEST, str(error)) from None
        backend.behalf = request.behalf
        if bool(backend.session.node) is (request.behalf is None):
            raise Refused(Code.BAD_REQUEST, "on behalf of others, nodes of the cluster ask, and nobody else")
        if backend.is_elsewhere and not self.nodes.knows(backend.session.node):
            raise unknown_node()
        backend.party = owner_of(backend)
        public = backend.asked
        has_own = public.port and backend.session.link.is_extended
        if self.shared is not None and public.protocol == "tcp" and not has_own:
            self.shared_port.check(backend)
            public = SHARED
        elif public == SHARED:
            text = "the server has no shared public port; ask for a port of your own, with --remote-port"
            raise Refused(Code.NO_SHARED_PORT, text)
        self._check_tunnel(backend, public)
        return public

    def https_port(self) -> str:
        """Return the HTTPS port as URLs have it; see :meth:`NamedPorts.port_of`."""
        return self.named.port_of("https")

    def check_tunnel(self, backend: Backend) -> None:
        """Check whether the client may keep *backend*, and settle how much that may carry.

        :raises Refused: it may not.
        """
        if backend.public is not None:
            self._check_tunnel(backend, backend.public)
            if not backend.is_elsewhere:  # quotas count where the client has its link
                backend.budget = self.metering.budget_of(backend, backend.public)

    def _check_tunnel(self, backend: Backend, public: Public) -> None:
        allowed = self.settings.allow_ports
        if public.port and public.port not in allowed:
            text = f"port {public.port} is not among those allowed: {allowed} (--allow-ports)"
            raise Refused(Code.PORT_NOT_ALLOWED, text)
        tunnels = 0
        if not backend.is_elsewhere:
            tunnels = self.sessions.tunnels_of(backend.session) + (not backend.is_counted)
        self.admission.check_tunnel(backend.client_name, public, tunnels)
        if public.host:
            self.named.check(public)

    def close_tunnel(self, backend: Backend, hold: float = 0.0, *, goes_elsewhere: bool = False) -> Public | None:
        """Let *backend* serve no more visitors. Return the place, if it was served by nobody else and is not shared.

        :param hold: seconds for which visitors wait there for the return of the client; then it may be the shared port.
        :param goes_elsewhere: its client is sent away, to come back at another node.
        """
        self.nodes.withdraw(backend, is_lost=hold > 0 or goes_elsewhere)
        if self._stopping:
            hold = 0.0  # nobody comes to this process any more
        group, backend.public = backend.group, None
        if group is None:
            return None
        # Whose node is gone may come back at any other one, which asks then whether he may.
        may_stay = anybody if backend.is_elsewhere else partial(self._may_stay, backend.session)
        group.leave(backend, 0.0 if group.public.protocol == "udp" else hold, may_stay)
        return None if len(group) or (group is self.shared_backends and not hold) else group.public
