"""The requests in the TLS that ends at the client, on their way to the local services."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from rtunnel.access.limits import Limits
from rtunnel.access.passwords import Passwords, PasswordThreads
from rtunnel.host_names import canonical
from rtunnel.relay.interfaces import IStream
from rtunnel.relay.memory_stream import memory_streams
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import format_host_port
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.reverse.web.answers import Answer
from rtunnel.reverse.web.connection import HttpConnection
from rtunnel.reverse.web.house import HttpHouse, HttpVisitor
from rtunnel.reverse.web.interfaces import IConnection, Target
from rtunnel.reverse.web.upstream import Upstream
from rtunnel.reverse.web.upstreams import Upstreams
from rtunnel.traffic.accounts import Account, Accounts
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.web.heads import RequestHead

#: Seconds in which the head of a request must have come.
HEAD_TIMEOUT = 10.0


class IHttpsService(Protocol):
    """The local service of a tunnel.

    :ivar number: the tunnel's.
    :ivar settings: the tunnel's.
    :ivar account: counts what visitors send and get.
    :ivar is_gone: the tunnel is published no longer.
    """

    @property
    def account(self) -> Account: ...

    number: int

    @property
    def settings(self) -> TunnelSettings: ...
    @property
    def endpoint(self) -> IStreamClientEndpoint: ...
    @property
    def is_gone(self) -> bool: ...


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

    def __init__(self, reactor: Any, log_limiter: LogLimiter, threads: PasswordThreads, accounts: Accounts) -> None:
        passwords = Passwords(threads.run, reactor.seconds)
        super().__init__(reactor.seconds, log_limiter, passwords, HEAD_TIMEOUT, accounts)
        self._targets: dict[int, Target] = {}
        # Those that still have an answer under way.
        self._former: list[Target] = []

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
        if service.is_gone:
            return Answer(404, f"https://{service.settings.host} is not served here any more", closes=True)
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
            upstream.account = service.account
            end.attach(near)
            upstream.attach(far)
            upstream.start()
            end.dial(service.endpoint, lambda failure: user.dial_failed(service, failure))
            return True

        what = f"https://{settings.host}"

        def refused(address: str, why: str) -> None:
            format = f"visitor {{host}} of {{place}} refused: {why}"
            self._log_limiter.info(format, host=address, place=what, peer=format_host_port(address, 0))

        limits = Limits()
        limits.use([settings.rules], self.seconds())
        upstreams = Upstreams(open_stream, self.seconds, _do_nothing)
        return self.build_target(settings.rules, limits, what, upstreams, refused)

    def forget(self, number: int) -> None:
        """Take no requests of a tunnel any more, or by other rules or to another service. Those under way go on."""
        target = self._targets.pop(number, None)
        if target is not None:
            target.upstreams.close()
            self._former.append(target)
        for connection in list(self.connections):
            if connection.visitor.service.number == number and connection.visitor.service.is_gone:
                connection.stop()

    def targets(self) -> list[Target]:
        """See :class:`HttpHouse`."""
        self._former = [target for target in self._former if len(target.upstreams)]
        return [*self._targets.values(), *self._former]


def _do_nothing(_end: Any) -> None:
    pass
