"""A signaling server, hosts and clients in one process, over loopback; what one test starts ends with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import maybeDeferred

from rtunnel.addresses import DialAddress, ListenAddress, UdpAddress
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.settings import (
    ClientSettings,
    ForwardSettings,
    HostSettings,
    IceSettings,
    ServiceSettings,
    SignalClientSettings,
    SignalSettings,
    SignalUrl,
)
from rtunnel.rtc.signaling.server import SignalServer
from tests.leftovers import TestLog
from tests.patience import PATIENCE
from tests.reverse.net import HOST, LocalService, Peer, connect, reactor, until
from tests.tls.parts import Lines

LOOPBACK = IceSettings(interfaces=(HOST,))
ID = "cottage"


def udp(port: int) -> UdpAddress:
    return UdpAddress(f"{HOST}:{port}", HOST, port)


class World:
    """Starts things, and ends them.

    :ivar lines: what was logged.
    """

    def __init__(self, log: TestLog) -> None:
        self.log = log
        self.lines = Lines(log, reactor)
        self._services: list[Any] = []
        self._peers: list[Peer] = []
        self._listening: list[LocalService] = []

    async def end(self) -> None:
        for peer in self._peers:
            if peer.connected:
                peer.abort()
        for local in self._listening:
            for peer in local.peers:
                if peer.connected:
                    peer.abort()
            await local.stop()
        for service in reversed(self._services[:]):
            await self.stop(service)

    def start(self, service: Any) -> Any:
        self._services.append(service)
        service.privilegedStartService()
        service.startService()
        return service

    async def stop(self, service: Any) -> None:
        """Stop it without waiting for what it still carries."""
        self._services.remove(service)
        stop_now = getattr(service, "stop_now", None)
        if stop_now is not None:
            stop_now()
        await maybeDeferred(service.stopService).addTimeout(PATIENCE, reactor)

    # Ours

    def signal(self, port: int = 0, directory: Any = None, **settings: Any) -> SignalServer:
        server: SignalServer = self.start(
            SignalServer(
                reactor, SignalSettings(ListenAddress.parse(f"{HOST}:{port}"), **settings), directory=directory
            )
        )
        return server

    @staticmethod
    def port_of(server: SignalServer | int) -> int:
        return server if isinstance(server, int) else int(server.listener.local_address.rpartition(":")[2])

    def _settings(self, server: SignalServer | int, more: dict[str, Any]) -> dict[str, Any]:
        # "others": further servers that it may dial.
        ports = [self.port_of(each) for each in (server, *more.pop("others", ()))]
        first, *others = (SignalUrl(f"ws://{HOST}:{port}", False, HOST, port) for port in ports)
        url = replace(first, others=tuple(others))
        more.setdefault("drain", 5.0)
        more.setdefault("ice", LOOPBACK)
        return {"id": ID, "signal": SignalClientSettings(url, reconnect_min=0.05, reconnect_max=0.2)} | more

    def host(self, server: SignalServer | int, *services: ServiceSettings | int, **more: Any) -> RtcHost:
        """A host; a number is the port of its default service."""
        offered = tuple(
            ServiceSettings("", DialAddress.parse(f"{HOST}:{one}")) if isinstance(one, int) else one for one in services
        )
        more.setdefault("check_services", False)
        host: RtcHost = self.start(RtcHost(reactor, HostSettings(services=offered, **self._settings(server, more))))
        return host

    def client(self, server: SignalServer | int, *forwards: ForwardSettings, **more: Any) -> RtcClient:
        """A client; unless said otherwise with one forward, to the default service."""
        forwards = forwards or (ForwardSettings("", ListenAddress.parse(f"{HOST}:0")),)
        client: RtcClient = self.start(
            RtcClient(reactor, ClientSettings(forwards=forwards, **self._settings(server, more)))
        )
        return client

    @staticmethod
    def local_port(client: RtcClient, number: int = 0) -> int:
        return int(client.forwards.listeners[number].local_address.rpartition(":")[2])

    async def connected(self, client: RtcClient) -> None:
        await until(lambda: client._peer is not None and client._peer.is_connected, "a client that is connected")

    async def registered(self, end: RtcHost | RtcClient) -> None:
        await until(lambda: end.signaling.up, "an end that is registered")

    # What is at the two ends

    async def service(self, build: Callable[[], Peer] = Peer, port: int = 0) -> LocalService:
        local = LocalService(build)
        await local.listen(port)
        self._listening.append(local)
        return local

    async def echo(self) -> LocalService:
        return await self.service(lambda: Peer(echo=True))

    async def visitor(self, client: RtcClient, number: int = 0, **options: Any) -> Peer:
        """Somebody connected to a local port of *client*."""
        peer = Peer(**options)
        self._peers.append(peer)
        await connect(self.local_port(client, number), peer)
        return peer

    async def until(self, condition: Callable[[], object], what: str = "", timeout: float = PATIENCE) -> None:
        await until(condition, what, timeout)


def attempts(rtc: World) -> int:
    """How many attempts have failed."""
    return rtc.lines.text.count("next attempt in")
