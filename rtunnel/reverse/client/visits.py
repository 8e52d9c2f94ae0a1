"""Visitors on data connections, at the client: dials their service and relays them.

DataConnections -> Visits -> _Visit                       while the local service is dialled
                          -> LocalSocket or RecordStream  one for each in use
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.error import TimeoutError as ConnectTimeout, getConnectError
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.dial import Dial, begin
from rtunnel.relay.local_socket import COST, LocalSocket
from rtunnel.relay.pipes import PIPES, Pipe
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import take_socket
from rtunnel.reverse.carriers.moving import MovingStream, take_those_at_rest
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.reverse.carriers.record_stream import RecordStream
from rtunnel.reverse.carriers.sockets import TAIL, has_socket
from rtunnel.reverse.client.interfaces import Cancellable, IService
from rtunnel.traffic.accounts import CONNECTION
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.data.connection import Opened
from rtunnel.wire.stream import Stream

if TYPE_CHECKING:
    from rtunnel.tls.stream_end import TlsEnd

#: Bytes of a visitor that are read before its service is connected.
MOST_EARLY = 65536


class IUser(Protocol):
    """The link, as its data connections see it."""

    link: ClientLink
    moved_early: dict[int, tuple[Stream, float]]
    clock: Any
    log_limiter: LogLimiter
    memory: Memory

    def flush(self) -> None: ...
    def count_streams(self) -> None: ...
    def service_of(self, tunnel: int) -> IService | None: ...
    def end_tls(self, service: Any, visitor: str) -> TlsEnd: ...
    def carry_datagrams(self, connection: RecordSocket) -> None: ...
    def dialled(self, service: Any) -> None: ...
    def dial_failed(self, service: Any, failure: Failure) -> None: ...


class _Visit:
    """A visitor whose service is being dialled: the local side of its stream meanwhile.

    :param header: what the service gets before the visitor's first byte.
    :ivar kept: how many of its bytes have come.
    :ivar until: when the service has had its time.
    :ivar touched: see :class:`~rtunnel.upkeep.visitors.Visitors`.
    """

    may_splice = False

    __slots__ = (
        *("_pieces", "_visits", "bytes_received", "bytes_sent", "connection", "dial", "has_ended", "kept", "reason"),
        *("service", "touched", "until"),
    )

    def __init__(
        self, visits: Visits, connection: RecordSocket, service: IService, until: float, header: bytes
    ) -> None:
        self._visits = visits
        self.connection = connection
        self.service = service
        # Pieces, because bytes that grow piece by piece leave holes in memory.
        self._pieces: list[bytes] = [header] if header else []
        self.kept = self.bytes_received = self.bytes_sent = 0
        self.reason = ""
        self.has_ended = False
        self.until = until
        self.touched = True
        self.dial: Cancellable | None = None

    def give_to(self, local: LocalSocket | RecordStream) -> None:
        """Let *local* take the place of this, with what has come so far."""
        self.connection.carry(local)
        self.connection.resume_reading()
        if self._pieces:
            local.deliver(memoryview(b"".join(self._pieces)))
        if self.has_ended:
            local.far_ended()

    def failed(self, error: OSError) -> None:
        """Take note that the service cannot be reached."""
        if error.errno == errno.EAGAIN:
            # The service's backlog is full; the endpoint knows how to wait for it.
            self._visits.dial_endpoint(self)
            return
        self._visits.gone(self, Failure(getConnectError((error.errno, error.strerror))))

    def abort(self) -> None:
        """Give up dialling, and turn the visitor away."""
        self._visits.gone(self, None)

    def cut(self) -> None:
        """Turn the visitor away, and close the data connection too: descriptors are needed."""
        self.connection.drop()
        self.abort()

    # From the data connection, see ILocal

    def deliver(self, data: memoryview, flags: int = 0) -> None:
        """Keep first bytes."""
        self._pieces.append(bytes(data))
        self.kept += len(data)
        if self.kept >= MOST_EARLY:
            self.connection.stop_reading()
        self._visits.kept(len(data))

    def deliver_pipe(self, pipe: Pipe) -> None:
        """Keep first bytes that are in a pipe."""
        data = os.read(pipe.read_end, pipe.count)
        pipe.count -= len(data)
        PIPES.give_back(pipe)
        self.deliver(memoryview(data))

    def far_ended(self) -> None:
        """Take note that the visitor sends no more."""
        self.has_ended = True

    def far_over(self) -> None:
        """This end has not ended."""

    def far_reset(self, code: str, message: str) -> None:
        """Give up dialling: the visitor is gone."""
        self._visits.gone(self, None)

    def has_room(self) -> None:
        """Do nothing: nothing is sent."""


class Visits:
    """The visitors on the data connections of one link.

    :param user: the link. Its ``direct_streams`` are counted here.
    :param poller: watches sockets; see :func:`~rtunnel.relay.poller.poller_for`.
    :param dial_timeout: seconds that a service has to accept a connection.
    :ivar kept: called with the number of bytes that are kept for a visitor.
    :ivar used: the local sides of the streams.
    """

    log = DebugLog()

    def __init__(self, user: IUser, reactor: Any, poller: Any, dial_timeout: float, visitors: Visitors) -> None:
        self._user = user
        self._reactor, self._poller = reactor, poller
        self._dial_timeout = dial_timeout
        self._visitors = visitors
        self.kept = user.memory.add
        self._dialling: dict[_Visit, None] = {}
        self.used: dict[Any, None] = {}
        # Of those that are used, how many count as streams of the link still.
        self._on_link = 0
        self._tail: IDelayedCall | None = None

    def serve(self, connection: RecordSocket, opened: Opened) -> None:
        """Serve a visitor that has come over *connection*."""
        self.kept(COST)
        if opened.moved:
            self._move(connection, opened.moved)
            return
        link = self._user.link
        service = self._user.service_of(opened.tunnel)
        if service is None or link.stream_count >= link.limits.max_streams or link.windows.is_full:
            self.log.debug("visitor {visitor} refused: no such tunnel, or the limit", visitor=opened.visitor)
            connection.reset(Code.LIMIT if service is not None else Code.UNKNOWN_TUNNEL, "the client cannot serve it")
            return
        if DebugLog.is_wanted:
            self.log.debug(
                "visitor {visitor} of {tunnel} has a connection of its own",
                visitor=opened.visitor or "unknown",
                tunnel=service.name,
            )
        if service.tls is not None:
            end = self._user.end_tls(service, opened.visitor)
            stream = RecordStream(connection, end, self.ended)
            end.attach(stream)
            connection.carry(stream)
            self.used[stream] = None
            service.serve(end, self._visitors, opened.visitor, CONNECTION)
            self._count()
            self.kept(stream.held)
            return
        if service.cross is not None:
            if (crossed := service.cross(opened.visitor)) is not None:
                self._made_at_once(connection, service, opened, crossed)
            else:
                connection.reset(Code.UNKNOWN_TUNNEL, "its client is not there, or may not serve it now")
            return
        sock = failure = None
        if service.address is not None:
            try:
                sock, is_made = begin(*service.address)
            except OSError as error:
                failure = error
            else:
                if is_made:
                    self._made_at_once(connection, service, opened, sock)
                    return
        until = self._user.clock.seconds() + self._dial_timeout
        visit = _Visit(self, connection, service, until, service.header(opened.visitor))
        connection.carry(visit)
        self._dialling[visit] = None
        service.serve(visit, self._visitors, opened.visitor, CONNECTION)
        self._count()
        if failure is not None:
            visit.failed(failure)
        elif sock is None:
            self.dial_endpoint(visit)
        else:
            visit.dial = dial = Dial(self._poller, partial(self.made, visit), visit.failed)
            dial.wait(sock)

    def _made_at_once(self, connection: RecordSocket, service: IService, opened: Opened, theirs: socket.socket) -> None:
        """Relay between a visitor and its service, which is on this machine and has accepted."""
        relay = LocalSocket(self._poller, theirs, connection, self.ended, self.kept)
        connection.carry(relay)
        self.used[relay] = None
        service.serve(relay, self._visitors, opened.visitor, CONNECTION)
        if header := service.header(opened.visitor):
            relay.deliver(memoryview(header))
        self._count()
        self._user.dialled(service)
        self.kept(relay.held)
        relay.start()

    def tick(self, now: float) -> None:
        """Check time-outs."""
        for visit in list(self._dialling):
            if visit.until <= now:
                self.gone(visit, Failure(ConnectTimeout()))
        take_those_at_rest(self.used)

    # Until the service is connected

    def dial_endpoint(self, visit: _Visit) -> None:
        """Dial the service by its endpoint, with the endpoint's own time-out."""
        end = SocketEnd(lambda end: self._endpoint_made(visit, end), lambda end: self._endpoint_gone(visit, end))
        visit.until = float("inf")
        visit.dial = SimpleNamespace(cancel=end.abort)
        end.dial(visit.service.endpoint, lambda failure: self.gone(visit, failure))

    def _endpoint_made(self, visit: _Visit, end: SocketEnd) -> None:
        if has_socket(end.transport):
            theirs, _ = take_socket(end.transport)
            self.made(visit, theirs)
            return
        # Twisted's TLS, for example.
        stream = RecordStream(visit.connection, end, self.ended)
        end.attach(stream)
        self._relay(visit, stream, end)

    def _endpoint_gone(self, visit: _Visit, end: SocketEnd) -> None:
        self._visitors.discard(end)
        self.gone(visit, None)

    def made(self, visit: _Visit, theirs: socket.socket) -> None:
        """Relay between a visitor and its service, which has accepted."""
        relay = LocalSocket(self._poller, theirs, visit.connection, self.ended, self.kept)
        self._relay(visit, relay, relay)
        relay.start()

    def _relay(self, visit: _Visit, local: LocalSocket | RecordStream, end: LocalSocket | SocketEnd) -> None:
        self._user.dialled(visit.service)
        self.kept(local.held)
        self.used[local] = None
        self._visitors.replace(visit, end)
        visit.dial = None  # no circle
        self._forget(visit)
        visit.give_to(local)

    def gone(self, visit: _Visit, failure: Failure | None) -> None:
        """Drop a visitor whose service cannot be reached, or that has left."""
        if visit not in self._dialling:
            return
        code = Code.CONNECTION_LOST
        if failure is not None:
            code = Code.LOCAL_TIMEOUT if failure.check(ConnectTimeout) else Code.LOCAL_UNREACHABLE
        visit.reason = code
        self._forget(visit)
        if visit.dial is not None:
            visit.dial.cancel()
            visit.dial = None  # no circle, so that its bytes are free now
        if failure is None:
            visit.connection.reset(code, "the visitor is turned away")
            return
        visit.connection.reset(code, reason_of(failure))
        self._user.dial_failed(visit.service, failure)

    def _forget(self, visit: _Visit) -> None:
        del self._dialling[visit]
        self._visitors.discard(visit)
        self._count()

    # Streams that have begun on the link

    def _move(self, connection: RecordSocket, conn_id: int) -> None:
        early = self._user.moved_early.pop(conn_id, None)
        stream = early[0] if early is not None else self._user.link.streams.get(conn_id)
        end = None if stream is None else stream.owner
        if stream is None or stream.broken or end is None or not hasattr(end, "is_at_rest") or end.is_lost:
            connection.reset(Code.CONNECTION_LOST, "that stream is over")
            return
        self._visitors.moved(end)
        moving = MovingStream(self._user, stream, connection, self._left_link, self._taken, self.ended)
        self.used[moving] = None
        self._on_link += 1
        moving.start()
        self._count()

    def _left_link(self) -> None:
        self._on_link -= 1
        self._count()

    def _taken(self, moving: MovingStream, connection: RecordSocket, sock: socket.socket) -> LocalSocket:
        """Relay a service whose visitor has moved."""
        relay = LocalSocket(self._poller, sock, connection, self.ended, self.kept)
        self.used.pop(moving, None)
        self.used[relay] = None
        self._visitors.replace(moving.end, relay)
        connection.carry(relay)
        if connection.has_room:
            relay.start()
        return relay

    # Relays

    def ended(self, used: LocalSocket | RecordStream) -> None:
        """Forget the local side of a stream that is over."""
        self.used.pop(used, None)
        if isinstance(used, LocalSocket):
            self._visitors.discard(used)
        self._count()
        if self._tail is not None and not self.used and self._tail.active():
            self._tail.cancel()

    def holdings(self) -> Iterator[tuple[int, LocalSocket | RecordStream | _Visit]]:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        for visit in self._dialling:
            yield COST + visit.kept + visit.connection.held, visit
        for used in self.used:
            yield used.held, used

    @property
    def is_dialling(self) -> bool:
        """Whether a visitor's service is being dialled."""
        return bool(self._dialling)

    @property
    def count(self) -> int:
        """How many visitors there are, without those that count as streams of the link still."""
        return len(self.used) + len(self._dialling) - self._on_link

    def _count(self) -> None:
        self._user.count_streams()

    def adopt(self, user: IUser) -> None:
        """Go on as part of the next link to the same server."""
        former, self._user = self._user, user
        former.count_streams()
        user.count_streams()

    def close(self, *, cut: bool = True, tail: bool = False) -> None:
        """Take no more visitors, because the link is over. May be called twice.

        :param cut: also cut the visitors that there are.
        :param tail: the server has ended or cut them, and their last bytes may be on the way for a while.
        """
        for visit in list(self._dialling) if cut or tail else ():
            visit.abort()
        if cut:
            for used in list(self.used):
                used.abort()
        elif tail and self.used and self._tail is None:
            self._tail = self._user.clock.callLater(TAIL, self.close)
