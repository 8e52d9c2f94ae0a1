"""Several servers with one directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.cluster.memory import MemoryDirectory, Shared
from rtunnel.cluster.times import Times
from rtunnel.options.settings.published import published
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings
from tests.reverse.net import HOST, reactor, until
from tests.reverse.world import World, port_of

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Cluster:
    """Servers at :data:`HOSTS`.

    :param times: of the directory, other than usual.
    :ivar shared: what their directories have in common.
    """

    def __init__(
        self,
        world: World,
        count: int = 2,
        settings: Sequence[dict[str, Any]] = (),
        times: Times | None = None,
        **all_: Any,
    ) -> None:
        self.world = world
        self._times = times
        self.shared = Shared()
        self.nodes: list[TunnelServer] = []
        for number in range(count):
            own = settings[number] if number < len(settings) else {}
            self.start(HOSTS[number], **(all_ | own))

    def start(self, host: str, *, is_parted: bool = False, **settings: Any) -> TunnelServer:
        """Start a node.

        :param is_parted: it does not reach the directory.
        """
        settings.setdefault("http_listen", ListenAddress.parse(f"{host}:0"))
        settings.setdefault("https_listen", ListenAddress.parse(f"{host}:0"))
        directory = MemoryDirectory(reactor, self.shared, self._times)
        if is_parted:
            self.shared.parted.add(directory.node)
        server = self.world.server(host=host, directory=directory, **settings)
        self.nodes.append(server)
        return server

    async def meets(self) -> None:
        """Wait until each node has a link to each other one."""
        count = len(self.nodes) - 1
        await until(lambda: all(len(node.nodes.sessions) == count for node in self.nodes), "links between the nodes")

    def client(self, node: TunnelServer, *services: str, **more: Any) -> Any:
        """A client of *node*, with services as operators publish them."""
        own = {key: more.pop(key) for key in ("proxy_protocol", "rules") if key in more}
        more.setdefault("reconnect_min", 0.05)
        more.setdefault("reconnect_max", 0.2)
        more.setdefault("data_plane", self.world.plane)
        more.setdefault("drain", 5.0)
        more.setdefault("check_services", False)
        tunnels = tuple(replace(each, **own) for one in services for each in published(one))
        where = DialAddress.parse(node.control.local_address)
        return self.world.start(TunnelClient(reactor, ClientSettings(where, tunnels, **more)))

    async def serves(self, node: TunnelServer, count: int = 1) -> None:
        """Wait until *node* serves so many tunnels, those of other nodes among them."""
        await until(lambda: tunnels(node) == count, f"{count} tunnels; there are {tunnels(node)}")


async def two_nodes(world: World, **more: Any) -> tuple[Cluster, TunnelServer, TunnelServer]:
    """A cluster of two servers that have found each other, and both of them."""
    cluster = Cluster(world, **more)
    first, second = cluster.nodes
    await cluster.meets()
    return cluster, first, second


def tunnels(node: TunnelServer) -> int:
    """How many tunnels serve visitors at *node*."""
    groups = (*node.ports.groups, *node.names.groups, node.shared_backends)
    return sum(len(group) for group in groups)


def http_port(node: TunnelServer) -> int:
    """Where *node* takes HTTP requests."""
    return port_of(node.named.listeners["http"])


__all__ = ["HOST", "HOSTS", "Cluster", "http_port", "tunnels", "two_nodes"]
