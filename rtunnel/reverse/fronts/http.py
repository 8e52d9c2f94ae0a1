"""The HTTP port: each request goes to the client that publishes the host name and path that it asks for.

HttpFront +-- HttpConnection      one for each connection of a visitor
          +-- Balanced            one for each group of tunnels, often of one
               +-- Upstreams      one for each of them: streams over which requests go on, one after another
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall

from rtunnel.access.passwords import Passwords
from rtunnel.access.rules import Rules
from rtunnel.errors import Code
from rtunnel.relay.bare_port import Accepted, LandingFactory
from rtunnel.relay.memory_stream import memory_streams
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import format_address, format_host_port
from rtunnel.reverse.fronts.balanced import Balanced
from rtunnel.reverse.metering.meter import Budget
from rtunnel.reverse.metering.metering import Metering
from rtunnel.reverse.metering.upstream import MeteredUpstream
from rtunnel.reverse.public import Owner, Visitor
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.held import HeldRequest
from rtunnel.reverse.server.hosts import HostNames
from rtunnel.reverse.server.interfaces import Backend, ISession
from rtunnel.reverse.web.answers import Answer, redirect
from rtunnel.reverse.web.connection import HttpConnection
from rtunnel.reverse.web.forwarded import TrustedProxies, is_secure
from rtunnel.reverse.web.front_stream import FrontStream
from rtunnel.reverse.web.house import HttpHouse, HttpVisitor
from rtunnel.reverse.web.interfaces import IConnection, Target
from rtunnel.reverse.web.upstream import Upstream
from rtunnel.reverse.web.upstreams import Upstreams
from rtunnel.tls.messages import limit_messages
from rtunnel.traffic.accounts import Account
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.periodic import PeriodicService
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.web.heads import RequestHead

#: Seconds in which the other end of a link has to answer a PING.
NEWS_IN = 3.0
#: Seconds between two looks whether it has: the shortest, and the longest.
LOOK_AFTER, LOOK_EVERY = 0.01, 0.1


class IHttpServer(Protocol):
    """The server, as its HTTP port needs it."""

    reactor: Any
    poller: Any
    visitors: Visitors
    memory: Memory
    log_limiter: LogLimiter
    names: HostNames
    handshake_timeout: float
    metering: Metering

    def https_port(self) -> str: ...


class UpstreamVisitor(Visitor):
    """An :class:`Upstream` in the place of a visitor, as carriers see it."""

    __slots__ = ("_upstream",)

    def __init__(self, upstream: Upstream, visitor: HttpVisitor, owner: Owner, account: Account) -> None:
        self.address = None
        self.name = visitor.name
        self.prefix = visitor.prefix
        self.owner = owner
        self.account = account
        # Several visitors share it.
        self.who = ""
        self.first = b""
        self.home = None
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

    def limit(self, budget: Budget) -> None:
        """See :class:`Visitor`. Each request has a visitor of its own."""

    def give_back(self) -> None:
        """See :class:`Visitor`. Nothing was sent, so the request may go elsewhere."""
        self._upstream.was_reset(Code.UNKNOWN_TUNNEL, "its client is gone")

    def abort(self) -> None:
        """See :class:`Visitor`."""
        self._upstream.was_reset(Code.TIMEOUT, "no data connection came for it")


class _News:
    """What the other end of a link knew when a stream of it was lost: whether the client is still there.

    Data connections are faster than their link, which has the news. So a PING is sent; the news come before its answer.

    :param member: the tunnel that the stream led to.
    """

    def __init__(self, member: Backend, seconds: Callable[[], float]) -> None:
        self._member, self._seconds, self._began = member, seconds, seconds()
        # The answer to an earlier PING may have been sent before there were news.
        self._answer = member.session.link.liveness.pings + 1

    def due_in(self) -> float:
        """Return the seconds until this is to be asked again; 0: there are no news to wait for."""
        session, link, now = self._member.session, self._member.session.link, self._seconds()
        is_due = link.is_closed or (link.is_extended and link.liveness.answered < self._answer)
        if self._member.group is None or not is_due or now - self._began >= NEWS_IN:
            return 0.0
        link.ping(now)
        session.flush()
        return min(max(now - self._began, LOOK_AFTER), LOOK_EVERY)


@dataclass(frozen=True, slots=True)
class _Known:
    """Where the requests for a group go, and the rules that this was made for."""

    rules: Rules
    target: Target
    balanced: Balanced


class HttpFront(HttpHouse, LandingFactory):
    """Accepts HTTP connections. For a tunnel, each request is a visitor.

    :param trusted: the proxies whose word counts about whose request it is; others are for new connections.
    """

    are_visitors = True

    def __init__(self, server: IHttpServer, passwords: Passwords, trusted: TrustedProxies) -> None:
        accounts = server.visitors.accounts
        super().__init__(server.reactor.seconds, server.log_limiter, passwords, server.handshake_timeout, accounts)
        self._server = server
        self.trusted = trusted
        self._targets: dict[Group, _Known] = {}
        self._held: dict[IConnection, HeldRequest] = {}
        self._looks: dict[IConnection, IDelayedCall] = {}

    def service(self) -> PeriodicService:
        """Return the service that calls :meth:`tick`."""
        return PeriodicService(self._server.reactor, "HTTP visitors", 1.0, self.tick)

    # Connections

    def landed(self, accepted: Accepted, address: IAddress) -> None:
        """See :class:`LandingFactory`."""
        server = self._server
        front = FrontStream(server.poller, accepted.socket, self._ended, server.memory.add)
        visitor = HttpVisitor(format_address(accepted.peer or address), is_trusted=address in self.trusted)
        connection = front.user = HttpConnection(self, front, visitor)
        self.connections[connection] = None
        server.memory.join(connection)
        server.memory.add(front.held)
        server.visitors.add(front.local, visitor.prefix, self)
        front.start()

    def build(self, address: IAddress | None) -> SocketEnd:
        """See :class:`LandingFactory`."""
        return SocketEnd(self._made, self._server.visitors.discard)

    def _made(self, end: SocketEnd) -> None:
        limit_messages(end.transport)
        address = end.transport.getPeer()
        visitor = HttpVisitor(format_address(address), is_trusted=address in self.trusted)
        theirs, ours = memory_streams()
        theirs.user = end
        end.attach(theirs)
        connection = ours.user = HttpConnection(self, ours, visitor)
        self.connections[connection] = None
        self._server.visitors.add(end, visitor.prefix, self)

    def _ended(self, front: FrontStream) -> None:
        self._server.visitors.discard(front.local)

    def gone(self, connection: IConnection) -> None:
        """See :class:`IHttpHouse`."""
        super().gone(connection)
        if isinstance(connection, HttpConnection):
            self._server.memory.leave(connection)
            held = self._held.pop(connection, None)
            if held is not None:
                held.forget()
            look = self._looks.pop(connection, None)
            if look is not None:
                look.cancel()

    # Requests

    def find(self, head: RequestHead, connection: IConnection) -> Target | Answer | Deferred[Target | Answer]:
        """See :class:`HttpHouse`."""
        group = self._group_for(head, connection)
        if type(group) is Answer:
            return group
        assert isinstance(group, Group)
        known = self._targets.get(group)
        if known is not None and known.rules is group.rules and group.is_plain:
            return known.target
        if not group.is_held:
            return self._target(group)
        if group.limits.admits(self.whose(head, connection)[0]):
            return self._hold(group, head, connection)
        return self._known(group).target  # which refuses it

    def _group_for(self, head: RequestHead, connection: IConnection) -> Group | Answer:
        names = self._server.names
        group = names.at_once(head.host)
        if group is None:
            group = names.http(head.host, head.path)
        if group is None:
            if head.host and names.https(head.host) is not None:
                return redirect(head, head.host, self._server.https_port())
            what = head.host or "a request without a host name"
            return Answer(
                404, f"nothing is published here for {'this path of ' if names.knows(head.host) else ''}{what}"
            )
        if group.rules.redirect_https and not (connection.visitor.is_trusted and is_secure(head)):
            return redirect(head, head.host, self._server.https_port())
        return group

    def _hold(self, group: Group, head: RequestHead, connection: IConnection) -> Deferred[Target | Answer]:
        """Let a request wait for the client of *group*."""

        def decided(is_there: bool) -> Target | Answer:
            self._held.pop(connection, None)  # the visitor may be gone
            # The rules may be others now.
            found = self._group_for(head, connection) if is_there else group
            return found if isinstance(found, Answer) else self._target(found, is_there=is_there)

        held = self._held[connection] = group.ask(self._known(group).balanced.has_room)
        return held.decided.addCallback(decided)

    def until_back(self, target: Target, connection: IConnection, member: Any) -> Deferred[bool] | None:
        """See :class:`HttpHouse`."""

        def look() -> None:
            del self._looks[connection]
            if (wait := news.due_in()) > 0:
                self._looks[connection] = self._server.reactor.callLater(wait, look)
                return
            known = self._targets.get(group)
            if known is None or known.target is not target:
                back.callback(False)
                return
            if not group.is_held:
                # The client was lost, and is back already; or it was there all the time, and the service was not.
                back.callback(bool(group) and member.group is not group)
                return
            held = self._held[connection] = group.ask(known.balanced.has_room)
            held.decided.addCallback(decided).chainDeferred(back)

        def decided(is_there: bool) -> bool:
            self._held.pop(connection, None)  # the visitor may be gone
            return is_there and self._known(group).target is target

        if not isinstance(target.upstreams, Balanced):
            return None
        group = target.upstreams.group
        back: Deferred[bool] = Deferred()
        news = _News(member, self.seconds)
        self._looks[connection] = self._server.reactor.callLater(0.0, look)
        return back

    def _target(self, group: Group, *, is_there: bool = True) -> Target | Answer:
        if not (is_there and len(group)):
            return Answer(503, f"nobody serves {group.public} now")
        if group.is_used_up:
            return self._server.metering.answer(str(group.public))
        return self._known(group).target

    def _known(self, group: Group) -> _Known:
        known = self._targets.get(group)
        if known is None or known.rules is not group.rules:
            balanced = known.balanced if known is not None else Balanced(group, self._upstreams)
            what, refused = str(group.public), partial(self._refused, group)
            target = self.build_target(group.rules, group.limits, what, balanced, refused)
            known = self._targets[group] = _Known(group.rules, target, balanced)
        return known

    def _refused(self, group: Group, address: str, why: str) -> None:
        group.refused(address, format_host_port(address, 0), why)

    def _upstreams(self, backend: Backend) -> Upstreams:
        def open_stream(upstream: Upstream, visitor: HttpVisitor) -> bool:
            # The number may be that of another tunnel by now.
            if backend.public is None or not backend.session.open_visitor(
                backend.number, UpstreamVisitor(upstream, visitor, backend.owner, backend.account)
            ):
                return False
            upstream.start()
            return True

        def may_keep(upstream: Upstream) -> bool:
            # The limits may have changed; or the next request would go by the link although there are data connections.
            if (upstream.budget if isinstance(upstream, MeteredUpstream) else None) is not backend.budget:
                return False
            return not (upstream.is_on_link and backend.session.has_data_connections)

        def on_busy(count: int) -> None:
            if backend.group is not None:
                backend.group.set_load(backend, count)

        def build(*arguments: Any) -> Upstream:
            budget = backend.budget
            upstream = Upstream(*arguments) if budget is None else MeteredUpstream(budget, *arguments)
            upstream.account = backend.account
            return upstream

        server = self._server
        soon = server.poller.soon
        # Members share visitors in one way as long as there are any.
        wanted = on_busy if backend.group is not None and backend.group.needs_loads else None
        return Upstreams(open_stream, self.seconds, server.visitors.discard, may_keep, soon, wanted, build)

    def make_room(self, session: ISession) -> bool:
        """Close a stream of the client of *session* that waits for another request; return False if none does."""
        return any(known.balanced.make_room(session.holder) for known in self._targets.values())

    def targets(self) -> list[Target]:
        """See :class:`HttpHouse`."""
        for group, known in list(self._targets.items()):
            if not len(group) and not group.is_held:
                known.balanced.close()
                if not known.balanced:
                    del self._targets[group]
        return [known.target for known in self._targets.values()]
