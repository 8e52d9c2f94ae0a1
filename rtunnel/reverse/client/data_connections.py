"""Data connections at the client: made when the server sends tickets, and used by one visitor after the other.

    ClientSession -> DataConnections -> _Attempt      one for each that is made
                                     -> RecordSocket  one for each that there is
                                     -> Visits        the visitors

When none can be made, the link stays: visitors go by the link then, unless an end forbids it.
"""

from __future__ import annotations

import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel import delayed_calls
from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.last_bytes import unacknowledged
from rtunnel.reverse.carriers.in_use import InUse
from rtunnel.reverse.carriers.record_socket import COST, DATAGRAMS, RecordSocket
from rtunnel.reverse.client.interfaces import Cancellable, IDialler
from rtunnel.reverse.client.visits import IUser, Visits
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire import frames, messages
from rtunnel.wire.data.connection import Opened
from rtunnel.wire.data.keys import RANDOM, Ratchet, Root, Ticket, connection_seals
from rtunnel.wire.data.seal import Cipher, Seal
from rtunnel.wire.data.tickets import ClientTickets
from rtunnel.wire.messages import DIRECT_ONLY

if TYPE_CHECKING:
    from rtunnel.tls.identity import Peer

#: Seconds that a ticket is kept until there is room for its connection: it was sent because a visitor had taken one,
#: about which we are to hear at once. The server counts a ticket as lost after twice that time.
KEPT = 5.0
#: See :meth:`DataConnections.linger`, in seconds.
LINGER = 5.0


@implementer(IReadDescriptor)
class _Attempt:
    """A data connection from its ticket to the server's answer.

    :ivar began: when it was dialled.
    :ivar dialling: the attempt to connect.
    """

    def __init__(self, connections: DataConnections, ticket: Ticket, cipher: Cipher, began: float) -> None:
        self._connections = connections
        self._ticket = ticket
        self._cipher = cipher
        self._random = secrets.token_bytes(RANDOM) if cipher is not Cipher.NONE else b""
        self._answer = b""
        self._socket: socket.socket | None = None
        self.began = began
        self.dialling: Cancellable | None = None

    def connected(self, sock: socket.socket) -> None:
        """Show the ticket."""
        self._socket = sock
        self.dialling = None
        attach = messages.encode_attach(self._ticket.id, self._random)
        try:
            sock.send(frames.encode_frame(frames.ATTACH, 0, attach))
            if self._random:
                self._connections.poller.addReader(self)
        except OSError as error:
            self.failed(reason_of(error))
            return
        if not self._random:
            self._connections.attached(self, sock, None)

    def failed(self, why: str) -> None:
        """Take note that the connection cannot be made, or is lost."""
        self.cancel()
        self._connections.failed(self, why)

    def cancel(self) -> None:
        """Give up."""
        dialling, self.dialling = self.dialling, None
        if dialling is not None:
            dialling.cancel()
        if self._socket is not None:
            self._connections.poller.forget(self)
            self._socket.close()
            self._socket = None

    # Called by the reactor

    def fileno(self) -> int:
        """Return the descriptor; -1 if there is none."""
        return self._socket.fileno() if self._socket is not None else -1

    def logPrefix(self) -> str:
        """Return the name under which the reactor logs errors."""
        return "data connection"

    def doRead(self) -> None:
        """Read the server's random number, and nothing behind it."""
        sock = self._socket
        if sock is None:
            return
        try:
            data = sock.recv(RANDOM - len(self._answer))
        except BlockingIOError:
            return
        except OSError as error:
            self.failed(reason_of(error))
            return
        if not data:
            self.failed("it was closed")
            return
        self._answer += data
        if len(self._answer) == RANDOM:
            self._connections.poller.removeReader(self)
            self._socket = None
            seals = connection_seals(self._ticket.key, self._random, self._answer, self._cipher, is_client=True)
            self._connections.attached(self, sock, seals)

    def doWrite(self) -> None:
        """Do nothing: writing is not watched."""

    def connectionLost(self, reason: Failure) -> None:
        """Take note that the reactor found the socket broken, or is stopping."""
        self.failed(reason_of(reason))


class DataConnections:
    """The data connections of one link.

    :param user: the link.
    :param root: what both ends of the link have agreed on.
    :param most: connections that may be made or wait at once.
    :ivar in_use: connections, and the local sides of their streams.
    :ivar server: who has proved to be at the other end; None: there was no proof.
    """

    log = Logger()

    def __init__(self, user: IUser, dialler: IDialler, root: Root, most: int, visitors: Visitors) -> None:
        self._user = user
        self.server: Peer | None = None
        self._seconds: Callable[[], float] = user.clock.seconds
        self._dialler = dialler
        self._pace = dialler.pace
        self.poller = dialler.poller
        self._cipher = root.cipher
        self._tickets = ClientTickets(Ratchet(root.root))
        self._most = most
        self._descriptors = visitors.descriptors
        self._visits = Visits(user, dialler.reactor, dialler.poller, dialler.dial_timeout, visitors)
        self._attempts: set[_Attempt] = set()
        self.in_use = InUse(root.cipher, self._visits.ended, self._visits.kept, self._released, self._visits.used)
        self._connections = self.in_use.connections
        # Of these, those that wait for a visitor.
        self._idle: set[RecordSocket] = set()
        # Tickets with which no connection is made yet, and until when they are kept.
        self._kept: deque[tuple[Ticket, float]] = deque(maxlen=most)
        self._said = False
        self._closed = self._lingers = self._hurries = False
        self._linger_call: IDelayedCall | None = None

    # Making them

    def take_tickets(self, first: int, count: int, expires: float) -> None:
        """Make *count* connections; tickets for which there is no room are kept for a while.

        :param first: the index of the first ticket.
        :param expires: seconds for which they are good.
        :raises ValueError: these are not the next tickets.
        """
        until = self._seconds() + min(expires, KEPT)
        for ticket in self._tickets.take(first, count):
            self._kept.append((ticket, until))
            self._make()

    def _make(self) -> None:
        now = self._seconds()
        while self._kept and not self._closed:
            if len(self._attempts) + len(self._idle) >= self._most or (self._pace is not None and self._pace.rests):
                return
            # Nobody gives way to a connection that another visitor can do without.
            if not self._is_needed and self._descriptors.spare <= len(self._attempts):
                return
            ticket, until = self._kept.popleft()
            if until <= now:
                continue
            attempt = _Attempt(self, ticket, self._cipher, now)
            self._attempts.add(attempt)
            dialling = self._dialler.dial_server(attempt.connected, attempt.failed)
            if attempt in self._attempts and attempt.fileno() < 0:
                attempt.dialling = dialling

    @property
    def _is_needed(self) -> bool:
        """Whether visitors may not go by the link."""
        return DIRECT_ONLY in self._user.link.capabilities

    def attached(self, attempt: _Attempt, sock: socket.socket, seals: tuple[Seal, Seal] | None) -> None:
        """Take a connection on which the ticket was shown."""
        self._attempts.discard(attempt)
        limits, memory = self._user.link.data_limits, self._user.memory
        try:
            connection = RecordSocket(self.poller, sock, self, limits, self._seconds(), seals, is_server=False)
        except OSError as error:
            sock.close()
            self._say(reason_of(error))
            return
        memory.add(COST)
        self._connections[connection] = None
        self._idle.add(connection)

    def failed(self, attempt: _Attempt, why: str) -> None:
        """Forget a connection that could not be made."""
        if attempt in self._attempts:
            self._attempts.discard(attempt)
            self._say(why)

    def _say(self, why: str) -> None:
        """Log that a connection could not be made: loud once, until one can be made."""
        if self._pace is not None:
            self._pace.failed()
        log = self.log.debug if self._said else self._user.log_limiter.warn
        self._said = True
        log(
            "data connections cannot be made: {why}; visitors {what}",
            why=why,
            what="are closed (--data-plane=direct)" if self._is_needed else "go by the link",
        )

    # Their life, see IUser of RecordSocket

    def proved(self, connection: RecordSocket) -> None:
        """Take note that the server has taken the ticket. If records are sealed, prove this end too."""
        if self._cipher is not Cipher.NONE:
            connection.say_alive()
        if self._pace is not None:
            self._pace.worked()
        if self._said:
            self._said = False
            self._user.log_limiter.info("data connections can be made again")

    def opened(self, connection: RecordSocket, opened: Opened) -> None:
        """Serve a visitor."""
        self._idle.discard(connection)
        if self._closed and not self._lingers:
            connection.reset(Code.SHUTTING_DOWN, "the client takes no more visitors")
            return
        if opened.tunnel == DATAGRAMS:
            self._user.carry_datagrams(connection)
        else:
            self._visits.serve(connection, opened)
        # The server knew of this one before we did, and may have asked for the next meanwhile.
        if self._kept:
            self._make()

    def freed(self, connection: RecordSocket) -> None:
        """Wait for the next visitor."""
        if self._closed:
            self._leave(connection)
        else:
            self._idle.add(connection)

    def _leave(self, connection: RecordSocket) -> None:
        """Close a free connection; with time, once all has arrived: later, a sign of life would destroy the rest."""
        if self._hurries or not unacknowledged(connection.socket):
            self._connections.pop(connection, None)
            connection.cut()

    def holds(self, count: int) -> None:
        """Count what a record that is not complete takes."""
        self._user.memory.add(count)

    def lost(self, connection: RecordSocket, why: str, *, is_breach: bool) -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)
        self._idle.discard(connection)
        if is_breach or not connection.is_proved:
            self._say(why)

    def tick(self, now: float) -> None:
        """Look after what is due by time."""
        for attempt in list(self._attempts):
            if now - attempt.began >= self._dialler.connect_timeout:
                attempt.failed("no connection in time")
        for connection in list(self._connections):
            connection.tick(now)
            if self._closed and connection.is_idle and connection not in self._idle:
                self._leave(connection)
        self._visits.tick(now)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        yield from self._visits.holdings()
        for connection in self._connections:
            if not connection.has_local:
                yield connection.held, connection

    # The end

    def withdraw(self) -> None:
        """Take no more visitors; those there are go on."""
        had_closed, self._closed = self._closed, True
        attempts, self._attempts = self._attempts, set()
        for attempt in attempts:
            attempt.cancel()
        if not self._lingers:
            self._cut_idle()
        elif not had_closed:
            self._linger_call = self._dialler.reactor.callLater(LINGER, self._cut_idle)

    def _cut_idle(self) -> None:
        delayed_calls.cancel(self._linger_call)
        idle, self._idle = self._idle, set()
        for connection in idle:
            self._leave(connection)

    def linger(self, *, is_on: bool) -> None:
        """Once the link is lost, let connections that wait for visitors stay for a moment: until the server closes
        them, it may have sent them some."""
        self._lingers = is_on

    def _released(self) -> None:
        self._user.count_streams()

    @property
    def is_dialling(self) -> bool:
        """Whether a visitor's service is being dialled."""
        return self._visits.is_dialling

    @property
    def stream_count(self) -> int:
        """How many visitors there are, without those that count as streams of the link still."""
        return self._visits.count

    @property
    def is_over(self) -> bool:
        """See :class:`~rtunnel.reverse.carriers.kept.IConnections`."""
        return not (self._visits.count or self._connections)

    def adopt(self, user: IUser) -> None:
        """Go on as part of the next link to the same server."""
        self._user = user
        self._visits.adopt(user)

    def close(self, *, cut: bool = True, tail: bool = False) -> None:
        """Make no more connections, as the link is gone. May be called twice.

        The parameters are those of :meth:`Visits.close`.
        """
        self._hurries = self._hurries or cut or tail
        self.withdraw()
        self._visits.close(cut=cut, tail=tail)
        if cut:
            self._cut_idle()
            connections = list(self._connections)
            self._connections.clear()
            for connection in connections:
                connection.cut()
