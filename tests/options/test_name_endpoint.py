"""A host with several addresses is dialled until one accepts, and nobody waits for those that refuse."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError, DNSLookupError, TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.addresses import DialAddress
from rtunnel.name_endpoint import ATTEMPT_DELAY


@implementer(IHostnameResolver)
class Net(MemoryReactorClock):
    """The reactor, and its name server.

    :ivar hosts: the addresses of the one host; None: the name server is silent.
    """

    def __init__(self, *hosts: str) -> None:
        super().__init__()
        self.hosts: tuple[str, ...] | None = hosts
        self.scope = 0
        self.installNameResolver(self)

    def resolveHostName(self, receiver: Any, name: str, port: int = 0, *_more: Any) -> Any:
        receiver.resolutionBegan(None)
        if self.hosts is None:
            return
        for host in self.hosts:
            six = IPv6Address("TCP", host, port, 0, self.scope)
            receiver.addressResolved(six if ":" in host else IPv4Address("TCP", host, port))
        receiver.resolutionComplete()

    @property
    def dialled(self) -> list[str]:
        return [client[0] for client in self.tcpClients]

    def refuse(self, number: int, error: Exception | None = None) -> None:
        self.tcpClients[number][2].clientConnectionFailed(
            self.connectors[number], Failure(error or ConnectionRefusedError())
        )

    def accept(self, number: int) -> None:
        host, port, factory, *_ = self.tcpClients[number]
        accepted: Any = factory.buildProtocol(IPv4Address("TCP", host, port))
        accepted.makeConnection(StringTransport())


class Dialling:
    """An endpoint that is dialled, maybe more than once."""

    def __init__(self, net: Net, text: str = "localhost:25565") -> None:
        self.net = net
        self.endpoint = DialAddress.parse(text).endpoint(net, 10.0)
        self.results: list[Any] = []

    def dial(self) -> Any:
        connecting = self.endpoint.connect(Factory.forProtocol(Protocol))
        connecting.addBoth(lambda result: self.results.append(getattr(result, "value", result)))
        return connecting

    @property
    def connected(self) -> bool:
        return isinstance(self.results[-1], Protocol)


def test_the_next_address_comes_at_once_after_a_refusal() -> None:
    dialling = Dialling(Net("::1", "127.0.0.1"))
    dialling.dial()
    assert dialling.net.dialled == ["::1"]
    dialling.net.refuse(0)
    assert dialling.net.dialled == ["::1", "127.0.0.1"]
    dialling.net.accept(1)
    assert dialling.connected
    assert dialling.net.getDelayedCalls() == []
    assert [client[1] for client in dialling.net.tcpClients] == [25565, 25565]


def test_what_has_worked_comes_first() -> None:
    dialling = Dialling(Net("::1", "127.0.0.1"))
    dialling.dial()
    dialling.net.refuse(0)
    dialling.net.accept(1)
    dialling.dial()
    dialling.net.accept(2)
    assert dialling.connected
    assert dialling.net.dialled == ["::1", "127.0.0.1", "127.0.0.1"]


def test_what_worked_once_may_fail() -> None:
    dialling = Dialling(Net("::1", "127.0.0.1"))
    dialling.dial()
    dialling.net.accept(0)
    dialling.dial()
    dialling.net.refuse(1)
    dialling.net.accept(2)
    dialling.dial()
    assert dialling.net.dialled == ["::1", "::1", "127.0.0.1", "127.0.0.1"]
    dialling.net.accept(3)


def test_the_next_address_comes_soon_after_silence() -> None:
    dialling = Dialling(Net("2001:db8::1", "192.0.2.1", "192.0.2.2"))
    dialling.dial()
    dialling.net.advance(ATTEMPT_DELAY - 0.01)
    assert len(dialling.net.dialled) == 1
    dialling.net.advance(0.01)
    assert len(dialling.net.dialled) == 2
    dialling.net.refuse(1)
    assert dialling.net.dialled == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]
    # The first one may still come.
    dialling.net.accept(0)
    assert dialling.connected
    assert [connector.stoppedConnecting for connector in dialling.net.connectors] == [False, False, True]
    assert dialling.net.getDelayedCalls() == []


def test_all_refuse() -> None:
    dialling = Dialling(Net("::1", "127.0.0.1"))
    dialling.dial()
    dialling.net.refuse(0)
    assert dialling.results == []
    dialling.net.refuse(1, OSError("unreachable"))
    assert isinstance(dialling.results[0], ConnectionRefusedError), "the error of the best address says most"
    assert dialling.net.getDelayedCalls() == []


def test_the_time_out_covers_all_addresses() -> None:
    dialling = Dialling(Net("2001:db8::1", "192.0.2.1"))
    dialling.dial()
    dialling.net.pump([ATTEMPT_DELAY, 10.0 - ATTEMPT_DELAY])
    assert isinstance(dialling.results[0], ConnectTimeout)
    assert [connector.stoppedConnecting for connector in dialling.net.connectors] == [True, True]
    assert dialling.net.getDelayedCalls() == []


def test_the_time_out_covers_the_look_up_and_says_so() -> None:
    dialling = Dialling(Net(), "nas.lan:80")
    dialling.net.hosts = None
    dialling.dial()
    dialling.net.advance(10.0)
    assert isinstance(dialling.results[0], ConnectTimeout)
    assert "nas.lan is still being looked up" in str(dialling.results[0])


@pytest.mark.parametrize("silent", [False, True])
def test_an_attempt_is_given_up(silent: bool) -> None:
    dialling = Dialling(Net("::1", "127.0.0.1"))
    if silent:
        dialling.net.hosts = None
    dialling.dial().cancel()
    assert [type(one) for one in dialling.results] == [CancelledError]
    assert [connector.stoppedConnecting for connector in dialling.net.connectors] == [True] * (not silent)
    assert dialling.net.getDelayedCalls() == []


def test_a_name_without_address() -> None:
    dialling = Dialling(Net())
    dialling.dial()
    assert isinstance(dialling.results[0], DNSLookupError)
    assert str(dialling.results[0]) == "DNS lookup failed: localhost: no address."


def test_names_of_container_networks_have_both_families() -> None:
    dialling = Dialling(Net("2001:db8::1", "192.0.2.1"), "my_app:80")
    dialling.dial()
    dialling.net.refuse(0)
    assert dialling.net.dialled == ["2001:db8::1", "192.0.2.1"]
    dialling.net.accept(1)


def test_a_source_address_fits_its_family_only() -> None:
    dialling = Dialling(Net("2001:db8::1", "192.0.2.1"), "tcp:app.example:80:bindAddress=192.0.2.9")
    dialling.dial()
    clients: list[Any] = dialling.net.tcpClients
    assert [(client[0], client[4]) for client in clients] == [("192.0.2.1", ("192.0.2.9", 0))]
    dialling.net.accept(0)
    dialling.net.hosts = ("2001:db8::1",)
    dialling.dial()
    assert "no address that can be reached from 192.0.2.9" in str(dialling.results[-1])


def test_an_address_of_one_interface() -> None:
    net = Net("fe80::1")
    net.scope = 3
    dialling = Dialling(net)
    dialling.dial()
    assert net.dialled == ["fe80::1%3"]
    net.accept(0)
