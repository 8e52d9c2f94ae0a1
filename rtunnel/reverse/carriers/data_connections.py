"""Data connections at the server: those of one client that wait for visitors, and those that are in use.

    ServerSession -> DataPool -> RecordSocket                 one for each connection
                              -> LocalSocket or RecordStream  one for each visitor

The server decides how many there are: each ticket that it sends asks for one more. See
:class:`~rtunnel.reverse.carriers.pool_size.PoolSize`. A connection whose stream is over waits for the next visitor.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator

from twisted.internet.interfaces import IDelayedCall

from rtunnel import delayed_calls
from rtunnel.relay.local_socket import LocalSocket
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.reverse.carriers.in_use import InUse
from rtunnel.reverse.carriers.interface import ICarrierServer, ICarrierSession
from rtunnel.reverse.carriers.moving import STAYED, MovingStream, SilentStreams, has_stayed, take_those_at_rest
from rtunnel.reverse.carriers.pool_size import PoolSize
from rtunnel.reverse.carriers.record_interfaces import ILocal
from rtunnel.reverse.carriers.record_socket import COST, DATAGRAMS, RecordSocket
from rtunnel.reverse.carriers.record_stream import RecordStream
from rtunnel.reverse.carriers.sockets import TAIL
from rtunnel.reverse.carriers.waiting import PATIENCE, Waiting
from rtunnel.reverse.metering.relays import relay_for
from rtunnel.reverse.public import Visitor
from rtunnel.traffic.accounts import CONNECTION
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.wire.data.connection import Opened
from rtunnel.wire.data.keys import RANDOM, Ratchet, Root, Ticket, connection_seals
from rtunnel.wire.data.seal import Cipher
from rtunnel.wire.stream import Stream

#: How many times the number that may wait a client may have not freed yet, although their visitors are gone.
MOST_ENDING = 4
#: Seconds after which unused tickets count as lost, for example because an end had no descriptor left.
LOST_AFTER = 10.0


class DataPool:
    """The data connections of one link.

    :param session: the link. Its ``direct_streams`` are counted here.
    :param root: what both ends of the link have agreed on.
    :param waits: a visitor that finds no connection waits for one instead of going by the link.
    :ivar is_sealed: whether records are sealed.
    :ivar in_use: connections in use, and the local sides of their streams.
    """

    log = DebugLog()

    def __init__(self, session: ICarrierSession, server: ICarrierServer, root: Root, *, waits: bool) -> None:
        self._session, self._server, self.reactor = session, server, server.reactor
        self._cipher, self._waits = root.cipher, waits
        self.is_sealed = root.cipher is not Cipher.NONE
        self._most, self._wished_at = server.pool_size, 0.0
        self._size = PoolSize(self._most, self.reactor.seconds())
        # Connections whose client is not proved yet, with the ids of their tickets; those that wait; and the others.
        self._unproved: dict[RecordSocket, bytes] = {}
        self._idle: dict[RecordSocket, None] = {}
        self.in_use = InUse(root.cipher, self._ended, self.holds, self._changed)
        self._busy, self._used = self.in_use.connections, self.in_use.relays
        self._waiting: dict[Waiting, None] = {}
        # Of those that are used, how many count as streams of the link still.
        self._on_link, self._closed, self._silent = 0, False, SilentStreams()
        self._move_call: IDelayedCall | None = None
        self._tail: IDelayedCall | None = None
        server.tickets.join(self, Ratchet(root.root))

    # Connections

    def take(self, ticket: Ticket, client_random: bytes, sock: socket.socket) -> None:
        """Take a connection that has shown *ticket*.

        :param client_random: the client's random number, if records are sealed.
        :param sock: connected and non-blocking.
        """
        seals = None
        if self.is_sealed:
            server_random = secrets.token_bytes(RANDOM)
            seals = connection_seals(ticket.key, client_random, server_random, self._cipher, is_client=False)
        try:
            if seals is not None:
                sock.send(server_random)
            limits, now = self._session.link.data_limits, self.reactor.seconds()
            connection = RecordSocket(self._server.poller, sock, self, limits, now, seals, is_server=True)
        except OSError as error:
            self.log.debug("a data connection is closed: {why}", why=error)
            sock.close()
            return
        self._session.memory.add(COST)
        self._unproved[connection] = ticket.id
        connection.say_alive()
        if seals is None:
            connection.prove()  # the ticket is a secret of the link's
            self.proved(connection)

    def proved(self, connection: RecordSocket) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.IUser`. Spend the ticket."""
        id = self._unproved.pop(connection)
        if not self._server.tickets.spend(id):
            connection.cut()
            return
        # Somebody on the path may have shown the ticket too.
        for other in [each for each, shown in self._unproved.items() if shown == id]:
            del self._unproved[other]
            other.cut()
        self._available(connection)

    def opened(self, connection: RecordSocket, opened: Opened) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.IUser`. Only a client gets visitors."""

    def freed(self, connection: RecordSocket) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.IUser`."""
        self._busy.pop(connection, None)
        if self._closed or not connection.state.can_open:
            connection.cut()
            self._look_whether_over()
        else:
            self._available(connection)

    def lost(self, connection: RecordSocket, why: str, *, is_breach: bool) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.IUser`."""
        self._unproved.pop(connection, None)
        self._idle.pop(connection, None)
        self._busy.pop(connection, None)
        self._look_whether_over()
        if is_breach:
            text = "client {peer}: a data connection is closed: {why}"
            self._server.log_limiter.warn(text, peer=self._session.peer_name, why=why)

    def holds(self, count: int) -> None:
        """See :class:`~rtunnel.reverse.carriers.record_interfaces.IUser`."""
        self._session.memory.add(count)

    def _available(self, connection: RecordSocket) -> None:
        """Use a connection for a visitor that waits; else keep it."""
        while self._waiting:
            waiting = next(iter(self._waiting))
            del self._waiting[waiting]
            used = self._use(connection, waiting.tunnel, waiting.visitor)
            self._server.visitors.discard(waiting)
            if used:
                self.refill()
                return
        self._idle[connection] = None
        self._move_soon()

    # Visitors

    def open(self, tunnel: int, visitor: Visitor) -> bool:
        """See :class:`ICarrier`. A visitor that may not go by the link waits if it finds no data connection."""
        link = self._session.link
        if link.stream_count >= link.limits.max_streams or link.windows.is_full:
            return False
        if self._idle:
            connection, _ = self._idle.popitem()
            self._size.taken(len(self._idle))
            if self._use(connection, tunnel, visitor):
                self.refill()
            else:
                self._idle[connection] = None
            return True
        self._size.found_none()
        self.refill()
        if not self._waits or self._closed:
            self._move_soon()
            return False
        visitor.wait()
        waiting = Waiting(self.turn_away, visitor, tunnel, self.reactor.seconds() + PATIENCE)
        self._waiting[waiting] = None
        self._session.memory.add(waiting.held)
        self._server.visitors.add(waiting, visitor.prefix, visitor.owner)
        self._session.count_streams()
        return True

    @property
    def has_room(self) -> bool:
        """See :class:`ICarrier`. Whether visitors who come now hardly have to wait, if they may not go by the link."""
        return not self._waits or self._closed or len(self._waiting) < self._size.wanted

    def _use(self, connection: RecordSocket, tunnel: int, visitor: Visitor) -> bool:
        """Relay between *connection*, which is free, and a visitor; return False if the visitor is gone."""
        try:
            theirs = visitor.take_socket()
        except ValueError:
            self._session.count_streams()
            return False
        if DebugLog.is_wanted:
            what = "visitor {visitor} of tunnel {tunnel} of client {peer} has a connection of its own"
            self.log.debug(what, visitor=visitor.name, tunnel=tunnel, peer=self._session.peer_name)
        self._busy[connection] = None
        if theirs is not None:
            relay, local = relay_for(visitor.meter, self._server.poller, theirs, connection, self._ended, self.holds)
            self._used[relay] = None
            relay.bytes_received = len(visitor.first)
            visitor.served_by(relay, self._server.visitors, CONNECTION)
            self._session.count_streams()
            connection.open(tunnel, visitor.name, 0, local, visitor.first)
            self.holds(relay.held)
            local.start()
            return True
        stream = RecordStream(connection, end := visitor.socket_end(), self._ended)
        self.holds(stream.held)
        self._used[stream] = None
        visitor.served_by(end, self._server.visitors, CONNECTION)
        self._session.count_streams()
        connection.open(tunnel, visitor.name, 0, stream)
        end.attach(stream, visitor.first)
        end.resume()
        return True

    def open_for_datagrams(self, local: ILocal) -> RecordSocket | None:
        """Return a connection whose stream carries datagrams for *local* from now on; None if there is none."""
        connection = next(reversed(self._idle), None)
        if connection is not None:
            del self._idle[connection]
            self._busy[connection] = None
            connection.open(DATAGRAMS, "datagrams", 0, local)
        self.refill(whole=True)
        return connection

    def _move_soon(self) -> None:
        """Look soon which visitors on the link have stayed, and can have a connection of their own."""
        if self._move_call is None and self._session.link.streams and not self._closed:
            self._move_call = self.reactor.callLater(STAYED, self._move)

    def _move(self) -> None:
        self._move_call = None
        now, link = self.reactor.seconds(), self._session.link
        if link.peer is None or self._closed:
            return
        credit = link.peer.initial_credit
        known = self._silent.known(link, credit, now)
        for stream in list(link.streams.values()):
            if not isinstance(stream.owner, SocketEnd):
                continue
            if not self._idle:
                self._size.found_none()
                break
            if has_stayed(stream, credit, now, known):
                self._move_one(stream)
            elif now - stream.receive_window.granted_at < STAYED:
                self._move_soon()  # the others are looked at once a second
        self._session.flush()
        self.refill(whole=True)

    def _move_one(self, stream: Stream) -> None:
        connection, _ = self._idle.popitem()
        self._busy[connection] = None
        self._server.visitors.moved(stream.owner)
        self.log.debug("stream {stream} goes on on a connection of its own", stream=stream.conn_id)
        moving = MovingStream(self._session, stream, connection, self._left_link, self._taken, self._ended)
        self._used[moving] = None
        self._on_link += 1
        connection.open(0, "", stream.conn_id, moving)
        moving.start()
        self._session.count_streams()

    def _left_link(self) -> None:
        self._on_link -= 1
        self._session.count_streams()

    def _taken(self, moving: MovingStream, connection: RecordSocket, sock: socket.socket) -> ILocal:
        """Relay a visitor who has moved."""
        relay, local = relay_for(moving.meter, self._server.poller, sock, connection, self._ended, self.holds)
        del self._used[moving]
        self._used[relay] = None
        self._server.visitors.replace(moving.end, relay)
        connection.carry(local)
        if connection.has_room:
            local.start()
        return local

    def _ended(self, used: LocalSocket | RecordStream) -> None:
        del self._used[used]
        self._changed()
        if isinstance(used, LocalSocket):
            self._server.visitors.discard(used)

    def _changed(self) -> None:
        self._session.count_streams()
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        """Leave the session once nothing is left. A client that frees no connection is not forgotten before."""
        if self._closed and self.is_over:
            delayed_calls.cancel(self._tail)
            self._session.leave(self)

    def turn_away(self, waiting: Waiting, *, goes_back: bool = False) -> None:
        """Close a visitor that waits, or let him go where he came from."""
        if self._waiting.pop(waiting, waiting) is None:
            self._server.visitors.discard(waiting)
            (waiting.visitor.give_back if goes_back else waiting.visitor.abort)()
            self._session.count_streams()

    def give_back(self, tunnel: int | None = None) -> None:
        """See :class:`ICarrier`."""
        for waiting in [each for each in self._waiting if tunnel in (None, each.tunnel)]:
            self.turn_away(waiting, goes_back=True)

    @property
    def is_over(self) -> bool:
        """See :class:`~rtunnel.reverse.carriers.kept.IConnections`."""
        return not (self._used or self._busy)

    @property
    def stream_count(self) -> int:
        """See :class:`ICarrier`."""
        return len(self._used) + len(self._waiting) - self._on_link

    def adopt(self, session: ICarrierSession) -> None:
        """Go on as part of the next link of the same client."""
        former, self._session = self._session, session
        former.leave(self)
        former.count_streams()
        self._session.count_streams()

    # How many there are

    def refill(self, *, whole: bool = False) -> None:
        """Ask the client for as many connections as are missing.

        :param whole: ask for a single one too; else several are asked for together, as each frame has its cost.
        """
        if not whole and 4 * (self._size.wanted - len(self._idle)) < self._size.wanted:
            return  # as mostly, so at little cost
        target = self._size.wanted if self._session.wants_visitors else 0
        now, tickets = self.reactor.seconds(), self._server.tickets
        missing = target - len(self._idle)
        if now - self._wished_at < LOST_AFTER:
            missing -= tickets.outstanding(self, now)
        else:
            # They would stand in the way of new ones for as long as they are good.
            tickets.revoke(self)
        if self._closed or missing <= 0 or not (whole or 4 * missing >= target):
            return
        # Visitors and other links need descriptors too; whoever waits for a connection has his own.
        missing = min(missing, max(self._server.descriptors.spare - len(tickets), len(self._waiting)))
        missing = min(missing, MOST_ENDING * self._most - len(self._busy) + len(self._used))
        if missing > 0:
            first, count = tickets.issue(self, missing, now)
            if count:
                self._wished_at = now
                self._session.send_tickets(first, count, tickets.lifetime)

    def tunnels_changed(self) -> None:
        """See :class:`ICarrier`."""
        self.refill()

    def holdings(self) -> Iterator[tuple[int, LocalSocket | RecordStream | RecordSocket | Waiting]]:
        """See :class:`ICarrier`."""
        for used in (*self._used, *self._waiting):
            yield used.held, used
        for connection in (*self._unproved, *self._idle, *self._busy):
            if not connection.has_local:
                yield connection.held, connection

    def tick(self, now: float) -> None:
        """See :class:`ICarrier`."""
        for connection in (*self._unproved, *self._idle, *self._busy):
            connection.tick(now)
        take_those_at_rest(self._used)
        while self._waiting and (waiting := next(iter(self._waiting))).until <= now:
            waiting.say_late(self._server.log_limiter, self._session.peer_name)
            self.turn_away(waiting)
        if self._idle:
            self._move_soon()
        self._size.tick(now, len(self._idle))
        wanted = self._size.wanted if self._session.wants_visitors else 0
        if self._server.descriptors.are_short:
            wanted = min(wanted, len(self._idle) // 2)
        for connection in list(self._idle)[: max(0, len(self._idle) - wanted)]:
            del self._idle[connection]
            connection.cut()
        self.refill(whole=True)

    # The end

    def close(self, *, cut: bool = True, tail: bool = False) -> None:
        """See :class:`ICarrier`."""
        self._closed = True
        delayed_calls.cancel(self._move_call)
        self._server.tickets.leave(self)
        self.give_back()
        gone = [*self._unproved, *self._idle, *(self._busy if cut else ())]
        self._unproved.clear()
        self._idle.clear()
        if cut:
            self._busy.clear()
        elif tail and (self._used or self._busy) and self._tail is None:
            self._tail = self.reactor.callLater(TAIL, self.close)
        for connection in gone:
            connection.cut()
