"""UDP at the server: public ports, and a flow for each address that a visitor sends from.

    visitor <-> UdpPort <-> a flow <-> ServerDatagrams -- Datagrams <-> the client

Which flow gives way when another needs its place: see :mod:`rtunnel.reverse.datagrams.shared_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from rtunnel.relay.inheritance import inheritance
from rtunnel.relay.sockets import format_host_port, text_prefix
from rtunnel.relay.udp.flows import COST, Flow
from rtunnel.relay.udp.sockets import Address, UdpSocket
from rtunnel.reverse.datagrams.carrier import Datagrams
from rtunnel.reverse.datagrams.fallback import Fallback
from rtunnel.reverse.datagrams.shared_table import PROVED, SharedFlowTable
from rtunnel.reverse.metering.meter import Meter
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.traffic.accounts import DATAGRAMS
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.token_bucket import KeyedBuckets
from rtunnel.wire.datagrams import messages

#: Flows of one tunnel.
MAX_FLOWS = 4096
#: Flows of a tunnel that one address may begin in a second for ever, and its longest burst; and the same of all. Each
#: costs the client a socket.
RATE, BURST = 500, 500
TOTAL_RATE, TOTAL_BURST = 2000, 1000


class IAcross(Protocol):
    """A visitor who has come to another node of the cluster."""

    def answered(self, data: bytes, source: Address, /) -> None:
        """Take an answer."""

    def over(self, why: str) -> None:
        """Take note that the flow has ended here."""


class _VisitorFlow(Flow):
    """The datagrams of one visitor.

    :ivar number: the flow's number on its link.
    :ivar source: the visitor's address.
    :ivar across: who he is, if he has come to another node.
    :ivar is_known: the client knows the flow.
    """

    def __init__(
        self, port: UdpPort, source: Address, name: str, datagrams: ServerDatagrams, across: IAcross | None
    ) -> None:
        super().__init__(port.table, name, port.drop)
        self._port = port
        self._across = across
        self._answer = port.send if across is None else across.answered
        self._backend = port.backend
        self._account = port.backend.account
        self._account.begin(self, name, DATAGRAMS)
        self._datagrams: ServerDatagrams | None = datagrams
        self.source = source
        self.number = datagrams.enter(self)
        self.is_known = False

    def from_visitor(self, data: bytes) -> None:
        """Pass a datagram on to the client."""
        if self._backend.group is None:
            # Its link, or its node, has gone. Another one may have the port.
            self._backend = self._port.backend
        datagrams = self._port.datagrams_of(self._backend, self._across)
        if datagrams is None:
            self.lose("its client is away")
            return
        if datagrams is not self._datagrams:
            if self._datagrams is not None:
                self._datagrams.leave(self)
            self._datagrams = datagrams
            self.number = datagrams.enter(self)
            self.is_known = False
        self.table.use(self, answer=False)
        self.sent += 1
        self.bytes_received += len(data)
        if self.is_known:
            message = messages.encode_number(messages.DATAGRAM, self.number, data)
        else:
            message = messages.encode_first(self.number, self._backend.number, self.name, data)
        datagrams.carrier.send(message)
        if self._backend is not self._port.backend:
            datagrams.carrier.flush_soon()

    def to_visitor(self, data: bytes) -> None:
        """Send an answer to the visitor, from the address that it asked."""
        self.is_known = True
        self.table.use(self, answer=True)
        self.received += 1
        self.bytes_sent += len(data)
        self._answer(data, self.source)

    def rest(self) -> None:
        """Wait for the next link: the client is away."""
        self._datagrams = None

    def abort(self) -> None:
        """End the flow, as its memory is needed."""
        self.end("its memory is needed")

    def close(self) -> None:
        """See :class:`Flow`."""
        self._account.over(self)
        self._port.forget(self)
        if self._datagrams is not None:
            self._datagrams.leave(self)
        if self._across is not None:
            self._across.over(self.ended)


class _MeteredFlow(_VisitorFlow):
    """One whose bytes are measured. Datagrams that are too many are dropped, as nobody should wait for them.

    :param meter: measures them.
    """

    def __init__(
        self,
        port: UdpPort,
        source: Address,
        name: str,
        datagrams: ServerDatagrams,
        across: IAcross | None,
        meter: Meter,
    ) -> None:
        super().__init__(port, source, name, datagrams, across)
        self._meter = meter
        meter.attach(_nothing, _nothing, partial(self.end, "its quota is used up"))

    def from_visitor(self, data: bytes) -> None:
        """See :class:`_VisitorFlow`."""
        if self._meter.up.take(len(data)):
            super().from_visitor(data)
        else:
            self.lose("they are more than its bandwidth")

    def to_visitor(self, data: bytes) -> None:
        """See :class:`_VisitorFlow`."""
        if self._meter.down.take(len(data)):
            super().to_visitor(data)
        else:
            self.lose("they are more than its bandwidth")

    def close(self) -> None:
        """See :class:`Flow`."""
        self._meter.close()
        super().close()


def _nothing() -> bool:
    return True


class UdpPort:
    """A public UDP port of one client, which may serve it by several links.

    :param interface: IP address to listen on; empty for all IPv4 addresses.
    :ivar backend: the tunnel that gets new flows.
    :raises OSError: the port cannot be bound.
    """

    log = Logger()

    def __init__(self, reactor: Any, interface: str, number: int, backend: Backend, limiter: LogLimiter) -> None:
        self.backend = backend
        self._limiter = limiter
        self._flows: dict[Address, _VisitorFlow] = {}
        self.table = SharedFlowTable(reactor, MAX_FLOWS, None)
        self._clock = reactor
        self._new = KeyedBuckets(RATE, BURST, TOTAL_RATE, TOTAL_BURST, reactor.seconds())
        self._socket = UdpSocket(reactor, self._received, self.drop, done=self._done)
        inherited = inheritance.take(f"public {interface} {backend.asked}")
        if inherited is not None:
            self._socket.adopt(inherited)
        else:
            self._socket.bind(interface, number)
        self.send: Callable[[bytes, Address], None] = self._socket.send

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def getHost(self) -> IAddress:
        """Return the address on which it listens."""
        address = self._socket.address
        assert address is not None
        return address

    def __len__(self) -> int:
        return len(self._flows)

    def rest(self) -> None:
        """Keep only flows of visitors who get the answers, as the client is away."""
        for flow in list(self._flows.values()):
            if flow.exchanges < PROVED:
                flow.end("the client is away")
            else:
                flow.rest()

    def group_changed(self, group: Any) -> None:
        """Take note of who serves now, and end flows of visitors who may no longer come."""
        members = list(group)
        preferred = [member for member in members if not member.is_elsewhere] or members
        if self.backend not in preferred:
            self.backend = preferred[0]
        admits = group.limits.admits
        for flow in list(self._flows.values()):
            if not admits(flow.source[0]):
                flow.end("its address may not come any more")

    def stopListening(self) -> None:
        """Close the port, and end its flows."""
        self._socket.close()
        for flow in list(self._flows.values()):
            flow.end("its port is closed")

    def cross(self, data: bytes, source: Address, across: IAcross) -> None:
        """Take a datagram of a visitor who has come to another node.

        :param source: his address; behind host and port comes what tells him from others.
        """
        self._received(data, source, across)
        datagrams: ServerDatagrams | None = self.backend.session.datagrams
        if datagrams is not None:
            datagrams.carrier.flush_soon()

    @staticmethod
    def datagrams_of(backend: Backend, across: IAcross | None) -> ServerDatagrams | None:
        """Return what takes datagrams to the client, or None if it is away. Who has crossed must not cross again."""
        if across is not None and backend.is_elsewhere:
            return None
        datagrams: ServerDatagrams | None = backend.session.datagrams
        return datagrams

    def leave(self, source: Address, why: str) -> None:
        """End the flow of such a visitor."""
        flow = self._flows.get(source)
        if flow is not None:
            flow.end(why)

    def _received(self, data: bytes, source: Address, across: IAcross | None = None) -> None:
        flow = self._flows.get(source)
        if flow is None:
            datagrams = self.datagrams_of(self.backend, across)
            group = self.backend.group
            if datagrams is None or group is None:
                self.drop("its client is away")
                return
            if not self.backend.may_serve:
                self.drop("the directory of the cluster does not say whose the port is")
                return
            name = format_host_port(source[0], source[1])
            prefix = text_prefix(name)
            if why := group.why_not(source[0], prefix, self.table.count):
                group.refused(source[0], name, why)
                return
            if not self._new.take(prefix, 1, self._clock.seconds()):
                self.drop("too many flows begin")
                return
            limits = self.backend.budget
            if limits is None:
                flow = _VisitorFlow(self, source, name, datagrams, across)
            elif limits.used_up is None:
                flow = _MeteredFlow(self, source, name, datagrams, across, limits.meter())
            else:
                self.drop("its quota is used up")
                return
            self._flows[source] = flow
            self.table.add(flow)
        flow.from_visitor(data)

    def _done(self) -> None:
        datagrams = self.backend.session.datagrams
        if datagrams is not None:
            datagrams.carrier.flush()

    def drop(self, why: str) -> None:
        """Count and log a datagram that is lost."""
        self._limiter.warn(
            "UDP datagrams at {place} of client {peer} are dropped: {why}",
            place=str(self.backend.place),
            peer=self.backend.session.peer_name,
            why=why,
        )

    def forget(self, flow: _VisitorFlow) -> None:
        """Remove a flow that has ended."""
        self._flows.pop(flow.source, None)


class IDatagramSession(Protocol):
    """The link, as its datagrams see it."""

    memory: Memory

    def need_connection(self) -> None: ...
    def say_way(self, by_path: bool) -> None: ...


class ServerDatagrams:
    """The flows of one link.

    :ivar carrier: takes their datagrams to the client.
    """

    def __init__(self, session: IDatagramSession, clock: Any) -> None:
        self._session = session
        self._clock = clock
        self.carrier = Datagrams(clock, self)
        self._flows: dict[int, _VisitorFlow] = {}
        self._last = 0

    def enter(self, flow: _VisitorFlow) -> int:
        """Take a flow that begins. Return its number."""
        self._session.memory.add(COST)
        while True:
            self._last = self._last % (2**32 - 1) + 1
            if self._last not in self._flows:
                self._flows[self._last] = flow
                return self._last

    def leave(self, flow: _VisitorFlow) -> None:
        """Forget a flow that has ended, and tell the client."""
        if self._flows.pop(flow.number, None) is not None:
            self.carrier.send(messages.encode_number(messages.OVER, flow.number))

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        yield self.carrier.held, self.carrier
        for flow in self._flows.values():
            yield flow.held, flow

    def fallback(self) -> Fallback:
        """Return the local side of a data connection that is to carry datagrams."""
        return Fallback(self._clock, self.carrier.receive, self.carrier.lost_connection)

    def close(self) -> None:
        """End: the link is over. Its ports end the flows, or keep them for the next link. May be called twice."""
        self.carrier.close()
        self._flows.clear()

    # From the carrier, see IDatagramsUser

    def received(self, message: bytes) -> None:
        """See :class:`~rtunnel.reverse.datagrams.carrier.IDatagramsUser`."""
        flow = self._flows.get(messages.decode_number(message))
        if flow is None:
            return
        kind = message[0]
        if kind == messages.DATAGRAM:
            flow.to_visitor(message[messages.NUMBER.size :])
        elif kind == messages.KNOWN:
            flow.is_known = True
        elif kind == messages.UNKNOWN:
            flow.is_known = False

    def holds(self, count: int) -> None:
        """See :class:`~rtunnel.reverse.datagrams.carrier.IDatagramsUser`."""
        self._session.memory.add(count)

    def need_connection(self) -> None:
        """See :class:`~rtunnel.reverse.datagrams.carrier.IDatagramsUser`."""
        self._session.need_connection()

    def way_changed(self, by_path: bool) -> None:
        """See :class:`~rtunnel.reverse.datagrams.carrier.IDatagramsUser`."""
        self._session.say_way(by_path)
