"""UDP at the host: datagrams from data channels go to a service, and its answers come back.

Each channel is a flow, and each flow has its own socket, connected to the service:

    IChannel, unreliable <-> a flow <-> UdpSocket <-> the service

So the service can tell flows apart by their port, and the kernel drops what anybody else sends to that port. Whatever a
client sends, and however the service fails, there is no error: datagrams are dropped and counted.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.relay.udp import Address, Flow, FlowTable, UdpSocket, look_up
from rtunnel.rtc.interfaces import IChannel, IChannelUser, IPeerConnection
from rtunnel.rtc.settings import UdpAddress
from rtunnel.tls.server_names import is_ip_address
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.messages import clean_text

#: Seconds after a failure before the next datagram makes another attempt to reach the service.
TRY_AGAIN = 1.0
LOOPBACK = "127.0.0.1"


@implementer(IChannelUser)
class _HostFlow(Flow):
    """One channel and its socket.

    :ivar awaited_name: the name that is being looked up for this flow, or None.
    """

    def __init__(self, owner: HostFlows, channel: IChannel, remote: UdpAddress) -> None:
        super().__init__(owner.table, clean_text(channel.label), partial(owner.drop, remote))
        self._owner = owner
        self._channel = channel
        self._remote = remote
        self._socket: UdpSocket | None = None
        self._trouble = ""
        self._not_before = 0.0
        self.awaited_name: str | None = None
        channel.use(self)

    def dial(self) -> None:
        """Open the socket, now or when the name has been looked up."""
        host = self._remote.host or LOOPBACK
        if is_ip_address(host):
            self.host_found(host)
        else:
            self.awaited_name = host
            self._owner.look_up(host)

    def host_found(self, host: str | None) -> None:
        """Open the socket, and send what waits.

        :param host: the IP address of the service; None: its name has none.
        """
        self.awaited_name = None
        if host is None:
            self._dial_failed("its name cannot be looked up")
            return
        link = UdpSocket(self._owner.reactor, self._answered, self.lose)
        try:
            link.connect(host, self._remote.port)
        except OSError as error:
            self._dial_failed(error.strerror or str(error))
            return
        self._socket = link
        for data in self.waiting.take():
            self._send(link, data)

    def _dial_failed(self, why: str) -> None:
        self._trouble = why
        self._not_before = self._owner.reactor.seconds() + TRY_AGAIN
        for _ in self.waiting.take():
            self.lose(why)

    def _send(self, link: UdpSocket, data: bytes) -> None:
        self.sent += 1
        link.send(data)

    def message_received(self, data: bytes) -> None:
        """Send a datagram to the service."""
        if self.ended:
            return
        self.table.use(self, answer=False)
        if self._socket is None and self.awaited_name is None and self._owner.reactor.seconds() >= self._not_before:
            self.dial()
        if self._socket is not None:
            self._send(self._socket, data)
        elif self.awaited_name is None:
            self.lose(self._trouble)
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
        if len(data) > self._owner.connection.max_message:
            self.lose("an answer is larger than the client takes")
            return
        self.received += 1
        self._channel.send(data)

    def close(self) -> None:
        """See :class:`Flow`."""
        if self._socket is not None:
            self._socket.close()
        self._channel.close()


class HostFlows:
    """The UDP flows of one client.

    :param idle: see :class:`~rtunnel.relay.udp.FlowTable`.
    :param log_limiter: for log lines that clients can cause.
    :ivar dropped: datagrams that were dropped, by reason.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, connection: IPeerConnection, max_flows: int, idle: float | None, log_limiter: LogLimiter
    ) -> None:
        self.reactor = reactor
        self.connection = connection
        self.table = FlowTable(reactor, max_flows, idle)
        self.dropped: Counter[str] = Counter()
        self._look_ups: set[str] = set()
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

    def look_up(self, name: str) -> None:
        """Look up *name* for all flows that wait for it. There is only one look-up of a name at a time."""
        if name not in self._look_ups:
            self._look_ups.add(name)
            look_up(self.reactor, name, partial(self._found, name))

    def _found(self, name: str, host: str | None) -> None:
        self._look_ups.discard(name)
        for flow in self.table:
            if isinstance(flow, _HostFlow) and flow.awaited_name == name:
                flow.host_found(host)

    def drop(self, remote: UdpAddress, why: str) -> None:
        """Count and log a datagram that is lost."""
        self.dropped[why] += 1
        self._log_limiter.warn("UDP datagrams for {remote} are dropped: {why}", remote=str(remote), why=why)
