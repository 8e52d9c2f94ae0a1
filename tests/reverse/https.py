"""Servers with an HTTPS port, and clients that publish host names there."""

from __future__ import annotations

from typing import Any

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.options.settings.published import published
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings
from tests.reverse.net import HOST, LocalService, Peer, reactor, until
from tests.reverse.world import World, port_of


def https_server(world: World, where: str = f"{HOST}:0", **settings: Any) -> TunnelServer:
    """A server of ours with an HTTPS port."""
    return world.server(https_listen=ListenAddress.parse(where), **settings)


def https_port(server: TunnelServer) -> int:
    """The HTTPS port."""
    return port_of(server.named.listeners["https"])


async def publish(world: World, server: TunnelServer, *names: str, **settings: Any) -> LocalService:
    """A client of ours that publishes these names at one service, which echoes."""
    echo = await world.echo()
    tunnels = tuple(each for name in names for each in published(f"https:{name}={HOST}:{echo.port}"))
    common: dict[str, Any] = {"data_plane": world.plane, "reconnect_min": 0.05, "drain": 5.0, "check_services": False}
    settings = common | settings
    where = DialAddress.parse(f"{HOST}:{world.control_port(server)}")
    before = len(server.names)
    world.start(TunnelClient(reactor, ClientSettings(where, tunnels, **settings)))
    await until(lambda: len(server.names) == before + len(names), f"{names} published")
    return echo


async def visit(world: World, server: TunnelServer, *pieces: bytes) -> Peer:
    """Somebody at the HTTPS port who has sent these pieces, one after the other."""
    visitor = await world.visitor(https_port(server))
    for piece in pieces:
        visitor.send(piece)
        if len(pieces) > 1:
            await until(lambda: not visitor.transport.dataBuffer and not visitor.transport._tempDataBuffer)
    return visitor
