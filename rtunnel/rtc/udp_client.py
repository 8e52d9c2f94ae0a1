"""UDP at the client: datagrams from local programs go into data channels, and the answers come back.

Each local source address has its own flow and channel, so an answer can only go to the source that asked:

    local program <-> UdpListener <-> ClientFlows <-> a flow <-> IChannel, unreliable

Nothing waits for a slow peer: a datagram that cannot be sent soon is dropped and counted, as UDP allows.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.addresses import UdpAddress
from rtunnel.errors import Code, StartupError
from rtunnel.reasons import cannot_listen
from rtunnel.relay.sockets import format_address, format_host_port
from rtunnel.relay.udp.flows import Flow, FlowTable
from rtunnel.relay.udp.sockets import Address, UdpSocket
from rtunnel.rtc.interfaces import IChannel, IChannels, IChannelUser
from rtunnel.rtc.settings import ForwardSettings
from rtunnel.traffic.accounts import DATAGRAMS, Account
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.webrtc.channel_messages import decode_control

#: How many datagrams from all sources are kept while the host is not connected, and for how many seconds.
MAX_EARLY = 64
EARLY_SECONDS = 1.0
#: How many channels may be closing, beyond one for each possible flow. Closing a channel takes a round trip, and a
#: flood of sources must not pile up more of them than the host allows one client.
MAX_CLOSING = 64


def show_service(name: str) -> str:
    """Return what to call a service of a host in a log line."""
    return f"the service '{name}'" if name else "a service without a name"


def option_of(forward: ForwardSettings) -> str:
    """Return the option that says where a forward listens."""
    return "--forward" if forward.service else "--local"


#: Why a host refuses a channel, by the code of its reset.
_REFUSALS = {
    Code.UNKNOWN_SERVICE: "it does not offer {service} over {kind}",
    Code.LOCAL_UNREACHABLE: "it cannot reach {service} ({message})",
    Code.LOCAL_TIMEOUT: "{service} does not answer it ({message})",
    Code.LIMIT: "there is no room for another one",
    Code.SHUTTING_DOWN: "it is stopping, and takes no new ones",
    Code.UNAUTHORIZED: "{message}",
}


def why_refused(code: str, message: str, service: str, kind: str = "tcp") -> str:
    """Return why a host has reset a channel, for a log line; empty if that is no refusal.

    :param message: what the host says itself.
    :param service: the name of its service that was asked for.
    """
    text = next((text for known, text in _REFUSALS.items() if known == code), "")
    return text.format(service=show_service(service), kind=kind, message=message)


class UdpListener(Service):
    """One UDP socket for the life of the process, bound like a :class:`~rtunnel.upkeep.listening.Listener`.

    :param received: called with each datagram and its source.
    :param lost: called with the reason when a datagram could not be sent.
    :param what: its name in logs and errors.
    :param option: the option that errors suggest to change.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: UdpAddress,
        received: Callable[[bytes, Address], None],
        lost: Callable[[str], None],
        what: str,
        option: str,
    ) -> None:
        self._address = address
        self._what = what
        self._option = option
        self._socket = UdpSocket(reactor, received, lost)
        self.setName(f"{what} (UDP {address})")
        #: Send a datagram to an address. Does nothing while the socket is not open.
        self.send = self._socket.send

    @property
    def local_address(self) -> str:
        """``host:port`` where it listens, with the real port if 0 was requested; the setting until it listens."""
        address = self._socket.address
        return format_address(address) if address is not None else str(self._address)

    def privilegedStartService(self) -> None:
        """Bind the socket. May raise :exc:`~rtunnel.errors.StartupError`."""
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """Bind the socket, unless :meth:`privilegedStartService` has done so."""
        super().startService()
        self._listen()

    def _listen(self) -> None:
        if self._socket.address is not None:
            return
        try:
            self._socket.bind(self._address.host, self._address.port)
        except OSError as error:
            raise StartupError(cannot_listen(self._address, f"{self._what}, UDP", self._option, error)) from None
        self.log.info("{what} listening on {address} (UDP)", what=self._what, address=self.local_address)

    def move(self, address: UdpAddress) -> None:
        """Receive at another address instead, with the same port.

        :raises StartupError: it cannot, so nothing changes.
        """
        before = self._address
        if address.port != before.port:
            raise StartupError(f"{before} is not in the way of {address}")
        self._socket.close()
        self._address = address
        try:
            self._listen()
        except StartupError:
            self._address = before
            self._listen()
            raise

    def stopService(self) -> None:
        """Close the socket."""
        super().stopService()
        self._socket.close()


@implementer(IChannelUser)
class _ClientFlow(Flow):
    """One local source and its channel."""

    def __init__(self, owner: ClientFlows, connection: IChannels, source: Address) -> None:
        super().__init__(owner.table, format_host_port(source[0], source[1]), owner.drop)
        self._owner = owner
        self._connection = connection
        self.source = source
        self._channel: IChannel = connection.open_channel(f"udp-{self.name}", owner.service, reliable=False)
        self._channel.use(self)

    def send(self, data: bytes) -> None:
        """Send a datagram from the source to the host."""
        self.table.use(self, answer=False)
        if len(data) > self._connection.max_message:
            self.lose("larger than the host takes")
        elif self._channel.is_open:
            self._send(data)
        elif not self.waiting.put(data):
            self.lose("too many before the host has answered")

    def channel_opened(self) -> None:
        """Send what has waited for the channel."""
        for data in self.waiting.take():
            self._send(data)

    def _send(self, data: bytes) -> None:
        self.sent += 1
        self.bytes_received += len(data)
        self._channel.send(data)

    def message_received(self, data: bytes) -> None:
        """Send an answer to the source."""
        if not self.ended:
            self.table.use(self, answer=True)
            self.received += 1
            self.bytes_sent += len(data)
            self._owner.listener.send(data, self.source)

    def text_received(self, text: bytes) -> None:
        """Log why the host refuses the flow. The channel of a flow has no other control messages."""
        with suppress(ValueError):
            message = decode_control(text)
            if why := why_refused(message.reset or "", message.message, self._owner.service, "udp"):
                self.lose(f"the host refuses them: {why}")

    def channel_closed(self) -> None:
        """End the flow. The next datagram from the source begins a new one."""
        self.end("the channel is closed")
        self.table.closing.discard(self)

    def close(self) -> None:
        """See :class:`Flow`."""
        self._owner.forget(self)
        self.table.closing.add(self)
        self._channel.close()


class ClientFlows:
    """The UDP flows of one forward, on one peer connection.

    :param log_limiter: for log lines that local programs can cause.
    :param account: counts what passes.
    :ivar listener: the local socket; a service, which needs a parent.
    :ivar service: the name of the host's service; empty: its default service.
    :ivar table: the flows of all forwards of the process.
    :ivar dropped: datagrams that were dropped, by reason.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, forward: ForwardSettings, table: FlowTable, log_limiter: LogLimiter, account: Account
    ) -> None:
        if not isinstance(forward.local, UdpAddress):
            raise TypeError("the forward is not for UDP")
        what = f"forward to service '{forward.service}'" if forward.service else "forward"
        self.listener = UdpListener(reactor, forward.local, self._datagram, self.drop, what, option_of(forward))
        self.service = forward.service
        self._account = account
        self.table = table
        self.dropped: Counter[str] = Counter()
        self._clock = reactor
        self._local = str(forward.local)
        self._log_limiter = log_limiter
        self._takes_new = True
        self._connection: IChannels | None = None
        self._flows: dict[Address, _ClientFlow] = {}
        self._early: deque[tuple[float, bytes, Address]] = deque()

    def __len__(self) -> int:
        return len(self._flows)

    def connected(self, connection: IChannels) -> None:
        """Open channels on *connection*, which is connected, from now on."""
        self.disconnected()
        self._connection = connection
        since = self._clock.seconds() - EARLY_SECONDS
        early, self._early = self._early, deque()
        for when, data, source in early:
            if when >= since:
                self._datagram(data, source)
            else:
                self.drop("the host is not connected")

    def disconnected(self) -> None:
        """End all flows: the connection is lost, or about to be closed. May be called again.

        Forwards that share a table also share a connection.
        """
        self._connection = None
        for flow in list(self._flows.values()):
            flow.end("the host is not connected")
        # They were on the same connection.
        self.table.closing.clear()

    def lead_to(self, service: str, account: Account) -> None:
        """Let datagrams go to another service of the host. Existing flows end.

        :param account: counts what passes.
        """
        for flow in list(self._flows.values()):
            flow.end("the port leads to another service now")
        self.service, self._account = service, account

    def move(self, address: UdpAddress) -> None:
        """Receive datagrams at another address, with the same port. The flows go on.

        :raises StartupError: it cannot, so nothing changes.
        """
        self.listener.move(address)
        self._local = str(address)

    def take_no_more(self) -> None:
        """Begin no new flows. Existing ones continue."""
        self._takes_new = False

    def _datagram(self, data: bytes, source: Address) -> None:
        flow = self._flows.get(source)
        if flow is None:
            if not self._takes_new:
                self.drop("the client is going down")
                return
            if self._connection is None:
                self._keep_early(data, source)
                return
            if len(self.table) + len(self.table.closing) >= self.table.max_flows + MAX_CLOSING:
                self.drop("too many sources")
                return
            flow = self._flows[source] = _ClientFlow(self, self._connection, source)
            self.log.debug("UDP flow {flow} begins", flow=flow.name)
            self._account.begin(flow, flow.name, DATAGRAMS)
            self.table.add(flow)
        flow.send(data)

    def _keep_early(self, data: bytes, source: Address) -> None:
        if len(self._early) >= MAX_EARLY:
            self._early.popleft()
            self.drop("the host is not connected")
        self._early.append((self._clock.seconds(), data, source))

    # Called by the flows and the listener

    def drop(self, why: str) -> None:
        """Count and log a datagram that is lost."""
        self.dropped[why] += 1
        self._log_limiter.warn("UDP datagrams at {local} are dropped: {why}", local=self._local, why=why)

    def forget(self, flow: _ClientFlow) -> None:
        """Remove a flow that has ended."""
        self._account.over(flow)
        self._flows.pop(flow.source, None)
