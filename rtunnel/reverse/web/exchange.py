"""One request and its answer."""

from __future__ import annotations

from typing import Any

from rtunnel.errors import Code
from rtunnel.relay.interfaces import RESET
from rtunnel.reverse.web.answers import Answer
from rtunnel.reverse.web.interfaces import IConnection, Target
from rtunnel.reverse.web.upstream import Upstream
from rtunnel.traffic.accounts import DONE, REFUSED, Account
from rtunnel.wire.web.heads import (
    LAST_CHUNK,
    RequestHead,
    ResponseHead,
    changed,
    write_chunk,
    write_request,
    write_response,
)

#: With these a client refuses a stream of which nothing has reached its service.
NOT_REACHED = frozenset(
    (Code.LOCAL_UNREACHABLE, Code.LOCAL_TIMEOUT, Code.UNKNOWN_TUNNEL, Code.LIMIT, Code.SHUTTING_DOWN)
)
#: A head with nothing about a body, as :func:`write_request` returns it: method, target, Host, fields, whose it is.
_PLAIN = b"%b %b HTTP/1.1\r\nHost: %b%b%b\r\n\r\n"
#: Methods of requests that may be sent again if there is no answer (RFC 9110, section 9.2.2).
REPEATABLE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
#: With these a stream ends if the link of its client is lost, or if it was to have a data connection and has none yet.
_MAY_BE_AWAY = (Code.CONNECTION_LOST, Code.TIMEOUT)


class Exchange:
    """A request under way.

    :ivar head: of the request.
    :ivar has_all: the whole request has been sent to the service.
    :ivar account: of the tunnel that it goes to; None: none has taken it yet.
    :ivar status: of the answer; 0: there is none.
    :ivar came: bytes that went to the service. *went* are those that went to the visitor.
    :ivar reason: why it is over; see :class:`~rtunnel.traffic.accounts.IRelay`.
    """

    __slots__ = (
        *("_connection", "_has_answered", "_has_sent_body", "_has_waited", "_is_chunked_out", "_is_raw"),
        *("_keeps_alive", "_may_repeat", "_member", "_out", "_raw_ended", "_raw_finished", "_refused", "_upstream"),
        *("_was_sent", "account", "began", "came", "has_all", "head", "reason", "status", "target", "went"),
    )

    def __init__(self, connection: IConnection, head: RequestHead, target: Target) -> None:
        self.target = target
        self.account: Account | None = None
        self.began = connection.house.seconds()
        self.status = self.came = self.went = 0
        self.reason = DONE
        self.has_all = has_all = not (head.is_chunked or head.length)
        self._connection = connection
        self.head = head
        self._upstream: Upstream | None = None
        # The tunnel that has had it last.
        self._member: Any = None
        self._out: list[bytes] = []
        self._is_chunked_out = self._has_answered = self._is_raw = False
        self._keeps_alive = head.keeps_alive
        # The request's body cannot be sent twice.
        self._may_repeat = has_all and head.method in REPEATABLE and not head.upgrade
        self._has_sent_body = self._was_sent = self._has_waited = False
        self._raw_ended = self._raw_finished = False
        # Streams whose service it has not reached.
        self._refused: tuple[Upstream, ...] = ()

    @property
    def visitor(self) -> Any:
        """See :class:`IExchange`."""
        return self._connection.visitor

    def start(self, otherwise: Answer | None = None) -> None:
        """Send the head on.

        :param otherwise: what the visitor gets if there is no stream for it.
        """
        connection, head = self._connection, self.head
        visitor = connection.visitor
        prefix = connection.house.whose(head, connection)[1] if visitor.is_trusted else visitor.prefix
        upstream = self.target.upstreams.find(
            visitor, prefix=prefix, may_repeat=self._may_repeat, refused=self._refused
        )
        if upstream is None:
            answer = otherwise or Answer(503, f"{self.target.what} cannot take another request now")
            (self._wait if self._was_sent and not self._has_waited else self._reply)(answer)
            return
        forwarded = connection.house.forwarded(head, connection)
        if head.length is None and not (head.is_chunked or head.upgrade or self.target.changes_of_request):
            # As mostly: what write_request returns, without a step between.
            data = _PLAIN % (head.method, head.target, head.authority, head.lines, forwarded)
        else:
            lines = b"\r\nHost: %b%b%b" % (head.authority, head.lines, forwarded)
            data = write_request(head, changed(lines, self.target.changes_of_request))
        self._upstream, self._member = upstream, upstream.member
        self.account = upstream.account
        self.came += len(data)
        self._was_sent = True
        if connection.front_is_full:
            upstream.hold(True)
        upstream.begin(self, data, is_head=head.method == b"HEAD", is_all=self.has_all)
        if self._refused:
            # The one before may have been full, so that a body waits.
            connection.upstream_is_full(upstream.is_full)

    # From the visitor

    def send_body(self, data: bytes) -> None:
        """Send a piece of the request's body on."""
        self._has_sent_body = True
        self.came += len(data)
        if self._upstream is not None:
            self._connection.touch()
            self._upstream.write(write_chunk(data) if self.head.is_chunked else data)

    def end_request(self) -> None:
        """Take note that the request is complete."""
        self.has_all = True
        self._has_sent_body |= self.head.is_chunked
        if self._upstream is not None:
            if self.head.is_chunked:
                self._upstream.write(LAST_CHUNK)
            self._upstream.asked()

    def send_raw(self, data: bytes) -> None:
        """Pass on bytes of another protocol."""
        self.came += len(data)
        if self._upstream is not None:
            self._upstream.write(data)

    def raw_finished(self) -> None:
        """Take note that the visitor sends no more of another protocol."""
        self._raw_finished = True
        if self._upstream is not None:
            self._upstream.finish()
        self._look_whether_over()

    def hold(self, is_held: bool) -> None:
        """Take no more of the answer for now, or again."""
        if self._upstream is not None:
            self._upstream.hold(is_held)

    def drop(self) -> None:
        """Give up: the visitor is gone."""
        self.reason = RESET if self.reason == DONE else self.reason
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.drop()

    # From the service, see IExchange

    def answered(self, head: ResponseHead) -> None:
        """Send the head of an answer on."""
        request = self.head
        status = head.status
        if status < 200 and status != 101:
            if not request.is_old:
                self._out.append(write_response(head, head.lines, is_old=False, keeps_alive=True))
            return
        if status == 101 and not request.upgrade:
            self._break_off()
            return
        self._has_answered = True
        self.status = status
        is_sized = status == 101 or head.has_no_body or (head.length is not None and not head.is_chunked)
        self._is_chunked_out = not is_sized and not request.is_old
        if self._connection.house.is_stopping or (request.is_old and not is_sized):
            self._keeps_alive = False
        if not self.has_all:
            # The service answers before it has read the whole request; it will hardly read the rest.
            self._keeps_alive = False
        lines = head.lines
        if self.target.changes_of_response:
            lines = changed(lines, self.target.changes_of_response)
        self._out.append(write_response(head, lines, is_old=request.is_old, keeps_alive=self._keeps_alive))

    def body(self, data: bytes) -> None:
        """Send a piece of an answer's body, or of another protocol, on."""
        self._out.append(write_chunk(data) if self._is_chunked_out else data)

    def changed_protocol(self) -> None:
        """Pass on bytes as they are from now on."""
        if self._upstream is not None:
            self._is_raw = True
            self.flush()
            self._connection.is_raw()

    def raw_ended(self) -> None:
        """Take note that the service sends no more of another protocol."""
        self._raw_ended = True
        self.flush()
        self._connection.finish()
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        if self._raw_ended and self._raw_finished:
            upstream, self._upstream = self._upstream, None
            if upstream is not None:
                upstream.part()
            self._connection.exchange_over(self, keeps_alive=False)

    def ended(self) -> None:
        """Take note that the answer is complete."""
        self._upstream = None
        if self._is_chunked_out:
            self._out.append(LAST_CHUNK)
        self.flush()
        self._connection.exchange_over(self, keeps_alive=self._keeps_alive)

    def flush(self) -> None:
        """Send what waits to the visitor, in one write."""
        if self._out:
            out, self._out = self._out, []
            data = out[0] if len(out) == 1 else b"".join(out)
            self.went += len(data)
            self._connection.write(data)

    def upstream_is_full(self, is_full: bool) -> None:
        """Let the visitor wait, or go on."""
        self._connection.upstream_is_full(is_full)

    def failed(self, code: str, why: str) -> None:
        """Answer with an error, send the request again, or reset the visitor's connection if an answer has begun."""
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        if self._has_answered:
            self.reason = code
            self.flush()
            self._connection.broken(why)
        elif upstream.requests > 1 and not upstream.has_answered and self._may_repeat:
            # The service has closed a connection that it had kept; the request has hardly reached it.
            self.start()
        elif code in NOT_REACHED and upstream.requests == 1 and not (upstream.has_answered or self._has_sent_body):
            self._refused = *self._refused, upstream
            self.start(self._error(code, why))
        elif code in _MAY_BE_AWAY and self._may_repeat and not self._has_waited:
            self._wait(self._error(code, why))
        else:
            self._reply(self._error(code, why))

    def _wait(self, otherwise: Answer) -> None:
        """Send the request again once the client is back, if that was lost; else answer with *otherwise*."""

        def decided(is_back: bool) -> None:
            if is_back:
                self.start()
            else:
                self._reply(otherwise)

        self._has_waited = True
        waiting = self._connection.house.until_back(self.target, self._connection, self._member)
        if waiting is None:
            self._reply(otherwise)
        else:
            waiting.addCallback(decided)

    def _error(self, code: str, why: str) -> Answer:
        what = self.target.what
        if code == Code.LOCAL_TIMEOUT:
            return Answer(504, f"the service of {what} does not answer in time")
        if code == Code.LOCAL_UNREACHABLE:
            return Answer(502, f"the service of {what} cannot be reached")
        if code in (Code.LIMIT, Code.TIMEOUT, Code.SHUTTING_DOWN, Code.UNKNOWN_TUNNEL):
            return Answer(503, f"{what} cannot take another request now")
        if code == Code.PROTOCOL:
            return Answer(502, f"the service of {what} answers with something else than HTTP")
        return Answer(502, f"the connection to the service of {what} was lost before there was an answer")

    def _reply(self, answer: Answer) -> None:
        head = self.head
        self.flush()
        self.status, self.reason = answer.status, REFUSED
        keeps_alive = self._keeps_alive and self.has_all and not self._connection.house.is_stopping
        data = answer.encode(is_head=head.method == b"HEAD", is_old=head.is_old, keeps_alive=keeps_alive)
        self.went += len(data)
        self._connection.write(data)
        self._connection.exchange_over(self, keeps_alive=keeps_alive)

    def _break_off(self) -> None:
        """Give the service up: it changes to a protocol that nobody has asked for."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.drop()
        self._reply(Answer(502, f"the service of {self.target.what} answers with something else than HTTP"))
