"""Data connections at the server: those of one client that wait for visitors, and those that are in use.

    ServerSession -> DataPool -> ServerData   one for each connection that waits
                              -> DirectRelay  one for each in use; under TLS a RawStream and a SocketEnd

The server decides how many there are: each ticket that it sends is a wish for one more. It wants twice as many to wait
whenever a visitor finds none, fewer when some were not needed for a while, and closes what is too many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol as TypingProtocol

from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.relay.direct import DirectRelay, take_socket
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import SocketTransport
from rtunnel.reverse.raw_stream import RawStream, hand_over, has_socket
from rtunnel.security.peers import Peer
from rtunnel.services.few_lines import FewLines
from rtunnel.services.visitors import Visitors
from rtunnel.wire.data_connection import ServerDataConnection
from rtunnel.wire.server_link import StreamIds
from rtunnel.wire.tickets import Tickets

if TYPE_CHECKING:
    from rtunnel.reverse.server_session import ServerSession

#: Connections that wait for the first visitors.
AT_FIRST = 4
#: Seconds after which what was not needed meanwhile becomes less.
SHRINK_EVERY = 30.0
#: Seconds that a visitor waits for a data connection where it may not go by the link.
PATIENCE = 5.0


class IDataServer(TypingProtocol):
    """What all pools of a server share.

    :ivar watch: watches the sockets of relays, see :func:`~rtunnel.relay.watch.relay_reactor`.
    :ivar pool_size: connections of one link that may wait for visitors.
    """

    reactor: Any
    watch: Any
    visitors: Visitors
    tickets: Tickets[DataPool]
    ids: StreamIds
    pool_size: int
    lines: FewLines


class ServerData(Protocol):
    """A data connection from its ticket to its visitor.

    :param pool: whose it is.
    """

    transport: SocketTransport  # type: ignore[assignment]

    def __init__(self, pool: DataPool, machine: ServerDataConnection) -> None:
        self._pool = pool
        self.machine = machine

    def connectionMade(self) -> None:
        """Ask whether the client is there."""
        self.transport.write(self.machine.data_to_send())

    def dataReceived(self, data: bytes) -> None:
        """The client's answer."""
        machine = self.machine
        machine.receive_data(data, self._pool.reactor.seconds())
        if machine.error:
            self._pool.broken(self, machine.error)
        elif machine.is_available:
            self._pool.available(self)

    def tick(self, now: float) -> None:
        """Look after what is due by time."""
        self.machine.tick(now)
        if self.machine.is_dead:
            self.transport.abortConnection()
        elif asked := self.machine.data_to_send():
            self.transport.write(asked)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is gone before anybody needed it."""
        self._pool.gone(self)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A visitor that waits for a data connection."""

    until: float
    tunnel: int
    visitor: str


class DataPool:
    """The data connections of one link.

    :param session: the link. Its ``direct_streams`` are counted here.
    :param waits: a visitor that finds none waits for one, and does not go by the link.
    """

    log = Logger()

    def __init__(self, session: ServerSession, server: IDataServer, *, waits: bool) -> None:
        self.reactor = server.reactor
        self._session = session
        self._server = server
        self._waits = waits
        self._most = server.pool_size
        self._target = min(AT_FIRST, self._most)
        self._least_idle = 0
        self._shrink_at = self.reactor.seconds() + SHRINK_EVERY
        self._idle: dict[ServerData, None] = {}
        self._asked: dict[ServerData, None] = {}
        self._used: dict[DirectRelay | RawStream, int] = {}
        self._waiting: dict[SocketEnd, _Waiting] = {}
        self._closed = False

    def is_of(self, identity: Peer | None) -> bool:
        """Whether this end of a connection is that of the link."""
        own = self._session.identity
        if own is None or identity is None:
            return own is identity
        return own.fingerprint == identity.fingerprint

    def attach(self, transport: Any, ping_every: float | None) -> None:
        """A connection whose ticket was ours."""
        machine = ServerDataConnection(self._session.link.limits, self.reactor.seconds(), ping_every)
        data = ServerData(self, machine)
        self._asked[data] = None
        hand_over(transport, data)

    # What connections tell

    def available(self, data: ServerData) -> None:
        """It can take a visitor."""
        del self._asked[data]
        while self._waiting:
            end = next(iter(self._waiting))
            waiting = self._waiting.pop(end)
            if end in self._server.visitors:
                if not self._use(data, waiting.tunnel, waiting.visitor, end):
                    self._waiting = {end: waiting, **self._waiting}
                return
            self._count()
        self._idle[data] = None

    def broken(self, data: ServerData, why: str) -> None:
        """The client broke the protocol on it."""
        self._server.lines.warn(
            "client {peer}: a data connection is closed: {why}", peer=self._session.peer_name, why=why
        )
        data.transport.abortConnection()

    def gone(self, data: ServerData) -> None:
        """It is closed."""
        self._idle.pop(data, None)
        self._asked.pop(data, None)

    # Visitors

    def open_visitor(self, tunnel: int, visitor: str, end: SocketEnd) -> bool:
        """Serve *end*, a visitor's connection, over a data connection; False: by the link."""
        idle = self._idle
        while idle:
            data, _ = idle.popitem()
            if self._use(data, tunnel, visitor, end):
                self._least_idle = min(self._least_idle, len(idle))
                self.refill()
                return True
        self._least_idle = 0
        self._target = min(2 * self._target, self._most)
        self.refill()
        if self._waits and not self._closed:
            end.pause()
            self._waiting[end] = _Waiting(self.reactor.seconds() + PATIENCE, tunnel, visitor)
            self._server.visitors.add(end)
            self._count()
            return True
        return False

    def _use(self, data: ServerData, tunnel: int, visitor: str, end: SocketEnd) -> bool:
        """Relay between *data*, which is available, and *end*; False where *data* is about to be closed."""
        conn_id = self._server.ids.allocate()
        opening = data.machine.open(conn_id, tunnel, visitor)
        used: DirectRelay | RawStream
        if has_socket(data.transport) and has_socket(end.transport):
            try:
                mine, unsent = take_socket(data.transport)
            except ValueError:
                self._server.ids.release(conn_id)
                return False
            try:
                theirs, _ = take_socket(end.transport)
            except ValueError:
                # The visitor is gone.
                self._server.ids.release(conn_id)
                mine.close()
                return True
            used = relay = DirectRelay(self._server.watch, mine, theirs, self._ended, to_left=unsent + opening)
            self._used[used] = conn_id
            self._server.visitors.add(relay)
            self._server.visitors.discard(end)
            self._count()
            relay.start()
        else:
            data.transport.write(opening)
            used = stream = RawStream(end, self._ended)
            self._used[used] = conn_id
            self._server.visitors.add(end)
            self._count()
            end.attach(stream)
            hand_over(data.transport, stream)
            end.resume()
        return True

    def _ended(self, used: DirectRelay | RawStream) -> None:
        self._server.ids.release(self._used.pop(used))
        self._count()
        if isinstance(used, DirectRelay):
            self._server.visitors.discard(used)

    def _count(self) -> None:
        self._session.link.direct_streams = len(self._used) + len(self._waiting)

    # How many there are

    def refill(self, *, whole: bool = False) -> None:
        """Wish for as many more as are missing.

        :param whole: for a single one too; else they are asked for together, as each frame has its cost.
        """
        target = self._target if self._session.wants_visitors else 0
        there = len(self._idle) + len(self._asked) + self._server.tickets.outstanding(self, self.reactor.seconds())
        missing = target - there
        if not self._closed and missing > 0 and (whole or 4 * missing >= target):
            tickets = self._server.tickets
            self._session.send_tickets(tickets.issue(self, missing, self.reactor.seconds()), tickets.lifetime)

    def tick(self, now: float) -> None:
        """Look after what is due by time."""
        for data in [*self._idle, *self._asked]:
            data.tick(now)
            if data in self._idle and not data.machine.is_available:
                del self._idle[data]
                self._asked[data] = None
        for end, waiting in list(self._waiting.items()):
            if waiting.until > now:
                break
            del self._waiting[end]
            self._count()
            self.log.debug("visitor {visitor} closed: no data connection came for it", visitor=waiting.visitor)
            end.abort()
        if now >= self._shrink_at:
            self._shrink_at = now + SHRINK_EVERY
            self._target = max(min(AT_FIRST, self._most), self._target - (self._least_idle + 1) // 2)
            self._least_idle = len(self._idle)
        wanted = self._target if self._session.wants_visitors else 0
        while len(self._idle) > wanted:
            data, _ = self._idle.popitem()
            data.transport.abortConnection()
        self.refill(whole=True)

    # The end

    def close(self) -> None:
        """The link is gone: so is everything here. May be called twice."""
        self._closed = True
        self._server.tickets.revoke(self)
        for data in [*self._idle, *self._asked]:
            data.transport.abortConnection()
        self._idle.clear()
        self._asked.clear()
        for end in list(self._waiting):
            end.abort()
        self._waiting.clear()
        for used in list(self._used):
            used.abort()
        self._count()
