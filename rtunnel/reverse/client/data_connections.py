"""Data connections at the client: made when the server sends tickets, and kept until a visitor comes.

    ClientSession -> DataConnections -> ClientData  one for each that is made or waits
                                     -> Visits      for those in use

When none can be made, the link stays: visitors go by the link then, unless an end forbids it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from twisted.logger import Logger

from rtunnel.reverse.carriers.sockets import SocketWire
from rtunnel.reverse.client.visits import Cancellable, IUser, Visits
from rtunnel.tls.identity import Peer
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.data_connection import ClientDataConnection, Used
from rtunnel.wire.messages import DIRECT_ONLY

#: Seconds that a ticket is kept until there is room for its connection: it was sent because a visitor had taken one,
#: about which we are to hear at once. The server counts a ticket as lost after twice that time.
KEPT = 5.0


class IDialler(Protocol):
    """Makes connections.

    :ivar reactor: of the process.
    :ivar memory: what the process may hold.
    :ivar poller: watches sockets, see :func:`~rtunnel.relay.poller.poller_for`.
    :ivar connect_timeout: seconds that a connection to the server may take.
    :ivar dial_timeout: seconds that one to a local service may take.
    :ivar is_outdated: the link would be another if it were made now, and as it is it is of little use.
    """

    reactor: Any
    memory: Memory
    poller: Any
    connect_timeout: float
    dial_timeout: float

    @property
    def is_outdated(self) -> bool: ...
    def why_revoked(self, server: Peer) -> str: ...
    def look_at_files(self) -> None: ...
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
        self.wire: SocketWire | None = None

    def connected(self, wire: SocketWire) -> None:
        """Show the ticket."""
        self.wire = wire
        self._connections.made(self)
        wire.send(self.machine.data_to_send())

    def received(self, data: bytes) -> None:
        """Take a PING of the server, or a visitor."""
        machine, wire = self.machine, self.wire
        assert wire is not None
        is_news = not machine.is_attached
        used = machine.receive_data(data, self._connections.seconds())
        if machine.error:
            wire.cut()
            self.lost(machine.error)
            return
        if is_news and machine.is_attached:
            self._connections.works()
        if used is not None:
            self._connections.used(self, wire, used)
        elif answer := machine.data_to_send():
            wire.send(answer)

    def lost(self, why: str) -> None:
        """Take note that the connection is lost before a visitor came, or cannot be made."""
        self._connections.gone(self, why)

    def cut(self) -> None:
        """End it."""
        if self.wire is not None:
            self.wire.cut()


class DataConnections:
    """The data connections of one link.

    :param user: the link.
    :param most: connections that may be made or wait at once.
    :ivar seconds: returns the time, in seconds.
    """

    log = Logger()

    def __init__(self, user: IUser, dialler: IDialler, most: int, visitors: Visitors) -> None:
        self._user = user
        self.seconds: Callable[[], float] = user.clock.seconds
        self._dialler = dialler
        self._most = most
        self._visits = Visits(user, dialler.reactor, dialler.poller, dialler.dial_timeout, visitors)
        self._there: set[ClientData] = set()
        self._dialling: dict[ClientData, Cancellable] = {}
        # Those with which no connection is made yet, and until when they are kept.
        self._tickets: deque[tuple[str, float]] = deque(maxlen=most)
        self._said = False
        self._closed = False

    # Making them

    def take_tickets(self, tickets: list[str], expires: float) -> None:
        """Make a connection for each of *tickets*; those for which there is no room are kept for a while.

        :param expires: seconds for which they are good.
        """
        until = self.seconds() + min(expires, KEPT)
        for ticket in tickets:
            self._tickets.append((ticket, until))
            self._make()

    def _make(self) -> None:
        now = self.seconds()
        while self._tickets and len(self._there) < self._most and not self._closed:
            ticket, until = self._tickets.popleft()
            if until <= now:
                continue
            data = ClientData(self, ClientDataConnection(ticket, self._user.link.limits, now), now)
            self._there.add(data)
            dialling = self._dialler.dial_server(data)
            if data.wire is None and data in self._there:
                self._dialling[data] = dialling

    def made(self, data: ClientData) -> None:
        """Take note that *data* is connected."""
        self._dialling.pop(data, None)

    def works(self) -> None:
        """Take note that the server has taken a ticket."""
        if self._said:
            self._said = False
            self._user.log_limiter.info("data connections can be made again")

    def gone(self, data: ClientData, why: str) -> None:
        """Forget *data*, which is closed or could not be made."""
        self._dialling.pop(data, None)
        if data not in self._there:
            return
        self._there.discard(data)
        if data.machine.error or not data.machine.is_attached:
            # Loud once, until one can be made.
            log = self.log.debug if self._said else self._user.log_limiter.warn
            self._said = True
            waits = DIRECT_ONLY in self._user.link.capabilities
            log(
                "data connections cannot be made: {why}; visitors {what}",
                why=why,
                what="are closed (--data-plane=direct)" if waits else "go by the link",
            )

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
        self._visits.tick(now)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        return self._visits.holdings()

    def used(self, data: ClientData, wire: SocketWire, used: Used) -> None:
        """Serve a visitor that has come over *data*."""
        self._there.discard(data)
        if self._closed:
            wire.cut()
        else:
            self._visits.serve(wire, used)
            # The server knew of this one before we did, and may have asked for the next meanwhile.
            self._make()

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
        """End everything, as the link is gone. May be called twice.

        :param cut: see :meth:`Visits.close`.
        """
        self.withdraw()
        self._visits.close(cut=cut)
