"""Datagrams of a visitor who crosses from one node to another, at the node where his client has its link.

    the other node -- Datagrams <-> CrossingFlow == UdpPort <-> a flow <-> ServerDatagrams -- the client

The public port here has a flow for him as it has for those who come to it: with his address, by its rules and limits.
"""

from __future__ import annotations

from collections.abc import Callable

from rtunnel.relay.udp.sockets import Address
from rtunnel.reverse.cluster.crossing import address_of
from rtunnel.reverse.datagrams.client_flows import ClientFlow, ClientFlows, IUdpTunnel
from rtunnel.reverse.datagrams.server_flows import UdpPort

#: Returns the public port, while there is one.
UdpPortOf = Callable[[], UdpPort | None]


class _WayToPort:
    """Stands for the socket of a flow."""

    def __init__(self, port: UdpPort, flow: CrossingFlow, source: Address) -> None:
        self._port = port
        self._flow = flow
        self._source = source

    def send(self, data: bytes) -> None:
        """Give the port a datagram."""
        self._port.cross(data, self._source, self._flow)

    def close(self) -> None:
        """End the flow that the port has for it."""
        self._port.leave(self._source, "the visitor's flow at the other node is over")


class CrossingFlow(ClientFlow):
    """One visitor.

    :param udp_port: finds where his datagrams go.
    """

    def __init__(self, owner: ClientFlows, key: tuple[int, str], tunnel: IUdpTunnel, udp_port: UdpPortOf) -> None:
        super().__init__(owner, key, tunnel)
        self._udp_port = udp_port

    def dial(self) -> None:
        """Find the port."""
        port, address = self._udp_port(), address_of(self.key[1])
        if port is None:
            self._dial_failed("its client is not there")
        elif address is None:
            self._dial_failed("the other node does not say whose they are")
        else:
            self._socket = _WayToPort(port, self, (address.host, address.port, self))

    # From the port, see IAcross

    def answered(self, data: bytes, source: Address) -> None:
        """Take an answer."""
        self._answered(data, source)
        if self.datagrams is not None:
            self.datagrams.carrier.flush_soon()

    def over(self, why: str) -> None:
        """Take note that the port's flow is over."""
        self.end(why)
