"""A stream to a local service that carries requests, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.reverse.carriers.link_protocol import LinkStream
from rtunnel.traffic.accounts import Account
from rtunnel.wire.web.heads import ResponseHead
from rtunnel.wire.web.parsers import END, RAW, ResponseParser

#: Bytes that may wait for a stream to be opened before the visitor has to.
MOST_EARLY = 64 * 1024


class IExchange(Protocol):
    """Who waits for the answer.

    :ivar visitor: whose request it is.
    """

    @property
    def visitor(self) -> Any: ...

    def answered(self, head: ResponseHead) -> None: ...
    def body(self, data: bytes) -> None: ...
    def ended(self) -> None:
        """Take note that the answer is complete. The upstream is somebody else's from now on."""

    def changed_protocol(self) -> None:
        """Take note that all bytes from now on are of another protocol."""

    def raw_ended(self) -> None:
        """Take note that the service sends no more of that protocol."""

    def failed(self, code: str, why: str) -> None:
        """Take note that there will be no answer, or no more of it."""

    def flush(self) -> None:
        """Send on what was received, as no more is there for now."""

    def upstream_is_full(self, is_full: bool) -> None: ...


@implementer(IStreamUser)
class Upstream:
    """One stream to a service, as its carrier sees it: in the place of a :class:`~rtunnel.relay.socket_end.SocketEnd`.

    :param on_free: called with this object when it may carry another request.
    :param on_lost: called once with this object when the stream is over, or could not be made.
    :param soon: calls what it gets, now or soon; see :meth:`~rtunnel.relay.poller.Poller.soon`.
    :ivar requests: how many requests it has carried.
    :ivar rests_since: when its last answer was complete.
    :ivar touched: set whenever bytes pass; the search for idle connections clears it.
    :ivar member: of several services, the one that it leads to.
    :ivar account: of the tunnel that it leads to.
    :ivar bytes_received: see :class:`~rtunnel.traffic.accounts.IRelay`, also for *bytes_sent* and *reason*. What it
        sends to the service counts as received.
    """

    reason = ""

    def __init__(
        self,
        on_free: Callable[[Upstream], None],
        on_lost: Callable[[Upstream], None],
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self.touched = True
        self.bytes_received = self.bytes_sent = 0
        self.member: Any = None
        self.account: Account | None = None
        self.requests = 0
        self.rests_since = 0.0
        self._on_free = on_free
        self._on_lost: Callable[[Upstream], None] | None = on_lost
        self._soon = soon
        self._out: list[bytes] = []
        self._also: list[Callable[[], None]] = []
        self._stream: IStream | None = None
        self._early: list[bytes] = []
        self._early_size = 0
        self._is_ready = False
        self._exchange: IExchange | None = None
        self._parser = ResponseParser()
        self._keeps_alive = False
        self._is_asked = self._is_raw = self._is_finished = False
        # The answer has begun, so the request must not be sent again.
        self.has_answered = False
        #: Whether it may carry another request.
        self.is_reusable = False
        self._undelivered = 0
        self._is_held = self._is_full = False
        #: When this end has said that it sends no more requests; None: it has not.
        self.left_at: float | None = None

    # For the exchange

    @property
    def is_over(self) -> bool:
        """Whether it can carry nothing any more."""
        return self._on_lost is None

    @property
    def is_full(self) -> bool:
        """Whether the visitor has to wait before it takes more of the request's body."""
        return self._is_full or (not self._is_ready and self._early_size > MOST_EARLY)

    @property
    def is_on_link(self) -> bool:
        """Whether its stream has not got a data connection."""
        return isinstance(self._stream, LinkStream)

    def begin(self, exchange: IExchange, head: bytes, *, is_head: bool, is_all: bool = False) -> None:
        """Send a request.

        :param head: its head.
        :param is_head: its method is HEAD.
        :param is_all: nothing comes behind the head, so :meth:`asked` is not called.
        """
        self.requests += 1
        self._exchange = exchange
        self._parser.expect(is_head=is_head)
        self._is_asked = is_all
        self.has_answered = self._keeps_alive = False
        if self._is_full:
            # What waits is of the request before.
            exchange.upstream_is_full(True)
        self.write(head)

    def write(self, data: bytes) -> None:
        """Send bytes of the request's body, or of another protocol."""
        self.touched = True
        self.bytes_received += len(data)
        if self._is_ready and self._stream is not None:
            self._out.append(data)
            if len(self._out) == 1:
                self._soon(self._flush)
        elif not self.is_over:
            self._early.append(data)
            self._early_size += len(data)
            if self._early_size > MOST_EARLY and self._exchange is not None:
                self._exchange.upstream_is_full(True)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._stream is not None:
            self._stream.write(out[0] if len(out) == 1 else b"".join(out))

    def asked(self) -> None:
        """Take note that the request has been sent to its end."""
        self._is_asked = True

    def finish(self) -> None:
        """Take note that the visitor sends no more of another protocol."""
        self._flush()
        if self._stream is not None:
            self._stream.finish()

    def hold(self, is_held: bool) -> None:
        """Take no more bytes for now, or again."""
        self._is_held = is_held
        if not is_held:
            self._deliver()

    def leave(self, now: float) -> None:
        """Send no more requests. The stream is over when the service closes its connection too."""
        self.left_at = now
        self._exchange = None
        self._flush()
        stream = self._stream
        if stream is not None:
            stream.finish()
        if stream is None or self._is_finished:
            self._lost("", "")

    def part(self) -> None:
        """Take note that both directions of another protocol have ended. What was written still goes out."""
        self._flush()
        self._exchange = None
        self._lost("", "")

    def drop(self) -> None:
        """Give up: nobody waits for the answer any more."""
        self._exchange = None
        self._end(Code.CONNECTION_LOST, "the visitor is gone")

    def _end(self, code: str, message: str) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.reset(code, message)
        self._lost(code, message)

    def _lost(self, code: str, message: str) -> None:
        self._stream = None
        exchange, self._exchange = self._exchange, None
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(self)
        also, self._also = self._also, []
        for call in also:
            call()
        if exchange is not None:
            exchange.failed(code, message)

    # From the carrier, in the place of a SocketEnd

    def attach(self, stream: IStream, _first: bytes = b"") -> None:
        """Use *stream* from now on."""
        self._stream = stream

    def start(self) -> None:
        """Send what waits: the stream is open."""
        if self._stream is None or self._is_ready:
            return
        self._is_ready = True
        early, self._early = self._early, []
        if early:
            self._stream.write(b"".join(early))
        if self._early_size > MOST_EARLY:
            self._tell_full()

    @property
    def is_connected(self) -> bool:
        """See :class:`~rtunnel.relay.socket_end.SocketEnd`."""
        return not self.is_over

    def call_when_lost(self, call: Callable[[], None]) -> None:
        """See :class:`~rtunnel.relay.socket_end.SocketEnd`."""
        self._also.append(call)

    def abort(self) -> None:
        """Reset the stream, and fail the request that it carries."""
        self._end(Code.CONNECTION_LOST, "the connection was closed")

    cut = abort

    def pause(self) -> None:
        """See :class:`IStreamUser`."""
        self._is_full = True
        if self._exchange is not None:
            self._exchange.upstream_is_full(True)

    def resume(self) -> None:
        """See :class:`IStreamUser`. The carrier calls this too when the stream is open."""
        self._is_full = False
        self.start()
        self._tell_full()

    @property
    def _must_wait(self) -> bool:
        """Whether the exchange must send no more for now."""
        return self._is_full

    def _tell_full(self) -> None:
        if self._exchange is not None:
            self._exchange.upstream_is_full(self._must_wait)

    def buffered(self) -> int:
        """See :class:`IStreamUser`."""
        return self._undelivered

    def data_received(self, data: bytes) -> None:
        """See :class:`IStreamUser`."""
        self.touched = True
        self.bytes_sent += len(data)
        self._undelivered += len(data)
        exchange = self._exchange
        if exchange is None:
            if self.left_at is None:
                # Nothing was asked for.
                self._end(Code.PROTOCOL, "the service sends what nobody has asked for")
            self._deliver()
            return
        self._take(exchange, data)
        if self._exchange is exchange:
            # Else all went out with the end of the answer.
            exchange.flush()
        if self._undelivered and not self._is_held and self._stream is not None:
            count, self._undelivered = self._undelivered, 0
            self._stream.delivered(count)

    def _deliver(self) -> None:
        if self._undelivered and not self._is_held and self._stream is not None:
            count, self._undelivered = self._undelivered, 0
            self._stream.delivered(count)

    def _take(self, exchange: IExchange, data: bytes) -> None:
        events = self._parser.feed(data)
        is_whole = len(events) == 3 and events[2] is END and type(events[1]) is bytes
        if is_whole and type(head := events[0]) is ResponseHead:
            # A whole answer, as mostly.
            self.has_answered = True
            self._keeps_alive = head.keeps_alive
            exchange.answered(head)
            exchange.body(events[1])
            self._ended(exchange)
            return
        for event in events:
            if type(event) is bytes:
                exchange.body(event)
            elif type(event) is ResponseHead:
                self.has_answered = True
                self._keeps_alive = event.keeps_alive
                self._is_raw = event.status == 101
                exchange.answered(event)
                if (event.has_no_body or not event.length) and event.is_complete:
                    self._ended(exchange)
            elif event is END:
                self._ended(exchange)
            elif event is RAW:
                exchange.changed_protocol()
            else:
                self._exchange = None
                self._end(Code.PROTOCOL, event.why)
                exchange.failed(Code.PROTOCOL, event.why)
            if self._exchange is None:
                return

    def _ended(self, exchange: IExchange) -> None:
        self._exchange = None
        self._is_held = False
        self.is_reusable = self._keeps_alive and self._is_asked and self._parser.is_clean
        if not self._is_asked:
            # The service has not read the whole request.
            self._end(Code.CONNECTION_LOST, "the request is not wanted any more")
        else:
            # First, so that the next request on the visitor's connection finds it.
            self._on_free(self)
        exchange.ended()

    def finished(self) -> None:
        """See :class:`IStreamUser`: the service sends no more."""
        self._is_finished = True
        exchange = self._exchange
        if self.left_at is not None:
            self._lost("", "")
        elif self._is_raw and exchange is not None:
            exchange.raw_ended()
        elif exchange is not None and self._parser.finish():
            self._ended(exchange)
        else:
            self._end(Code.CONNECTION_LOST, "the service closed the connection")

    def closed(self) -> None:
        """See :class:`IStreamUser`."""
        self.finished()

    def was_reset(self, code: str, message: str) -> None:
        """See :class:`IStreamUser`."""
        self._lost(code, message)


class IOpener(Protocol):
    """What makes streams to a service."""

    def __call__(self, upstream: Upstream, visitor: Any) -> bool:
        """Give *upstream* a stream, now or soon. Return False if that cannot be."""
