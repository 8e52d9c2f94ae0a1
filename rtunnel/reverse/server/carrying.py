"""The carriers of a server's link: the link itself, its data connections, and those of a link that it follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from twisted.logger import LogLevel
from twisted.python.failure import Failure

from rtunnel.access.admission import Admission
from rtunnel.access.public import SHARED
from rtunnel.errors import Code, Refused
from rtunnel.relay.udp.sockets import Address
from rtunnel.reverse.carriers.data_connections import DataPool
from rtunnel.reverse.carriers.interface import ICarrier, ICarrierServer
from rtunnel.reverse.carriers.kept import KeptConnections
from rtunnel.reverse.carriers.link_protocol import LinkProtocol
from rtunnel.reverse.carriers.mux import Mux
from rtunnel.reverse.datagrams.path_port import PathPort
from rtunnel.reverse.datagrams.server_flows import ServerDatagrams
from rtunnel.reverse.public import Visitor
from rtunnel.reverse.secured import export_for_records, log_hedged
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.roster import Roster
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.upkeep.memory import Memory
from rtunnel.wire import events
from rtunnel.wire.data.hedges import SIGN_EVERY, cut
from rtunnel.wire.data.keys import Root, answer, path_secrets, plain_keys, wish
from rtunnel.wire.data.seal import Cipher
from rtunnel.wire.datagrams.packets import Opener, Sealer
from rtunnel.wire.datagrams.path import Path
from rtunnel.wire.link import Mode
from rtunnel.wire.messages import DIRECT, DIRECT_ONLY, UDP, UDP_PATH, Hello
from rtunnel.wire.server_link import ServerLink

if TYPE_CHECKING:
    from rtunnel.tls.identity import Peer

#: Seconds between two warnings that a link cannot take visitors.
FULL_SAID_EVERY = 60.0


class ICarryingServer(ICarrierServer, Protocol):
    """The server, as the carriers of its links need it."""

    admission: Admission
    data_plane: str
    hedges: Hedges
    memory: Memory
    sessions: Roster[Any]
    kept: KeptConnections[DataPool]
    path_port: PathPort
    http: Any


class CarryingSession(LinkProtocol):
    """A server's link, as far as its carriers are concerned.

    :param identity: the client as authenticated by TLS; None without TLS.
    :ivar carriers: the carriers of its visitors, in the order in which they are asked.
    :ivar datagrams: those of its UDP tunnels; None until both ends have agreed on keys, or without any.
    :ivar known_as: identifies the client when it comes back over another link.
    :ivar hedged_with: what was mixed into the keys beside the usual, once they are there.
    :ivar backends: the tunnels that the client serves or has asked for, by tunnel number.
    :ivar client_name: the name to which the operator gives rights; empty if unknown.
    """

    link: ServerLink
    backends: dict[int, Backend]
    client_name: str

    def __init__(self, server: ICarryingServer, link: ServerLink, clock: Any, identity: Peer | None) -> None:
        super().__init__(link, clock, server.memory)
        self.identity = identity
        self._carrier_server = server
        self.known_as: tuple[str, str] | None = None
        self._hedges = server.hedges
        self._pieces = server.hedges.client_pieces()
        # With hedges, tunnels are asked for before there are keys, without which nobody can come. With each is what was
        # said last about its service.
        self._early: dict[int, tuple[events.TunnelRequested, events.TunnelState | None]] = {}
        self.hedged_with: tuple[str, ...] = ()
        self.carriers: list[ICarrier] = [] if self._hedges else [Mux(self, link, server.visitors)]
        self.datagrams: ServerDatagrams | None = None
        self._pool: DataPool | None = None
        self._path_id: int | None = None
        # Until there is a UDP tunnel: most clients have none.
        self._path_secrets: tuple[bytes, bytes, Cipher] | None = None
        self._path_port = server.path_port
        self._said_no_way = False
        self._full_said_at: float | None = None
        self._has_keys = self._has_closed = False
        self._handlers[events.KeysReceived] = self._keys_received
        self._handlers[events.TunnelRequested] = self._tunnel_requested
        self._handlers[events.TunnelState] = self._state_received

    @property
    def is_live(self) -> bool:
        """Whether the link can carry new streams."""
        return self.connected_now and self.link.mode is not Mode.CLOSED

    @property
    def wants_visitors(self) -> bool:
        """Whether the client serves any tunnel."""
        raise NotImplementedError

    @property
    def has_data_connections(self) -> bool:
        """Whether visitors may have data connections."""
        return self._pool is not None or bool(self._hedges)

    # Visitors

    def open_visitor(self, tunnel: int, visitor: Visitor) -> bool:
        """Take a visitor to *tunnel* by the first carrier that can. Return False if none can."""
        if not self.is_live:
            return False
        backend = self.backends.get(tunnel)
        if backend is not None and not backend.may_serve:
            return False
        try:
            if backend is not None:
                try:
                    self._check_stream(backend)
                except Refused:
                    if not self._carrier_server.http.make_room(self):
                        raise
                    self._check_stream(backend)
            if backend is not None and backend.budget is not None:
                visitor.limit(backend.budget)
            for carrier in self.carriers:
                if carrier.open(tunnel, visitor):
                    return True
        except Refused as refusal:
            now = self.clock.seconds()
            is_news = self._full_said_at is None or now - self._full_said_at >= FULL_SAID_EVERY
            if is_news:
                self._full_said_at = now
            self._emit(
                LogLevel.warn if is_news else LogLevel.debug,
                "client {peer} cannot take a visitor of {place}: {text}",
                place=backend.place if backend is not None else f"tunnel {tunnel}",
                text=refusal.message,
            )
        return False

    # Whether there is room for visitors

    def _check_stream(self, backend: Backend) -> None:
        if backend.is_elsewhere:
            return  # it is counted there
        sessions = self._carrier_server.sessions
        count = sessions.visitors_of(self)  # type: ignore[arg-type]
        self._carrier_server.admission.check_stream(self.client_name, backend.public or SHARED, count)

    def has_room(self, tunnel: int) -> bool:
        """Return whether another visitor of *tunnel* can be taken now."""
        backend = self.backends.get(tunnel)
        if backend is None or not backend.may_serve or not self.is_live:
            return False
        if not all(carrier.has_room for carrier in self.carriers):
            return False
        try:
            self._check_stream(backend)
        except Refused:
            return False
        return True

    def give_back(self, tunnel: int) -> None:
        """Let visitors of a tunnel that is gone wait for its client elsewhere, if the client was not told of them."""
        for carrier in self.carriers:
            carrier.give_back(tunnel)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`LinkProtocol`."""
        yield from super().holdings()
        if self._pieces.held:
            yield self._pieces.held, self
        for carrier in self.carriers:
            yield from carrier.holdings()
        if self.datagrams is not None:
            yield from self.datagrams.holdings()

    def _close_connection(self, *, half: bool = False) -> None:
        """See :class:`LinkProtocol`. Close the data connections with the link."""
        self._close_carriers()
        super()._close_connection(half=half)

    def _close_carriers(self) -> None:
        if self._has_closed:
            return
        self._has_closed = True
        if self.datagrams is not None:
            self.datagrams.close()
            self.datagrams = None
        self._path_secrets = None
        if self._path_id is not None:
            self._path_port.leave(self._path_id)
        if self.streams_outlive and self.known_as is not None:
            pools = [carrier for carrier in self.carriers if isinstance(carrier, DataPool)]
            self._carrier_server.kept.keep(self.known_as, self, pools)
        else:
            for carrier in list(self.carriers):  # those with nothing left leave
                carrier.close(cut=not self.peer_has_left, tail=True)

    def adopt(self, pools: list[DataPool]) -> None:
        """Go on with the data connections of this client's last link."""
        for pool in pools:
            self.carriers.append(pool)
            pool.adopt(self)

    def leave(self, pool: DataPool) -> None:
        """Forget data connections that are over, or that go on as part of another link."""
        if pool in self.carriers:
            self.carriers.remove(pool)

    def count_streams(self) -> None:
        """Count the visitors on data connections."""
        self.link.direct_streams = sum(carrier.stream_count for carrier in self.carriers)

    # Keys

    def _offer_data_connections(self) -> None:
        """Begin with data connections, if both ends want them. Under TLS, the client's keys come first."""
        if DIRECT not in self.link.capabilities and self._carrier_server.data_plane == "direct":
            self._warn("client {peer} knows no data connections: its visitors go by the link")
        if self.link.has_keys and self.identity is None:
            self._agreed(*plain_keys())

    def _keys_received(self, event: events.KeysReceived) -> None:
        """Agree with the client on the keys of data connections; without TLS there is nothing to agree on."""
        if self.link.is_closed or self.identity is None or self._has_keys:
            self.fail(Code.PROTOCOL, "KEYS where none belong")
            return
        if self._hedges:
            self._piece_received(event.payload)
            return
        try:
            keys, root = answer(event.payload, export_for_records(self.transport, self.identity), wish())
        except ValueError as error:
            self.fail(Code.PROTOCOL, str(error))
            return
        self._agreed(keys, root)

    def _piece_received(self, piece: bytes) -> None:
        """Take a piece of the client's KEYS; answer behind the last one."""
        assert self.identity is not None
        try:
            whole = self._pieces.take(piece)
        except ValueError as error:
            self.fail(Code.PROTOCOL, str(error))
            return
        if whole is None:
            if not self._pieces.count % SIGN_EVERY:
                self.link.send_keys(b"")
            return
        answering = self._hedges.answer(whole, export_for_records(self.transport, self.identity))
        answering.addCallbacks(self._answered, self._not_answered)
        answering.addErrback(lambda failure: self.log.failure("keys of {peer}", failure, peer=self.peer_name))

    def _answered(self, answered: tuple[bytes, Root]) -> None:
        if not self.is_live:
            return
        self._agreed(*answered)
        early, self._early = self._early, {}
        for request, state in early.values():
            self._requested(request)
            if state is not None:
                self._tunnel_state(state)
        self.handle_events()
        self.flush()

    def _not_answered(self, failure: Failure) -> None:
        failure.trap(ValueError)
        self.fail(Code.PROTOCOL, failure.getErrorMessage())
        self.flush()

    def _hedges_differ(self, hello: Hello | None) -> bool:
        """Return whether the client has other hedges. Then tell it so and close the link."""
        why = self._hedges.why_different(() if hello is None else hello.hedge, is_client=False)
        if why:
            self.fail(Code.NOT_SUPPORTED, why)
        return bool(why)

    def _tunnel_requested(self, event: events.TunnelRequested) -> None:
        """Take the wish for a tunnel, or keep it until visitors have a way: that is until both ends have keys."""
        if self._hedges and not self._has_keys and not event.request.only_check:
            self._early[event.number] = event, None
        else:
            self._requested(event)

    def _requested(self, event: events.TunnelRequested) -> None:
        """Give the client a tunnel, or tell it why not."""
        raise NotImplementedError

    def _state_received(self, event: events.TunnelState) -> None:
        """Take note whether a service answers; the last word counts."""
        if event.number in self._early:
            self._early[event.number] = self._early[event.number][0], event
        else:
            self._tunnel_state(event)

    def _tunnel_state(self, event: events.TunnelState) -> None:
        """Use what a client says about the service of a tunnel."""
        raise NotImplementedError

    def _agreed(self, keys: bytes, root: Root) -> None:
        """Send our KEYS, and use what both ends want of data connections and UDP.

        :param keys: the payload of KEYS.
        """
        self._has_keys = True
        self.hedged_with = self._hedges.names
        log_hedged(self.hedged_with, self._info)
        for piece in cut(keys) if self._hedges else (keys,):
            self.link.send_keys(piece)
        if UDP in self.link.capabilities:
            self._path_secrets = path_secrets(root)
            is_asked = any(backend.asked.protocol == "udp" for backend in self.backends.values())
            if is_asked or UDP_PATH in self.link.capabilities:
                self._offer_path()
        if DIRECT in self.link.capabilities:
            waits = self._carrier_server.data_plane == "direct" or DIRECT_ONLY in self.link.capabilities
            self._pool = DataPool(self, self._carrier_server, root, waits=waits)
            self.carriers.insert(0, self._pool)
            self._pool.tunnels_changed()

    # UDP

    def _offer_path(self) -> None:
        """Begin with datagrams, unless that was done, or the keys are still to come."""
        secrets, self._path_secrets = self._path_secrets, None
        if secrets is None:
            return
        self.datagrams = datagrams = ServerDatagrams(self, self.clock)
        path_port = self._path_port = self._carrier_server.path_port
        if (port := path_port.port) is None:
            return
        self._path_id = id = path_port.join(datagrams.carrier)
        client, server, cipher = secrets
        path: Path[Address] = Path(
            Sealer(id, server, cipher), Opener(id, client, cipher), self.clock.seconds(), is_server=True
        )
        datagrams.carrier.use_path(path, path_port.send_all)
        self.link.send_path(id, port)

    def _tick_datagrams(self) -> None:
        if self.datagrams is not None:
            self.datagrams.carrier.tick(self.clock.seconds())

    def need_connection(self) -> None:
        """Give datagrams a data connection, because UDP does not get through."""
        if self.datagrams is None:
            return
        if self._pool is None:
            if not self._said_no_way:
                self._said_no_way = True
                text = "UDP of client {peer} does not get through, and there are no data connections (--data-plane)"
                self._warn(text)
            return
        fallback = self.datagrams.fallback()
        connection = self._pool.open_for_datagrams(fallback)
        if connection is not None:
            fallback.use(connection)
            self.datagrams.carrier.fall_back_on(fallback)

    def say_way(self, by_path: bool) -> None:
        """Log how datagrams travel."""
        self._info(
            "client {peer}: datagrams go {how}",
            how="by UDP" if by_path else "by a data connection: UDP does not get through",
        )

    def send_tickets(self, first: int, count: int, expires: float) -> None:
        """Ask the client for *count* data connections."""
        self.link.send_tickets(first, count, expires)
        self.flush()
