"""One small world for each test: servers, clients, services, visitors, all ended when the test is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.logger import LogEvent, LogLevel, formatEvent

from rtunnel.access.rules import Rules
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.server.session import ServerSession
from rtunnel.reverse.settings import ClientSettings, ServerSettings, TunnelSettings
from rtunnel.testing import ReferenceClient, ReferenceServer
from rtunnel.wire.limits import LinkLimits
from tests.leftovers import TestLog
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.net import HELLO, HOST, INIT, READY, LocalService, Peer, RawLink, connect, hello, reactor, until

NO_RULES = Rules()
#: As quick as tests can bear.
QUICK = LinkLimits(keepalive_interval=0.1, dead_after=0.4)
#: Ends that look after their links as often, but never take one for dead because the machine is busy.
OFTEN = LinkLimits(keepalive_interval=0.1, dead_after=PATIENCE)


def port_of(listener: Any) -> int:
    """The port of one of the server's listening services."""
    return int(listener.local_address.rpartition(":")[2])


class World:
    """Starts things on the loopback interface.

    :param log: what was logged.
    :ivar plane: how visitors travel: ``mux`` or ``direct``, so that it is no matter of chance.
    """

    def __init__(self, log: TestLog, plane: str = "mux") -> None:
        self._log = log
        self.plane = plane
        self._services: list[Any] = []
        self._peers: list[Peer] = []
        self._listening: list[LocalService] = []

    async def end(self) -> None:
        for peer in self._peers:
            if peer.transport is not None:
                peer.abort()
        for local in self._listening:
            for peer in local.peers:
                if peer.connected:
                    peer.abort()
            await local.stop()
        for service in self._services:
            stop_now = getattr(service, "stop_now", None)
            if stop_now is not None:
                stop_now()
            if service.running:
                await maybeDeferred(service.stopService)

    # Ours

    def server(
        self, *, shared: bool = False, control: int = 0, host: str = HOST, directory: Any = None, **settings: Any
    ) -> TunnelServer:
        settings.setdefault("public_interface", host)
        settings.setdefault("data_plane", self.plane)
        settings.setdefault("drain", 5.0)
        # No port of the system's choice: what a test sees closed must not be somebody else's by then.
        public = ListenAddress.parse(f"{host}:{free_port()}") if shared else None
        where = ListenAddress.parse(f"{host}:{control}")
        server: TunnelServer = self.start(TunnelServer(reactor, ServerSettings(where, public, **settings), directory))
        return server

    def client(
        self,
        server: int | TunnelServer | ReferenceServer,
        *tunnels: tuple[int, int | str],
        proxy_protocol: str = "",
        rules: Rules = NO_RULES,
        **more: Any,
    ) -> Any:
        """A client; its tunnels are pairs of a remote port and a local one, or a service as operators write it."""
        more.setdefault("reconnect_min", 0.05)
        more.setdefault("data_plane", self.plane)
        more.setdefault("reconnect_max", 0.2)
        more.setdefault("drain", 5.0)
        more.setdefault("check_services", False)
        settings = ClientSettings(
            DialAddress.parse(self._address(server)),
            tuple(
                TunnelSettings(
                    remote,
                    DialAddress.parse(local if isinstance(local, str) else f"{HOST}:{local}"),
                    proxy_protocol=proxy_protocol,
                    rules=rules,
                )
                for remote, local in tunnels
            ),
            **more,
        )
        return self.start(TunnelClient(reactor, settings))

    def _address(self, server: int | TunnelServer | ReferenceServer) -> str:
        if isinstance(server, TunnelServer):
            return server.control.local_address
        return f"{HOST}:{self.control_port(server)}"

    def start(self, service: Any) -> Any:
        """Start *service*, and stop it when the test is over."""
        self._services.append(service)
        service.privilegedStartService()
        service.startService()
        return service

    @staticmethod
    def control_port(server: int | TunnelServer | ReferenceServer) -> int:
        if isinstance(server, int):
            return server
        if isinstance(server, ReferenceServer):
            return server.control_port
        return port_of(server.control)

    # The Go programs

    def reference_server(self, **settings: Any) -> ReferenceServer:
        server: ReferenceServer = self.start(ReferenceServer(reactor, **settings))
        return server

    def reference_client(self, server: TunnelServer | int, local: int, remote: int = 0, **more: Any) -> ReferenceClient:
        more.setdefault("reconnect_delay", 0.05)
        client: ReferenceClient = self.start(ReferenceClient(reactor, self.control_port(server), local, remote, **more))
        return client

    # What is at the two ends

    async def service(self, build: Callable[[], Peer] = Peer, port: int = 0) -> LocalService:
        """A local service; *build* makes a :class:`Peer` for each connection to it."""
        local = LocalService(build)
        await local.listen(port)
        self._listening.append(local)
        return local

    async def echo(self) -> LocalService:
        return await self.service(lambda: Peer(echo=True))

    async def stop_service(self, local: LocalService) -> None:
        """It is down."""
        self._listening.remove(local)
        await local.stop()

    async def visitor(self, port: int, source: str = HOST, to: str = HOST, **options: Any) -> Peer:
        """Somebody connected to *port* of the address *to*, from the address *source*."""
        peer: Peer = await self.join(port, Peer(**options), source, to)
        return peer

    async def join(self, port: int, peer: Any, source: str = HOST, to: str = HOST) -> Any:
        self._peers.append(peer)
        await connect(port, peer, source, to)
        return peer

    async def raw(self, server: TunnelServer | int) -> RawLink:
        """A connection to the control port on which nothing was said yet."""
        link: RawLink = await self.join(self.control_port(server), RawLink())
        return link

    async def raw_extended(self, server: TunnelServer | int, port: int | None = None, **values: Any) -> RawLink:
        """A link of ours, spoken by hand, with a tunnel 0 for *port* if that is given."""
        link = await self.raw(server)
        link.send(hello(**values))
        await link.take(HELLO)
        if port is not None:
            link.put(INIT, 0, b"%d:local" % port)
            await link.take(READY, 0)
        return link

    async def raw_server(self) -> LocalService:
        """A server by hand: what connects to it is a :class:`RawLink`."""
        return await self.service(RawLink)

    # What one may look at

    async def sessions(self, server: TunnelServer, count: int) -> list[ServerSession]:
        """The server's links, once there are so many."""
        await until(lambda: len(server.sessions) == count, f"{count} links; there are {len(server.sessions)}")
        return sorted(server.sessions, key=lambda session: session.peer_name)

    async def reachable(self, count: int = 1) -> None:
        """Wait for so many tunnels of our clients to be served."""
        await until(lambda: len(self.lines(" is published", tunnel=True)) >= count, f"{count} tunnels")

    def lines(self, text: str = "", level: LogLevel | None = None, *, tunnel: bool = False) -> list[str]:
        """What was logged and contains *text*, in its format or in full."""
        found = []
        for event in list(self._log.events):
            line = _format(event)
            if level is not None and event.get("log_level") is not level:
                continue
            if tunnel and "tunnel" not in event:
                continue
            if text in line or text in (event.get("log_format") or ""):
                found.append(line)
        return found

    async def logged(self, text: str, level: LogLevel | None = None) -> str:
        """The first line with *text*, once it is there."""
        await until(lambda: self.lines(text, level), f"a log line with {text!r}")
        return self.lines(text, level)[0]


def _format(event: LogEvent) -> str:
    """Its text, which is made once: tests look again and again."""
    text: str | None = event.get("test_text")
    if text is None:
        text = event["test_text"] = formatEvent(event)
    return text


def held(sessions: Any) -> int:
    """Bytes of streams that our ends of links hold: queued for the wire, or not delivered to a socket."""
    total = 0
    for session in sessions:
        for stream in session.link.streams.values():
            total += stream.queued + stream.receive_window.waiting
    return total
