"""A node's link to another node of the cluster: a client's link, which carries the tunnels of this node's clients."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint

from rtunnel.access.rules import rules_as_json
from rtunnel.addresses import DialAddress
from rtunnel.cluster.interface import Away
from rtunnel.errors import Code
from rtunnel.relay.poller import poller_for
from rtunnel.reverse.client.links.link import LinkService
from rtunnel.reverse.client.links.links import build_tls
from rtunnel.reverse.client.links.targets import Target
from rtunnel.reverse.client.session import ClientSession
from rtunnel.reverse.client.tls_hosts import TlsHosts
from rtunnel.reverse.client.tunnel import Tunnel
from rtunnel.reverse.client.wanted import Wanted
from rtunnel.reverse.cluster.claims import link_of
from rtunnel.reverse.cluster.crossing import CrossingEndpoint, cross
from rtunnel.reverse.cluster.datagrams import CrossingFlow, UdpPortOf
from rtunnel.reverse.datagrams.client_flows import ClientFlow, ClientFlows, IUdpTunnel
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.settings import ClientSettings, ServerSettings, TunnelSettings
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.traffic.accounts import Account, Accounts
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire import events
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.tunnel_request import Behalf, TunnelRequest

#: Seconds before a node is dialled or asked for a tunnel again: the shortest wait, and the longest.
SHORTEST, LONGEST = 0.1, 5.0
#: Where the service is, as the other node's client sees it.
NOBODY_DIALS = DialAddress.parse("127.0.0.1:1")
#: Tunnels and streams of a link between nodes, which no client's limits bind.
MOST_TUNNELS, MOST_STREAMS = 1 << 20, 1 << 20


def node_limits(limits: LinkLimits) -> LinkLimits:
    """Return the limits of a link between nodes.

    :param limits: those of a client's link.
    """
    return replace(limits, max_tunnels=MOST_TUNNELS, max_streams=MOST_STREAMS)


class Carried(Wanted):
    """A tunnel of one of this node's clients, as other nodes get it.

    :ivar backend: the tunnel here. Its account counts those who cross, as visitors of its client.
    :ivar account: one of all tunnels, of which nobody wants to know.
    """

    check = tls = None
    descriptors = 2

    def __init__(
        self, number: int, backend: Backend, visitors: Visitors, reactor: Any, udp_port: UdpPortOf, account: Account
    ) -> None:
        super().__init__(number)
        self.version = 0
        self.backend = backend
        public = backend.place
        self.settings = TunnelSettings(
            public.port or 0,
            NOBODY_DIALS,
            f"{public} of client {backend.session.peer_name}",
            public.protocol,
            public.host,
            public.path,
            backend.rules,
        )
        self.account = account
        self.address = None
        self._reactor = reactor
        self._udp_port = udp_port
        self.cross = self._cross = partial(cross, backend, visitors, reactor)

    @property
    def request(self) -> TunnelRequest:  # type: ignore[override]
        """See :class:`Wanted`. The number of the claim is that of now: another lease may have another one."""
        backend, settings = self.backend, self.settings
        known_as = backend.session.known_as
        link = "" if known_as is None else link_of(known_as)
        return TunnelRequest(
            settings.remote_port,
            f"client {backend.session.peer_name}",
            settings.protocol,
            settings.host,
            settings.path,
            rules_as_json(backend.rules),
            behalf=Behalf(backend.party, backend.client_name, backend.number_of_claim, link),
        )

    def endpoint_for(self, visitor: str) -> IStreamClientEndpoint:
        """See :class:`Wanted`."""
        return CrossingEndpoint(self._cross, visitor, self._reactor)

    def flow(self, owner: ClientFlows, key: tuple[int, str], tunnel: IUdpTunnel) -> ClientFlow:
        """See :class:`Wanted`."""
        return CrossingFlow(owner, key, tunnel, self._udp_port)


class _CarriedTunnels:
    """What one link publishes; see :class:`~rtunnel.reverse.client.wanted.WantedTunnels`."""

    def __init__(self, carried: dict[Backend, Carried]) -> None:
        self._carried = carried
        self.answered: set[str] = set()

    def __iter__(self) -> Iterator[Carried]:
        return iter(list(self._carried.values()))

    def __len__(self) -> int:
        return len(self._carried)

    def begin_link(self) -> None:
        """Do nothing: no node is a reference server."""


class NodeSession(ClientSession):
    """The link, at the end of the node whose clients' tunnels it carries."""

    def publish(self, *tunnels: Carried) -> Deferred[None]:
        """Ask for those that are new, and give up those that are gone. This costs the same however many others there
        are.

        :returns: fires when the other node knows, and the last visitors have come whom it has sent to those given up.
        """
        if self.link.is_closed or self._draining or not self.link.is_extended:
            return succeed(None)  # what is to be done is found out when the link is up
        asked = {carried: self.tunnel_of(carried) for carried in tunnels}
        gone = [each for carried, each in asked.items() if each and carried.is_gone and not each.is_given_up]
        return self._change(gone, [each for each in tunnels if not (asked[each] or each.is_gone)], [])

    def _watch(self, tunnel: Tunnel, what: str) -> None:
        """Log that a tunnel is published there. Its client looks after the service."""
        self.log.debug(what, public=tunnel.name, tunnel=tunnel.name)

    def _say_state(self, tunnel: Tunnel, *, only_if_down: bool = False) -> None:
        is_ready = tunnel.wanted.backend.is_ready  # type: ignore[attr-defined]
        if not (only_if_down and is_ready):
            self.link.say_state(tunnel.number, is_ready=is_ready, why="" if is_ready else "its client says so")
            self.flush()

    def say_state(self, carried: Carried) -> None:
        """Tell the other node whether a tunnel's service answers."""
        tunnel = self.tunnel_of(carried)
        if tunnel is not None and self.link.is_extended:
            self._say_state(tunnel)

    def _tunnel_notice(self, event: events.TunnelNotice) -> None:
        """Ignore it: each client is told by its own node."""


def _settings(where: DialAddress, server: ServerSettings) -> ClientSettings:
    """Return the settings of a link, as this node's own settings have it."""
    tls = None if server.tls is None else replace(server.tls, server_name=where.host or "", pins=frozenset())
    return ClientSettings(
        where,
        (),
        SHORTEST,
        LONGEST,
        limits=node_limits(server.limits),
        tls=tls,
        data_plane="mux" if server.plane == "mux" else "direct",
        hedge=server.hedge,
        pool=server.pool,
    )


class INodes(Protocol):
    """What a link needs of its node."""

    carried: dict[Backend, Carried]

    @property
    def memory(self) -> Memory: ...
    async def introduce(self, node: str) -> str: ...
    def stream_ended(self) -> None: ...


class _Alone:
    """What a link needs of all links of its client, if there is no other; see
    :class:`~rtunnel.reverse.client.links.interfaces.ILinks`.
    """

    has_several = False

    def __init__(self, reactor: Any, settings: ClientSettings, visitors: Visitors, nodes: INodes) -> None:
        self.reactor = reactor
        self.visitors = visitors
        self.memory = nodes.memory
        self.poller = poller_for(reactor)
        self.hedges = Hedges(reactor, settings.hedge)
        self.tls_hosts = TlsHosts(reactor, settings, visitors.accounts)
        self.wanted: Any = _CarriedTunnels(nodes.carried)
        self.session_name = secrets.token_hex(16)
        self.use(settings)

    def use(self, settings: ClientSettings) -> None:
        """Use other settings.

        :raises ConfigError: the files of TLS cannot be used, so nothing changes.
        """
        self.tls = build_tls(self.reactor, settings)
        self.settings = settings

    def is_free(self, target: Target, link: object) -> bool:
        """See :class:`~rtunnel.reverse.client.links.links.Links`; also for the others."""
        return True

    may_renew = are_up = lambda self: True

    def moved(self) -> None: ...
    def are_fewer(self, count: int) -> None: ...


class NodeLink(LinkService):
    """Holds the link to another node.

    :param node: its name in the directory.
    :param where: its control port.
    """

    _kind = "node"

    def __init__(
        self, reactor: Any, nodes: INodes, node: str, where: DialAddress, server: ServerSettings, visitors: Visitors
    ) -> None:
        settings = _settings(where, server)
        own = Visitors(visitors.descriptors, Accounts(reactor, are_services=True))
        self._alone = _Alone(reactor, settings, own, nodes)
        super().__init__(self._alone, 0)
        self.setName(f"node {node}")
        self.node = node
        self.where = where
        self._nodes = nodes

    def build_session(self) -> ClientSession:
        """See :class:`LinkService`."""
        session = self._new_session(NodeSession)
        session.link.on_stream_count = lambda _change: self._nodes.stream_ended()
        return session

    async def dial(self) -> ClientSession:
        """See :class:`HeldConnection`. Before it is dialled, the other node is told who comes.

        :raises ConnectionError: it does not listen to us, or cannot be told.
        """
        try:
            token = await self._nodes.introduce(self.node)
        except Away as away:
            raise ConnectionError(f"the directory of the cluster is away: {away}") from None
        if not token:
            raise ConnectionError("the node does not answer in the directory of the cluster")
        self._hello = replace(self._hello, token=token)
        return await super().dial()

    def follow(self, server: ServerSettings) -> None:
        """Use what the settings of this node say now, for the next link.

        :raises ConfigError: the files of TLS cannot be used, so nothing changes.
        """
        self._alone.use(_settings(self.where, server))
        self.use(self._alone.settings)

    def publish(self, *tunnels: Carried) -> Deferred[None]:
        """See :meth:`NodeSession.publish`."""
        return self.session.publish(*tunnels) if isinstance(self.session, NodeSession) else succeed(None)

    def leave(self, session: ClientSession) -> None:
        """See :class:`HeldConnection`."""
        session.close(Code.SHUTTING_DOWN, "the node is going down, or the other one is gone")
