"""The server's end of one link: admission, tunnels, and visitors of one client."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.access.admission import Admission, Claim
from rtunnel.access.public import SHARED, Public
from rtunnel.errors import Code, Refused
from rtunnel.relay.sockets import is_local, tune_link
from rtunnel.reverse.carriers.data_connections import DataPool
from rtunnel.reverse.carriers.interface import ICarrier, ICarrierServer
from rtunnel.reverse.carriers.link_protocol import LinkProtocol
from rtunnel.reverse.carriers.mux import Mux
from rtunnel.reverse.public import Visitor
from rtunnel.reverse.secured import log_secured
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.roster import Roster
from rtunnel.tls.identity import Peer
from rtunnel.wire import events
from rtunnel.wire.link import Mode
from rtunnel.wire.messages import DIRECT, DIRECT_ONLY, TunnelRequest
from rtunnel.wire.server_link import ServerLink

#: How many refused tunnels of one link are logged as warnings; the rest are logged at debug level.
MAX_REFUSALS_SAID = 1024
#: How many tunnels of one link that come or go are logged at info level; the rest are logged at debug level.
MAX_LINES_SAID = 2048
#: Seconds between two warnings that a link cannot take visitors.
FULL_SAID_EVERY = 60.0


class IServer(ICarrierServer, Protocol):
    """The part of the server that a session uses."""

    handshake_timeout: float
    admission: Admission
    data_plane: str
    sessions: Roster[Any]

    def say_full(self) -> None: ...
    def streams_changed(self, session: ServerSession, change: int) -> None: ...
    def session_established(self, session: ServerSession) -> None: ...
    def session_lost(self, session: ServerSession) -> None: ...
    async def open_tunnel(self, backend: Backend, request: TunnelRequest) -> str: ...
    def close_tunnel(self, backend: Backend) -> int | None: ...


class ServerSession(LinkProtocol):
    """The server's end of a link.

    :ivar link: the state machine.
    :ivar backends: the tunnels that the client serves or has asked for, by tunnel number.
    :ivar known_as: identifies the client when it comes back over another link.
    :ivar client_name: the name to which the operator gives rights; empty if unknown.
    :ivar carriers: the carriers of its visitors, in the order in which they are asked.
    """

    log = Logger()
    link: ServerLink

    def __init__(self, server: IServer, link: ServerLink, clock: IReactorTime, identity: Peer | None) -> None:
        super().__init__(link, clock)
        self.identity = identity
        self._server = server
        link.on_stream_count = partial(server.streams_changed, self)
        self.backends: dict[int, Backend] = {}
        self.known_as: tuple[str, str] | None = None
        self.client_name = ""
        self._is_said = False
        self.carriers: list[ICarrier] = [Mux(self, link, server.visitors)]
        self._opening = 0
        self._refusals: set[tuple[int, str]] = set()
        self._lines_left = MAX_LINES_SAID
        self._full_said_at: float | None = None
        self._handlers |= {
            events.Established: self._established,
            events.TunnelRequested: self._tunnel_requested,
            events.TunnelRefused: self._tunnel_refused,
            events.TunnelWithdrawn: self._tunnel_withdrawn,
        }

    @property
    def is_live(self) -> bool:
        """Whether the link can carry new streams."""
        return self.connected_now and self.link.mode is not Mode.CLOSED

    @property
    def is_asked_for(self) -> bool:
        """Whether the client has shown what it wants, so that admission was decided."""
        return self.is_live and (self.link.is_extended or bool(self.backends))

    @property
    def wants_visitors(self) -> bool:
        """Whether the client serves any tunnel."""
        return self.is_live and any(backend.public is not None for backend in self.backends.values())

    @property
    def has_place(self) -> bool:
        """Whether the link has one of the places of ``--max-links``."""
        return self in self._server.sessions

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Free the client's ports, then reset its streams."""
        self._server.session_lost(self)
        self._close_carriers()
        super().connectionLost(reason)

    def _close_connection(self, *, half: bool = False) -> None:
        """See :class:`LinkProtocol`. Close the data connections with the link."""
        self._close_carriers()
        super()._close_connection(half=half)

    def _close_carriers(self) -> None:
        for carrier in self.carriers:
            carrier.close(cut=not self.peer_has_left)

    def _tick(self) -> None:
        super()._tick()
        for carrier in self.carriers:
            carrier.tick(self.clock.seconds())

    def lose(self, why: str, detail: str = "") -> None:
        """Drop the client, which is gone, and free at once what it has.

        :param detail: what the client is not told.
        """
        if self.is_live:
            self.log.warn("client {peer} dropped: {why}", peer=self.peer_name, why=_with_detail(why, detail))
            self.close(Code.TAKEN_OVER, why)
        self._server.session_lost(self)

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
            self._server.log_limiter.info(
                "connection from {peer} closed: it asked for nothing within {seconds:g} s",
                peer=self.peer_name,
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
            log_secured(self.transport, self.identity)

    def check_admission(self) -> bool:
        """Return whether the client may stay. If not, tell it why and close the link."""
        if not self.has_place:
            self._server.say_full()
            self.close(Code.LIMIT, "the server has no room for another link")
            return False
        decision = self._server.admission.decide(
            Claim(
                certificate=self.identity.name if self.identity is not None else None,
                token=self.link.peer.token if self.link.peer is not None else None,
                is_local=is_local(self.transport.getPeer()),
            )
        )
        self.client_name = decision.name
        self._server.sessions.rename(self)
        if decision.why_not is not None:
            self.fail(Code.UNAUTHORIZED, decision.why_not)
        return decision.why_not is None

    # Events of the link

    def _established(self, event: events.Established) -> None:
        self._is_link()
        if not self.check_admission():
            return
        if event.peer is not None:
            for backend in self.backends.values():
                # The client was silent for so long that it was taken for a reference client.
                self._server.close_tunnel(backend)
            self.backends.clear()
            self._server.session_established(self)
            self.link.ping(self.clock.seconds())
            self.log.info("client {peer} connected ({agent})", peer=self.peer_name, agent=event.peer.agent or "unnamed")
        wants_direct = self._server.data_plane == "direct"
        if DIRECT in self.link.capabilities:
            waits = wants_direct or DIRECT_ONLY in self.link.capabilities
            self.carriers.insert(0, DataPool(self, self._server, waits=waits))
        elif wants_direct:
            self._server.log_limiter.warn(
                "client {peer} knows no data connections: its visitors go by the link", peer=self.peer_name
            )

    def send_tickets(self, tickets: list[str], expires: float) -> None:
        """Ask the client for a data connection for each ticket."""
        self.link.send_tickets(tickets, expires)
        self.flush()

    def _tunnel_requested(self, event: events.TunnelRequested) -> None:
        self._ask_for(event.number, event.request)

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
        log = self.log.warn if is_news else self.log.debug
        log("client {peer}: {what} refused: {refusal}", peer=self.peer_name, what=what, refusal=refusal)

    def _tunnel_withdrawn(self, event: events.TunnelWithdrawn) -> None:
        backend = self.backends.pop(event.number, None)
        if backend is not None:
            place = backend.place
            self._server.close_tunnel(backend)
            self._loud()("client {peer}: {place} withdrawn", peer=self.peer_name, place=place)

    def _ask_for(self, number: int, request: TunnelRequest) -> None:
        if not self.is_live:
            return
        before = self.backends.pop(number, None)
        if before is not None:
            self._server.close_tunnel(before)
        backend = self.backends[number] = Backend(self, number, Public.requested(request.port))
        Deferred.fromCoroutine(self._open_tunnel(backend, request)).addErrback(
            lambda failure: self.log.failure("tunnel {tunnel} of {peer}", failure, tunnel=number, peer=self.peer_name)
        )

    async def _open_tunnel(self, backend: Backend, request: TunnelRequest) -> None:
        number = backend.number
        self._opening += 1
        try:
            # Claims wait while a holder is probed. A client must not pile them up by withdrawing them meanwhile.
            if self._opening > self.link.limits.max_tunnels:
                raise Refused(Code.LIMIT, f"the link waits for {self._opening} ports, its limit")
            address = await self._server.open_tunnel(backend, request)
        except Refused as refusal:
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
            self._loud()(
                "{address} -> {local} of client {peer}: published",
                address=address,
                local=request.local,
                peer=self.peer_name,
            )
            self.link.accept_tunnel(number, address)
            for carrier in self.carriers:
                carrier.tunnels_changed()
        finally:
            self._opening -= 1
        self.handle_events()
        self.flush()

    def revoke_tunnel(self, backend: Backend, refusal: Refused) -> None:
        """Take away a tunnel that the client may no longer have. Its streams continue."""
        if self.backends.get(backend.number) is backend:
            del self.backends[backend.number]
            self._say_refused(backend.number, str(backend.place), refusal)
            self._server.close_tunnel(backend)
            self.link.refuse_tunnel(backend.number, refusal.code, refusal.message)
            self.handle_events()
            self.flush()

    def _loud(self) -> Any:
        """Return how to log what a client can cause: at info level, up to :data:`MAX_LINES_SAID` times."""
        self._lines_left -= 1
        return self.log.info if self._lines_left > 0 else self.log.debug

    # Visitors

    def open_visitor(self, tunnel: int, visitor: Visitor) -> bool:
        """Take a visitor to *tunnel* by the first carrier that can. Return False if none can."""
        if not self.is_live:
            return False
        backend = self.backends.get(tunnel)
        try:
            if backend is not None:
                sessions = self._server.sessions
                self._server.admission.check_stream(
                    self.client_name, backend.public or SHARED, sessions.streams_of(self)
                )
            for carrier in self.carriers:
                if carrier.open(tunnel, visitor):
                    return True
        except Refused as refusal:
            now = self.clock.seconds()
            is_news = self._full_said_at is None or now - self._full_said_at >= FULL_SAID_EVERY
            if is_news:
                self._full_said_at = now
            log = self.log.warn if is_news else self.log.debug
            log(
                "client {peer} cannot take a visitor of {place}: {text}",
                peer=self.peer_name,
                place=backend.place if backend is not None else f"tunnel {tunnel}",
                text=refusal.message,
            )
        return False


def _with_detail(text: str, detail: str) -> str:
    return f"{text} ({detail})" if detail else text
