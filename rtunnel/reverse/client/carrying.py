"""The data connections of a client's link, and those of a link that it follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.python.failure import Failure

from rtunnel.errors import Code
from rtunnel.reverse.carriers.link_protocol import LinkProtocol
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.reverse.client.data_connections import DataConnections
from rtunnel.reverse.client.interfaces import IDialler
from rtunnel.reverse.datagrams.client_flows import ClientDatagrams, IUdpTunnel
from rtunnel.reverse.secured import export_for_records, log_hedged
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire import events
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.data.hedges import cut
from rtunnel.wire.data.keys import ClientAgreement, read_plain_keys, wish
from rtunnel.wire.messages import DIRECT, UDP
from rtunnel.wire.stream import Stream

if TYPE_CHECKING:
    from rtunnel.tls.identity import Peer
    from rtunnel.tls.stream_end import TlsEnd


class CarryingSession(LinkProtocol):
    """A client's link, as far as its data connections are concerned.

    :param dialler: makes them.
    :param pool: how many may be made or wait at once.
    :ivar data: the data connections; None until both ends have agreed on keys.
    :ivar moved_early: streams of which MOVE has come before OPEN, and since when.
    """

    link: ClientLink

    def __init__(self, link: ClientLink, reactor: Any, visitors: Visitors, dialler: IDialler, pool: int) -> None:
        super().__init__(link, reactor, dialler.memory)
        self._dialler = dialler
        self._visitors = visitors
        self._pool = pool
        self.data: DataConnections | None = None
        self._agreement: ClientAgreement | None = None
        self._has_keys = False
        self._hedges = dialler.hedges
        self._pieces = dialler.hedges.server_pieces()
        #: What was mixed into the keys beside the usual, once they are there.
        self.hedged_with: tuple[str, ...] = ()
        # Those of the last link, for as long as they have streams.
        self._adopted: list[DataConnections] = []
        self._has_closed = False
        self.moved_early: dict[int, tuple[Stream, float]] = {}
        self._draining = False
        # Of UDP tunnels; None until both ends have agreed on keys, or without UDP.
        self.datagrams: ClientDatagrams | None = None
        self._handlers |= {
            events.KeysReceived: self._keys_received,
            events.TicketsReceived: self._tickets_received,
            events.PathOffered: self._path_offered,
        }

    # What visitors need, see IUser

    def service_of(self, number: int) -> Any:
        """Return the local service of a tunnel, if visitors may use it; else None."""
        raise NotImplementedError

    def end_tls(self, service: Any, visitor: str) -> TlsEnd:
        """Return what ends the TLS of a visitor of a service."""
        raise NotImplementedError

    def dialled(self, service: Any) -> None:
        """Note that the service accepted a visitor."""
        raise NotImplementedError

    def dial_failed(self, service: Any, failure: Failure) -> None:
        """Note that the service did not accept a visitor."""
        raise NotImplementedError

    # Keys

    def _offer_keys(self) -> None:
        """Send our half of the keys, if links have TLS."""
        if self.identity is None or not self.link.hello.capabilities & {DIRECT, UDP}:
            return
        if self._hedges:
            self._hedges.agree().addCallback(self._use_agreement).addErrback(self._lack_agreement)
        else:
            self._agreement = ClientAgreement(wish())
            self.link.send_keys(self._agreement.message)

    def _use_agreement(self, agreement: ClientAgreement) -> None:
        if self.connected_now:
            self._agreement = agreement
            self._send_hedged_keys()

    def _lack_agreement(self, failure: Failure) -> None:
        self.log.failure("the keys of --hedge cannot be made", failure)
        self.close(Code.NOT_SUPPORTED, "the client cannot make its keys")

    def _send_hedged_keys(self) -> None:
        """Send our half, once it is made and the server is known to have the same hedges."""
        if not self._hedges or self._agreement is None or not self.link.is_extended:
            return
        for piece in cut(self._agreement.message):
            self.link.send_keys(piece)
        self.flush()

    def _keys_received(self, event: events.KeysReceived) -> None:
        """Take what both ends agree on, and make data connections from now on."""
        payload: bytes | None = event.payload
        if self._hedges:
            if not payload:
                return  # the server is there, and reads
            try:
                payload = self._pieces.take(payload)
            except ValueError as error:
                self.fail(Code.PROTOCOL, str(error))
        if payload is not None and not self.link.is_closed:
            self._finish_keys(payload)

    def _finish_keys(self, payload: bytes) -> None:
        agreement, self._agreement = self._agreement, None
        try:
            if self._has_keys:
                raise ValueError("a second KEYS")
            if self.identity is None:
                root = read_plain_keys(payload)
            elif agreement is None:
                raise ValueError("KEYS where none belong")
            else:
                root = agreement.finish(payload, export_for_records(self.transport, self.identity))
        except ValueError as error:
            self.fail(Code.PROTOCOL, str(error))
            return
        self._has_keys = True
        self.hedged_with = self._hedges.names
        log_hedged(self.hedged_with, self._info)
        if UDP in self.link.capabilities:
            self.datagrams = ClientDatagrams(self, self._dialler.flows, root)
        if DIRECT in self.link.capabilities:
            self.data = DataConnections(self, self._dialler, root, self._pool, self._visitors)
            self.data.server = self.identity
            if self._draining:
                self.data.withdraw()

    def _tickets_received(self, event: events.TicketsReceived) -> None:
        try:
            if self.data is None:
                raise ValueError("TICKETS before KEYS")
            self.data.take_tickets(event.first, event.count, event.expires)
        except ValueError as error:
            self.fail(Code.PROTOCOL, str(error))

    # UDP

    def _path_offered(self, event: events.PathOffered) -> None:
        """Open the UDP path to the machine to which the link leads."""
        if self._dialler.is_proxied:
            if DIRECT in self.link.capabilities:
                self._info("datagrams to and from {peer} go by data connections: UDP does not pass the proxy")
            else:
                self._warn("no datagrams reach {peer}: UDP does not pass the proxy, and there are no data connections")
            return
        server = self.transport.getPeer()
        if self.datagrams is not None and isinstance(server, IPv4Address | IPv6Address):
            self.datagrams.open_path(event.id, server.host, event.port or server.port)

    def carry_datagrams(self, connection: RecordSocket) -> None:
        """Use a data connection for datagrams."""
        if self.datagrams is None:
            connection.reset(Code.UNKNOWN_TUNNEL, "there are no UDP tunnels")
        else:
            self.datagrams.serve(connection)

    def udp_tunnel(self, number: int) -> IUdpTunnel | None:
        """Return a UDP tunnel, if visitors may use it."""
        service: IUdpTunnel | None = self.service_of(number)
        return service if service is not None and service.settings.protocol == "udp" else None

    def say_way(self, by_path: bool) -> None:
        """Log how datagrams travel."""
        if by_path:
            self._info("datagrams to and from {peer} go by UDP")
        elif not self._dialler.is_proxied:  # that was said before
            self._warn("datagrams to and from {peer} go by a data connection: UDP does not get through")

    def _moved_early(self, stream: Stream) -> None:
        """Keep a stream that the server has moved to a data connection of which we have not read yet."""
        if len(self.moved_early) >= self.link.limits.max_streams:
            self.fail(Code.PROTOCOL, "more streams were moved than the link may have")
        self.moved_early[stream.conn_id] = (stream, self.clock.seconds())

    def _give_up_moved(self) -> None:
        """Reset streams that are on no data connection, although those have been moved for long."""
        now = self.clock.seconds()
        for conn_id, (stream, since) in list(self.moved_early.items()):
            if now - since < self.link.limits.dead_after:
                break
            del self.moved_early[conn_id]
            self.link.reset(stream, Code.TIMEOUT, "no data connection carries it")
            stream.owner.was_reset(Code.TIMEOUT, "no data connection carries it")

    def _close_connection(self, *, half: bool = False) -> None:
        """See :class:`LinkProtocol`. Close the data connections with the link."""
        self._close_data()
        super()._close_connection(half=half)

    def _close_data(self) -> None:
        moved, self.moved_early = self.moved_early, {}
        for stream, _ in moved.values():
            if not stream.open:  # the others are reset with the link
                stream.owner.was_reset(Code.CONNECTION_LOST, "the link is lost")
        if self._has_closed:
            return
        self._has_closed = True
        if self.datagrams is not None:
            self.datagrams.close()
        data = self.all_data
        if self.streams_outlive and self.known_as is not None:
            self._dialler.kept.keep(self.known_as, self, data)
            return
        for each in data:
            each.close(cut=not self.peer_has_left, tail=True)

    def linger(self, *, is_on: bool) -> None:
        """See :meth:`DataConnections.linger`."""
        for data in self.all_data:
            data.linger(is_on=is_on)

    @property
    def all_data(self) -> list[DataConnections]:
        """The data connections of this link, and those of links before."""
        return [*self._adopted, *([] if self.data is None else [self.data])]

    @property
    def known_as(self) -> tuple[str, bool] | None:
        """By what the same server is known when this client is back, or another node of its cluster.

        Each node may have a certificate of its own. A server that says what another one has said gains nothing by it:
        the connections that are kept lead to that other one, with keys that only it has.
        """
        return None if self.link.peer is None else (self.link.peer.session, self.identity is not None)

    def _adopt(self) -> None:
        """Go on with the data connections of the last link to the same server; cut those to another one."""
        kept = self._dialler.kept
        self._adopted = kept.take(self.known_as)
        for data in self._adopted:
            data.adopt(self)
        kept.close()

    @property
    def servers(self) -> list[Peer]:
        """Who has proved to be at the other end of what the link carries: its server, and those of links before."""
        found = [self.identity, *(data.server for data in self._adopted)]
        return [server for server in found if server is not None]

    def count_streams(self) -> None:
        """Count the visitors on data connections."""
        own = 0 if self.data is None else self.data.stream_count
        self.link.direct_streams = own + sum(data.stream_count for data in self._adopted)

    def _tick_data(self) -> None:
        now = self.clock.seconds()
        if self.data is not None:
            self.data.tick(now)
        for data in self._adopted:
            data.tick(now)
            if data.server is not None and self._dialler.why_void(data.server):
                data.close(cut=True)
        self._adopted = [data for data in self._adopted if not data.is_over]
        if self.moved_early:
            self._give_up_moved()
        if self.datagrams is not None:
            self.datagrams.carrier.tick(now)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`LinkProtocol`."""
        yield from super().holdings()
        if self._pieces.held:
            yield self._pieces.held, self
        for data in self.all_data:
            yield from data.holdings()
        if self.datagrams is not None:
            yield from self.datagrams.holdings()
