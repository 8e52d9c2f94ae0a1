"""UDP at the host: datagrams from data channels go to a service, and its answers come back.

Each channel is a flow, and each flow has its own socket, connected to the service:

    IChannel, unreliable <-> a flow <-> UdpSocket <-> the service

So the service can tell flows apart by their port, and the kernel drops what anybody else sends to that port. Whatever a
client sends, and however the service fails, there is no error: datagrams are dropped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.names import IPAddress, dialled, look_up, prefer
from rtunnel.relay.udp import Address, Flow, FlowTable, UdpSocket, WaitingDatagrams
from rtunnel.rtc.interfaces import IChannel, IChannelUser, IPeerConnection
from rtunnel.rtc.settings import UdpAddress
from rtunnel.tls.server_names import is_ip_address
from rtunnel.upkeep.descriptors import Descriptors, Place
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.messages import clean_text

#: Seconds after a failure before the next datagram makes another attempt to reach the service.
TRY_AGAIN = 1.0
LOOPBACK = "127.0.0.1"


@implementer(IChannelUser)
class _HostFlow(Flow):
    """One channel and its socket.

    A service with a name may have several addresses. If the one in use refuses during the first second, without having
    answered, the next one gets what was sent. If it refuses later, the flow begins anew with the first address.
    """

    def __init__(self, owner: HostFlows, channel: IChannel, remote: UdpAddress) -> None:
        super().__init__(owner.table, clean_text(channel.label), partial(owner.drop, remote))
        self._owner = owner
        self._channel = channel
        self._remote = remote
        self._place: Place | None = None
        self._looking_up: Deferred[Any] | None = None
        self._socket: UdpSocket | None = None
        self._trouble = ""
        self._not_before = 0.0
        # The address in use, those to try if it refuses, until when, and what they would have to get.
        self._host = ""
        self._others: list[str] = []
        self._others_until = 0.0
        self._for_others = WaitingDatagrams()
        self._is_news = False
        channel.use(self)

    @property
    def held(self) -> int:
        """See :class:`Flow`."""
        return super().held + self._for_others.bytes

    def dial(self) -> None:
        """Open the socket, now or when the name has been looked up."""
        if self._place is None:
            self._place = self._owner.descriptors.add(self, self._owner.client, str(self._remote))
        host = self._remote.host or LOOPBACK
        if is_ip_address(host):
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
        link = UdpSocket(self._owner.reactor, self._answered, self.lose, refused)
        try:
            link.connect(host, self._remote.port)
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
        self._socket.send(data)

    def message_received(self, data: bytes) -> None:
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

    def text_received(self, text: bytes) -> None:
        """Ignore the text: the channel of a flow has no control messages."""

    def channel_opened(self) -> None:
        """Do nothing: the channel was open from the beginning."""

    def channel_closed(self) -> None:
        """End the flow."""
        self.end("the channel is closed")

    def _answered(self, data: bytes, source: Address) -> None:
        self.table.use(self, answer=True)
        if self._is_news:
            self._is_news = False
            self._owner.worked[self._remote] = self._host
            self._settle()
        if len(data) > self._owner.connection.max_message:
            self.lose("an answer is larger than the client takes")
            return
        self.received += 1
        self._channel.send(data)

    def close(self) -> None:
        """See :class:`Flow`."""
        if self._looking_up is not None:
            self._looking_up.cancel()
        if self._place is not None:
            self._owner.descriptors.remove(self._place)
        if self._socket is not None:
            self._socket.close()
        # No reference cycles: they would keep the peer connection, with OpenSSL's memory, until the collector comes.
        self._place = self._socket = None
        self._channel.close()


class HostFlows:
    """The UDP flows of one client.

    :param idle: see :class:`~rtunnel.relay.udp.FlowTable`.
    :param log_limiter: for log lines that clients can cause.
    :param client: the client's name.
    :param descriptors: has a place for each flow.
    :ivar dropped: datagrams that were dropped, by reason.
    :ivar worked: the IP address that answered last, of each service that has more than one.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        connection: IPeerConnection,
        max_flows: int,
        idle: float | None,
        log_limiter: LogLimiter,
        client: str,
        descriptors: Descriptors,
    ) -> None:
        self.reactor = reactor
        self.client = client
        self.descriptors = descriptors
        self.connection = connection
        self.table = FlowTable(reactor, max_flows, idle)
        self.dropped: Counter[str] = Counter()
        self.worked: dict[UdpAddress, str] = {}
        self._log_limiter = log_limiter

    def __len__(self) -> int:
        return len(self.table)

    def accept(self, channel: IChannel, remote: UdpAddress) -> None:
        """Begin a flow between *channel*, which the client opened, and the service at *remote*."""
        flow = _HostFlow(self, channel, remote)
        self.log.debug("UDP flow {flow} to {remote} begins", flow=flow.name, remote=str(remote))
        self.table.add(flow)
        flow.dial()

    def close(self) -> None:
        """End all flows. May be called again."""
        for flow in self.table:
            flow.end("the connection is closed")

    # Called by the flows

    def drop(self, remote: UdpAddress, why: str) -> None:
        """Count and log a datagram that is lost."""
        self.dropped[why] += 1
        self._log_limiter.warn("UDP datagrams for {remote} are dropped: {why}", remote=str(remote), why=why)
