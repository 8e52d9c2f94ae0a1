"""Data connections at the server: those of one client that wait for visitors, and those that are in use.

    ServerSession -> DataPool -> ServerData   one for each connection that waits
                              -> DirectRelay  one for each in use

The server decides how many there are: each ticket that it sends asks for one more. It doubles the number that wait
whenever a visitor finds none, lowers it when some were not needed for a while, and closes surplus ones.

Under TLS each costs a handshake, as much as half a dozen short visitors over the link, and ten times the memory. So
where visitors may go by the link, connections are made at a bounded rate, however many visitors come: visitors who come
one by one get one, and most of a crowd goes by the link. The same holds where descriptors are scarce.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from twisted.internet.interfaces import IDelayedCall

from rtunnel.relay.direct import COST as RELAY, TLS_COST, DirectRelay
from rtunnel.reverse.carriers.interface import ICarrierServer, ICarrierSession
from rtunnel.reverse.carriers.raw_stream import COST as RAW_STREAM, RawStream
from rtunnel.reverse.carriers.sockets import TAIL, SocketWire, adopt
from rtunnel.reverse.public import Visitor
from rtunnel.tls.identity import Peer
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.upkeep.token_bucket import TokenBucket
from rtunnel.wire.data_connection import ServerDataConnection

#: Connections that wait for the first visitors.
AT_FIRST = 4
#: Seconds after which the number that waits is lowered by half of what was not needed.
SHRINK_EVERY = 30.0
#: Seconds that a visitor waits for a data connection where it may not go by the link.
PATIENCE = 5.0
#: Seconds after which unused tickets count as lost, for example because an end had no descriptor left.
LOST_AFTER = 10.0
#: Under TLS: connections of one link that may be made in a second, ...
PER_SECOND = 10
#: ... those of all links together, ...
ALL_PER_SECOND = 50
#: ... of one link that wait for the first visitors, ...
FEW_AT_FIRST = 2
#: ... that may wait, ...
WAITING = 16
#: ... and that may be in use.
IN_USE = 256


class ServerData:
    """A data connection from its ticket to its visitor.

    :param pool: whose it is.
    :ivar wire: the connection.
    """

    __slots__ = ("_pool", "machine", "wire")

    wire: SocketWire

    def __init__(self, pool: DataPool, machine: ServerDataConnection) -> None:
        self._pool = pool
        self.machine = machine

    def connected(self, wire: SocketWire) -> None:
        """Offer the connection to visitors at once."""
        self.wire = wire
        self._pool.available(self)

    def received(self, data: bytes) -> None:
        """Take the client's answer to a PING."""
        machine = self.machine
        machine.receive_data(data, self._pool.reactor.seconds())
        if machine.error:
            self._pool.broken(self, machine.error)
        elif machine.is_available:
            self._pool.available(self)

    def tick(self, now: float, *, may_ping: bool) -> None:
        """See :class:`ServerDataConnection`."""
        self.machine.tick(now, may_ping=may_ping)
        if self.machine.is_dead:
            self.wire.cut()
            self._pool.gone(self)
        elif asked := self.machine.data_to_send():
            self.wire.send(asked)

    def lost(self, why: str) -> None:
        """Forget a connection that is lost before a visitor came."""
        self._pool.gone(self)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A visitor that waits for a data connection; see :class:`~rtunnel.upkeep.visitors.IVisitor`."""

    pool: DataPool
    visitor: Visitor
    tunnel: int
    until: float
    touched: bool = True

    def abort(self) -> None:
        """Turn the visitor away."""
        self.pool.turn_away(self)

    cut = abort


class DataPool:
    """The data connections of one link.

    :param session: the link. Its ``direct_streams`` are counted here.
    :param waits: a visitor that finds no connection waits for one instead of going by the link.
    """

    log = DebugLog()

    def __init__(self, session: ICarrierSession, server: ICarrierServer, *, waits: bool) -> None:
        self.reactor = server.reactor
        self._session = session
        self._server = server
        self._waits = waits
        self._most = server.pool_size
        self._fewest = min(AT_FIRST, self._most)
        self._most_used: float = inf
        self._buckets: tuple[TokenBucket, ...] = ()
        if server.bucket is not None and not waits:
            self._most = min(self._most, WAITING)
            self._fewest = min(FEW_AT_FIRST, self._most)
            self._most_used = IN_USE
            self._buckets = (server.bucket, TokenBucket(PER_SECOND, WAITING, self.reactor.seconds()))
        self._target = self._fewest
        self._least_idle = 0
        self._wished_at = 0.0
        self._shrink_at = self.reactor.seconds() + SHRINK_EVERY
        self._idle: dict[ServerData, None] = {}
        self._asked: dict[ServerData, None] = {}
        self._used: dict[DirectRelay | RawStream, int] = {}
        self._waiting: dict[_Waiting, None] = {}
        self._closed = False
        self._tail: IDelayedCall | None = None

    def is_of(self, identity: Peer | None) -> bool:
        """Return whether the other end of a connection is that of the link."""
        own = self._session.identity
        if own is None or identity is None:
            return own is identity
        return own.fingerprint == identity.fingerprint

    def expect(self, ping_every: float | None) -> ServerData:
        """Return the user of a connection that has shown a good ticket."""
        return ServerData(self, ServerDataConnection(self._session.link.limits, self.reactor.seconds(), ping_every))

    # What connections tell

    def available(self, data: ServerData) -> None:
        """Use *data*, which can take a visitor, for one that waits; else keep it."""
        self._asked.pop(data, None)
        while self._waiting:
            waiting = next(iter(self._waiting))
            del self._waiting[waiting]
            used = self._use(data, waiting.tunnel, waiting.visitor)
            self._server.visitors.discard(waiting)
            if used:
                self.refill()
                return
        self._idle[data] = None

    def broken(self, data: ServerData, why: str) -> None:
        """Close *data*, on which the client broke the protocol."""
        self._server.log_limiter.warn(
            "client {peer}: a data connection is closed: {why}", peer=self._session.peer_name, why=why
        )
        data.wire.cut()
        self.gone(data)

    def gone(self, data: ServerData) -> None:
        """Forget *data*, which is closed."""
        self._idle.pop(data, None)
        self._asked.pop(data, None)

    # Visitors

    def open(self, tunnel: int, visitor: Visitor) -> bool:
        """See :class:`ICarrier`. A visitor that may not go by the link waits if it finds no data connection."""
        link = self._session.link
        if len(self._used) >= self._most_used or link.stream_count >= link.limits.max_streams or link.windows.is_full:
            return False
        if self._idle:
            data, _ = self._idle.popitem()
            self._least_idle = min(self._least_idle, len(self._idle))
            if self._use(data, tunnel, visitor):
                self.refill()
            else:
                self._idle[data] = None
            return True
        self._least_idle = 0
        self._target = min(2 * self._target, self._most)
        self.refill()
        if not self._waits or self._closed:
            return False
        visitor.wait()
        waiting = _Waiting(self, visitor, tunnel, self.reactor.seconds() + PATIENCE)
        self._waiting[waiting] = None
        self._server.visitors.add(waiting, visitor.prefix, (self._session, tunnel))
        self._count()
        return True

    def _use(self, data: ServerData, tunnel: int, visitor: Visitor) -> bool:
        """Relay between *data*, which is available, and a visitor; return False if the visitor is gone."""
        try:
            theirs = visitor.take_socket()
        except ValueError:
            self._count()
            return False
        conn_id = self._server.ids.allocate()
        opening = data.machine.open(conn_id, tunnel, visitor.name)
        if DebugLog.is_wanted:
            self.log.debug(
                "visitor {visitor} of tunnel {tunnel} of client {peer}: stream {stream}, on a connection of its own",
                visitor=visitor.name,
                tunnel=tunnel,
                peer=self._session.peer_name,
                stream=conn_id,
            )
        wire, limits = data.wire, self._session.link.limits
        # From now on no PING keeps it alive.
        wire.keep_alive(limits.keepalive_interval, limits.dead_after)
        if theirs is not None:
            kept = self._session.memory.add
            kept(RELAY if self._session.identity is None else RELAY + TLS_COST)
            relay = DirectRelay(
                self._server.poller, wire.take_watched(), theirs, self._ended, kept=kept, to_left=opening
            )
            self._used[relay] = conn_id
            self._server.visitors.add(relay, visitor.prefix, (self._session, tunnel), 2)
            self._count()
            relay.start(instead_of=wire)
            return True
        end = visitor.socket_end()
        self._session.memory.add(RAW_STREAM)
        stream = RawStream(end, self._ended)
        self._used[stream] = conn_id
        self._server.visitors.add(end, visitor.prefix, (self._session, tunnel), 2)
        self._count()
        end.attach(stream)
        if adopt(self.reactor, wire.take(), stream):
            stream.transport.write(opening)
            end.resume()
        return True

    def _ended(self, used: DirectRelay | RawStream) -> None:
        self._server.ids.release(self._used.pop(used))
        self._count()
        if self._tail is not None and not self._used and self._tail.active():
            self._tail.cancel()
        if isinstance(used, DirectRelay):
            self._server.visitors.discard(used)

    def turn_away(self, waiting: _Waiting) -> None:
        """Close a visitor that waits."""
        if self._waiting.pop(waiting, waiting) is None:
            self._server.visitors.discard(waiting)
            waiting.visitor.abort()
            self._count()

    def _count(self) -> None:
        self._session.link.direct_streams = len(self._used) + len(self._waiting)

    # How many there are

    def refill(self, *, whole: bool = False) -> None:
        """Ask the client for as many connections as are missing.

        :param whole: ask for a single one too; else several are asked for together, as each frame has its cost.
        """
        target = self._target if self._session.wants_visitors else 0
        now = self.reactor.seconds()
        tickets = self._server.tickets
        missing = target - len(self._idle) - len(self._asked)
        if now - self._wished_at < LOST_AFTER:
            missing -= tickets.outstanding(self, now)
        else:
            # They would stand in the way of new ones for as long as they are good.
            tickets.revoke(self)
        for bucket in self._buckets:
            missing = min(missing, bucket.left(now))
        if self._closed or missing <= 0 or not (whole or 4 * missing >= target):
            return
        # Visitors and other links need descriptors too; whoever waits for a connection has his own.
        missing = min(missing, max(self._server.descriptors.spare - len(tickets), len(self._waiting)))
        if missing > 0:
            self._wished_at = now
            for bucket in self._buckets:
                bucket.spend(missing)
            self._session.send_tickets(tickets.issue(self, missing, now), tickets.lifetime)

    def tunnels_changed(self) -> None:
        """See :class:`ICarrier`."""
        self.refill()

    def holdings(self) -> Iterator[tuple[int, DirectRelay | RawStream]]:
        """See :class:`ICarrier`."""
        for used in self._used:
            yield used.held, used

    def tick(self, now: float) -> None:
        """See :class:`ICarrier`."""
        for data in list(self._asked):
            data.tick(now, may_ping=False)
        # Nobody can have those that are asked until they have answered: the other half waits until then.
        may_ping = (len(self._idle) + 1) // 2
        for data in list(self._idle):
            data.tick(now, may_ping=may_ping > 0)
            if data in self._idle and not data.machine.is_available:
                may_ping -= 1
                del self._idle[data]
                self._asked[data] = None
        for waiting in list(self._waiting):
            if waiting.until > now:
                break
            self._server.log_limiter.warn(
                "visitor {visitor} of client {peer} closed: no data connection came for it within {seconds:g} s",
                visitor=waiting.visitor.name,
                peer=self._session.peer_name,
                seconds=PATIENCE,
            )
            self.turn_away(waiting)
        if now >= self._shrink_at:
            self._shrink_at = now + SHRINK_EVERY
            self._target = max(self._fewest, self._target - (self._least_idle + 1) // 2)
            self._least_idle = len(self._idle)
        wanted = self._target if self._session.wants_visitors else 0
        if self._server.descriptors.are_short:
            wanted = min(wanted, len(self._idle) // 2)
        for data in list(self._idle)[: max(0, len(self._idle) - wanted)]:
            del self._idle[data]
            data.wire.cut()
        self.refill(whole=True)

    # The end

    def close(self, *, cut: bool = True) -> None:
        """See :class:`ICarrier`."""
        self._closed = True
        self._server.tickets.revoke(self)
        for data in [*self._idle, *self._asked]:
            data.wire.cut()
        self._idle.clear()
        self._asked.clear()
        for waiting in list(self._waiting):
            self.turn_away(waiting)
        if cut:
            for used in list(self._used):
                used.abort()
        elif self._used and self._tail is None:
            self._tail = self.reactor.callLater(TAIL, self.close)
