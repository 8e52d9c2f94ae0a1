"""The public side of the server: listening sockets, and the clients that serve their visitors."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort
from twisted.logger import Logger

from rtunnel.access.public import Public
from rtunnel.addresses import BACKLOG
from rtunnel.errors import Code, Refused
from rtunnel.reasons import LOW_PORTS, why_not_listening
from rtunnel.relay.bare_port import Accepted, LandingFactory, give_sockets
from rtunnel.relay.inheritance import Handed, adopt, inheritance
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import format_address
from rtunnel.reverse.datagrams.server_flows import UdpPort
from rtunnel.reverse.public import Visitor
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.held import Lobby
from rtunnel.reverse.server.interfaces import Backend, IClaims
from rtunnel.reverse.server.refusals import Refusals
from rtunnel.reverse.server.take_over import make_way
from rtunnel.tls.messages import limit_messages
from rtunnel.upkeep.accepting import pause_when_full
from rtunnel.upkeep.visitors import Visitors

#: Flows of UDP ports whose clients are away.
MOST_PARKED = 4096


class VisitorFactory(LandingFactory):
    """Accepts the visitors of a port.

    :param group: who serves them.
    """

    log = Logger()

    def __init__(self, visitors: Visitors, group: Group) -> None:
        self._visitors = visitors
        self._group = group

    def build(self, address: IAddress | None) -> SocketEnd:
        """See :class:`LandingFactory`."""
        return SocketEnd(self._connected, self._visitors.discard)

    def _connected(self, end: SocketEnd) -> None:
        limit_messages(end.transport)
        self._arrived(Visitor(end.transport.getPeer(), end, self._visitors.discard))

    def landed(self, accepted: Accepted, address: Any) -> None:
        """See :class:`LandingFactory`."""
        self._arrived(Visitor(address, accepted, self._visitors.discard))

    def _arrived(self, visitor: Visitor) -> None:
        if not self._group.take(visitor):
            self.log.debug("visitor {visitor} closed: nobody can serve it", visitor=visitor.name)
            visitor.abort()


def _prepare(port: Any, factory: VisitorFactory) -> None:
    pause_when_full(port)
    give_sockets(port, factory)


@dataclass(frozen=True, slots=True)
class _Parked:
    known_as: tuple[str, str]
    port: UdpPort
    end: IDelayedCall


@dataclass(frozen=True, slots=True)
class _Held:
    group: Group
    port: IListeningPort | UdpPort


class PublicPorts:
    """The ports that clients asked for: each has one holder, or a group of them. Whoever is gone may be taken over.

    A UDP port outlives its link for a while, as visitors on data connections do. A TCP port does so too, and its
    visitors wait.

    :param interface: IP address to listen on; empty for all IPv4 addresses.
    :param lobby: for visitors who wait.
    :param refusals: tells who is turned away.
    :param claims: those of this node.
    """

    def __init__(self, reactor: Any, interface: str, lobby: Lobby, refusals: Refusals, claims: IClaims) -> None:
        self._reactor = reactor
        self._claims = claims
        self._interface = interface
        self._lobby = lobby
        self._limiter = lobby.limiter
        self._refusals = refusals
        self._held: dict[Public, _Held] = {}
        self._closing: dict[Public, Deferred[None]] = {}
        self._parked: dict[Public, _Parked] = {}
        self._stopping = False

    def __len__(self) -> int:
        return len(self._held)

    def check(self, public: Public, backend: Backend) -> None:
        """Check whether *backend* could serve *public* now, without asking whether its holder lives.

        :raises Refused: somebody else has it.
        """
        held = self._held.get(public)
        if held is not None and (why := held.group.why_apart(backend)):
            raise Refused(Code.PORT_IN_USE, why)

    async def claim(self, public: Public, backend: Backend) -> str:
        """Let *backend* serve *public*, not the shared port; return the address that visitors use, ``host:port``.

        :raises Refused: somebody else has it, or the system does not give it.
        """
        claimant = backend.session
        held = self._held.get(public)
        if held is not None and (why := held.group.why_apart(backend)):
            holders = [member for member in held.group if not member.is_elsewhere]
            await make_way(self._reactor, public, holders, claimant, Refused(Code.PORT_IN_USE, why))
        await self._claims.hold(public, backend)
        with self._claims.asking(backend):
            if (held := self._held.get(public)) is not None:
                held.group.override(backend)
            return await self._join(public, backend)

    async def _join(self, public: Public, backend: Backend) -> str:
        while public in self._closing:
            await self._closing[public]
        held = self._held.get(public)
        if held is not None and (why := held.group.why_apart(backend)):
            # Somebody else was quicker.
            raise Refused(Code.PORT_IN_USE, why, f"client {next(iter(held.group)).session.peer_name}")
        if self._stopping:
            raise Refused(Code.SHUTTING_DOWN, "the server is going down")
        if not backend.session.is_live:
            raise Refused(Code.CONNECTION_LOST, "the client is gone")
        if held is None:
            group = Group(self._reactor, public, self._lobby, self._refusals, self._stop)
            held = self._held[public] = _Held(group, await self._listen_or_refuse(public, backend, group))
        held.group.join(backend)
        return format_address(held.port.getHost())

    async def _listen_or_refuse(self, public: Public, backend: Backend, group: Group) -> IListeningPort | UdpPort:
        try:
            # Twisted binds before it returns: nobody comes in between the look at _held and the entry.
            return await self._listen(public, backend, group)
        except (CannotListenError, OSError) as error:
            cause = error.socketError if isinstance(error, CannotListenError) else error
            number_of_error = getattr(cause, "errno", None)
            code = Code.PORT_IN_USE if number_of_error == errno.EADDRINUSE else Code.PORT_UNAVAILABLE
            remedy = f"; at the server, {LOW_PORTS}" if number_of_error == errno.EACCES else ""
            raise Refused(code, f"{public}: {why_not_listening(error)}{remedy}") from None

    async def _listen(self, public: Public, backend: Backend, group: Group) -> IListeningPort | UdpPort:
        number = public.port or 0
        if public.protocol == "udp":
            parked = self._parked.get(public)
            if parked is not None and parked.known_as == backend.session.known_as:
                parked.end.cancel()
                del self._parked[public]
                port = parked.port
                port.backend = backend
            else:
                self._end_parked(public)
                port = UdpPort(self._reactor, self._interface, number, backend, self._limiter)
            group.on_limited = partial(port.group_changed, group)
            return port
        factory = VisitorFactory(self._lobby.visitors, group)
        listening: list[IListeningPort] = []
        await self._endpoint(number).listen(factory).addCallback(listening.append)
        _prepare(listening[0], factory)
        return listening[0]

    def udp_port(self, backend: Backend) -> UdpPort | None:
        """Return the UDP port by which *backend* is reached now."""
        held = self._held.get(backend.place)
        return held.port if held is not None and isinstance(held.port, UdpPort) else None

    def handed(self) -> Iterator[Handed]:
        """Yield what a successor gets."""
        for public, held in self._held.items():
            port: Any = held.port
            yield Handed(self._heirloom(public), port.fileno(), None if isinstance(port, UdpPort) else port)
        for public, parked in self._parked.items():
            yield Handed(self._heirloom(public), parked.port.fileno())

    def _heirloom(self, public: Public) -> str:
        return f"public {self._interface} {public}"

    @property
    def groups(self) -> list[Group]:
        """Those of all ports."""
        return [held.group for held in self._held.values()]

    def find(self, public: Public) -> Group | None:
        """Return who serves a port, or is waited for there."""
        held = self._held.get(public)
        return None if held is None else held.group

    def expect(self, public: Public, holders: Collection[object], hold: float) -> None:
        """Listen on the port that a predecessor has left, where visitors wait; see :meth:`Group.expect`. Datagrams wait
        in the socket until the client has come."""
        if public.protocol == "udp":
            return
        inherited = inheritance.take(self._heirloom(public))
        if inherited is not None:
            group = Group(self._reactor, public, self._lobby, self._refusals, self._stop)
            factory = VisitorFactory(self._lobby.visitors, group)
            port = adopt(self._reactor, inherited, factory)
            _prepare(port, factory)
            self._held[public] = _Held(group, port)
            group.expect(holders, hold)

    def _endpoint(self, number: int) -> Any:
        kind = TCP6ServerEndpoint if ":" in self._interface else TCP4ServerEndpoint
        return kind(self._reactor, number, BACKLOG, self._interface)

    def park(self, backend: Backend, known_as: tuple[str, str], seconds: float) -> None:
        """Keep the UDP port of *backend*, if it has one, for the same client. Whoever else asks for it gets it.

        :param known_as: by what the client is known when it comes back.
        :param seconds: how long.
        """
        public = backend.place
        held = self._held.get(public)
        if held is None or held.group is not backend.group or not isinstance(held.port, UdpPort):
            return
        if len(held.group) > 1:
            # Another link of the client, or another node, goes on.
            return
        del self._held[public]
        port = held.port
        held.group.leave(backend)
        port.rest()
        end = self._reactor.callLater(seconds, self._is_away, public)
        self._parked[public] = _Parked(known_as, port, end)
        while sum(len(parked.port) for parked in self._parked.values()) > MOST_PARKED:
            self._end_parked(next(iter(self._parked)))

    def _is_away(self, public: Public) -> None:
        self._end_parked(public)
        self._limiter.info("{place} freed: its client has not come back", place=str(public))

    def _end_parked(self, public: Public) -> None:
        parked = self._parked.pop(public, None)
        if parked is not None:
            if parked.end.active():
                parked.end.cancel()
            parked.port.stopListening()

    def _stop(self, group: Group) -> None:
        def closed(_result: object) -> None:
            self._closing.pop(public, None)

        public = group.public
        held = self._held.get(public)
        if held is None or held.group is not group:
            return  # the port is parked
        del self._held[public]
        stopped = held.port.stopListening()
        if stopped is not None:
            done: Deferred[None] = Deferred()
            self._closing[public] = done
            stopped.addBoth(closed)
            stopped.chainDeferred(done)

    async def stop_listening(self) -> None:
        """Free every port, and open no other."""
        self._stopping = True
        for public in list(self._parked):
            self._end_parked(public)
        for held in list(self._held.values()):
            held.group.end()
            self._stop(held.group)
        await gatherResults(list(self._closing.values()))
