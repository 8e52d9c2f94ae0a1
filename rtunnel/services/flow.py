"""A flow to a UDP service of our own side: its socket, and what to do when the service cannot be reached.

Each flow has its own socket, connected to the service. So the service can tell flows apart by their port, and the
kernel drops what anybody else sends to that port. However the service fails, there is no error: datagrams are dropped
and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rtunnel.endpoint_strings import is_ipv4, is_ipv6
from rtunnel.names import IPAddress, dialled, look_up, prefer
from rtunnel.relay.udp.flows import Flow, FlowTable, WaitingDatagrams
from rtunnel.relay.udp.sockets import Address, UdpSocket
from rtunnel.traffic.accounts import DATAGRAMS, Account
from rtunnel.upkeep.descriptors import Descriptors, Place

#: Seconds after a failure before the next datagram makes another attempt to reach the service.
TRY_AGAIN = 1.0
LOOPBACK = "127.0.0.1"


class IUdpService(Protocol):
    """The address of a service: a host, which may be a name or empty for this machine, and a port."""

    @property
    def host(self) -> str | None: ...
    @property
    def port(self) -> int | None: ...


class IWay(Protocol):
    """What takes a flow's datagrams to the service: a socket, or what stands for one."""

    def send(self, data: bytes, /) -> None: ...
    def close(self) -> None: ...


class IFlows(Protocol):
    """Who has the flows.

    :ivar worked: the IP address that answered last, of each service that has more than one.
    :ivar descriptors: has a place for each flow.
    """

    reactor: Any
    descriptors: Descriptors
    table: FlowTable
    worked: dict[Any, str]

    def drop(self, remote: Any, why: str) -> None:
        """Count and log a datagram that is lost."""

    def read_some(self) -> None:
        """Take note that answers were passed on, and others get their turn."""


class ServiceFlow(Flow):
    """One flow and its socket. A subclass passes the answers on.

    A service with a name may have several addresses. If the one in use refuses during the first second, without having
    answered, the next one gets what was sent. If it refuses later, the flow begins anew with the first address.

    :param remote: the service.
    :param address: whose flow it is, for the budget of descriptors.
    :param used_for: the tunnel or service, for the same.
    :param account: counts what passes.
    :param who: the visitor or client.
    """

    def __init__(
        self,
        owner: IFlows,
        name: str,
        remote: IUdpService,
        address: str,
        used_for: Hashable,
        account: Account,
        who: str,
    ) -> None:
        super().__init__(owner.table, name, partial(owner.drop, remote))
        self._account = account
        account.begin(self, who, DATAGRAMS)
        self._owner = owner
        self._remote = remote
        self._address = address
        self._used_for = used_for
        self._place: Place | None = None
        self._looking_up: Deferred[Any] | None = None
        self._socket: IWay | None = None
        self._trouble = ""
        self._not_before = 0.0
        # The address in use, those to try if it refuses, until when, and what they would have to get.
        self._host = ""
        self._others: list[str] = []
        self._others_until = 0.0
        self._for_others = WaitingDatagrams()
        self._is_news = False

    @property
    def held(self) -> int:
        """See :class:`Flow`."""
        return super().held + self._for_others.bytes

    @property
    def keeps_datagrams(self) -> bool:
        """Whether datagrams are kept: for when the name is looked up, or for another address of the service."""
        return self._looking_up is not None or bool(self._others)

    def count_as(self, used_for: Hashable) -> None:
        """Count the descriptor as used for something else from now on."""
        self._used_for = used_for
        if self._place is not None:
            self._owner.descriptors.remove(self._place)
            self._place = self._owner.descriptors.add(self, self._address, used_for)

    def dial(self) -> None:
        """Open the socket, now or when the name has been looked up."""
        if self._place is None:
            self._place = self._owner.descriptors.add(self, self._address, self._used_for)
        host = self._remote.host or LOOPBACK
        if is_ipv4(host) or is_ipv6(host):
            self._open(host)
        else:
            self._looking_up = looking_up = look_up(self._owner.reactor, host)
            looking_up.addCallbacks(self._found, self._not_found)

    def _found(self, addresses: list[IPAddress]) -> None:
        self._looking_up = None
        # IPv4 comes first, as with the reference programs.
        addresses = sorted(addresses, key=lambda one: isinstance(one, IPv6Address))
        first, *self._others = map(dialled, prefer(addresses, self._owner.worked.get(self._remote, "")))
        self._others_until = self._owner.reactor.seconds() + TRY_AGAIN
        self._is_news = bool(self._others)
        self._open(first, self._refused if self._others else None)

    def _not_found(self, _failure: Failure) -> None:
        self._looking_up = None
        self._dial_failed("its name cannot be looked up")

    def _open(self, host: str, refused: Callable[[str], None] | None = None) -> None:
        link = UdpSocket(self._owner.reactor, self._answered, self.lose, refused, self._owner.read_some)
        try:
            link.connect(host, self._remote.port or 0)
        except OSError as error:
            why = error.strerror or str(error)
            if self._others:
                self._open(self._others.pop(0), refused)
            else:
                self._dial_failed(why)
            return
        self._socket, self._host = link, host
        for data in self.waiting.take():
            self._send(data)

    def _refused(self, why: str) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._others:
            for data in self._for_others.take():
                self.waiting.put(data)
            self._open(self._others.pop(0), self._refused)
        else:
            self._dial_failed(why)
            self.lose(why)

    def _settle(self) -> None:
        """Stay with the address in use."""
        self._others.clear()
        self._for_others.take()

    def _dial_failed(self, why: str) -> None:
        self._trouble = why
        self._not_before = self._owner.reactor.seconds() + TRY_AGAIN
        for _ in self.waiting.take():
            self.lose(why)

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            self.lose(self._trouble)
            return
        if self._others:
            self._for_others.put(data)
            if self._owner.reactor.seconds() >= self._others_until:
                self._settle()
        self.sent += 1
        self.bytes_sent += len(data)
        self._socket.send(data)

    def ask(self, data: bytes) -> None:
        """Send a datagram to the service."""
        if self.ended:
            return
        self.table.use(self, answer=False)
        if self._socket is None and self._looking_up is None and self._owner.reactor.seconds() >= self._not_before:
            self.dial()
        if self._looking_up is None:
            self._send(data)
        elif not self.waiting.put(data):
            self.lose("too many before its name is looked up")

    def _answered(self, data: bytes, source: Address) -> None:
        self.table.use(self, answer=True)
        self.bytes_received += len(data)
        if self._is_news:
            self._is_news = False
            self._owner.worked[self._remote] = self._host
            self._settle()
        self.answer(data)

    def answer(self, data: bytes) -> None:
        """Pass on what the service has answered."""
        raise NotImplementedError

    def close(self) -> None:
        """See :class:`Flow`."""
        self._account.over(self)
        if self._looking_up is not None:
            self._looking_up.cancel()
        if self._place is not None:
            self._owner.descriptors.remove(self._place)
        if self._socket is not None:
            self._socket.close()
        # No reference cycles: they would keep a peer connection, with OpenSSL's memory, until the collector comes.
        self._place = self._socket = None
