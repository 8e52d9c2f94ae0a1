"""Visitors on data connections, at the client: dials their service and relays them.

DataConnections -> Visits -> _Visit       while the local service is dialled
                          -> DirectRelay  one for each in use
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from twisted.internet.error import TimeoutError as ConnectTimeout, getConnectError
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.dial import Dial
from rtunnel.relay.direct import COST as RELAY, DirectRelay
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import close_socket, take_socket, text_prefix
from rtunnel.reverse.carriers.raw_stream import COST as RAW_STREAM, RawStream
from rtunnel.reverse.carriers.sockets import READ_SIZE, TAIL, SocketWire, adopt, has_socket
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.data_connection import Used

#: Bytes of a visitor that are read before its service is connected.
MOST_EARLY = 65536


class IService(Protocol):
    """The local service that a tunnel leads to.

    :ivar address: family and address of its socket; None if only its endpoint can connect to it.
    """

    endpoint: IStreamClientEndpoint
    address: tuple[int, Any] | None

    @property
    def name(self) -> str: ...


class IUser(Protocol):
    """The link, as its data connections see it."""

    link: ClientLink
    clock: Any
    log_limiter: LogLimiter
    memory: Memory

    def service_of(self, tunnel: int) -> IService | None: ...
    def dialled(self, service: Any) -> None: ...
    def dial_failed(self, service: Any, failure: Failure) -> None: ...


class Cancellable(Protocol):
    """An attempt to connect."""

    def cancel(self) -> None: ...


class _Cancel:
    """Wrap a function that cancels an attempt."""

    __slots__ = ("cancel",)

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


@implementer(IReadDescriptor)
class _Visit:
    """A visitor whose service is being dialled. The visitor is watched meanwhile, in case it leaves.

    :param poller: watches it.
    :param wire: has watched the socket until now.
    :ivar is_watched: whether it is still watched.
    :ivar kept: how many of its bytes have been read.
    :ivar until: when the service has had its time.
    :ivar touched: see :class:`~rtunnel.upkeep.visitors.Visitors`.
    """

    __slots__ = ("_pieces", "_poller", "_visits", "dial", "is_watched", "kept", "service", "sock", "touched", "until")

    def __init__(
        self, visits: Visits, poller: Any, wire: SocketWire, service: IService, rest: bytes, until: float
    ) -> None:
        self._visits = visits
        self._poller = poller
        self.sock = wire.take_watched()
        self.service = service
        # Pieces, because bytes that grow piece by piece leave holes in memory.
        self._pieces = [rest]
        self.kept = len(rest)
        self.until = until
        self.touched = True
        self.dial: Cancellable | None = None
        self.is_watched = True
        poller.replace(wire, self)

    @property
    def rest(self) -> bytes:
        """Its first bytes."""
        return b"".join(self._pieces)

    def leave(self) -> None:
        """Stop watching the visitor."""
        if self.is_watched:
            self._poller.removeReader(self)
            self.is_watched = False

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

    cut = abort

    # Called by the reactor

    def fileno(self) -> int:
        """Return the descriptor; -1 when it is not watched."""
        return self.sock.fileno() if self.is_watched else -1

    def logPrefix(self) -> str:
        """Return the name under which the reactor logs errors."""
        return "visitor"

    def doRead(self) -> None:
        """Read bytes, the end, or an error."""
        if not self.is_watched:
            return
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        self._pieces.append(data)
        self.kept += len(data)
        if not data or self.kept >= MOST_EARLY:
            # The rest can wait, and an end will show again.
            self.leave()
        self._visits.kept(len(data))

    def doWrite(self) -> None:
        """Do nothing: writing is not watched."""

    def connectionLost(self, reason: Failure) -> None:
        """Take note that the reactor found the socket broken, or is stopping."""
        self.abort()


class Visits:
    """The visitors on the data connections of one link.

    :param user: the link. Its ``direct_streams`` are counted here.
    :param poller: watches sockets; see :func:`~rtunnel.relay.poller.poller_for`.
    :param dial_timeout: seconds that a service has to accept a connection.
    :ivar kept: called with the number of bytes that are kept for a visitor.
    """

    log = DebugLog()

    def __init__(self, user: IUser, reactor: Any, poller: Any, dial_timeout: float, visitors: Visitors) -> None:
        self._user = user
        self._reactor = reactor
        self._poller = poller
        self._dial_timeout = dial_timeout
        self._visitors = visitors
        self.kept = user.memory.add
        self._dialling: dict[_Visit, None] = {}
        self._used: set[DirectRelay | RawStream] = set()
        self._tail: IDelayedCall | None = None

    def serve(self, wire: SocketWire, used: Used) -> None:
        """Serve a visitor that has come over *wire*."""
        self.kept(RELAY + len(used.rest))
        link = self._user.link
        service = self._user.service_of(used.tunnel)
        if service is None or link.stream_count >= link.limits.max_streams or link.windows.is_full:
            self.log.debug("visitor {visitor} refused: no such tunnel, or the limit", visitor=used.visitor)
            wire.cut()
            return
        if DebugLog.is_wanted:
            self.log.debug(
                "visitor {visitor} of {tunnel}: stream {stream}, on a connection of its own",
                visitor=used.visitor or "unknown",
                tunnel=service.name,
                stream=used.conn_id,
            )
        # From now on no PING keeps it alive.
        wire.keep_alive(link.limits.keepalive_interval, link.limits.dead_after)
        until = self._user.clock.seconds() + self._dial_timeout
        visit = _Visit(self, self._poller, wire, service, used.rest, until)
        self._dialling[visit] = None
        # Two descriptors: this connection, and the one to the service.
        self._visitors.add(visit, text_prefix(used.visitor), used.tunnel, 2)
        self._count()
        if service.address is None:
            self.dial_endpoint(visit)
        else:
            visit.dial = dial = Dial(self._poller, partial(self.made, visit), visit.failed)
            dial.start(*service.address)

    def tick(self, now: float) -> None:
        """Check time-outs."""
        for visit in list(self._dialling):
            if visit.until <= now:
                self.gone(visit, Failure(ConnectTimeout()))

    # Until the service is connected

    def dial_endpoint(self, visit: _Visit) -> None:
        """Dial the service by its endpoint, with the endpoint's own time-out."""
        end = SocketEnd(lambda end: self._endpoint_made(visit, end), lambda end: self._endpoint_gone(visit, end))
        visit.until = float("inf")
        visit.dial = _Cancel(end.abort)
        end.dial(visit.service.endpoint, lambda failure: self.gone(visit, failure))

    def _endpoint_made(self, visit: _Visit, end: SocketEnd) -> None:
        if has_socket(end.transport):
            theirs, _ = take_socket(end.transport)
            self.made(visit, theirs)
            return
        # Twisted's TLS, for example.
        self._user.dialled(visit.service)
        stream = self._relay_here(end)
        self._visitors.replace(visit, end)
        self._forget(visit)
        visit.leave()
        adopt(self._reactor, visit.sock, stream, visit.rest)

    def _endpoint_gone(self, visit: _Visit, end: SocketEnd) -> None:
        self._visitors.discard(end)
        self.gone(visit, None)

    def made(self, visit: _Visit, theirs: socket.socket) -> None:
        """Relay between a visitor and its service, which has accepted."""
        self._user.dialled(visit.service)
        relay = DirectRelay(self._poller, visit.sock, theirs, self._ended, kept=self.kept, to_right=visit.rest)
        self._used.add(relay)
        self._visitors.replace(visit, relay)
        self._forget(visit)
        relay.start(instead_of=visit if visit.is_watched else None)

    def gone(self, visit: _Visit, failure: Failure | None) -> None:
        """Drop a visitor whose service cannot be reached, or that has left."""
        if visit not in self._dialling:
            return
        self._forget(visit)
        visit.leave()
        close_socket(visit.sock, reset=True)
        if visit.dial is not None:
            visit.dial.cancel()
            visit.dial = None  # no circle, so that its bytes are free now
        if failure is not None:
            self._user.dial_failed(visit.service, failure)

    def _forget(self, visit: _Visit) -> None:
        del self._dialling[visit]
        self._visitors.discard(visit)
        self._count()

    # Relays

    def _relay_here(self, end: SocketEnd) -> RawStream:
        """Relay in user space."""
        stream = RawStream(end, self._ended)
        self.kept(RAW_STREAM)
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

    def holdings(self) -> Iterator[tuple[int, DirectRelay | RawStream | _Visit]]:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        for visit in self._dialling:
            yield RELAY + visit.kept, visit
        for used in self._used:
            yield used.held, used

    def _count(self) -> None:
        self._user.link.direct_streams = len(self._used) + len(self._dialling)

    def close(self, *, cut: bool = True) -> None:
        """End all visitors, because the link is lost. May be called twice.

        :param cut: also cut the visitors that are being relayed. Otherwise the server has ended or cut them, and their
            last bytes may be on the way.
        """
        for visit in list(self._dialling):
            visit.abort()
        if cut:
            for used in list(self._used):
                used.abort()
        elif self._used and self._tail is None:
            self._tail = self._user.clock.callLater(TAIL, self.close)
