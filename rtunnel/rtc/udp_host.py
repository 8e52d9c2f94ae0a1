"""UDP at the host: datagrams from data channels go to a service, and its answers come back.

Each channel is a flow, which has its own socket:

    IChannel, unreliable <-> a flow <-> UdpSocket <-> the service

Whatever a client sends, there is no error: datagrams are dropped and counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.addresses import UdpAddress
from rtunnel.relay.udp.flows import FlowTable
from rtunnel.rtc.interfaces import IChannel, IChannels, IChannelUser
from rtunnel.rtc.rights.uses import TOO_FAST, FlowUse
from rtunnel.services.flow import ServiceFlow
from rtunnel.traffic.accounts import Account
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.messages import clean_text


@implementer(IChannelUser)
class _HostFlow(ServiceFlow):
    """One channel and its socket."""

    def __init__(
        self, owner: HostFlows, channel: IChannel, remote: UdpAddress, account: Account, use: FlowUse | None
    ) -> None:
        super().__init__(owner, clean_text(channel.label), remote, owner.client, str(remote), account, owner.client)
        self._channel = channel
        self._most = owner.connection.max_message
        self._use = use
        if use is not None:
            use.begin(self)
        channel.use(self)

    def message_received(self, data: bytes) -> None:
        """Send a datagram to the service."""
        if self._use is None or self._use.passes(len(data), down=True):
            self.ask(data)
        else:
            self.lose(TOO_FAST)

    def text_received(self, text: bytes) -> None:
        """Ignore the text: the channel of a flow has no control messages."""

    def channel_opened(self) -> None:
        """Do nothing: the channel was open from the beginning."""

    def channel_closed(self) -> None:
        """End the flow."""
        self.end("the channel is closed")

    def answer(self, data: bytes) -> None:
        """See :class:`ServiceFlow`."""
        if len(data) > self._most:
            self.lose("an answer is larger than the client takes")
            return
        if self._use is not None and not self._use.passes(len(data), down=False):
            self.lose(TOO_FAST)
            return
        self.received += 1
        self._channel.send(data)

    def close(self) -> None:
        """See :class:`ServiceFlow`."""
        super().close()
        if self._use is not None:
            self._use.over(self)
        self._channel.close()


class HostFlows:
    """The UDP flows of one client.

    :param idle: see :class:`~rtunnel.relay.udp.flows.FlowTable`.
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
        connection: IChannels,
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
        self.worked: dict[Any, str] = {}
        self._log_limiter = log_limiter

    def __len__(self) -> int:
        return len(self.table)

    def accept(self, channel: IChannel, remote: UdpAddress, account: Account, use: FlowUse | None = None) -> None:
        """Begin a flow between *channel*, which the client opened, and the service at *remote*.

        :param account: counts what passes.
        :param use: counts it for the client, and knows how much may pass; None: nothing does.
        """
        flow = _HostFlow(self, channel, remote, account, use)
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

    def read_some(self) -> None:
        """Do nothing: each answer has been sent."""
