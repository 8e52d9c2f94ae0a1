"""Who gets a place at the status port, and who gives way."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from rtunnel.control.channels import FIRST_REQUEST, TIMEOUT
from rtunnel.control.guard import Guard
from rtunnel.control.page.events import Events
from rtunnel.control.site import build_site

MOST = 32
TOKEN = "s3cret"
ALLOWED = f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
DENIED = b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n"


class Connection(StringTransport):
    """A connection to the site, which is lost in the next turn after it was aborted, as of TCP."""

    def __init__(self, port: Port, address: str) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", address, 1))
        self.is_open = True
        self._port = port
        self._protocol = port.site.buildProtocol(None)
        self._protocol.makeConnection(self)

    def abortConnection(self) -> None:
        if self.is_open:
            self.is_open = False
            self._port.clock.callLater(0, self._protocol.connectionLost, Failure(ConnectionAborted()))

    def loseConnection(self) -> None:
        self.abortConnection()

    def ask(self, request: bytes = ALLOWED) -> bytes:
        """The status of the answer; nothing if there is none."""
        self.clear()
        if self.is_open:
            self._protocol.dataReceived(request)
        answer: bytes = self.value()
        return answer[9:12]


class Port:
    def __init__(self, guard: Guard | None) -> None:
        self.clock = Clock()

        def status() -> dict[str, Any]:
            return {"ok": True, "ready": True, "problems": []}

        self.site = build_site(status, Events(self.clock, status), MOST, guard)
        self.site.reactor = self.clock

    def connect(self, address: str = "192.0.2.1") -> Connection:
        return Connection(self, address)

    def pass_time(self, seconds: float) -> None:
        while seconds > 0:
            self.clock.advance(min(0.5, seconds))
            seconds -= 0.5


def test_strangers_keep_nobody_out() -> None:
    port = Port(Guard(TOKEN))
    strangers = [port.connect() for _ in range(2 * MOST)]
    assert [each.is_open for each in strangers] == [False] * MOST + [True] * MOST
    reader = port.connect()
    assert reader.ask() == b"200"
    assert not strangers[MOST].is_open
    # Nor does a reader who has shown the token give way to any number of them.
    more = [port.connect(f"198.51.100.{number}") for number in range(250)]
    assert reader.ask() == b"200"
    assert sum(each.is_open for each in (*strangers, *more)) == MOST - 1
    port.pass_time(FIRST_REQUEST)
    assert not any(each.is_open for each in (*strangers, *more))
    assert reader.is_open


def test_the_oldest_of_the_address_that_has_most_gives_way() -> None:
    port = Port(Guard(TOKEN))
    other = port.connect("192.0.2.2")
    flood = [port.connect() for _ in range(5 * MOST)]
    assert other.is_open
    assert [each.is_open for each in flood] == [False] * (4 * MOST + 1) + [True] * (MOST - 1)
    assert other.ask() == b"200"


def test_without_the_token_a_request_is_no_proof_and_bytes_buy_no_time() -> None:
    port = Port(Guard(TOKEN))
    denied, slow = port.connect(), port.connect()
    assert denied.ask(DENIED) == b"401"
    slow.ask(b"GET / HTTP/1.1\r\n")
    for _ in range(int(FIRST_REQUEST) - 1):
        port.pass_time(1)
        slow.ask(b"X: y\r\n")
    assert [each.is_open for each in (denied, slow)] == [True, True]
    port.pass_time(1)
    assert [each.is_open for each in (denied, slow)] == [False, False]
    denied = port.connect()
    assert denied.ask(DENIED) == b"401"
    for _ in range(MOST):
        port.connect()
    assert not denied.is_open


def test_readers_alone_may_fill_it() -> None:
    port = Port(Guard(TOKEN))
    readers = [port.connect() for _ in range(MOST)]
    assert [each.ask() for each in readers] == [b"200"] * MOST
    assert not port.connect().is_open
    assert all(each.is_open for each in readers)
    readers[0].loseConnection()
    port.pass_time(0.5)
    assert port.connect().ask() == b"200"
    # They have longer, and each request gives them that time anew.
    port.pass_time(TIMEOUT - 1)
    assert readers[1].ask() == b"200"
    port.pass_time(2)
    assert [each.is_open for each in readers[1:4]] == [True, False, False]


def test_at_the_socket_there_are_no_strangers() -> None:
    port = Port(None)
    silent = [port.connect() for _ in range(MOST)]
    assert not port.connect().is_open
    port.pass_time(FIRST_REQUEST + 1)
    assert all(each.is_open for each in silent)
    port.pass_time(TIMEOUT)
    assert not any(each.is_open for each in silent)
    assert not port.clock.getDelayedCalls()


def test_all_are_closed_at_the_end() -> None:
    port = Port(Guard(TOKEN))
    port.site.doStart()
    connections = [port.connect() for _ in range(3)]
    assert connections[0].ask() == b"200"
    port.site.doStop()
    assert not any(each.is_open for each in connections)
