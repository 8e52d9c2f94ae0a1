"""A visitor's HTTP connection: its requests go on to services, one after another, and the answers come back.

front stream <-> HttpConnection <-> Exchange <-> Upstream <-> stream to a service
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.reverse.web.answers import Answer
from rtunnel.reverse.web.exchange import Exchange
from rtunnel.reverse.web.interfaces import SETTLE, IHttpHouse, Target
from rtunnel.wire.web.heads import Problem, RequestHead
from rtunnel.wire.web.parsers import END, RAW, RequestParser

#: Seconds for which a connection without a request is kept.
KEEP_ALIVE = 75.0
#: Seconds that a visitor has to take the last answer, and to close the connection.
LINGER = 5.0
#: The most bytes of a body that are read only to be dropped, so that the connection can be used again.
MOST_DROPPED = 256 * 1024


@implementer(IStreamUser)
class HttpConnection:
    """One connection of a visitor.

    :param stream: to the visitor; its user is this.
    :param visitor: who it is, for *house* and for carriers.
    :ivar front_is_full: the visitor does not take what he is sent.
    """

    def __init__(self, house: IHttpHouse, stream: IStream, visitor: Any) -> None:
        self.house = house
        self.visitor = visitor
        self.stream: IStream | None = stream
        self._parser = RequestParser()
        self._queue: deque[Any] = deque()
        self._undelivered = 0
        self._exchange: Exchange | None = None
        self._deciding: Deferred[Target | Answer] | None = None
        # The rest of a body that is dropped, before the next request.
        self._drops = False
        self._dropped = 0
        self._is_raw = self._has_ended = self._closes = False
        self.front_is_full = self._is_upstream_full = False
        self._pumping = False
        self._since = house.seconds()
        # Since the last tick, something has passed, and the time is to be taken.
        self._has_moved = self._is_used = self._is_in_head = False

    # From the visitor, see IStreamUser

    def data_received(self, data: bytes) -> None:
        """Take bytes of requests."""
        if self.stream is None:
            return
        self._undelivered += len(data)
        if self._closes:
            self._deliver()
            return
        if self._is_raw and self._exchange is not None:
            self._exchange.send_raw(data)
        else:
            self._has_moved = True
            events = self._parser.feed(data)
            is_plain = len(events) == 1 and type(events[0]) is RequestHead
            if is_plain and self.is_idle and not (self._drops or self.front_is_full):
                # As mostly, so at little cost.
                self._is_in_head = False
                self._begin(events[0])
                count = self._undelivered
                if count and self.stream is not None and not (self._queue or self._is_upstream_full or self._closes):
                    self._undelivered = 0
                    self.stream.delivered(count)
                    return
            elif events:
                self._is_in_head = False
                self._queue.extend(events)
                self._pump()
            elif not self._is_in_head and self.is_idle:
                # A head that comes in pieces has one time for all of them.
                self._is_in_head = True
                self._since = self.house.seconds()
        self._deliver()

    def _deliver(self) -> None:
        # A part of a head takes memory until it is whole.
        held = 0 if self._closes else self._parser.held
        count = self._undelivered - held
        # What waits in the queue is read no further, so that TCP holds the visitor back.
        if count > 0 and self.stream is not None and (self._closes or not (self._is_upstream_full or self._queue)):
            self._undelivered = held
            self.stream.delivered(count)

    def finished(self) -> None:
        """Take note that the visitor sends no more; he may still wait for an answer."""
        self._has_ended = True
        exchange = self._exchange
        if self._closes:
            self._over()
        elif self._is_raw and exchange is not None:
            exchange.raw_finished()
        else:
            self._look_whether_over()

    def _look_whether_over(self) -> None:
        """Close if the visitor has ended and has his answers; give up if he has ended in the middle of a request."""
        exchange = self._exchange
        if self._has_ended and self.is_idle:
            self._close()
        elif self._has_ended and exchange is not None and not (exchange.has_all or self._queue or self._is_raw):
            self._abort("the request is not complete")

    closed = finished

    def was_reset(self, code: str, message: str) -> None:
        """Give up: the visitor is gone."""
        self.stream = None
        self._over()

    def pause(self) -> None:
        """Let the service wait: the visitor does not take its answer."""
        self.front_is_full = True
        if self._exchange is not None:
            self._exchange.hold(True)

    def resume(self) -> None:
        """Let the service go on."""
        self.front_is_full = False
        if self._exchange is not None:
            self._exchange.hold(False)
        elif self._queue:
            self._pump()
            self._deliver()

    def buffered(self) -> int:
        """See :class:`IStreamUser`."""
        return self._undelivered

    # See rtunnel.upkeep.memory.IParty

    @property
    def payer(self) -> str:
        """Who pays for what it holds: the visitor's address."""
        return str(self.visitor.prefix)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """Yield what the connection holds."""
        yield getattr(self.stream, "held", 0), self

    def free(self, _holding: Any) -> None:
        """Reset the connection."""
        self.abort()

    def set_short(self, is_short: bool, is_full: bool) -> None:
        """Do nothing: its windows are small."""

    def measure_growth(self) -> int:
        """Return 0, as its windows do not grow."""
        return 0

    # Requests, in order

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._queue and self.stream is not None and not self._closes and self._step(self._queue[0]):
                if self._queue:  # the step may have closed the connection
                    self._queue.popleft()
        finally:
            self._pumping = False
        self._look_whether_over()

    def _step(self, event: Any) -> bool:
        """Take one event of the parser; return False if it has to wait."""
        exchange = self._exchange
        if type(event) is bytes:
            return self._take_body(event)
        if event is END:
            if exchange is not None and not exchange.has_all:
                exchange.end_request()
            elif self._deciding is not None:
                return False
            self._drops = False
            return True
        if isinstance(event, Problem) and exchange is not None and not exchange.has_all:
            self.house.refused(self, event.why)
            self._abort(event.why)
            return False
        if exchange is not None or self._deciding is not None or self._drops or self.front_is_full:
            # RAW waits for the answer too.
            return False
        if event is RAW:
            # The service has not changed to the other protocol.
            self._queue.popleft()
            rest = b"".join(self._queue)
            self._queue.clear()
            self._queue.append(RAW)  # it is taken out behind this
            self._queue.extend(self._parser.refused(rest))
            return True
        if isinstance(event, Problem):
            self.house.refused(self, event.why)
            self._reply(None, Answer(event.status, event.why, closes=True))
            return True
        self._begin(event)
        return True

    def _take_body(self, data: bytes) -> bool:
        exchange = self._exchange
        if exchange is not None and not exchange.has_all:
            exchange.send_body(data)
        elif self._deciding is not None:
            return False
        else:
            self._dropped += len(data)
            if self._dropped > MOST_DROPPED:
                self._close()
        return True

    def _begin(self, head: RequestHead) -> None:
        self._is_used = True
        self._dropped = 0
        self._drops = head.is_chunked or bool(head.length)
        decision = self.house.route(head, self)
        # To ask whether something is a Deferred takes longer.
        if isinstance(decision, Target):
            self._drops = False
            self._exchange = exchange = Exchange(self, head, decision)
            exchange.start()
        elif isinstance(decision, Answer):
            self._reply(head, decision)
        else:
            self._deciding = decision
            decision.addCallbacks(self._decided, self._undecided, callbackArgs=(head,), errbackArgs=(head,))

    def _decided(self, decision: Target | Answer, head: RequestHead) -> None:
        self._deciding = None
        if self.stream is None:
            if isinstance(decision, Target):
                self.house.done(decision, head, self)
            return
        self._go(head, decision)
        self._pump()
        self._deliver()

    def _undecided(self, failure: Failure, head: RequestHead) -> None:
        self._decided(Answer(500, "the request could not be routed"), head)

    def _go(self, head: RequestHead, decision: Target | Answer) -> None:
        if isinstance(decision, Answer):
            self._reply(head, decision)
            return
        self._drops = False
        self._exchange = exchange = Exchange(self, head, decision)
        exchange.start()

    def _reply(self, head: RequestHead | None, answer: Answer) -> None:
        """Answer in the place of a service."""
        keeps = head is not None and head.keeps_alive and not answer.closes and not self.house.is_stopping
        if head is not None and (head.is_chunked or (head.length or 0) > MOST_DROPPED):
            keeps = False
        is_head = head is not None and head.method == b"HEAD"
        is_old = head is not None and head.is_old
        assert self.stream is not None
        data = answer.encode(is_head=is_head, is_old=is_old, keeps_alive=keeps)
        self.stream.write(data)
        if head is not None:
            self.house.answered(head, self, answer.status, len(data))
        self._since = self.house.seconds()
        if not keeps:
            self._close()

    # From the exchange

    def write(self, data: bytes) -> None:
        """Send bytes to the visitor."""
        self._has_moved = True
        if self.stream is not None:
            self.stream.write(data)

    def touch(self) -> None:
        """Take note that something passes."""
        self._has_moved = True

    def is_raw(self) -> None:
        """Pass bytes on as they are from now on: both ends have changed to another protocol."""
        self._is_raw = True
        exchange = self._exchange
        assert exchange is not None
        while self._queue:
            event = self._queue.popleft()
            if isinstance(event, bytes):
                exchange.send_raw(event)
        if self._has_ended:
            exchange.raw_finished()
        self._deliver()

    def finish(self) -> None:
        """Send the visitor the end of another protocol's bytes."""
        if self.stream is not None:
            self.stream.finish()

    def upstream_is_full(self, is_full: bool) -> None:
        """Let the visitor wait, or go on: the service does not take his request."""
        self._is_upstream_full = is_full
        self._deliver()

    def exchange_over(self, exchange: Exchange, *, keeps_alive: bool) -> None:
        """Go on with the next request, or close."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        self._is_upstream_full = False
        self._has_moved = True
        self.house.request_over(exchange, self)
        # The rest of a body that the service did not want to read.
        self._drops = not exchange.has_all
        if not keeps_alive or self.house.is_stopping or (self._has_ended and not self._queue):
            self._close()
        elif self._queue:
            self._pump()
        if self._undelivered:
            self._deliver()

    def broken(self, why: str) -> None:
        """Reset the visitor's connection: an answer broke off, and he must not take the part for the whole."""
        self._abort(why, behind=True)

    # The end

    def _close(self) -> None:
        """Close behind what was sent."""
        if self._closes:
            return
        self._closes = True
        self._since = self.house.seconds()
        self._queue.clear()
        if self.stream is not None:
            self.stream.finish()
            self._deliver()
        if self._has_ended:
            self._over()

    def _abort(self, why: str, *, behind: bool = False) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.reset(Code.CONNECTION_LOST, why, behind=behind)
        self._over()

    def abort(self) -> None:
        """Reset the connection at once."""
        self._abort("the connection was closed")

    def _over(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._queue.clear()
        self._deciding = None
        if exchange is not None:
            exchange.drop()
            self.house.request_over(exchange, self)
        self.house.gone(self)

    @property
    def is_idle(self) -> bool:
        """Whether it only waits for another request."""
        return self._exchange is None and self._deciding is None and not self._queue and not self._closes

    def stop(self) -> None:
        """Close, now or behind the answer that is under way. A new one has a moment for its first request."""
        if self.is_idle and self._parser.is_at_rest and (self._is_used or not self.house.is_stopping):
            self._close()

    def tick(self, now: float) -> None:
        """Check time-outs. Call this about once a second."""
        if self._has_moved and not self._is_in_head:
            self._has_moved = False
            self._since = now
        waited = now - self._since
        if self._closes:
            if waited > LINGER:
                self._abort("the connection was closed", behind=True)
        elif not self.is_idle:
            pass
        elif self._is_in_head:
            if waited > self.house.head_timeout:
                self.house.refused(self, f"its request is not complete after {self.house.head_timeout:g} s")
                self._reply(None, Answer(408, "the request took too long", closes=True))
        elif waited > (KEEP_ALIVE if self._is_used else SETTLE if self.house.is_stopping else self.house.head_timeout):
            self._close()
