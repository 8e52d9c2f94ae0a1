"""The server's end of one link: admission, tunnels, and visitors of one client."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from rtunnel.access.admission import Claim
from rtunnel.access.public import Public
from rtunnel.errors import Code, Refused
from rtunnel.relay.sockets import address_prefix, is_local, tune_link
from rtunnel.reverse.cluster.link import node_limits
from rtunnel.reverse.cluster.nodes import TOKEN, Nodes
from rtunnel.reverse.secured import log_secured
from rtunnel.reverse.server.carrying import CarryingSession, ICarryingServer
from rtunnel.reverse.server.granted import grant
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.settings import ServerSettings
from rtunnel.upkeep.periodic import do_all
from rtunnel.wire import events
from rtunnel.wire.link import Mode
from rtunnel.wire.server_link import ServerLink
from rtunnel.wire.stream import Stream
from rtunnel.wire.tunnel_request import TunnelRequest

if TYPE_CHECKING:
    from rtunnel.tls.identity import Peer

#: How many refused tunnels of one link are logged as warnings; the rest are logged at debug level.
MAX_REFUSALS_SAID = 1024


class IServer(ICarryingServer, Protocol):
    """The part of the server that a session uses."""

    handshake_timeout: float
    settings: ServerSettings
    nodes: Nodes

    def take_in(self, session: ServerSession) -> None: ...
    def streams_changed(self, session: ServerSession, change: int) -> None: ...
    def session_lost(self, session: ServerSession) -> None: ...
    async def open_tunnel(self, backend: Backend, request: TunnelRequest) -> str: ...
    def check_request(self, backend: Backend, request: TunnelRequest) -> None: ...
    def check_tunnel(self, backend: Backend) -> None: ...
    def close_tunnel(self, backend: Backend, hold: float = 0.0) -> Public | None: ...


class ServerSession(CarryingSession):
    """The server's end of a link.

    :ivar link: the state machine.
    :ivar backends: the tunnels that the client serves or has asked for, by tunnel number.
    :ivar client_name: the name to which the operator gives rights; empty if unknown.
    :ivar address: see :func:`~rtunnel.relay.sockets.address_prefix`.
    :ivar node: the node of the cluster at the other end; empty: it is a client.
    :ivar on_dropped: called when the link has lost its place but has still to say why.
    """

    log = Logger()
    link: ServerLink

    def __init__(self, server: IServer, link: ServerLink, clock: IReactorTime, identity: Peer | None) -> None:
        super().__init__(server, link, clock, identity)
        self.log_limiter = server.log_limiter
        self.admitted = (identity.name or identity.fingerprint) if identity is not None else None
        self._server = server
        link.on_stream_count = partial(server.streams_changed, self)
        self.backends: dict[int, Backend] = {}
        self.client_name = ""
        self.address = self.node = ""
        self.on_dropped: Callable[[], None] = lambda: None
        self._outliving = 0
        self._is_said = False
        self._opening = 0
        self._refusals: set[tuple[int, str]] = set()
        self._handlers |= {
            events.Established: self._established,
            events.TunnelRefused: self._tunnel_refused,
            events.TunnelWithdrawn: self._tunnel_withdrawn,
        }

    @property
    def is_asked_for(self) -> bool:
        """Whether the client has shown what it wants, so that admission was decided."""
        return self.is_live and (self.link.is_extended or bool(self.backends))

    @property
    def wants_visitors(self) -> bool:
        """Whether the client serves any tunnel."""
        return self.is_live and any(backend.public is not None for backend in self.backends.values())

    @property
    def payer(self) -> str:
        """See :class:`LinkProtocol`: all links of a client's name pay together."""
        return self.client_name or super().payer

    @property
    def has_place(self) -> bool:
        """Whether the client is let in, so that its link has one of the places of ``--max-links``, or is a node's."""
        return self in self._server.sessions or self in self._server.nodes.sessions

    @property
    def holder(self) -> tuple[str, str]:
        """Whose links it counts among: those of the client's name or, if that is unknown, of its address."""
        if self.node:
            return "", f"node {self.node}"
        return self.client_name, "" if self.client_name else self.address

    def connectionMade(self) -> None:
        """See :class:`LinkProtocol`."""
        self.address = address_prefix(self.transport.getPeer())
        super().connectionMade()

    @property
    def visitor_count(self) -> int:
        """How many visitors the client has: a stream for each, or only a connection that still gets last bytes."""
        return self.link.stream_count + self._outliving

    def _may_outlive(self, end: Any) -> None:
        """Count a visitor whose stream is over until its connection is gone."""
        if end is not None and end.is_connected:
            self._outliving += 1
            self._server.sessions.count(self, 1)
            end.call_when_lost(self._outlived)

    def _outlived(self) -> None:
        self._outliving -= 1
        self._server.sessions.count(self, -1)

    def _stream_closed(self, event: events.StreamClosed) -> None:
        super()._stream_closed(event)
        self._may_outlive(event.stream.owner)

    def _stream_reset(self, event: events.StreamReset) -> None:
        super()._stream_reset(event)
        self._may_outlive(event.stream.owner)

    def _moved_early(self, stream: Stream) -> None:
        code, text = Code.PROTOCOL, "MOVE without a data connection"
        self.link.reset(stream, code, text)
        self._stream_reset(events.StreamReset(stream, code, text))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Free the client's ports, then reset its streams."""
        for stream in self.link.streams.values():
            self._may_outlive(stream.owner)
        lost = partial(super().connectionLost, reason)
        do_all([partial(self._server.session_lost, self), self._close_carriers, lost])

    @property
    def may_stay(self) -> bool:
        """Whether the client would be let in now."""
        if self.node:
            return self._server.nodes.knows(self.node)
        return self._server.admission.decide(self.claim).why_not is None

    @property
    def claim(self) -> Claim:
        """What admission depends on."""
        return Claim(
            certificate=self.identity.name if self.identity is not None else None,
            token=self.link.peer.token if self.link.peer is not None else None,
            is_local=is_local(self.transport.getPeer()),
        )

    def _tick(self) -> None:
        now = self.clock.seconds()
        do_all([super()._tick, *(partial(carrier.tick, now) for carrier in self.carriers), self._tick_datagrams])

    def lose(self, why: str, detail: str = "", code: str = Code.TAKEN_OVER) -> None:
        """Drop the client, and free at once what it has.

        :param detail: what the client is not told.
        """
        if self.is_live:
            self._warn("client {peer} dropped: {why}", why=_with_detail(why, detail))
            self.close(code, why)
        if self.connected_now and self.has_place:
            self.on_dropped()
        self._server.session_lost(self)

    def expel(self, why: str) -> None:
        """Close the link because the client may not stay, or come in."""
        # Its share of the log may be used up, and this line matters.
        if self.admitted is not None:
            self.admitted += " (expelled)"
        self.fail(Code.UNAUTHORIZED, why)

    # Before the client has identified itself

    @property
    def may_be_no_link(self) -> bool:
        """Whether the client has been silent so far, and no visitor has been sent to it."""
        return self.is_live and self.link.mode is Mode.AWAITING

    def was_silent(self) -> None:
        """Take the client's silence as a request for the shared port, as a reference client means it."""
        self._is_link()
        if self.is_live and not self.link.is_extended and not self.backends and self.check_admission():
            self._ask_for(0, TunnelRequest(0, "unknown"))

    def was_no_link(self) -> None:
        """Free everything, because the connection is not a link after all."""
        for backend in self.backends.values():
            self._server.close_tunnel(backend)
        self.backends.clear()
        self.transport.unregisterProducer()
        self.connectionLost()

    def check_asked(self) -> None:
        """Close the link unless the client has asked for something."""
        if self.is_live and not self.link.is_extended and not self.backends:
            self._info(
                "connection from {peer} closed: it asked for nothing within {seconds:g} s",
                seconds=self._server.handshake_timeout,
            )
            self.close(Code.TIMEOUT, "no HELLO and no INIT in time")

    def _is_link(self) -> None:
        """Log how the link is protected, and let the kernel probe its connection."""
        if self._is_said:
            return
        self._is_said = True
        tune_link(self.transport, self.link.limits.dead_after)
        if self.identity is not None:
            log_secured(self.transport, self.identity, self._info, self._warn)

    def check_admission(self) -> bool:
        """Return whether the client may stay. If not, tell it why and close the link."""
        token = self.link.peer.token if self.link.peer is not None else None
        if self.node or (token or "").startswith(TOKEN):
            return self._check_node(token or "")
        decision = self._server.admission.decide(self.claim)
        self.client_name = decision.name
        if decision.why_not is not None:
            self.expel(decision.why_not)
            return False
        if self.admitted is None:
            self.admitted = decision.name or self.address
        return self._take_in()

    def _check_node(self, token: str) -> bool:
        """Return whether the other end is a node of the cluster, which no rights and limits of clients bind."""
        if not self.node:
            self.node = self._server.nodes.admit(token)
            if not self.node:
                self.expel("no node of this cluster has told of this link, or too long ago")
                return False
            self.admitted = f"node {self.node}"
            self.peer_name += f" ({self.admitted})"
            self.link.bear(node_limits(self.link.limits))
        return self._take_in()

    def _take_in(self) -> bool:
        try:
            self._server.take_in(self)
        except Refused as refusal:
            self.close(refusal.code, refusal.message)
            self._server.session_lost(self)
            return False
        return True

    # Events of the link

    def _established(self, event: events.Established) -> None:
        self._is_link()
        if not self.check_admission() or self._hedges_differ(event.peer):
            return
        if event.peer is not None:
            for backend in self.backends.values():
                # The client was silent for so long that it was taken for a reference client.
                self._server.close_tunnel(backend)
            self.backends.clear()
            self.link.ping(self.clock.seconds())
            self._info("client {peer} connected ({agent})", agent=event.peer.agent or "unnamed")
        self._offer_data_connections()

    def _requested(self, event: events.TunnelRequested) -> None:
        (self._check_request if event.request.only_check else self._ask_for)(event.number, event.request)

    def _check_request(self, number: int, request: TunnelRequest) -> None:
        """Tell the client whether it would get a tunnel. It gets nothing."""
        asked = Public.requested(request.port, request.protocol, request.host, request.path)
        try:
            self._server.check_request(Backend(self, number, asked), request)
        except Refused as refusal:
            self._say_refused(number, f"{asked}, only asked about, would be", refusal)
            self.link.refuse_tunnel(number, refusal.code, refusal.message)
        else:
            self.link.accept_tunnel(number, "")

    def _tunnel_refused(self, event: events.TunnelRefused) -> None:
        self._say_refused(event.number, f"tunnel {event.number}", Refused(event.code, event.message))

    def _say_refused(self, number: int, what: str, refused: Refused) -> None:
        """Warn when a reason is new, and log at debug level when the client asks again and again."""
        if not self.link.is_extended:
            return  # The link is closed, and the log line about that gives the reason.
        refusal = _with_detail(f"{refused.code}: {refused.message}", refused.detail)
        is_news = (number, refusal) not in self._refusals and len(self._refusals) < MAX_REFUSALS_SAID
        if is_news:
            self._refusals.add((number, refusal))
        level = LogLevel.warn if is_news else LogLevel.debug
        self._emit(level, "client {peer}: {what} refused: {refusal}", what=what, refusal=refusal)

    def _tunnel_withdrawn(self, event: events.TunnelWithdrawn) -> None:
        self._early.pop(event.number, None)
        backend = self.backends.pop(event.number, None)
        if backend is not None:
            place = backend.place
            # What a node says of a client that is lost there.
            is_lost = self.node and event.code == Code.CONNECTION_LOST
            self._server.close_tunnel(backend, self._server.settings.hold if is_lost else 0.0)
            self.give_back(event.number)
            self._info("client {peer}: {place} withdrawn", place=place)

    def _tunnel_state(self, event: events.TunnelState) -> None:
        if (backend := self.backends.get(event.number)) is None:
            return
        is_news = backend.hear(is_ready=event.is_ready)
        self._server.nodes.say_state(backend)
        if is_news:
            text = "passes its health check again" if event.is_ready else "fails its health check ({why})"
            self._info(f"client {{peer}}: its service of {{place}} {text}", place=backend.place, why=event.why)

    def _ask_for(self, number: int, request: TunnelRequest) -> None:
        if not self.is_live:
            return
        before = self.backends.pop(number, None)
        if before is not None:
            self._server.close_tunnel(before)
        asked = Public.requested(request.port, request.protocol, request.host, request.path)
        backend = self.backends[number] = Backend(self, number, asked)
        if asked.protocol == "udp":
            self._offer_path()
        Deferred.fromCoroutine(self._open_tunnel(backend, request)).addErrback(
            lambda failure: self.log.failure("tunnel {tunnel} of {peer}", failure, tunnel=number, peer=self.peer_name)
        )

    async def _open_tunnel(self, backend: Backend, request: TunnelRequest) -> None:
        number = backend.number
        self._opening += 1
        try:
            # Claims wait while a holder is probed. A client must not pile them up by withdrawing them meanwhile.
            if self._opening > self.link.limits.max_tunnels:
                raise Refused(Code.LIMIT, f"the link waits for {self._opening} ports or names, its limit")
            address = await self._server.open_tunnel(backend, request)
            # The clients file may have changed while a holder was asked.
            self._server.check_tunnel(backend)
        except Refused as refusal:
            self._server.close_tunnel(backend)
            if self.backends.get(number) is not backend:
                return  # The tunnel was withdrawn, and perhaps requested again.
            del self.backends[number]
            if self.is_live:
                self._say_refused(number, str(backend.asked), refusal)
                # A reference client is told nothing but the end of its link, whose reason is in our log.
                detail = refusal.detail if self.link.peer is None else ""
                self.link.refuse_tunnel(number, refusal.code, _with_detail(refusal.message, detail))
        else:
            if self.backends.get(number) is not backend or not self.is_live:
                self._server.close_tunnel(backend)
                return
            place = f"{address}/udp" if request.protocol == "udp" else address
            self._info("{address} -> {local} of client {peer}: published", address=place, local=request.local)
            self.link.accept_tunnel(number, address)
            if not self.node:
                grant(self._server.admission, backend)
            for carrier in self.carriers:
                carrier.tunnels_changed()
        finally:
            self._opening -= 1
        self.handle_events()
        self.flush()

    def revoke_tunnel(self, backend: Backend, refusal: Refused, hold: float = 0.0) -> None:
        """Take away a tunnel that the client may no longer have. Its streams continue.

        :param hold: seconds for which visitors wait for the client to come by another link.
        """
        if self.backends.get(backend.number) is backend:
            del self.backends[backend.number]
            self._say_refused(backend.number, str(backend.place), refusal)
            self._server.close_tunnel(backend, hold)
            self.give_back(backend.number)
            self.link.refuse_tunnel(backend.number, refusal.code, refusal.message)
            self.handle_events()
            self.flush()


def _with_detail(text: str, detail: str) -> str:
    return f"{text} ({detail})" if detail else text
