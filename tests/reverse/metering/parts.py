"""Servers whose limits follow a clock that stands still, clients with rules, and services that count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from rtunnel.access.rules import read_rules
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.options.settings.published import published
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.metering.metering import Metering
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from tests.ports import free_port
from tests.reverse.net import HOST, Peer, reactor, turns, until
from tests.reverse.world import World, port_of
from tests.wire.web.hellos import by_python

NAME = "app.example.org"
#: Ways of a visitor to a service.
WAYS = ("tcp", "https", "http")
#: 8 Mbit/s, in bytes.
RATE = 1_000_000
#: What may pass besides: what was saved up, and a piece that was not cut.
SLACK = 100_000 + 600_000


class Limited:
    """A server with ports of all kinds, whose limits stand still.

    :ivar clock: of the buckets.
    :ivar date: what the clock on the wall says, in seconds since 1970.
    """

    def __init__(self, world: World, state: Path, **settings: Any) -> None:
        self.world = world
        self.clock = Clock()
        self.date = 1_794_000_000.0  # 2026-11-06
        here = ListenAddress.parse(f"{HOST}:0")
        self.server: TunnelServer = world.server(
            http_listen=here, https_listen=here, state_dir=state, drain=0.0, **settings
        )
        self.metering: Metering = self.server.metering
        self.metering._clock = self.clock
        self.metering.quotas._now = lambda: self.date
        self.metering.quotas.month = "2026-11"
        self.public = free_port()

    def what(self, way: str, port: int = 0) -> str:
        """The public place, as the client asks for it."""
        return f"{way}:{port or self.public if way in ('tcp', 'udp') else NAME}"

    async def publish(self, way: str, local: int, *, port: int = 0, **rules: Any) -> TunnelClient:
        """A client that publishes a service with these rules."""
        before = len(self.world.lines(": published"))
        found = published(f"{self.what(way, port)}={HOST}:{local}")
        written = {key.replace("_", "-"): value for key, value in rules.items()}
        return await self.client(*(_with(each, written) for each in found), before=before)

    async def client(self, *tunnels: TunnelSettings, before: int = 0, **settings: Any) -> TunnelClient:
        common: dict[str, Any] = {"data_plane": self.world.plane, "reconnect_min": 0.05, "check_services": False}
        where = DialAddress.parse(f"{HOST}:{self.world.control_port(self.server)}")
        client: TunnelClient = self.world.start(
            TunnelClient(reactor, ClientSettings(where, tunnels, **common | settings))
        )
        await until(lambda: len(self.world.lines(": published")) == before + len(tunnels), "the tunnels")
        return client

    async def visit(self, way: str, *, length: int = 0, port: int = 0) -> Peer:
        """Somebody who sends what his way asks for first.

        :param length: of the body that he says he will send, by HTTP.
        """
        named = self.server.named.listeners
        visitor = await self.world.visitor(port or self.public if way == "tcp" else port_of(named[way]), keep=False)
        if way == "https":
            visitor.send(by_python(NAME))
        elif way == "http":
            method, fields = ("POST", f"Content-Length: {length}\r\n") if length else ("GET", "")
            visitor.send(f"{method} / HTTP/1.1\r\nHost: {NAME}\r\n{fields}\r\n".encode())
        return visitor

    async def pass_time(self, seconds: float) -> None:
        """Let time pass at the buckets, in small steps, with some turns of the reactor in each."""
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)
            await turns(6)


def _with(tunnel: TunnelSettings, rules: dict[str, Any]) -> TunnelSettings:
    from dataclasses import replace

    return replace(tunnel, rules=read_rules(rules, tunnel.protocol))


class Source(Peer):
    """A service that sends bytes as soon as it has heard something, or is asked by HTTP; it counts what it gets.

    :param sizes: how many bytes it sends, one time after the other; then no more.
    """

    def __init__(self, way: str, *sizes: int) -> None:
        super().__init__(keep=False)
        self._way = way
        self._sizes = list(sizes)

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self._sizes and (self._way == "tcp" or self.count == len(data) or b"GET " in data):
            size = self._sizes.pop(0)
            if self._way == "http":
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            self.transport.write(bytes(size))

    def connectionMade(self) -> None:
        super().connectionMade()
        if self._way == "tcp":
            self.dataReceived(b"")
