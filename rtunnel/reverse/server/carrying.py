"""The carriers of a server's link: the link itself, its data connections, and those of a link that it follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from rtunnel.errors import Code
from rtunnel.reverse.carriers.data_connections import DataPool
from rtunnel.reverse.carriers.interface import ICarrier, ICarrierServer
from rtunnel.reverse.carriers.kept import KeptConnections
from rtunnel.reverse.carriers.link_protocol import LinkProtocol
from rtunnel.reverse.carriers.mux import Mux
from rtunnel.reverse.secured import export_for_records
from rtunnel.tls.identity import Peer
from rtunnel.upkeep.memory import Memory
from rtunnel.wire import events
from rtunnel.wire.data.keys import Root, answer, plain_keys, wish
from rtunnel.wire.messages import DIRECT, DIRECT_ONLY
from rtunnel.wire.server_link import ServerLink


class ICarryingServer(ICarrierServer, Protocol):
    """The server, as the carriers of its links need it."""

    data_plane: str
    memory: Memory
    kept: KeptConnections[DataPool]


class CarryingSession(LinkProtocol):
    """A server's link, as far as its carriers are concerned.

    :param identity: the client as authenticated by TLS; None without TLS.
    :ivar carriers: the carriers of its visitors, in the order in which they are asked.
    :ivar known_as: identifies the client when it comes back over another link.
    """

    link: ServerLink

    def __init__(self, server: ICarryingServer, link: ServerLink, clock: Any, identity: Peer | None) -> None:
        super().__init__(link, clock, server.memory)
        self.identity = identity
        self._carrier_server = server
        self.known_as: tuple[str, str] | None = None
        self.carriers: list[ICarrier] = [Mux(self, link, server.visitors)]
        self._has_pool = self._has_closed = False
        self._handlers[events.KeysReceived] = self._keys_received

    @property
    def wants_visitors(self) -> bool:
        """Whether the client serves any tunnel."""
        raise NotImplementedError

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`LinkProtocol`."""
        yield from super().holdings()
        for carrier in self.carriers:
            yield from carrier.holdings()

    def _close_connection(self, *, half: bool = False) -> None:
        """See :class:`LinkProtocol`. Close the data connections with the link."""
        self._close_carriers()
        super()._close_connection(half=half)

    def _close_carriers(self) -> None:
        if self._has_closed:
            return
        self._has_closed = True
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
        if DIRECT not in self.link.capabilities:
            if self._carrier_server.data_plane == "direct":
                self._warn("client {peer} knows no data connections: its visitors go by the link")
        elif self.identity is None:
            self._make_pool(*plain_keys())

    def _keys_received(self, event: events.KeysReceived) -> None:
        """Agree with the client on the keys of data connections; without TLS there is nothing to agree on."""
        if self.link.is_closed or self.identity is None or self._has_pool:
            self.fail(Code.PROTOCOL, "KEYS where none belong")
            return
        try:
            keys, root = answer(event.payload, export_for_records(self.transport, self.identity), wish())
        except ValueError as error:
            self.fail(Code.PROTOCOL, str(error))
            return
        self._make_pool(keys, root)

    def _make_pool(self, keys: bytes, root: Root) -> None:
        waits = self._carrier_server.data_plane == "direct" or DIRECT_ONLY in self.link.capabilities
        self.link.send_keys(keys)
        pool = DataPool(self, self._carrier_server, root, waits=waits)
        self._has_pool = True
        self.carriers.insert(0, pool)
        pool.tunnels_changed()

    def send_tickets(self, first: int, count: int, expires: float) -> None:
        """Ask the client for *count* data connections."""
        self.link.send_tickets(first, count, expires)
        self.flush()
