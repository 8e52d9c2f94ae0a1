"""Ports behind a load balancer: what is handed on, what is not, and for how long anybody may be silent."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor as _reactor
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from rtunnel.addresses import ListenAddress
from rtunnel.relay.bare_port import Accepted, LandingFactory
from rtunnel.relay.proxy_header import SIGNATURE
from rtunnel.relay.sockets import QuietFactory, format_address
from rtunnel.upkeep import proxied
from rtunnel.upkeep.listening import Listener
from tests.leftovers import TestLog
from tests.reverse.net import turns, until

HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n"


class ReactorByHand:
    """The reactor, but that time passes when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.seconds = self.clock.seconds
        self.callLater = self.clock.callLater

    def __getattr__(self, name: str) -> Any:
        return getattr(_reactor, name)


class Bare(LandingFactory):
    """Takes bare sockets.

    :ivar landed_here: whose they are, and what can be read from them.
    """

    def __init__(self) -> None:
        self.landed_here: list[tuple[str, bytes]] = []

    def landed(self, accepted: Accepted, address: Any) -> None:
        try:
            data = accepted.socket.recv(100)
        except BlockingIOError:
            data = b""
        self.landed_here.append((format_address(address), data))
        accepted.socket.close()


class Port:
    """A port with ``haproxy:``, and connections to it."""

    def __init__(self, factory: Any, where: str = "haproxy:tcp:0:interface=127.0.0.1") -> None:
        self.reactor = ReactorByHand()
        self.listener = Listener(self.reactor, ListenAddress.parse(where), factory, "door", "--door")
        self.listener.startService()
        self.sockets: list[socket.socket] = []

    @property
    def waiting(self) -> int:
        return len(self.listener._factory.waiting)  # type: ignore[attr-defined]

    def connect(self, data: bytes = b"") -> socket.socket:
        host, _, port = self.listener.local_address.rpartition(":")
        sock = socket.create_connection((host, int(port)))
        self.sockets.append(sock)
        sock.sendall(data)
        sock.setblocking(False)
        return sock

    async def is_closed(self, sock: socket.socket) -> None:
        def closed() -> bool:
            try:
                return sock.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        await until(closed, "the connection is closed")

    async def end(self) -> None:
        await self.listener.stopService()
        for sock in self.sockets:
            sock.close()


@pytest_twisted.async_yield_fixture
async def bare(_nothing_left_behind: object) -> AsyncIterator[tuple[Port, Bare]]:
    factory = Bare()
    port = Port(factory)
    yield port, factory
    await port.end()


Rig = tuple[Port, Bare]


@ensureDeferred
async def test_socket_is_handed_on_behind_its_header(bare: Rig) -> None:
    port, factory = bare
    port.connect(HEADER + b"GET /")
    sock = port.connect(SIGNATURE)
    await until(lambda: factory.landed_here and port.waiting)
    assert factory.landed_here == [("192.0.2.7:1234", b"GET /")]
    sock.sendall(b"\x21\x11\x00\x0f\xc0\x00\x02\x09")
    await turns()
    assert port.waiting == 1
    sock.sendall(b"\xc0\x00\x02\x08\x00\x50\x00\x51TLVSSH-2.0")
    await until(lambda: not port.waiting)
    assert factory.landed_here[1:] == [("192.0.2.9:80", b"SSH-2.0")]
    assert not port.reactor.clock.getDelayedCalls()


@ensureDeferred
async def test_connections_of_the_balancer_itself(bare: Rig) -> None:
    """It is a connection like any other, and its address is its own."""
    port, factory = bare
    own = [format_host(port.connect(data + b"x")) for data in (b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\x00\x00\x00")]
    await until(lambda: len(factory.landed_here) == 2)
    assert factory.landed_here == [(address, b"x") for address in own]


def format_host(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"{host}:{port}"


@ensureDeferred
async def test_factory_that_takes_no_bare_sockets() -> None:
    built: list[tuple[str, Any]] = []

    class Said(Protocol):
        data = b""

        def dataReceived(self, data: bytes) -> None:
            self.data += data
            self.transport.loseConnection()  # type: ignore[union-attr]

    class Usual(QuietFactory):
        def buildProtocol(self, addr: Any) -> Any:
            if addr.host == "192.0.2.99":
                return None
            built.append((addr.host, Said()))
            return built[-1][1]

    port = Port(Usual())
    sock = port.connect(HEADER + b"hello")
    await until(lambda: built and built[0][1].data)
    (host, protocol), *_ = built
    assert (host, protocol.data, protocol.transport.getPeer().host) == ("192.0.2.7", b"hello", "192.0.2.7")
    await port.is_closed(sock)
    await port.is_closed(port.connect(HEADER.replace(b"192.0.2.7", b"192.0.2.99")))
    assert len(built) == 1
    await port.end()


@ensureDeferred
async def test_unix_socket(tmp_path: Any) -> None:
    factory = Bare()
    port = Port(factory, f"haproxy:unix:{tmp_path}/door")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{tmp_path}/door")
        sock.sendall(HEADER + b"GET /")
        await until(lambda: factory.landed_here)
    assert factory.landed_here == [("192.0.2.7:1234", b"GET /")]
    await port.end()


@ensureDeferred
async def test_what_is_no_header(bare: Rig, logged: TestLog) -> None:
    port, factory = bare
    sock = port.connect(b"GET / HTTP/1.1\r\n\r\n")
    await port.is_closed(sock)
    assert factory.landed_here == []
    (event,) = [event for event in logged.events if event["log_level"] is LogLevel.warn]
    assert event["peer"] == format_host(sock)
    assert (
        "closed: it does not begin with a PROXY header; let the load balancer send one (haproxy: send-proxy-v2, nginx: "
        "proxy_protocol on), or remove haproxy: from the address of this port"
    ) in logged.text()


@ensureDeferred
async def test_silence(bare: Rig, logged: TestLog) -> None:
    """A balancer that only looks whether the port is open says nothing, and neither does the log."""
    port, _ = bare
    port.connect().close()
    silent = port.connect(b"PROXY TCP4 ")
    await until(lambda: port.waiting == 1)
    assert "closed" not in logged.text()
    port.reactor.clock.advance(proxied.PATIENCE)
    await port.is_closed(silent)
    assert port.waiting == 0
    assert "closed: it has sent no PROXY header within 10 s; let" in logged.text()


@pytest.mark.parametrize(("most", "descriptors"), [(3, 1 << 20), (1024, 12)])
@ensureDeferred
async def test_how_many_may_be_silent(
    most: int, descriptors: int, bare: Rig, monkeypatch: pytest.MonkeyPatch, logged: TestLog
) -> None:
    port, factory = bare
    monkeypatch.setattr(proxied, "MAX_WAITING", most)
    monkeypatch.setattr(proxied, "descriptor_limit", lambda: descriptors)
    first = port.connect()
    await until(lambda: port.waiting == 1)
    for _ in range(3):
        port.connect()
    await port.is_closed(first)
    assert port.waiting == 3
    assert "closed: it has no PROXY header yet, like 3 others" in logged.text()
    port.connect(HEADER + b"in time")
    await until(lambda: factory.landed_here)


@ensureDeferred
async def test_system_lets_no_more_be_watched(bare: Rig, monkeypatch: pytest.MonkeyPatch, logged: TestLog) -> None:
    port, factory = bare

    def refuse(_reader: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(port.reactor, "addReader", refuse, raising=False)
    await port.is_closed(port.connect())
    assert not port.waiting
    assert "is lost: [Errno 28] No space left on device" in logged.text()
    port.connect(HEADER + b"at once")
    await until(lambda: factory.landed_here)


@ensureDeferred
async def test_stopping_closes_who_has_no_header_yet(bare: Rig) -> None:
    port, _ = bare
    sock = port.connect()
    await until(lambda: port.waiting == 1)
    await port.listener.stopService()
    await port.is_closed(sock)
    assert not port.reactor.clock.getDelayedCalls()
