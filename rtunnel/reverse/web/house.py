"""What HTTP connections have in common, at the server's HTTP port and where TLS ends at the client."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from rtunnel.access.limits import Limits
from rtunnel.access.passwords import Passwords
from rtunnel.access.rules import Rules
from rtunnel.relay.sockets import format_host_port, text_prefix
from rtunnel.reverse.web.answers import Answer
from rtunnel.reverse.web.connection import HttpConnection
from rtunnel.reverse.web.exchange import Exchange
from rtunnel.reverse.web.forwarded import forwarded_lines, host_of, origin, own_lines
from rtunnel.reverse.web.gate import Gate
from rtunnel.reverse.web.interfaces import SETTLE, IConnection, IUpstreams, Target
from rtunnel.traffic.accounts import REFUSED, Accounts
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import do_all
from rtunnel.wire.web.heads import RequestHead


class HttpVisitor:
    """Whose connection it is.

    :param name: its address as logs and the wire show it, with the port.
    :ivar host: its IP address; empty: it has none.
    :ivar prefix: the key under which it is counted.
    :ivar is_trusted: it is a proxy whose word counts about whose request it is.
    """

    __slots__ = ("__weakref__", "host", "is_trusted", "name", "prefix")

    def __init__(self, name: str, *, is_trusted: bool = False) -> None:
        self.name = name
        self.host = host_of(name)
        self.prefix = text_prefix(name)
        self.is_trusted = is_trusted


class HttpHouse:
    """See :class:`~rtunnel.reverse.web.interfaces.IHttpHouse`.

    :param seconds: returns the time.
    :param head_timeout: seconds in which the head of a request must have come.
    :param accounts: of all tunnels.
    :cvar are_visitors: accounts count each request as a visitor.
    """

    scheme = "http"
    are_visitors = False

    def __init__(
        self,
        seconds: Callable[[], float],
        log_limiter: LogLimiter,
        passwords: Passwords,
        head_timeout: float,
        accounts: Accounts,
    ) -> None:
        self.seconds = seconds
        self.head_timeout = head_timeout
        self.is_stopping = False
        self.connections: dict[HttpConnection, None] = {}
        self._accounts = accounts
        self._log_limiter = log_limiter
        self._passwords = passwords

    def find(self, head: RequestHead, connection: IConnection) -> Target | Answer | Deferred[Target | Answer]:
        """Find out for which service a request is. A Deferred: its client is away for a moment."""
        raise NotImplementedError

    def targets(self) -> list[Target]:
        """Return all that :meth:`find` may return."""
        raise NotImplementedError

    def build_target(
        self,
        rules: Rules,
        limits: Limits,
        what: str,
        upstreams: IUpstreams,
        on_refused: Callable[[str, str], None],
    ) -> Target:
        """Return what stands for a service.

        :param limits: who may come, by *rules* and perhaps by others.
        :param what: its name on pages.
        :param upstreams: the streams to it.
        :param on_refused: see :class:`Gate`.
        """
        changes = [*_encoded(rules.request_headers), *([(b"Authorization", None)] if rules.users else [])]
        return Target(
            upstreams,
            Gate(limits, rules.users, what, self._passwords, on_refused),
            what,
            changes,
            _encoded(rules.response_headers),
        )

    # See IHttpHouse

    def gone(self, connection: IConnection) -> None:
        """See :class:`IHttpHouse`."""
        self.connections.pop(connection, None)  # type: ignore[call-overload]

    def until_back(self, target: Target, connection: IConnection, member: Any) -> Deferred[bool] | None:
        """See :class:`IHttpHouse`."""
        return None

    def refused(self, connection: IConnection, why: str) -> None:
        """See :class:`IHttpHouse`."""
        self._log_limiter.info("HTTP connection from {visitor} closed: {why}", visitor=connection.visitor.name, why=why)

    def forwarded(self, head: RequestHead, connection: IConnection) -> bytes:
        """See :class:`IHttpHouse`."""
        visitor = connection.visitor
        if not visitor.is_trusted:
            return own_lines(visitor.host, self.scheme, head.authority)
        return forwarded_lines(head, visitor.host, self.scheme)

    def route(self, head: RequestHead, connection: IConnection) -> Target | Answer | Deferred[Target | Answer]:
        """See :class:`IHttpHouse`."""
        target = self.find(head, connection)
        # To ask whether something is a Deferred, or one of two, takes longer.
        if type(target) is Target:
            return target if target.gate.is_open else self._enter(target, head, connection)
        if type(target) is Answer:
            return target
        assert isinstance(target, Deferred)
        return target.addCallback(self._enter, head, connection)

    def _enter(
        self, target: Target | Answer, head: RequestHead, connection: IConnection
    ) -> Target | Answer | Deferred[Target | Answer]:
        if isinstance(target, Answer):
            return target
        address, prefix = self.whose(head, connection)
        answer = target.gate.enter(head, address, prefix, self.seconds())
        if answer is None or isinstance(answer, Answer):
            return answer or target
        return answer.addCallback(lambda found: found or target)

    def done(self, target: Target, head: RequestHead, connection: IConnection) -> None:
        """See :class:`IHttpHouse`."""
        if target.gate.at_once:
            target.gate.leave(self.whose(head, connection)[1])

    def request_over(self, exchange: Exchange, connection: IConnection) -> None:
        """See :class:`IHttpHouse`."""
        head = exchange.head
        self.done(exchange.target, head, connection)
        if self.are_visitors and exchange.account is not None:
            exchange.account.visitors += 1
        accounts, came, went = self._accounts, exchange.came, exchange.went
        line = None if accounts.log is None else partial(self._line, head, connection)
        accounts.request(exchange.account, exchange.status, came, went, exchange.began, exchange.reason, line)

    def answered(self, head: RequestHead, connection: IConnection, status: int, size: int) -> None:
        """See :class:`IHttpHouse`."""
        line = partial(self._line, head, connection)
        self._accounts.request(None, status, 0, size, self.seconds(), REFUSED, line)

    def _line(self, head: RequestHead, connection: IConnection) -> tuple[str, dict[str, object]]:
        visitor = connection.visitor
        who = self.whose(head, connection)[0] if visitor.is_trusted else visitor.name
        method, target = head.method.decode("latin-1"), head.target.decode("latin-1")
        return who, {"method": method, "host": head.host, "target": target}

    def whose(self, head: RequestHead, connection: IConnection) -> tuple[str, str]:
        """Return the address of whose request it is, and the key under which that is counted."""
        visitor = connection.visitor
        if not visitor.is_trusted:
            return visitor.host, visitor.prefix
        address = origin(head, visitor.host)
        return address, text_prefix(format_host_port(address, 0))

    # Time

    def tick(self) -> None:
        """Check time-outs. Call this about once a second."""
        now = self.seconds()
        do_all([target.upstreams.tick for target in self.targets()])
        do_all([partial(connection.tick, now) for connection in list(self.connections)])

    async def settle(self, clock: Any) -> None:
        """Close each connection behind its next answer, and give busy ones a moment to get there: whoever is told so
        in an answer asks nothing more, and one that is closed between two requests may lose the second."""
        self.is_stopping = True
        until = clock.seconds() + SETTLE
        while self.connections and clock.seconds() < until:
            await deferLater(clock, SETTLE / 20)

    def stop(self) -> None:
        """Close connections without a request now, new ones after a moment, and the others behind their answers."""
        self.is_stopping = True
        for connection in list(self.connections):
            connection.stop()
        for target in self.targets():
            target.upstreams.close()


def _encoded(changes: Any) -> list[tuple[bytes, bytes | None]]:
    return [(name.encode("latin-1"), None if value is None else value.encode("latin-1")) for name, value in changes]
