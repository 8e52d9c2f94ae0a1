"""The requests in the TLS that ends at the client, on their way to the local services."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from rtunnel.access.passwords import Passwords, PasswordThreads
from rtunnel.host_names import canonical
from rtunnel.relay.interfaces import IStream
from rtunnel.relay.memory_stream import memory_streams
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.reverse.web.answers import Answer
from rtunnel.reverse.web.connection import HttpConnection
from rtunnel.reverse.web.house import HttpHouse, HttpVisitor
from rtunnel.reverse.web.interfaces import IConnection, Target
from rtunnel.reverse.web.upstream import Upstream
from rtunnel.reverse.web.upstreams import Upstreams
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.web.heads import RequestHead

#: Seconds in which the head of a request must have come.
HEAD_TIMEOUT = 10.0


class IHttpsService(Protocol):
    """The local service of a tunnel.

    :ivar number: the tunnel's.
    :ivar settings: the tunnel's.
    """

    number: int
    settings: TunnelSettings
    endpoint: IStreamClientEndpoint


class IHttpsUser(Protocol):
    """The link over which a visitor has come."""

    def dialled(self, service: Any) -> None: ...
    def dial_failed(self, service: Any, failure: Failure) -> None: ...


class _Visitor(HttpVisitor):
    """A visitor of a tunnel, whom TLS has shown one host name.

    :ivar user: the link over which he has come.
    :ivar service: the tunnel's.
    :ivar server_name: the name in his ClientHello; empty: there was none.
    """

    __slots__ = ("server_name", "service", "user")

    def __init__(self, name: str, user: IHttpsUser, service: IHttpsService, server_name: str) -> None:
        super().__init__(name)
        self.user = user
        self.service = service
        self.server_name = server_name


class HttpsHouse(HttpHouse):
    """All connections of visitors whose TLS ends here. It outlives the link."""

    scheme = "https"

    def __init__(self, reactor: Any, log_limiter: LogLimiter, threads: PasswordThreads) -> None:
        super().__init__(reactor.seconds, log_limiter, Passwords(threads.run, reactor.seconds), HEAD_TIMEOUT)
        self._targets: dict[int, Target] = {}

    def serve(
        self, user: IHttpsUser, service: IHttpsService, stream: IStream, server_name: str, visitor: str
    ) -> HttpConnection:
        """Return the user of the *stream* of plain bytes; see :data:`~rtunnel.tls.stream_end.Serve`."""
        connection = HttpConnection(self, stream, _Visitor(visitor, user, service, server_name))
        self.connections[connection] = None
        return connection

    def find(self, head: RequestHead, connection: IConnection) -> Target | Answer:
        """See :class:`HttpHouse`. The Host of a request must be the name that TLS has proved (RFC 9110, 7.4)."""
        visitor: _Visitor = connection.visitor
        try:
            is_same = not visitor.server_name or canonical(head.host) == canonical(visitor.server_name)
        except ValueError:
            is_same = False
        if not is_same:
            return Answer(421, f"this connection is for {visitor.server_name}, and the request for another host name")
        service = visitor.service
        target = self._targets.get(service.number)
        if target is None:
            target = self._targets[service.number] = self._target(service.settings)
        return target

    def _target(self, settings: TunnelSettings) -> Target:
        def open_stream(upstream: Upstream, visitor: _Visitor) -> bool:
            user, service = visitor.user, visitor.service
            near, far = memory_streams()
            end = SocketEnd(lambda _end: user.dialled(service), _do_nothing)
            near.user, far.user = end, upstream
            end.attach(near)
            upstream.attach(far)
            upstream.start()
            end.dial(service.endpoint, lambda failure: user.dial_failed(service, failure))
            return True

        return self.build_target(
            settings.rules, f"https://{settings.host}", Upstreams(open_stream, self.seconds, _do_nothing)
        )

    def targets(self) -> list[Target]:
        """See :class:`HttpHouse`."""
        return list(self._targets.values())


def _do_nothing(_end: Any) -> None:
    pass
