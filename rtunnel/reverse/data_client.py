"""Data connections at the client: made when the server sends tickets, kept until a visitor comes, relayed then.

    ClientSession -> DataConnections -> ClientData   one for each that is made or waits
                                     -> SocketEnd    while the local service is dialled
                                     -> DirectRelay  one for each in use; under TLS a RawStream and a SocketEnd

That none can be made is no reason to lose the link: visitors go by the link then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol as TypingProtocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.relay.direct import DirectRelay, take_socket
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import SocketTransport, tune
from rtunnel.reverse.raw_stream import RawStream, can_carry_stream, hand_over, has_socket
from rtunnel.security.peers import Peer
from rtunnel.services.visitors import Visitors
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.data_connection import ClientDataConnection, Used


class IService(TypingProtocol):
    """A local service: what a tunnel leads to."""

    @property
    def endpoint(self) -> IStreamClientEndpoint: ...
    @property
    def name(self) -> str: ...


class IUser(TypingProtocol):
    """What data connections need of the link that they belong to."""

    link: ClientLink
    clock: Any

    def service_of(self, tunnel: int) -> IService | None: ...
    def dialled(self, service: Any) -> None: ...
    def dial_failed(self, service: Any, failure: Failure) -> None: ...


#: Makes one connection to the server, for the protocol that the function given to it builds.
Connect = Callable[[Callable[[], "ClientData"]], "Deferred[Any]"]


class ClientData(Protocol):
    """A data connection from its ticket to its visitor.

    :ivar identity: see :class:`~rtunnel.reverse.tls_links.Identified`.
    """

    transport: SocketTransport  # type: ignore[assignment]

    def __init__(self, connections: DataConnections, machine: ClientDataConnection) -> None:
        self.identity: Peer | None = None
        self._connections = connections
        self.machine = machine

    def connectionMade(self) -> None:
        """Show the ticket."""
        if not can_carry_stream(self.transport):
            self._connections.cannot_be_made("the way to the server knows no half-close")
            self.transport.abortConnection()
            return
        tune(self.transport)
        self.transport.write(self.machine.data_to_send())

    def dataReceived(self, data: bytes) -> None:
        """The server asks, or has a visitor."""
        machine = self.machine
        used = machine.receive_data(data, self._connections.now)
        if machine.error:
            self._connections.broken(self, machine.error)
        elif used is not None:
            self._connections.used(self, used)
        elif answer := machine.data_to_send():
            self.transport.write(answer)
            self._connections.works()

    def tick(self, now: float) -> None:
        """Look after what is due by time."""
        self.machine.tick(now)
        if self.machine.is_dead:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone before anybody needed it."""
        self._connections.gone(self, reason)


class DataConnections:
    """The data connections of one link.

    :param user: the link. Its ``direct_streams`` are counted here.
    :param watch: watches the sockets of relays, see :func:`~rtunnel.relay.watch.relay_reactor`.
    :param most: connections that may be made or wait at once.
    """

    log = Logger()

    def __init__(self, user: IUser, connect: Connect, watch: Any, most: int, visitors: Visitors) -> None:
        self._user = user
        self._connect = connect
        self._watch = watch
        self._most = most
        self._visitors = visitors
        self._dialling: dict[ClientData, Deferred[Any]] = {}
        self._there: set[ClientData] = set()
        self._used: set[DirectRelay | RawStream | SocketEnd] = set()
        self._said = False
        self._closed = False

    @property
    def now(self) -> float:
        """The time, in seconds."""
        return float(self._user.clock.seconds())

    # Making them

    def take_tickets(self, tickets: list[str]) -> None:
        """Make a connection for each of *tickets*, as far as there is room."""
        if self._closed:
            return
        room = max(0, self._most - len(self._there))
        for ticket in tickets[:room]:
            self._dial(ticket)

    def _dial(self, ticket: str) -> None:
        data = ClientData(self, ClientDataConnection(ticket, self._user.link.limits, self.now))
        self._there.add(data)

        def over(_result: object) -> None:
            self._dialling.pop(data, None)

        def failed(failure: Failure) -> None:
            self._there.discard(data)
            if not failure.check(CancelledError):
                self.cannot_be_made(failure.getErrorMessage())

        dialling = self._dialling[data] = self._connect(lambda: data)
        dialling.addBoth(lambda result: (over(result), result)[1])
        dialling.addErrback(failed)

    def cannot_be_made(self, why: str) -> None:
        """One cannot; loud once, until one can."""
        log = self.log.debug if self._said else self.log.warn
        self._said = True
        log("data connections cannot be made: {why}; visitors go by the link", why=why)

    def works(self) -> None:
        """One is attached."""
        if self._said:
            self._said = False
            self.log.info("data connections can be made again")

    def broken(self, data: ClientData, why: str) -> None:
        """The server broke the protocol on it."""
        self._there.discard(data)
        data.transport.abortConnection()
        self.cannot_be_made(why)

    def gone(self, data: ClientData, reason: Failure) -> None:
        """It is closed."""
        if data in self._there:
            self._there.discard(data)
            if not data.machine.is_attached and not self._closed:
                self.cannot_be_made(f"the server does not take them ({reason.getErrorMessage()})")

    def tick(self, now: float) -> None:
        """Look after what is due by time."""
        for data in list(self._there):
            if data not in self._dialling:
                data.tick(now)

    # Visitors

    def used(self, data: ClientData, used: Used) -> None:
        """A visitor has come over *data*."""
        self._there.discard(data)
        transport, link = data.transport, self._user.link
        service = self._user.service_of(used.tunnel)
        if service is None or self._closed or link.stream_count >= link.limits.max_streams:
            self.log.debug("visitor {visitor} refused: no such tunnel, or the limit", visitor=used.visitor)
            transport.abortConnection()
            return
        self.log.debug(
            "visitor {visitor} of {tunnel}: stream {stream}, on a connection of its own",
            visitor=used.visitor or "unknown",
            tunnel=service.name,
            stream=used.conn_id,
        )
        if has_socket(transport):
            transport.pauseProducing()
            end = SocketEnd(
                lambda end: self._service_there(service, data, used.rest, end),
                lambda end: self._service_gone(data, end),
            )
            self._used.add(end)
        else:
            end = SocketEnd(lambda _end: self._user.dialled(service), self._visitors.discard)
            self._relay_here(transport, used.rest, end)
        self._visitors.add(end)
        self._count()
        end.dial(service.endpoint, lambda failure: self._user.dial_failed(service, failure))

    def _service_there(self, service: IService, data: ClientData, rest: bytes, end: SocketEnd) -> None:
        self._user.dialled(service)
        if not has_socket(end.transport):
            self._used.discard(end)
            self._relay_here(data.transport, rest, end)
            data.transport.resumeProducing()
            return
        try:
            mine, unsent = take_socket(data.transport)
        except ValueError:
            end.abort()
            return
        theirs, _ = take_socket(end.transport)
        relay = DirectRelay(self._watch, mine, theirs, self._ended, to_left=unsent, to_right=rest)
        self._used.add(relay)
        self._visitors.add(relay)
        self._used.discard(end)
        self._visitors.discard(end)
        self._count()
        relay.start()

    def _service_gone(self, data: ClientData, end: SocketEnd) -> None:
        self._visitors.discard(end)
        if end in self._used:
            # It never was there.
            data.transport.abortConnection()
            self._used.discard(end)
            self._count()

    def _relay_here(self, transport: Any, rest: bytes, end: SocketEnd) -> None:
        """Relay in user space."""
        stream = RawStream(end, self._ended)
        self._used.add(stream)
        end.attach(stream)
        hand_over(transport, stream)
        if rest:
            stream.dataReceived(rest)
        self._count()

    def _ended(self, used: DirectRelay | RawStream) -> None:
        self._used.discard(used)
        if isinstance(used, DirectRelay):
            self._visitors.discard(used)
        self._count()

    def _count(self) -> None:
        self._user.link.direct_streams = len(self._used)

    # The end

    def withdraw(self) -> None:
        """Take no more visitors; those there are go on."""
        self._closed = True
        for dialling in list(self._dialling.values()):
            dialling.cancel()
        for data in list(self._there):
            if data.transport is not None:
                data.transport.abortConnection()
        self._there.clear()

    def close(self) -> None:
        """The link is gone: so is everything here. May be called twice."""
        self.withdraw()
        for used in list(self._used):
            used.abort()
