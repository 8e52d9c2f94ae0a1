"""The client through a proxy: proxies by hand, which refuse, stall, break off, or do as they are asked."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from rtunnel.addresses import DialAddress
from rtunnel.proxies import Proxy
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.net import BOTH_PLANES, HOST, LocalService, Peer, reactor, turns, until
from tests.reverse.world import World

OK = b"HTTP/1.0 200 Connection established\r\nProxy-agent: test\r\n\r\n"


class _Onward(Protocol):
    """The proxy's connection to the server."""

    def __init__(self, client: HttpProxy) -> None:
        self.client = client

    def connectionMade(self) -> None:
        self.client.reaches(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.client.send(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.client.close()


class HttpProxy(Peer):
    """A proxy that does what it is asked; its answer is *answer*, in pieces of *most* bytes."""

    answer = OK
    most = 1000

    def __init__(self) -> None:
        super().__init__()
        self._server: Any = None
        self.on_data = self._take

    def _take(self, data: bytes) -> None:
        if self._server is not None:
            self._server.write(data)
        elif b"\r\n\r\n" in self.received and self.on_data is not None:
            self.on_data = None
            port = int(self.received.split(b" ", 2)[1].rpartition(b":")[2])
            endpoint: Any = TCP4ClientEndpoint(reactor, HOST, port)
            endpoint.connect(Factory.forProtocol(lambda: _Onward(self))).addErrback(self._unreachable)

    def _unreachable(self, _failure: Failure) -> None:
        if self.lost is None:
            self.send(b"HTTP/1.0 502 Bad Gateway\r\n\r\n")
            self.close()

    def reaches(self, server: Any) -> None:
        self._server = server
        self.on_data = self._take
        self._send_slowly(self.answer)

    def _send_slowly(self, left: bytes) -> None:
        if left and self.lost is None:
            self.send(left[: self.most])
            reactor.callLater(0.001, self._send_slowly, left[self.most :])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._server is not None:
            self._server.loseConnection()


class SlowProxy(HttpProxy):
    most = 3


def answers(what: bytes, *, closes: bool = False) -> Callable[[], Peer]:
    """A proxy that gives this answer to anything, and nothing more."""

    def build() -> Peer:
        peer = Peer()

        def answer(_data: bytes) -> None:
            peer.on_data = None
            if what:
                peer.send(what)
            if closes:
                peer.close()

        peer.on_data = answer
        return peer

    return build


def via(port: int, kind: str = "http", **login: str) -> Proxy:
    return Proxy(kind, DialAddress.parse(f"{HOST}:{port}"), **login)


async def exchange(world: World, port: int) -> None:
    visitor = await world.visitor(port)
    visitor.send(b"hello")
    await visitor.has(b"hello")
    visitor.close()
    await visitor.ends()


@pytest.mark.parametrize("build", [HttpProxy, SlowProxy])
@BOTH_PLANES
@ensureDeferred
async def test_link_and_data_connections_go_through(world: World, build: Callable[[], Peer]) -> None:
    server, port, service = world.server(), free_port(), await world.echo()
    proxy = await world.service(build)
    login = {"user": "me", "password": "s3cret"}
    client = world.client(server, (port, service.port), via=via(proxy.port, **login))
    await world.reachable()
    for _ in range(3):
        await exchange(world, port)
    connections = [bytes(peer.received) for peer in proxy.peers]
    assert len(connections) == 1 if world.plane == "mux" else len(connections) > 3
    basic = base64.b64encode(b"me:s3cret")
    control = world.control_port(server)
    for each in connections:
        assert each.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % control)
        assert b"\r\nProxy-Authorization: Basic " + basic + b"\r\n\r\n" in each
    (line,) = world.lines("connected to")
    assert f"connected to {HOST}:{control} (" in line
    assert world.lines(f"connecting to server {HOST}:{control} through the proxy http://{HOST}:{proxy.port}")
    assert not world.lines("s3cret")
    assert not world.lines("", LogLevel.warn)
    await client.stopService()


WRONG = {
    "407": (answers(b"HTTP/1.1 407 X\r\nProxy-Authenticate: Basic\r\n\r\n"), "does not accept this user and password"),
    "403": (answers(b"HTTP/1.1 403 Filtered\r\n\r\n"), "the proxy refuses: 403 Filtered; does it allow CONNECT to"),
    "502": (answers(b"HTTP/1.1 502 Bad Gateway\r\nA: b\r\n\r\n<html>"), "the proxy refuses: 502 Bad Gateway"),
    "503": (answers(b"HTTP/1.1 503 \x1b[1mno\r\n\r\n"), r"the proxy refuses: 503 \x1b[1mno"),
    "half": (answers(b"HTTP/1.1 20", closes=True), "the proxy closed the connection in the middle of its answer"),
    "close": (answers(b"", closes=True), "the proxy closed the connection without an answer"),
    "silent": (answers(b""), "the proxy is silent: no answer in time"),
    "half, silent": (answers(b"HTTP/1.1 200 OK\r\n"), "the proxy is silent: no answer in time"),
    "endless": (answers(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000), "its head has more than 16 KiB"),
    "garbage": (answers(b"\x15\x03\x01\x00\x02\x02\x46"), "the proxy does not speak HTTP"),
}
SOCKS_WRONG = {
    "refused": (answers(b"\5\0\5\5\0\1" + bytes(6)), "the proxy refuses: connection refused"),
    "login": (answers(b"\5\2\1\1"), "the proxy does not accept this user and password"),
    "http": (answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "the proxy does not speak SOCKS 5"),
    "half": (answers(b"\5\0\5", closes=True), "the proxy closed the connection in the middle of its answer"),
    "silent": (answers(b""), "the proxy is silent: no answer in time"),
}
CASES = [("http", *case) for case in WRONG.values()] + [("socks5", *case) for case in SOCKS_WRONG.values()]


@pytest.mark.parametrize(("kind", "build", "text"), CASES, ids=[*WRONG, *(f"socks {name}" for name in SOCKS_WRONG)])
@ensureDeferred
async def test_proxy_that_does_not(world: World, kind: str, build: Callable[[], Peer], text: str) -> None:
    """Each attempt is one line, and the waits are those of any failure."""
    proxy = await world.service(build)
    place = via(proxy.port, kind, user="me", password="s3cret")
    client = world.client(9, (8080, 9), via=place, connect_timeout=0.3 if "silent" in text else PATIENCE)
    line = await world.logged(f"cannot reach server {HOST}:9 through the proxy {kind}://{HOST}:{proxy.port}: ")
    assert text in line
    await until(lambda: len(proxy.peers) >= 3, "the next attempts")
    lines = [each for each in world.lines("", LogLevel.warn) if "next attempt in" in each]
    assert len(lines) >= 2
    assert lines == world.lines("", LogLevel.warn)
    assert not world.lines("s3cret")
    await client.stopService()
    await until(lambda: all(peer.over for peer in proxy.peers), "the end of all connections")


@ensureDeferred
async def test_proxy_that_closes_after_connect(world: World) -> None:
    proxy = await world.service(answers(OK, closes=True))
    client = world.client(9, (8080, 9), via=via(proxy.port))
    await world.logged(f"link to server {HOST}:9 through the proxy http://{HOST}:{proxy.port} lost: ", LogLevel.warn)
    await until(lambda: len(proxy.peers) >= 4, "the next attempts")
    assert client.link._backoff._attempts >= 3, "the waits grow"
    await client.stopService()


@ensureDeferred
async def test_proxy_that_is_not_there(world: World) -> None:
    client = world.client(9, (8080, 9), via=via(free_port()))
    line = await world.logged("cannot reach server")
    assert "the proxy cannot be reached: connection refused (is it running there, and is the port right?)" in line
    await client.stopService()


@ensureDeferred
async def test_proxy_that_cannot_reach_the_server(world: World) -> None:
    proxy = await world.service(HttpProxy)
    client = world.client(free_port(), (8080, 9), via=via(proxy.port))
    assert "the proxy refuses: 502 Bad Gateway" in await world.logged("cannot reach server")
    await client.stopService()


@ensureDeferred
async def test_stop_while_the_proxy_is_silent(world: World) -> None:
    proxy = await world.service(answers(b""))
    client = world.client(9, (8080, 9), via=via(proxy.port))
    await until(lambda: proxy.peers and proxy.peers[0].received, "a request")
    await client.stopService()
    await until(lambda: proxy.peers[0].over, "the end of the connection")


@ensureDeferred
async def test_proxy_goes_and_comes_back(world: World) -> None:
    server, port, service = world.server(), free_port(), await world.echo()
    proxy = await world.service(HttpProxy)
    world.client(server, (port, service.port), via=via(proxy.port))
    await world.reachable()
    where = proxy.port
    await world.stop_service(proxy)
    for peer in proxy.peers:
        peer.abort()
    await world.logged("the proxy cannot be reached: connection refused")
    again: LocalService = await world.service(HttpProxy, where)
    await world.reachable(2)
    await exchange(world, port)
    assert again.peers


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\n", "the proxy refuses: 503 Busy"),
        (OK, "closed"),
        (b"", "the proxy closed the connection without an answer"),
    ],
    ids=["503", "200", "nothing"],
)
@ensureDeferred
async def test_proxy_that_refuses_data_connections_is_spared(world: World, answer: bytes, text: str) -> None:
    """The link goes through, and what is not made is not tried again and again, however many visitors come."""
    server, port, service = world.server(data_plane="auto"), free_port(), await world.echo()
    built: list[Peer] = []

    def build() -> Peer:
        built.append(answers(answer, closes=True)() if built else HttpProxy())
        return built[-1]

    proxy = await world.service(build)
    limits: dict[str, Any] = {"reconnect_min": 30.0, "reconnect_max": 60.0}
    world.client(server, (port, service.port), via=via(proxy.port), data_plane="auto", **limits)
    await world.reachable()
    line = await world.logged("data connections cannot be made")
    assert text in line
    assert "; visitors go by the link" in line
    for _ in range(20):
        await exchange(world, port)
    await turns()
    # Those of the pool were begun before the first was refused.
    assert 2 <= len(proxy.peers) <= 1 + 8
    assert len(world.lines("data connections cannot be made", LogLevel.warn)) == 1


def test_name_in_the_proxys_log_is_the_servers() -> None:
    """What is asked of the proxy is what the operator wrote: the proxy looks the name up."""
    from rtunnel.reverse.client.proxied import ProxiedEndpoint

    server = DialAddress.parse("tunnel.example.org:7000")
    endpoint = ProxiedEndpoint(reactor, None, via(1), server, 1.0)  # type: ignore[arg-type]
    assert endpoint.handshake().begin().startswith(b"CONNECT tunnel.example.org:7000 HTTP/1.1\r\n")


@ensureDeferred
async def test_data_connections_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that was full is not full any more."""
    monkeypatch.setattr("rtunnel.reverse.carriers.data_connections.LOST_AFTER", 0.2)
    server, port, service = world.server(data_plane="auto"), free_port(), await world.echo()
    built: list[Peer] = []
    is_full = True

    def build() -> Peer:
        built.append(answers(b"HTTP/1.1 503 Busy\r\n\r\n")() if built and is_full else HttpProxy())
        return built[-1]

    proxy = await world.service(build)
    world.client(server, (port, service.port), via=via(proxy.port), data_plane="auto")
    await world.reachable()
    await world.logged("data connections cannot be made")
    await exchange(world, port)
    is_full = False
    await world.logged("data connections can be made again", LogLevel.info)
    await exchange(world, port)
