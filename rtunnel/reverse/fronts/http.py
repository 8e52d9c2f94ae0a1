"""The HTTP port: each request goes to the client that publishes the host name and path that it asks for.

HttpFront +-- HttpConnection      one for each connection of a visitor
          +-- Upstreams           one for each tunnel: streams over which requests go on, one after another
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from rtunnel.errors import Code
from rtunnel.relay.bare_port import Accepted, LandingFactory
from rtunnel.relay.sockets import address_prefix, format_address
from rtunnel.reverse.public import Visitor
from rtunnel.reverse.server.hosts import HostNames
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.web.answers import Answer, redirect
from rtunnel.reverse.web.connection import HttpConnection
from rtunnel.reverse.web.forwarded import TrustedProxies, forwarded_lines
from rtunnel.reverse.web.front_stream import FrontStream
from rtunnel.reverse.web.interfaces import IConnection, Target
from rtunnel.reverse.web.upstream import Upstream
from rtunnel.reverse.web.upstreams import Upstreams
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import PeriodicService, do_all
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.web.heads import RequestHead


class IHttpServer(Protocol):
    """The server, as its HTTP port needs it."""

    reactor: Any
    poller: Any
    visitors: Visitors
    log_limiter: LogLimiter
    names: HostNames
    handshake_timeout: float

    def https_port(self) -> str: ...


class HttpVisitor:
    """A connection's visitor.

    :ivar address: of the connection.
    :ivar prefix: the key under which it is counted.
    :ivar is_trusted: it is a proxy whose word counts about whose request it is.
    """

    __slots__ = ("address", "host", "is_trusted", "name", "prefix")

    def __init__(self, address: Any, *, is_trusted: bool) -> None:
        self.address = address
        self.host: str = getattr(address, "host", "") or ""
        self.name = format_address(address)
        self.prefix = address_prefix(address)
        self.is_trusted = is_trusted


class UpstreamVisitor(Visitor):
    """An :class:`Upstream` in the place of a visitor, as carriers see it."""

    __slots__ = ("_upstream",)

    def __init__(self, upstream: Upstream, visitor: HttpVisitor) -> None:
        self.address = visitor.address
        self.name = visitor.name
        self.prefix = visitor.prefix
        self.first = b""
        self._upstream = upstream

    def take_socket(self) -> None:
        """See :class:`Visitor`. There is no socket."""
        if self._upstream.is_over:
            raise ValueError("the visitor is gone")

    def socket_end(self) -> Any:
        """See :class:`Visitor`."""
        return self._upstream

    def wait(self) -> None:
        """See :class:`Visitor`. What is to be sent waits by itself."""

    def abort(self) -> None:
        """See :class:`Visitor`."""
        self._upstream.was_reset(Code.TIMEOUT, "no data connection came for it")


class HttpFront(LandingFactory):
    """Accepts HTTP connections.

    :param trusted: the proxies whose word counts about whose request it is.
    """

    log = Logger()
    scheme = "http"

    def __init__(self, server: IHttpServer, trusted: TrustedProxies) -> None:
        self._server = server
        self._trusted = trusted
        self.head_timeout = server.handshake_timeout
        self.is_stopping = False
        self._connections: dict[HttpConnection, FrontStream] = {}
        self._targets: dict[Backend, Target] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def service(self) -> PeriodicService:
        """Return the service that calls :meth:`tick`."""
        return PeriodicService(self._server.reactor, "HTTP visitors", 1.0, self.tick)

    # Connections

    def landed(self, accepted: Accepted, address: IAddress) -> None:
        """See :class:`LandingFactory`."""
        server = self._server
        visitor = HttpVisitor(address, is_trusted=address in self._trusted)
        front = FrontStream(server.poller, accepted.socket, self._ended)
        connection = front.user = HttpConnection(self, front, visitor)
        self._connections[connection] = front
        server.visitors.add(front.local, visitor.prefix, self)
        front.start()

    def _ended(self, front: FrontStream) -> None:
        self._server.visitors.discard(front.local)

    def gone(self, connection: IConnection) -> None:
        """See :class:`IHttpHouse`."""
        self._connections.pop(connection, None)  # type: ignore[call-overload]

    # What connections need, see IHttpHouse

    def seconds(self) -> float:
        """See :class:`IHttpHouse`."""
        return float(self._server.reactor.seconds())

    def refused(self, connection: IConnection, why: str) -> None:
        """See :class:`IHttpHouse`."""
        self._server.log_limiter.info(
            "HTTP connection from {visitor} closed: {why}", visitor=connection.visitor.name, why=why
        )

    def forwarded(self, head: RequestHead, connection: IConnection) -> bytes:
        """See :class:`IHttpHouse`."""
        visitor = connection.visitor
        return forwarded_lines(head, visitor.host, self.scheme, is_trusted=visitor.is_trusted)

    def route(self, head: RequestHead, connection: IConnection) -> Target | Answer:
        """See :class:`IHttpHouse`."""
        names = self._server.names
        backend = names.http(head.host, head.path)
        if backend is None:
            if head.host and names.https(head.host) is not None:
                return redirect(head, head.host, self._server.https_port())
            return Answer(404, f"nothing is published here for {head.host or 'a request without a host name'}")
        target = self._targets.get(backend)
        if target is None:
            target = self._targets[backend] = self._build_target(backend)
        if target.rules.redirect_https:
            return redirect(head, head.host, self._server.https_port())
        return target

    def done(self, target: Target, connection: IConnection) -> None:
        """See :class:`IHttpHouse`."""

    def _build_target(self, backend: Backend) -> Target:
        def open_stream(upstream: Upstream, visitor: HttpVisitor) -> bool:
            if not backend.session.open_visitor(backend.number, UpstreamVisitor(upstream, visitor)):
                return False
            upstream.start()
            return True

        rules = backend.rules
        return Target(
            Upstreams(open_stream, self.seconds, self._server.visitors.discard),
            rules,
            str(backend.asked),
            _encoded(rules.request_headers),
            _encoded(rules.response_headers),
        )

    # Time

    def tick(self) -> None:
        """Check time-outs, and forget tunnels that are gone."""
        now = self.seconds()
        for backend, target in list(self._targets.items()):
            if backend.public is None:
                del self._targets[backend]
                target.upstreams.close()
            target.upstreams.tick()

        def tick(connection: HttpConnection) -> Callable[[], None]:
            return lambda: connection.tick(now)

        do_all([tick(connection) for connection in list(self._connections)])

    def stop(self) -> None:
        """Close connections without a request now, and the others behind their answers."""
        self.is_stopping = True
        for connection in list(self._connections):
            connection.stop()
        for target in self._targets.values():
            target.upstreams.close()


def _encoded(changes: Any) -> list[tuple[bytes, bytes | None]]:
    return [(name.encode("latin-1"), None if value is None else value.encode("latin-1")) for name, value in changes]
