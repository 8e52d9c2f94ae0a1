"""What the tests of UDP tunnels share."""

from __future__ import annotations

import socket
from typing import Any

from rtunnel.addresses import DialAddress
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from tests.ports import free_port
from tests.reverse.net import HOST, reactor, until
from tests.reverse.world import World
from tests.rtc.udp.parts import Echo, Program

BY_UDP = "datagrams go by UDP"
BY_CONNECTION = "datagrams go by a data connection"
SIZES = (0, 1, 1200, 1472, 8192, 65507)


def udp_client(world: World, server: Any, *tunnels: tuple[int, tuple[str, int]], **more: Any) -> Any:
    """A client that publishes services for UDP: pairs of a public port and a local address."""
    more.setdefault("reconnect_min", 0.05)
    more.setdefault("reconnect_max", 0.2)
    more.setdefault("data_plane", world.plane)
    settings = ClientSettings(
        DialAddress.parse(f"{HOST}:{world.control_port(server)}"),
        tuple(
            TunnelSettings(port, DialAddress.parse(f"{host}:{local}"), protocol="udp")
            for port, (host, local) in tunnels
        ),
        **more,
    )
    return world.start(TunnelClient(reactor, settings))


async def published(world: World, count: int = 1) -> None:
    """Wait until the client has been told so often that a port is there."""
    await until(lambda: len(world.lines("is published for UDP")) >= count, f"{count} published")


class Tunnel:
    """A server, a client, a service that echoes, and a public port.

    :ivar at: where visitors ask.
    """

    def __init__(self, world: World, *, client: dict[str, Any] | None = None, **server: Any) -> None:
        self.world = world
        self.port = free_port()
        self.at = (HOST, self.port)
        self.service = Echo()
        self.server = world.server(**server)
        self.client = udp_client(world, self.server, (self.port, self.service.address), **(client or {}))

    async def begin(self) -> Tunnel:
        await published(self.world)
        return self

    @property
    def session(self) -> Any:
        [session] = self.server.sessions
        return session

    @property
    def flows(self) -> Any:
        """Those of the client."""
        return self.client.link.flows

    async def way(self, way: str, count: int = 1) -> None:
        """Wait until the server has said so often how datagrams go."""
        await until(lambda: len(self.world.lines(way)) == count, f"{count} x {way}")

    async def end(self) -> None:
        await self.service.close()


async def ask(program: Program, at: tuple[str, int], data: bytes = b"question") -> None:
    """The service answers, from the address that was asked. What is lost is sent again."""
    asked_at = reactor.seconds() - 1.0
    got: list[Any] = []

    def answered() -> bool:
        nonlocal asked_at
        while (one := program.poll()) is not None:
            got.append(one)
        if not got and reactor.seconds() - asked_at >= 0.5:
            asked_at = reactor.seconds()
            program.send(data, at)
        return any(answer == data for answer, _ in got)

    await until(answered, f"an answer from {at}")
    assert {source[:2] for _, source in got} == {at}, got


def can_bind_udp(port: int) -> bool:
    """Another program could have the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
