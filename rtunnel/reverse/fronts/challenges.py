"""A CA that checks the host name of a group by TLS-ALPN-01 (RFC 8737): which member has the order is found out.

    SocketEnd <-> MemoryStream <-> Search <-> Asked, for one member after the other <-> IStream of a carrier

Who has none refuses the handshake by an alert, or resets the stream. Then the next member gets the same hello. The
first other answer is the visitor's, and so is that of the last member.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.relay.memory_stream import memory_streams
from rtunnel.reverse.metering.meter import Budget
from rtunnel.reverse.public import Owner, Visitor
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.web.exchange import NOT_REACHED
from rtunnel.tls.policy import ACME
from rtunnel.traffic.accounts import DONE
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.web.client_hello import ALERT, INTERNAL_ERROR, ClientHello, fatal_alert

#: Bytes that may pass each way: such a connection is for a handshake, and nothing comes behind it.
MOST = 64 * 1024


def is_challenge(hello: ClientHello, group: Group) -> bool:
    """Return whether it has to be found out which member of *group* a visitor is for."""
    return hello.alpn == (ACME,) and len(group) > 1


@implementer(IStreamUser)
class Asked:
    """One member's stream, as its carrier sees it: in the place of a :class:`~rtunnel.relay.socket_end.SocketEnd`.

    :ivar owner: what it is counted for.
    :ivar stream: to the member; None until there is one, and when it is over.
    :ivar bytes_received: see :class:`~rtunnel.traffic.accounts.IRelay`, also for *bytes_sent*, *reason* and *touched*.
    """

    def __init__(self, search: Search, owner: Owner | None) -> None:
        self.owner = owner
        self.stream: IStream | None = None
        self.touched = True
        self.bytes_received = self.bytes_sent = 0
        self.reason = ""
        self._search: Search | None = search
        self._also: list[Callable[[], None]] = []

    @property
    def is_connected(self) -> bool:
        """See :class:`~rtunnel.relay.socket_end.SocketEnd`."""
        return self._search is not None

    def call_when_lost(self, call: Callable[[], None]) -> None:
        """See :class:`~rtunnel.relay.socket_end.SocketEnd`."""
        self._also.append(call)

    def attach(self, stream: IStream, first: bytes = b"") -> None:
        """Use *stream* from now on."""
        self.stream = stream
        if first:
            self.write(first)

    def write(self, data: bytes) -> None:
        """Send what the visitor has sent."""
        self.touched = True
        self.bytes_received += len(data)
        if self.stream is not None:
            self.stream.write(data)

    def over(self, reason: str) -> None:
        """Forget the stream."""
        self.reason = reason
        search, self._search, self.stream = self._search, None, None
        also, self._also = self._also, []
        if search is not None:
            search.discard(self)
        for call in also:
            call()

    def leave(self, code: str, message: str) -> None:
        """Reset the stream: it is of no more use."""
        stream = self.stream
        self.over(code)
        if stream is not None:
            stream.reset(code, message)

    def abort(self) -> None:
        """Reset the stream and the visitor."""
        search = self._search
        self.leave(Code.CONNECTION_LOST, "the connection was closed")
        if search is not None:
            search.end(Code.CONNECTION_LOST, "the connection was closed")

    cut = abort

    # From the carrier

    def data_received(self, data: bytes) -> None:
        """See :class:`IStreamUser`."""
        self.touched = True
        self.bytes_sent += len(data)
        stream = self.stream
        if self._search is not None:
            self._search.answered(self, data)
        if stream is not None:
            stream.delivered(len(data))

    def finished(self) -> None:
        """See :class:`IStreamUser`."""
        if self._search is not None:
            self._search.finished_by(self)

    def closed(self) -> None:
        """See :class:`IStreamUser`."""
        self.finished()
        self.over(self.reason or DONE)

    def was_reset(self, code: str, message: str) -> None:
        """See :class:`IStreamUser`."""
        search = self._search
        self.over(code)
        if search is not None:
            search.reset_by(self, code, message)

    def pause(self) -> None:
        """See :class:`IStreamUser`. What waits is bounded by :data:`MOST`."""

    resume = pause

    def buffered(self) -> int:
        """See :class:`IStreamUser`."""
        return 0


class CaVisitor(Visitor):
    """The same visitor for each member, who gets a stream of its own."""

    __slots__ = ("_search",)

    def __init__(self, search: Search, visitor: Visitor) -> None:
        super().__init__(visitor.address, search.end_of_visitor, search.discard, visitor.first)
        self._search = search

    def take_socket(self) -> None:
        """See :class:`Visitor`. Nobody may take the socket.

        :raises ValueError: the visitor is gone.
        """
        if self._search.is_over:
            raise ValueError("the visitor is gone")

    def socket_end(self) -> Any:
        """See :class:`Visitor`."""
        if self.meter is not None:
            self.meter.up.passed(len(self.first))
        return self._search.ask(self.owner)

    def wait(self) -> None:
        """See :class:`Visitor`. What is to be sent waits by itself."""

    def limit(self, budget: Budget) -> None:
        """See :class:`Visitor`. What passes is charged, and there is too little of it to be slowed down."""
        if self.meter is not None:
            self.meter.close()
        self.meter = budget.meter()

    def abort(self) -> None:
        """See :class:`Visitor`."""
        self._search.end(Code.TIMEOUT, "nobody takes it")


@implementer(IStreamUser)
class Search:
    """The search for the member that one visitor is for.

    :param visitor: his hello is in ``first``.
    :param owner: what his connection is counted for meanwhile.
    :raises OSError: the visitor is lost; see :meth:`Visitor.socket_end`.
    """

    def __init__(self, group: Group, visitor: Visitor, visitors: Visitors, owner: object) -> None:
        self.end_of_visitor = end = visitor.socket_end()
        self.is_over = False
        self._group = group
        self._visitors = visitors
        self._asked: Asked | None = None
        self._tried: set[Owner | None] = set()
        # A member has the visitor, who cannot be asked to begin again.
        self._is_found = self._visitor_ended = self._member_ended = False
        self._passed = 0
        visitors.add(end, visitor.prefix, owner)
        near, self._stream = memory_streams(2 * MOST)
        near.user, self._stream.user = end, self
        self._visitor = CaVisitor(self, visitor)
        end.attach(near)

    def begin(self) -> None:
        """Ask the first member."""
        if not self._group.take(self._visitor):
            self._nobody(fatal_alert(INTERNAL_ERROR))

    def ask(self, owner: Owner | None) -> Asked:
        """Return the visitor's end of a new stream."""
        self._asked = asked = Asked(self, owner)
        return asked

    def discard(self, asked: Any) -> None:
        """Count a member's stream no more."""
        self._visitors.discard(asked)

    def _ask_next(self, asked: Asked) -> bool:
        """Ask a member that was not asked before; return False if there is none."""
        visitor = self._visitor
        self._tried.add(asked.owner)
        for backend in self._group.candidates(visitor.prefix):
            if backend.owner not in self._tried:
                visitor.owner, visitor.account = backend.owner, backend.account
                if backend.session.open_visitor(backend.number, visitor):
                    return True
        return False

    def _nobody(self, answer: bytes) -> None:
        self._pass(answer)
        self._stream.finish()
        self._member_ended = True

    def _pass(self, data: bytes) -> None:
        self._is_found = True
        if self._visitor.meter is not None:
            self._visitor.meter.down.passed(len(data))
        self._stream.write(data)

    # From members

    def answered(self, asked: Asked, data: bytes) -> None:
        """Take what a member has sent."""
        if asked is not self._asked or self.is_over:
            return
        if self._is_found or data[0] != ALERT or not self._ask_next(asked):
            self._pass(data)
            if asked.bytes_sent > MOST:
                self.end(Code.LIMIT, "too much for a challenge")
        else:
            asked.leave(Code.CONNECTION_LOST, "another member is asked")

    def finished_by(self, asked: Asked) -> None:
        """Take note that a member sends no more."""
        if asked is self._asked and not self._member_ended:
            self._is_found = self._member_ended = True
            self._stream.finish()
            self._look_for_end()

    def reset_by(self, asked: Asked, code: str, message: str) -> None:
        """Take note that a member's stream is over."""
        if asked is not self._asked or self.is_over:
            return
        if self._is_found or code not in NOT_REACHED or not self._ask_next(asked):
            self.end(code, message)

    def _look_for_end(self) -> None:
        if self._visitor_ended and self._member_ended:
            self._over()

    def _over(self) -> None:
        self.is_over = True
        if self._asked is not None:
            self._asked.over(DONE)
        if self._visitor.meter is not None:
            self._visitor.meter.close()

    def end(self, code: str, message: str) -> None:
        """Turn the visitor away."""
        if not self.is_over:
            self.is_over = True
            if self._asked is not None:
                self._asked.leave(code, message)
            self._over()
            self._stream.reset(code, message, behind=True)

    # From the visitor, see IStreamUser

    def data_received(self, data: bytes) -> None:
        """Send on what the visitor has sent, and keep it for other members."""
        visitor = self._visitor
        self._stream.delivered(len(data))
        self._passed += len(data)
        if self._passed > MOST:
            self.end(Code.LIMIT, "too much for a challenge")
            return
        if visitor.meter is not None:
            visitor.meter.up.passed(len(data))
        if not self._is_found:
            visitor.first += data
        if self._asked is not None:
            self._asked.write(data)

    def finished(self) -> None:
        """The visitor sends no more, so this is the last member that is asked."""
        self._is_found = self._visitor_ended = True
        if self._asked is not None and self._asked.stream is not None:
            self._asked.stream.finish()
        self._look_for_end()

    def closed(self) -> None:
        """The visitor is gone."""
        if not self.is_over:
            self.end(Code.CONNECTION_LOST, "the visitor is gone")

    def was_reset(self, code: str, message: str) -> None:
        """The visitor is gone."""
        self.closed()

    def pause(self) -> None:
        """See :class:`IStreamUser`. What waits is bounded by :data:`MOST`."""

    resume = pause

    def buffered(self) -> int:
        """See :class:`IStreamUser`."""
        return 0


def search(group: Group, visitor: Visitor, visitors: Visitors, owner: object) -> None:
    """Take a CA to the member of *group* that has an order. The parameters are those of :class:`Search`."""
    with suppress(OSError):  # the visitor is gone
        Search(group, visitor, visitors, owner).begin()
