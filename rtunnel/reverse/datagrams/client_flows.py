"""UDP at the client: a socket to the service for each visitor.

    the server <-> ClientDatagrams <-> a flow <-> UdpSocket <-> the service

The flows outlive the link. A visitor who comes again by the next link has the same socket, so to the service nothing
has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from twisted.logger import Logger

from rtunnel.addresses import DialAddress
from rtunnel.relay.polled_socket import SHORT_TURNS
from rtunnel.relay.sockets import text_prefix
from rtunnel.relay.udp.batches import BatchSocket
from rtunnel.relay.udp.flows import COST, LASTING_IDLE, FlowTable
from rtunnel.relay.udp.sockets import Address
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.reverse.datagrams.carrier import Datagrams
from rtunnel.reverse.datagrams.fallback import Fallback
from rtunnel.reverse.datagrams.shared_table import PROVED, SharedFlowTable
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.services.flow import ServiceFlow
from rtunnel.traffic.accounts import Account
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.wire.data.keys import Root, path_secrets
from rtunnel.wire.data.seal import Cipher
from rtunnel.wire.datagrams import messages
from rtunnel.wire.datagrams.packets import Opener, Sealer, packet_id
from rtunnel.wire.datagrams.path import Path
from rtunnel.wire.datagrams.path_mtu import BASE

#: Flows of a client.
MAX_FLOWS = 16384
#: The server says when a flow is over. This is for when that is lost.
IDLE = LASTING_IDLE + 30.0


class IUdpTunnel(Protocol):
    """A UDP tunnel of the client.

    :ivar settings: its own.
    :ivar account: counts what visitors send and get.
    """

    @property
    def settings(self) -> TunnelSettings: ...
    @property
    def account(self) -> Account: ...

    def header(self, visitor: str) -> bytes:
        """Return what the service gets before each datagram of a visitor; empty: nothing."""

    def flow(self, owner: ClientFlows, key: tuple[int, str]) -> ClientFlow:
        """Return a flow of a visitor that begins.

        :param key: as :class:`ClientFlow` has it.
        """


class ClientFlow(ServiceFlow):
    """One visitor, and the socket to the service.

    :ivar key: the tunnel's public port, and the visitor's address.
    :ivar datagrams: the link by which the visitor comes now; None: none.
    :ivar number: the flow's number there.
    :ivar header: what each datagram to the service has in front, as any of them may be lost or come first.
    """

    def __init__(self, owner: ClientFlows, key: tuple[int, str], tunnel: IUdpTunnel) -> None:
        prefix = text_prefix(key[1])
        super().__init__(owner, key[1], tunnel.settings.local, prefix, ("udp", key[0]), tunnel.account, key[1])
        self._flows = owner
        self.key = key
        self.datagrams: ClientDatagrams | None = None
        self.number = 0
        self.header = tunnel.header(key[1])
        self._is_proved = False

    def answer(self, data: bytes) -> None:
        """See :class:`ServiceFlow`."""
        if self.exchanges >= PROVED and not self._is_proved:
            # When descriptors are short, a crowd of others does not make it give way.
            self._is_proved = True
            self.count_as(("udp, both ways", self.key[0]))
        if self.datagrams is None:
            self.lose("there is no link to the server")
            return
        self.received += 1
        self.datagrams.carrier.send(messages.encode_number(messages.DATAGRAM, self.number, data))

    def abort(self) -> None:
        """End the flow, as its memory is needed."""
        self.end("its memory is needed")

    def close(self) -> None:
        """See :class:`ServiceFlow`."""
        super().close()
        self._flows.forget(self)
        if self.datagrams is not None:
            self.datagrams.leave(self)


class ClientFlows:
    """The flows of a client, see :class:`~rtunnel.services.flow.IFlows`.

    :param poller: moves bulk in short turns while datagrams come.
    """

    log = Logger()

    def __init__(self, reactor: Any, poller: Any, descriptors: Descriptors) -> None:
        self.reactor = reactor
        self.poller = poller
        self.descriptors = descriptors
        self.table: FlowTable = SharedFlowTable(reactor, MAX_FLOWS, IDLE)
        self.worked: dict[Any, str] = {}
        self.now: ClientDatagrams | None = None
        self._limiter = LogLimiter(self.log, reactor, most=1)
        # Those without a link. A visitor who asks several of the server's addresses has several flows.
        self._left: dict[tuple[int, str], dict[ClientFlow, None]] = {}

    def flow_of(self, key: tuple[int, str], tunnel: IUdpTunnel) -> ClientFlow:
        """Return a flow of a visitor that has no link; a new one if there is none."""
        for flow in self._left.get(key, ()):
            self.forget(flow)
            return flow
        flow = tunnel.flow(self, key)
        self.log.debug("UDP flow {flow} to {remote} begins", flow=flow.name, remote=str(tunnel.settings.local))
        self.table.add(flow)
        flow.dial()
        return flow

    def keep(self, flow: ClientFlow) -> None:
        """Keep a flow that has lost its link."""
        self._left.setdefault(flow.key, {})[flow] = None

    def forget(self, flow: ClientFlow) -> None:
        """Keep a flow no longer: it has ended, or has a link."""
        left = self._left.get(flow.key, {})
        left.pop(flow, None)
        if not left:
            self._left.pop(flow.key, None)

    def end_of(self, port: int) -> None:
        """End the flows of a tunnel whose service is another one now. Who goes on asking gets new ones.

        :param port: the tunnel's public port.
        """
        for flow in list(self.table):
            if isinstance(flow, ClientFlow) and flow.key[0] == port:
                flow.end("its service is another one now")

    def drop(self, remote: DialAddress, why: str) -> None:
        """See :class:`~rtunnel.services.flow.IFlows`."""
        self._limiter.warn("UDP datagrams for {remote} are dropped: {why}", remote=str(remote), why=why)

    def read_some(self) -> None:
        """See :class:`~rtunnel.services.flow.IFlows`."""
        if self.now is not None:
            self.now.carrier.flush()

    def close(self) -> None:
        """End all flows."""
        for flow in self.table:
            flow.end("the client is going down")


class IDatagramSession(Protocol):
    """The link, as its datagrams see it."""

    memory: Memory

    def udp_tunnel(self, number: int) -> IUdpTunnel | None: ...
    def say_way(self, by_path: bool) -> None: ...


class ClientDatagrams:
    """The datagrams of one link.

    :ivar carrier: takes answers to the server.
    """

    log = Logger()

    def __init__(self, session: IDatagramSession, flows: ClientFlows, root: Root) -> None:
        self._session = session
        self._owner = flows
        # Not the root: tickets come from it, too, and whoever has it can compute those that were forgotten.
        self._secrets: tuple[bytes, bytes, Cipher] | None = path_secrets(root)
        self.carrier = Datagrams(flows.reactor, self)
        self._flows: dict[int, ClientFlow] = {}
        self._socket: BatchSocket | None = None
        self._id = 0
        flows.now = self

    def open_path(self, id: int, host: str, port: int) -> None:
        """Open the UDP path to the server, once.

        :param id: of the path.
        :param host: an IP address.
        """
        secrets, self._secrets = self._secrets, None
        if secrets is None:
            return
        client, server, cipher = secrets
        self._id = id
        self._socket = BatchSocket(self._owner.reactor, self._received, self._lost, self.carrier.flush, BASE)
        try:
            self._socket.connect(host, port)
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        path: Path[Address] = Path(
            Sealer(id, client, cipher),
            Opener(id, server, cipher),
            self._owner.reactor.seconds(),
            is_server=False,
            address=_SERVER,
        )
        self.carrier.use_path(path, self._send_all)

    def _send_all(self, packets: Sequence[tuple[bytes, Address]], too_large: Callable[[int], None]) -> None:
        if self._socket is not None:
            self._socket.send_all([(packet, None) for packet, _ in packets], too_large)

    def _received(self, packet: bytes, _source: Address) -> None:
        if packet_id(packet) == self._id:
            self._owner.poller.short_turns = SHORT_TURNS
            self.carrier.receive_packet(packet, _SERVER)

    def _lost(self, why: str) -> None:
        # Nobody listens there, or the network is down. The path finds out that it is closed.
        self.log.debug("a packet to the server was lost: {why}", why=why)

    def serve(self, connection: RecordSocket) -> None:
        """Use a data connection of the server's for datagrams."""
        fallback = Fallback(self._owner.reactor, self.carrier.receive, self.carrier.lost_connection)
        connection.carry(fallback)
        fallback.use(connection)
        self.carrier.fall_back_on(fallback)

    def leave(self, flow: ClientFlow) -> None:
        """Forget a flow that is over."""
        self._flows.pop(flow.number, None)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        yield self.carrier.held, self.carrier
        yield from self._owner.table.holdings()

    def close(self) -> None:
        """Leave the flows to the next link. May be called twice."""
        flows, self._flows = self._flows, {}
        for flow in flows.values():
            flow.datagrams = None
            self._owner.keep(flow)
        self.carrier.close()
        self._secrets = None
        if self._socket is not None:
            self._socket.close()
        if self._owner.now is self:
            self._owner.now = None

    # From the carrier, see IDatagramsUser

    def received(self, message: bytes) -> None:
        """See :class:`~rtunnel.reverse.datagrams.carrier.IDatagramsUser`."""
        kind = message[0]
        if kind == messages.FIRST:
            number, tunnel_number, visitor, data = messages.decode_first(message)
            tunnel = self._session.udp_tunnel(tunnel_number)
            if tunnel is None:
                return
            key = (tunnel.settings.remote_port, visitor)
            known = self._flows.get(number)
            if known is not None and known.key != key:
                known.end("the server uses its number for another one")
                known = None
            if known is None:
                self._session.memory.add(COST)
                known = self._flows[number] = self._owner.flow_of(key, tunnel)
                known.datagrams, known.number = self, number
            self.carrier.send(messages.encode_number(messages.KNOWN, number))
            self._ask(known, data)
            return
        number = messages.decode_number(message)
        known = self._flows.get(number)
        if kind == messages.DATAGRAM:
            if known is None:
                self.carrier.send(messages.encode_number(messages.UNKNOWN, number))
            else:
                self._ask(known, message[messages.NUMBER.size :])
        elif kind == messages.OVER and known is not None:
            known.end("the visitor's flow is over")

    def _ask(self, flow: ClientFlow, data: bytes) -> None:
        data = flow.header + data
        if flow.keeps_datagrams:
            self.holds(len(data))
        flow.ask(data)

    def holds(self, count: int) -> None:
        """See :class:`~rtunnel.reverse.datagrams.carrier.IDatagramsUser`."""
        self._session.memory.add(count)

    def need_connection(self) -> None:
        """See :class:`~rtunnel.reverse.datagrams.carrier.IDatagramsUser`. It is the server that begins."""

    def way_changed(self, by_path: bool) -> None:
        """See :class:`~rtunnel.reverse.datagrams.carrier.IDatagramsUser`."""
        self._session.say_way(by_path)


_SERVER: Address = ("server",)
