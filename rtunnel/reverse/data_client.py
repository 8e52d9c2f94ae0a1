"""Data connections at the client: made when the server sends tickets, kept until a visitor comes, relayed then.

    ClientSession -> DataConnections -> ClientData   one for each that is made or waits
                                     -> _Visit       while the local service is dialled
                                     -> DirectRelay  one for each in use; under TLS a RawStream and a SocketEnd

That none can be made is no reason to lose the link: visitors go by the link then.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, Protocol as TypingProtocol

from twisted.internet.error import TimeoutError as ConnectTimeout, getConnectError
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.dial import Dial
from rtunnel.relay.direct import DirectRelay, take_socket
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.reverse.data_wires import (
    READ_SIZE,
    TAIL,
    SocketWire,
    Wire,
    adopt,
    hand_over,
    has_socket,
    probe_socket,
    reset_socket,
)
from rtunnel.reverse.raw_stream import RawStream
from rtunnel.services.few_lines import FewLines
from rtunnel.services.visitors import Visitors
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.data_connection import ClientDataConnection, Used

#: Bytes of a visitor that are read before its service is there.
MOST_EARLY = 65536


class IService(TypingProtocol):
    """A local service: what a tunnel leads to.

    :ivar address: family and address of its socket; None: only the endpoint knows.
    """

    endpoint: IStreamClientEndpoint
    address: tuple[int, Any] | None

    @property
    def name(self) -> str: ...


class IUser(TypingProtocol):
    """What data connections need of the link that they belong to."""

    link: ClientLink
    clock: Any
    lines: FewLines

    def service_of(self, tunnel: int) -> IService | None: ...
    def dialled(self, service: Any) -> None: ...
    def dial_failed(self, service: Any, failure: Failure) -> None: ...


class Cancellable(TypingProtocol):
    """An attempt to connect."""

    def cancel(self) -> None: ...


class IDialler(TypingProtocol):
    """Makes connections.

    :ivar reactor: of the process.
    :ivar watch: watches sockets, see :func:`~rtunnel.relay.watch.relay_reactor`.
    :ivar connect_timeout: seconds that a connection to the server may take.
    :ivar dial_timeout: seconds that one to a local service may take.
    """

    reactor: Any
    watch: Any
    connect_timeout: float
    dial_timeout: float

    def dial_server(self, data: ClientData) -> Cancellable: ...


class ClientData:
    """A data connection from its ticket to its visitor.

    :ivar began: when it was dialled.
    :ivar wire: the connection, once there is one.
    """

    __slots__ = ("_connections", "began", "machine", "wire")

    def __init__(self, connections: DataConnections, machine: ClientDataConnection, began: float) -> None:
        self._connections = connections
        self.machine = machine
        self.began = began
        self.wire: Wire | None = None

    def connected(self, wire: Wire) -> None:
        """Show the ticket."""
        self.wire = wire
        self._connections.made(self)
        wire.send(self.machine.data_to_send())

    def received(self, data: bytes) -> None:
        """The server asks, or has a visitor."""
        machine, wire = self.machine, self.wire
        assert wire is not None
        used = machine.receive_data(data, self._connections.now)
        if machine.error:
            wire.cut()
            self.lost(machine.error)
        elif used is not None:
            self._connections.used(self, wire, used)
        elif answer := machine.data_to_send():
            wire.send(answer)
            self._connections.works()

    def lost(self, why: str) -> None:
        """It is gone before anybody needed it, or cannot be made."""
        self._connections.gone(self, why)

    def cut(self) -> None:
        """End it."""
        if self.wire is not None:
            self.wire.cut()


@implementer(IReadDescriptor)
class _Visit:
    """A visitor whose service is being dialled: it has a bare socket. Whether it leaves is watched meanwhile.

    :ivar rest: its first bytes.
    :ivar until: when the service has had its time.
    :ivar touched: see :class:`~rtunnel.services.visitors.Visitors`.
    """

    __slots__ = ("_connections", "_watched", "dial", "rest", "service", "sock", "touched", "until")

    def __init__(
        self, connections: DataConnections, sock: socket.socket, service: IService, rest: bytes, until: float
    ) -> None:
        self._connections = connections
        self.sock = sock
        self.service = service
        self.rest = rest
        self.until = until
        self.touched = True
        self.dial: Cancellable | None = None
        self._watched: Any = None

    def wait(self, watch: Any) -> None:
        """The service takes its time."""
        self._watched = watch
        watch.addReader(self)

    def leave(self) -> None:
        """Watch it no more."""
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.removeReader(self)

    def made(self, theirs: socket.socket) -> None:
        """The service is there."""
        self._connections.service_there(self, theirs)

    def failed(self, error: OSError) -> None:
        """It is not."""
        if error.errno == errno.EAGAIN:
            # Its queue is full, which the endpoint knows to wait for.
            self._connections.dial_endpoint(self)
            return
        self._connections.service_gone(self, Failure(getConnectError((error.errno, error.strerror))))

    def abort(self) -> None:
        """Give up."""
        self._connections.service_gone(self, None)

    # What the reactor asks

    def fileno(self) -> int:
        """The descriptor; -1 when it is not watched."""
        return self.sock.fileno() if self._watched is not None else -1

    def logPrefix(self) -> str:
        """What the log says of an error here."""
        return "visitor"

    def doRead(self) -> None:
        """There are bytes, or the end, or an error."""
        if self._watched is None:
            return
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        self.rest += data
        if not data or len(self.rest) >= MOST_EARLY:
            # The rest can wait, and an end shows again.
            self.leave()

    def doWrite(self) -> None:
        """Nobody asks for it."""

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found it broken, or stops."""
        self.abort()


class DataConnections:
    """The data connections of one link.

    :param user: the link. Its ``direct_streams`` are counted here.
    :param most: connections that may be made or wait at once.
    """

    log = Logger()

    def __init__(self, user: IUser, dialler: IDialler, most: int, visitors: Visitors) -> None:
        self._user = user
        self._dialler = dialler
        self._most = most
        self._visitors = visitors
        self._there: set[ClientData] = set()
        self._dialling: dict[ClientData, Cancellable] = {}
        self._visits: dict[_Visit, None] = {}
        self._used: set[DirectRelay | RawStream | SocketEnd] = set()
        self._said = False
        self._closed = False
        self._tail: IDelayedCall | None = None

    @property
    def now(self) -> float:
        """The time, in seconds."""
        return float(self._user.clock.seconds())

    # Making them

    def take_tickets(self, tickets: list[str]) -> None:
        """Make a connection for each of *tickets*, as far as there is room."""
        if self._closed:
            return
        now = self.now
        for ticket in tickets[: max(0, self._most - len(self._there))]:
            data = ClientData(self, ClientDataConnection(ticket, self._user.link.limits, now), now)
            self._there.add(data)
            dialling = self._dialler.dial_server(data)
            if data.wire is None and data in self._there:
                self._dialling[data] = dialling

    def made(self, data: ClientData) -> None:
        """It is connected."""
        self._dialling.pop(data, None)

    def works(self) -> None:
        """One is attached."""
        if self._said:
            self._said = False
            self._user.lines.info("data connections can be made again")

    def gone(self, data: ClientData, why: str) -> None:
        """It is closed, or could not be made."""
        self._dialling.pop(data, None)
        if data not in self._there:
            return
        self._there.discard(data)
        if data.machine.error or not data.machine.is_attached:
            # Loud once, until one can be made.
            log = self.log.debug if self._said else self._user.lines.warn
            self._said = True
            log("data connections cannot be made: {why}; visitors go by the link", why=why)

    def tick(self, now: float) -> None:
        """Look after what is due by time."""
        for data in list(self._there):
            data.machine.tick(now)
            if data in self._dialling and now - data.began >= self._dialler.connect_timeout:
                dialling = self._dialling[data]
                data.lost("no connection in time")
                dialling.cancel()
            elif data.machine.is_dead and data.wire is not None:
                data.cut()
                data.lost("nothing is heard of the server")
        for visit in list(self._visits):
            if visit.until <= now:
                self.service_gone(visit, Failure(ConnectTimeout()))

    # Visitors

    def used(self, data: ClientData, wire: Wire, used: Used) -> None:
        """A visitor has come over *data*."""
        self._there.discard(data)
        link = self._user.link
        service = self._user.service_of(used.tunnel)
        if service is None or self._closed or link.stream_count >= link.limits.max_streams:
            self.log.debug("visitor {visitor} refused: no such tunnel, or the limit", visitor=used.visitor)
            wire.cut()
            return
        self.log.debug(
            "visitor {visitor} of {tunnel}: stream {stream}, on a connection of its own",
            visitor=used.visitor or "unknown",
            tunnel=service.name,
            stream=used.conn_id,
        )
        if not isinstance(wire, SocketWire):
            end = SocketEnd(lambda _end: self._user.dialled(service), self._visitors.discard)
            stream = self._relay_here(end)
            hand_over(wire.transport, stream)
            if used.rest:
                stream.dataReceived(used.rest)
            self._visitors.add(end)
            end.dial(service.endpoint, lambda failure: self._user.dial_failed(service, failure))
            return
        visit = _Visit(self, wire.take(), service, used.rest, self.now + self._dialler.dial_timeout)
        self._visits[visit] = None
        self._visitors.add(visit)
        self._count()
        if service.address is None:
            self.dial_endpoint(visit)
        else:
            visit.dial = dial = Dial(self._dialler.watch, visit.made, visit.failed)
            dial.start(*service.address)
        if visit in self._visits:
            visit.wait(self._dialler.watch)

    def dial_endpoint(self, visit: _Visit) -> None:
        """Reach the service as its endpoint does."""
        service = visit.service
        end = SocketEnd(lambda end: self._endpoint_there(visit, end), lambda _end: self._end_gone(visit, _end))
        visit.until = float("inf")
        visit.dial = _Cancel(end.abort)
        end.dial(service.endpoint, lambda failure: self.service_gone(visit, failure))

    def _endpoint_there(self, visit: _Visit, end: SocketEnd) -> None:
        if has_socket(end.transport):
            theirs, _ = take_socket(end.transport)
            self.service_there(visit, theirs)
            return
        # TLS of Twisted's, or the like.
        visit.leave()
        self._user.dialled(visit.service)
        stream = self._relay_here(end)
        self._visitors.add(end)
        self._forget(visit)
        adopt(self._dialler.reactor, visit.sock, stream)
        if visit.rest:
            stream.dataReceived(visit.rest)

    def _end_gone(self, visit: _Visit, end: SocketEnd) -> None:
        self._visitors.discard(end)
        if visit in self._visits:
            self.service_gone(visit, None)

    def service_there(self, visit: _Visit, theirs: socket.socket) -> None:
        """The service has accepted."""
        visit.leave()
        self._user.dialled(visit.service)
        probe_socket(theirs)
        relay = DirectRelay(self._dialler.watch, visit.sock, theirs, self._ended, to_right=visit.rest)
        self._used.add(relay)
        self._visitors.add(relay)
        self._forget(visit)
        relay.start()

    def service_gone(self, visit: _Visit, failure: Failure | None) -> None:
        """The service cannot be reached, or nobody wants it any more."""
        if visit not in self._visits:
            return
        self._forget(visit)
        reset_socket(visit.sock)
        if visit.dial is not None:
            visit.dial.cancel()
        if failure is not None:
            self._user.dial_failed(visit.service, failure)

    def _forget(self, visit: _Visit) -> None:
        del self._visits[visit]
        visit.leave()
        self._visitors.discard(visit)
        self._count()

    def _relay_here(self, end: SocketEnd) -> RawStream:
        """Relay in user space."""
        stream = RawStream(end, self._ended)
        self._used.add(stream)
        end.attach(stream)
        self._count()
        return stream

    def _ended(self, used: DirectRelay | RawStream) -> None:
        self._used.discard(used)
        if isinstance(used, DirectRelay):
            self._visitors.discard(used)
        self._count()
        if self._tail is not None and not self._used and self._tail.active():
            self._tail.cancel()

    def _count(self) -> None:
        self._user.link.direct_streams = len(self._used) + len(self._visits)

    # The end

    def withdraw(self) -> None:
        """Take no more visitors; those there are go on."""
        self._closed = True
        dialling, self._dialling = self._dialling, {}
        there, self._there = self._there, set()
        for attempt in dialling.values():
            attempt.cancel()
        for data in there:
            data.cut()

    def close(self, *, cut: bool = True) -> None:
        """The link is gone: so is everything here. May be called twice.

        :param cut: what is in use too. If not, the server has ended it, or cut it, and the last bytes may be on the way.
        """
        self.withdraw()
        for visit in list(self._visits):
            visit.abort()
        if cut:
            for used in list(self._used):
                used.abort()
        elif self._used and self._tail is None:
            self._tail = self._user.clock.callLater(TAIL, self.close)


class _Cancel:
    """A function as an attempt."""

    __slots__ = ("cancel",)

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel
