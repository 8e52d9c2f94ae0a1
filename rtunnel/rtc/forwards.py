"""The local ports of ``rtc-client``, where programs connect to reach the services of a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.application.service import IService, MultiService
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IAddress

from rtunnel.addresses import ListenAddress, UdpAddress
from rtunnel.errors import StartupError
from rtunnel.relay.socket_end import PromptEnd, SocketEnd
from rtunnel.relay.sockets import QuietFactory, address_prefix, format_address
from rtunnel.relay.udp.flows import FlowTable
from rtunnel.rtc.interfaces import IChannels
from rtunnel.rtc.settings import ForwardSettings
from rtunnel.rtc.udp_client import ClientFlows, option_of
from rtunnel.tls.messages import limit_messages
from rtunnel.traffic.accounts import DEFAULT, LINK
from rtunnel.upkeep.listening import Listener
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import do_all
from rtunnel.upkeep.visitors import Visitors


class IForwarder(Protocol):
    """The client, as its local ports see it."""

    reactor: Any
    visitors: Visitors
    log_limiter: LogLimiter
    flow_table: FlowTable

    def forward(self, end: SocketEnd, service: str) -> None:
        """Forward a local connection to a service of the host, now or once the host is connected."""

    def connection_reset(self, service: str, code: str, message: str) -> None:
        """Log why, if the host refused a local connection."""


class _LocalConnection(PromptEnd):
    """A connection to a local port, which the host may refuse."""

    def __init__(self, client: IForwarder, service: str, on_made: Callable[[SocketEnd], None]) -> None:
        super().__init__(on_made, client.visitors.discard)
        self._client = client
        self.service = service

    def was_reset(self, code: str, message: str) -> None:
        """See :class:`SocketEnd`. Log it if the host refused the connection."""
        self._client.connection_reset(self.service, code, message)
        super().was_reset(code, message)


class _Accepting(QuietFactory):
    """Accepts the connections to one local port.

    :ivar service: where new ones go.
    """

    def __init__(self, client: IForwarder, service: str) -> None:
        self._client = client
        self.service = service

    def buildProtocol(self, addr: IAddress | None) -> SocketEnd:
        return _LocalConnection(self._client, self.service, self._arrived)

    def _arrived(self, end: SocketEnd) -> None:
        assert isinstance(end, _LocalConnection)
        limit_messages(end.transport)
        address, service = end.transport.getPeer(), end.service
        visitors = self._client.visitors
        account = visitors.accounts.of("", service or DEFAULT)
        visitors.serve(end, address_prefix(address), service, 1, account, format_address(address), LINK)
        self._client.forward(end, service)


class _TcpForward:
    """A local port for TCP."""

    def __init__(self, client: IForwarder, settings: ForwardSettings, address: ListenAddress) -> None:
        what = f"forward to service '{settings.service}'" if settings.service else "forward"
        self.accepting = _Accepting(client, settings.service)
        self._listener = Listener(client.reactor, address, self.accepting, what, option_of(settings))
        self.service: IService = self._listener

    async def move(self, settings: ForwardSettings) -> None:
        """Listen on the address of these settings.

        :raises StartupError: it cannot, so nothing changes.
        """
        if not isinstance(settings.local, ListenAddress):
            raise StartupError("a port for TCP takes no datagrams")
        await self._listener.move(settings.local)

    def lead_to(self, service: str) -> None:
        self.accepting.service = service


class _UdpForward:
    """A local port for UDP."""

    def __init__(self, client: IForwarder, settings: ForwardSettings) -> None:
        self._accounts = client.visitors.accounts
        account = self._accounts.of("", settings.service or DEFAULT)
        self.flows = ClientFlows(client.reactor, settings, client.flow_table, client.log_limiter, account)
        self.service: IService = self.flows.listener

    async def move(self, settings: ForwardSettings) -> None:
        """Listen on the address of these settings.

        :raises StartupError: it cannot, so nothing changes.
        """
        if not isinstance(settings.local, UdpAddress):
            raise StartupError("a port for UDP takes no connections")
        self.flows.move(settings.local)

    def lead_to(self, service: str) -> None:
        self.flows.lead_to(service, self._accounts.of("", service or DEFAULT))


_Pair = tuple[ForwardSettings, _TcpForward | _UdpForward]


async def _let_move(left: list[_Pair], settings: ForwardSettings, error: StartupError) -> _Pair:
    """Let one of our own ports take an address that it is in the way of, as 127.0.0.1:8080 is in that of :8080.

    :param left: those that are to be closed.
    :param error: why the address cannot be had; it is raised if none is in the way.
    """
    for own in left:
        try:
            await own[1].move(settings)
        except StartupError:
            continue
        return own
    raise error


class Forwards(MultiService):
    """All local ports of a client."""

    def __init__(self, client: IForwarder, forwards: tuple[ForwardSettings, ...]) -> None:
        super().__init__()
        self.setName("forwards")
        self._client = client
        self._connection: IChannels | None = None
        self._all = [(settings, self._build(settings)) for settings in forwards]
        for _, forward in self._all:
            forward.service.setServiceParent(self)

    def _build(self, settings: ForwardSettings) -> _TcpForward | _UdpForward:
        forward: _TcpForward | _UdpForward
        if isinstance(settings.local, ListenAddress):
            forward = _TcpForward(self._client, settings, settings.local)
        else:
            forward = _UdpForward(self._client, settings)
        # Several may lead to one service.
        forward.service.name = None
        return forward

    @property
    def listeners(self) -> list[Listener]:
        """The ports for TCP."""
        return [each.service for _, each in self._all if isinstance(each.service, Listener)]

    @property
    def udp(self) -> list[ClientFlows]:
        """The ports for UDP."""
        return [each.flows for _, each in self._all if isinstance(each, _UdpForward)]

    def connected(self, connection: IChannels) -> None:
        """The host is connected."""
        self._connection = connection
        for flows in self.udp:
            flows.connected(connection)

    def disconnected(self) -> None:
        """The host is lost."""
        self._connection = None
        do_all([flows.disconnected for flows in self.udp])

    async def use(self, forwards: tuple[ForwardSettings, ...]) -> None:
        """Have these local ports from now on. Those that stay, and all connections, go on.

        :raises StartupError: one cannot be opened, so nothing changes.
        """
        left = list(self._all)
        kept: list[_Pair] = []
        made: list[IService] = []
        moved: list[_Pair] = []
        try:
            for settings in forwards:
                same = [each for each in left if each[0] == settings] or [
                    each for each in left if each[0].local == settings.local
                ]
                if same:
                    left.remove(same[0])
                    kept.append((settings, same[0][1]))
                    continue
                forward = self._build(settings)
                try:
                    forward.service.setServiceParent(self)
                except StartupError as error:
                    await maybeDeferred(forward.service.disownServiceParent)
                    own = await _let_move(left, settings, error)
                    left.remove(own)
                    moved.append(own)
                    forward = own[1]
                else:
                    made.append(forward.service)
                kept.append((settings, forward))
        except StartupError:
            for service in made:
                await maybeDeferred(service.disownServiceParent)
            for settings, forward in moved:
                await forward.move(settings)
            raise
        before, self._all = self._all, kept
        for settings, forward in kept:
            if settings not in (each for each, _ in before):
                forward.lead_to(settings.service)
            if isinstance(forward, _UdpForward) and forward.service in made and self._connection is not None:
                forward.flows.connected(self._connection)
        for _, forward in left:
            if isinstance(forward, _UdpForward):
                forward.flows.disconnected()
            await maybeDeferred(forward.service.disownServiceParent)

    async def close(self) -> None:
        """Take no new connections. Connections and UDP flows continue."""
        for flows in self.udp:
            flows.take_no_more()
        for listener in self.listeners:
            await listener.stop_listening()
