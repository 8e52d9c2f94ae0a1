"""The other servers of the cluster: who they are, and the links to and from them.

    the directory --> Nodes --+--> NodeLink         to each other node: carries there what our clients publish here
                              +--> introductions    who of those that connect is another node
                              +--> sessions         the links of the others, whose tunnels serve visitors here

A node is whoever can write to the directory: before it connects, it has sent a random token by the directory, which is
good once. So nothing that lasts goes over the wire.
"""

from __future__ import annotations

import secrets
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from rtunnel.addresses import DialAddress
from rtunnel.cluster.interface import Away, IDirectory
from rtunnel.errors import Code, ConfigError, Refused
from rtunnel.relay.sockets import format_host_port
from rtunnel.reverse.cluster.claims import Claims
from rtunnel.reverse.cluster.link import Carried, NodeLink, NodeSession
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.ports import PublicPorts
from rtunnel.reverse.settings import ServerSettings
from rtunnel.traffic.accounts import Accounts
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.periodic import PeriodicService, do_all
from rtunnel.upkeep.visitors import Visitors

#: What a node says about itself in the directory, and the kinds of its messages.
KIND, INTRODUCE, INTRODUCED = "rtunnel-server", "introduce", "introduced"
#: What the token of a node's HELLO begins with.
TOKEN = "rtunnel-node "
#: Seconds for which an introduction is good, and for which an answer to one is waited for.
GOOD_FOR, ANSWER_IN = 10.0, 3.0
#: How many may wait to be used.
MOST_INTRODUCED = 1024
#: Seconds between two looks.
LOOK_EVERY = 1.0


class IServer(Protocol):
    """The server, as its nodes see it."""

    settings: ServerSettings
    visitors: Visitors
    claims: Claims
    memory: Memory
    ports: PublicPorts

    @property
    def control(self) -> Any: ...
    def stream_ended(self) -> None: ...


class Nodes(MultiService):
    """See above. Without a cluster, there are none.

    :ivar carried: what is published at the other nodes.
    :ivar sessions: the links of other nodes to this one.
    :raises ConfigError: this node's certificate is not good for links to other nodes.
    """

    log = Logger()

    def __init__(self, reactor: Any, server: IServer, directory: IDirectory) -> None:
        super().__init__()
        self.setName("nodes")
        self.reactor = reactor
        self.carried: dict[Backend, Carried] = {}
        self._crossing = Accounts(reactor, are_services=True).of("", "")
        self.sessions: dict[Any, None] = {}
        # Tunnels of clients at other nodes, by whose links they are known, and how many each link has.
        self._elsewhere: dict[Backend, str] = {}
        self._links_elsewhere: Counter[str] = Counter()
        self._server = server
        self._directory = directory
        self._links: dict[str, NodeLink] = {}
        self._introduced: dict[str, tuple[str, float]] = {}
        self._answers: dict[str, Deferred[bool]] = {}
        self._next = 1
        self._listens_at = ""
        self._settings = server.settings
        if directory.is_cluster:
            _check_certificate(server.settings)
            directory.watch(self._changed)
            directory.listen(INTRODUCE, self._heard_introduction)
            directory.listen(INTRODUCED, self._heard_answer)
            PeriodicService(reactor, "other nodes", LOOK_EVERY, self.look).setServiceParent(self)

    def startService(self) -> None:
        """Tell the others where this node is."""
        super().startService()
        if self._directory.is_cluster:
            self.look()
            self._changed()

    def _address(self) -> str:
        """Return where other nodes reach this one."""
        if self._server.settings.cluster_advertise:
            return self._server.settings.cluster_advertise
        host, _, port = self._server.control.local_address.rpartition(":")
        if host.strip("[]") in ("", "0.0.0.0", "::"):
            host = socket.gethostname()
            text = "other nodes of the cluster are told to come to {address}; --cluster-advertise names another address"
            self.log.info(text, address=format_host_port(host, int(port)))
            return format_host_port(host, int(port))
        return f"{host}:{port}"

    @property
    def memory(self) -> Memory:
        """What the links of this server may hold."""
        return self._server.memory

    @property
    def links(self) -> list[NodeLink]:
        """The links to other nodes, whether they are up or not."""
        return list(self._links.values())

    # Who is there

    def look(self) -> None:
        """See to what can only be done when the directory is there, and end links that are not needed any more."""
        if self._listens_at != (listens_at := self._server.control.local_address):
            self._listens_at = listens_at
            self._directory.announce({"kind": KIND, "control": self._address()})
        if self._settings is not (settings := self._server.settings):
            self._settings = settings
            do_all([partial(link.follow, settings) for link in self.links])
        now = self.reactor.seconds()
        self._introduced = {token: one for token, one in self._introduced.items() if one[1] > now}
        nodes = self._directory.nodes
        for node, link in list(self._links.items()):
            if node not in nodes and not link.streams_left:
                self._drop(link)

    def _changed(self) -> None:
        """Dial nodes that have come, and dial those no more that are gone."""
        if not self.running:
            return
        for session in list(self.sessions):
            if not self.knows(session.node):
                self._revoke(session)
        nodes = {node: about for node, about in self._directory.nodes.items() if about.get("kind") == KIND}
        for node, link in list(self._links.items()):
            moved = node in nodes and str(nodes[node].get("control", "")) != str(link.where)
            if node not in nodes or moved:
                link.dial_no_more()
                if moved or not link.streams_left:
                    self._drop(link)
            else:
                link.dial_again()
        for node, about in nodes.items():
            if node in self._links:
                continue
            try:
                where = DialAddress.parse(str(about.get("control", "")))
                link = NodeLink(self.reactor, self, node, where, self._server.settings, self._server.visitors)
            except ConfigError as error:
                self.log.warn("node {node} cannot be reached: {why}", node=node, why=error)
                continue
            self._links[node] = link
            link.setServiceParent(self)

    def _revoke(self, session: Any) -> None:
        """Send no more visitors to a node whose lease is over: others may have its places. It asks again, or its
        clients come to another node."""
        for backend in list(session.backends.values()):
            session.revoke_tunnel(backend, unknown_node(), self._server.settings.hold)

    def _drop(self, link: NodeLink) -> None:
        del self._links[link.node]
        stopped = link.disownServiceParent()
        if stopped is not None:
            stopped.addErrback(lambda failure: self.log.failure("the link to a node", failure))

    # Introductions

    async def introduce(self, node: str) -> str:
        """Tell another node that this one is about to connect. Return the token to show; empty: it does not listen.

        :raises Away: the directory cannot be reached.
        """
        token = TOKEN + secrets.token_hex(16)
        answer = self._answers[token] = Deferred()
        timer = self.reactor.callLater(ANSWER_IN, self._answered, token, False)
        try:
            is_there = await self._directory.send(node, INTRODUCE, {"token": token}) and await answer
            return token if is_there else ""
        finally:
            del self._answers[token]
            if timer.active():
                timer.cancel()

    def _heard_introduction(self, node: str, message: Any) -> None:
        token = message.get("token")
        if not isinstance(token, str) or not token.startswith(TOKEN) or len(self._introduced) >= MOST_INTRODUCED:
            return
        self._introduced[token] = (node, self.reactor.seconds() + GOOD_FOR)
        sent = Deferred.fromCoroutine(self._directory.send(node, INTRODUCED, {"token": token}))
        sent.addErrback(lambda failure: failure.trap(Away))

    def _heard_answer(self, node: str, message: Any) -> None:
        self._answered(str(message.get("token")), True)

    def _answered(self, token: str, is_there: bool) -> None:
        answer = self._answers.get(token)
        if answer is not None and not answer.called:
            answer.callback(is_there)

    def admit(self, token: str) -> str:
        """Return the name of the node that shows *token*, which is good once; empty: it was not introduced."""
        node, until = self._introduced.pop(token, ("", 0.0))
        return node if until > self.reactor.seconds() else ""

    def knows(self, node: str) -> bool:
        """Whether a node is there."""
        return node in self._directory.nodes

    def has_client(self, link: str) -> bool:
        """Whether a client's link is known to be at another node; see :func:`link_of`."""
        return self._links_elsewhere[link] > 0

    # What is published at the others

    def publish(self, backend: Backend) -> None:
        """Let visitors of *backend*, if it is a tunnel of a client of ours, come to any node."""
        if backend.behalf is not None:
            self._elsewhere[backend] = backend.behalf.link
            self._links_elsewhere[backend.behalf.link] += 1
            return
        if not self._directory.is_cluster or backend.public is None:
            return
        if backend.public.port and self._server.settings.cluster_ports == "holder":
            return
        udp_port = partial(self._server.ports.udp_port, backend)
        carried = Carried(self._next, backend, self._server.visitors, self.reactor, udp_port, self._crossing)
        self.carried[backend] = carried
        self._next += 1
        self._tell_all(carried)

    def withdraw(self, backend: Backend, *, is_lost: bool = False) -> None:
        """Undo :meth:`publish`.

        :param is_lost: its client is lost and may come back, so that visitors wait for it everywhere.
        """
        link = self._elsewhere.pop(backend, None)
        if link is not None:
            self._links_elsewhere[link] -= 1
            if not self._links_elsewhere[link]:
                del self._links_elsewhere[link]
        self._take_back([backend], is_lost=is_lost)

    def let_go(self, backends: Iterable[Backend]) -> Deferred[Any]:
        """Let visitors at the other nodes wait for the client of *backends*, which is to make its link elsewhere.

        :returns: fires when all nodes know, and the last visitors have come whom they had sent before.
        """
        return self._take_back(backends, is_lost=True)

    def _take_back(self, backends: Iterable[Backend], *, is_lost: bool) -> Deferred[Any]:
        gone = [carried for backend in backends if (carried := self.carried.pop(backend, None)) is not None]
        for carried in gone:
            carried.is_gone = True
            carried.why_gone = Code.CONNECTION_LOST if is_lost else Code.SHUTTING_DOWN
        return self._tell_all(*gone)

    def _tell_all(self, *tunnels: Carried) -> Deferred[Any]:
        return gatherResults([link.publish(*tunnels) for link in self._links.values() if tunnels])

    def say_state(self, backend: Backend) -> None:
        """Tell the others whether the service of *backend* answers."""
        carried = self.carried.get(backend)
        for session in self._link_sessions() if carried is not None else ():
            session.say_state(carried)

    def _link_sessions(self) -> Iterator[Any]:
        for link in self._links.values():
            if isinstance(link.session, NodeSession):
                yield link.session

    def stream_ended(self) -> None:
        """Take note that :attr:`streams` may be less than before."""
        self._server.stream_ended()

    @property
    def streams(self) -> int:
        """How many visitors cross to this node."""
        return sum(link.streams_left for link in self._links.values())


def unknown_node() -> Refused:
    """Return why a tunnel of a node is not served that is not in the directory."""
    return Refused(Code.CLUSTER_AWAY, "the directory of the cluster does not know this node now")


def _check_certificate(settings: ServerSettings) -> None:
    if settings.tls is None:
        return
    from rtunnel.tls.credentials import Credentials
    from rtunnel.tls.policy import Role

    try:
        Credentials(settings.tls, Role.CLIENT)
    except ConfigError as error:
        text = (
            f"a server of a cluster connects to the others with its own certificate: {error}. "
            "'rtunnel pki renew server' replaces one that 'rtunnel pki' has made before"
        )
        raise ConfigError(text) from None
