"""A host's flows with the client's end in the test's hand, and names that are looked up when the test says so."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.logger import Logger

from rtunnel.addresses import UdpAddress
from rtunnel.rtc.udp_host import HostFlows
from rtunnel.traffic.accounts import Accounts
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter
from tests.leftovers import TestLog
from tests.reverse.net import reactor
from tests.rtc.udp.parts import MemoryChannel, MemoryConnection, Program, ReactorByHand, udp_address


class Names(ReactorByHand):
    """Stands for the reactor, with a resolver that answers when the test says so.

    :ivar asked: the names that were asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.nameResolver = self
        self._receivers: list[tuple[str, Any]] = []

    def resolveHostName(self, receiver: Any, name: str, port: int) -> None:
        assert port == 0
        self.asked.append(name)
        receiver.resolutionBegan(None)
        self._receivers.append((name, receiver))

    def answer(self, *hosts: str, name: str = "service.example") -> None:
        """Answer everybody who asks for this name."""
        receivers, self._receivers = self._receivers, [one for one in self._receivers if one[0] != name]
        for receiver in [receiver for asked, receiver in receivers if asked == name]:
            for host in hosts:
                receiver.addressResolved((IPv6Address if ":" in host else IPv4Address)("TCP", host, 0))
            receiver.resolutionComplete()


class Channel(MemoryChannel):
    """The client's end of a channel.

    :ivar answers: what came back.
    """

    def __init__(self, connection: MemoryConnection, label: str) -> None:
        super().__init__(connection, label, "", False)
        self.is_open = True
        self.answers: list[bytes] = []
        self.use(self)

    def message_received(self, data: bytes) -> None:
        self.answers.append(data)

    def channel_closed(self) -> None:
        pass


class Host:
    """A host's flows, of which the test is the client; and its service."""

    def __init__(self, log: TestLog) -> None:
        self.log = log
        self.names = Names()
        self.near, self.far = MemoryConnection.pair()
        lines = LogLimiter(Logger("host"), reactor, most=1)
        self.flows = HostFlows(self.names, self.far, 10, 60.0, lines, "client", Descriptors(reactor))
        self.account = Accounts(reactor).of("", "dns")
        self.service = Program()
        self.remote = udp_address(*self.service.address)

    def channel(self, remote: UdpAddress | None = None, label: str = "udp-127.0.0.1:5000") -> Channel:
        near, far = Channel(self.near, label), MemoryChannel(self.far, label, "", False)
        near.other, far.other, far.is_open = far, near, True
        self.flows.accept(far, remote or self.remote, self.account)
        return near

    def end(self) -> None:
        self.flows.close()
        self.service.close()
