"""Whether a local service answers, so that an operator learns it before a visitor does.

A watch connects now and then, sends nothing, and closes the connection. A service that expects a PROXY header gets one
that says that nobody is there, because nginx logs an error without it. Services log such connections, and some count
them: MySQL blocks a host after 100 without a login in between. So while the service answers, the watch tries ever less
often, and what visitors see counts too: a service that they reach needs no attempt.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.interfaces import IDelayedCall, ISSLTransport, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel import delayed_calls
from rtunnel.addresses import DialAddress
from rtunnel.reasons import reason_of
from rtunnel.relay.sockets import QuietFactory
from rtunnel.upkeep.backoff import Backoff
from rtunnel.upkeep.log_limiter import LogLimiter

#: Seconds from one attempt to the next while the service answers, at first and at most; and while it does not.
WHILE_IT_ANSWERS, LONGEST_REST = 900.0, 86400.0
SHORTEST_WAIT, LONGEST_WAIT = 5.0, 60.0
#: Seconds after which the log says that the first attempt takes its time.
SOON = 2.0
#: How many seconds old a failure may be to do without an attempt, when a link comes back. An answer may be as old as
#: :data:`WHILE_IT_ANSWERS`: MySQL, for one, locks out a host after 100 connections without a login.
FRESH = 60.0
#: Attempts at once, of all services of a process.
MOST_AT_ONCE = 16

#: Errors that are those of this process, or of a service that is merely busy.
_NO_OBSERVATION = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN))


def is_our_fault(failure: Failure) -> bool:
    """Return whether a failure to connect says nothing of the service, such as a lack of descriptors."""
    error = failure.value
    number = error.osError if isinstance(error, ConnectError) else getattr(error, "errno", None)
    return number in _NO_OBSERVATION


async def try_service(endpoint: IStreamClientEndpoint, header: bytes = b"") -> None:
    """Connect, and close the connection without a byte behind the *header*.

    :raises Exception: the service does not accept.
    """
    protocol = await endpoint.connect(QuietFactory.forProtocol(Protocol))
    transport: Any = protocol.transport  # type: ignore[attr-defined]
    try:
        if transport.getHost() == transport.getPeer() and hasattr(transport.getPeer(), "port"):
            # The system chose the very port that nobody listens on, and connected us to ourselves.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")
        transport.write(header)
    finally:
        if ISSLTransport.providedBy(transport):
            transport.abortConnection()  # or it would wait for the end of the handshake
        else:
            transport.loseConnection()


def may_try(wanted: bool) -> DeferredSemaphore | None:
    """Return what the watches of a process share: whether they may connect, and how many of them at once."""
    return DeferredSemaphore(MOST_AT_ONCE) if wanted else None


class ServiceWatch:
    """Watches one service.

    :param address: where the service is.
    :param timeout: seconds that it has to accept a connection.
    :param turns: see :func:`may_try`.
    :param header: the PROXY header of an attempt, for a service that logs an error without one.
    :ivar problem: why the service does not answer; empty: it answers; None: nobody has tried.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: DialAddress,
        timeout: float,
        turns: DeferredSemaphore | None,
        header: bytes = b"",
    ) -> None:
        self.problem: str | None = None
        self._reactor = reactor
        self._turns = turns
        self._header = header
        # Other endpoints may send bytes as soon as they are connected, as TLS does.
        is_bare = address.host is not None or address.description.startswith("unix:")
        self._endpoint = address.endpoint(reactor, timeout) if is_bare and turns is not None else None
        self._backoff = Backoff(SHORTEST_WAIT, LONGEST_WAIT)
        self._rest = Backoff(WHILE_IT_ANSWERS, LONGEST_REST)
        self._seen = float("-inf")
        self._tell: Callable[[], None] | None = None
        self._told = False
        self._timer: IDelayedCall | None = None
        self._trying: Deferred[Any] | None = None

    @property
    def trouble(self) -> str | None:
        """The same as :attr:`problem`, by the name that :class:`~rtunnel.services.health.HealthWatch` has for it."""
        return self.problem

    def start(
        self, log: Logger, limiter: LogLimiter, what: str, meanwhile: str = "visitors get a reset", /, **fields: Any
    ) -> None:
        """Watch the service: log whether it answers once that is known, maybe now, and again whenever it changes.

        If nothing is known after :data:`SOON` seconds, as with a firewall that drops or a name server that is silent,
        log that first.

        :param limiter: for the changes. When descriptors run out, there may be one with each visitor.
        :param what: the format of the beginning of the line, which ends with the subject: ``...; the service``.
        :param meanwhile: what becomes of visitors while the service does not answer.
        :param fields: the fields of *what*.
        """
        self.stop()
        self._told = False
        self.speak_of(log, limiter, what, meanwhile, **fields)
        fresh = FRESH if self.problem else WHILE_IT_ANSWERS
        if self._endpoint is None or self._reactor.seconds() - self._seen < fresh:
            if self._tell is not None:
                self._tell()
            self._wait()
        else:
            self._timer = self._reactor.callLater(SOON, log.info, what + " has not answered yet", **fields)
            self._try()

    def speak_of(self, log: Logger, limiter: LogLimiter, what: str, meanwhile: str, /, **fields: Any) -> None:
        """Use other words from now on; the parameters are those of :meth:`start`."""

        def tell() -> None:
            self._say(limiter if self._told else log, what, meanwhile, fields)
            self._told = True

        self._tell = tell

    def say(self, log: Logger, what: str, meanwhile: str, /, **fields: Any) -> None:
        """Log what is known now in other words; the parameters are those of :meth:`start`."""
        if self.problem is None and self._trying is not None:
            log.info(what + " has not answered yet", **fields)
        else:
            self._say(log, what, meanwhile, fields)

    def _say(self, target: Logger | LogLimiter, what: str, meanwhile: str, fields: dict[str, Any]) -> None:
        if self.problem is None:
            target.info(what + " has not been tried", **fields)
        elif self.problem:
            text = f"{what} does not answer ({{problem}}): {meanwhile} until it does"
            target.warn(text, problem=self.problem, **fields)
        else:
            target.info(what + " answers", **fields)

    def stop(self) -> None:
        """Watch it no more. May be called again."""
        self._tell = None
        self._cancel_timer()
        trying, self._trying = self._trying, None
        if trying is not None:
            trying.cancel()

    # What has been seen

    def answered(self) -> None:
        """Note that the service accepted a visitor."""
        self._rest.reset()
        self._observe("")

    def failed(self, failure: Failure) -> bool:
        """Note that the service did not accept a visitor, or an attempt.

        :returns: False if the fault is this process's own, such as a lack of descriptors, and nothing was noted.
        """
        if is_our_fault(failure):
            return False
        self._observe(reason_of(failure))
        return True

    def _observe(self, problem: str) -> None:
        self._seen = self._reactor.seconds()
        before, self.problem = self.problem, problem
        # That it accepts a visitor is no news where nobody has asked.
        is_news = bool(before) != bool(problem) or (before is None and self._endpoint is not None)
        if is_news:
            self._backoff.reset()
            self._rest.reset()
        if self._tell is not None and (is_news or not self._told):
            self._tell()
            self._cancel_timer()
            if self._trying is None:
                self._wait()

    # Attempts

    def _wait(self) -> None:
        """Set the timer for the next attempt."""
        self._cancel_timer()
        if self._endpoint is not None:
            wait = (self._backoff if self.problem else self._rest).next_wait()
            self._timer = self._reactor.callLater(wait, self._look)

    def _cancel_timer(self) -> None:
        delayed_calls.cancel(self._timer)

    def _look(self) -> None:
        if self.problem or self._reactor.seconds() - self._seen >= WHILE_IT_ANSWERS:
            self._try()
        else:
            # A visitor has reached it since.
            self._wait()

    def _try(self) -> None:
        assert self._endpoint is not None
        assert self._turns is not None
        endpoint, header = self._endpoint, self._header
        self._trying = trying = self._turns.run(lambda: Deferred.fromCoroutine(try_service(endpoint, header)))
        trying.addBoth(self._tried, trying)
        trying.addErrback(lambda failure: self.log.failure("in the watch of a service", failure))

    def _tried(self, result: object, trying: Deferred[Any]) -> None:
        if self._trying is not trying:
            return  # stopped
        try:
            if isinstance(result, Failure):
                self.failed(result)
            else:
                self._observe("")
            if self._tell is not None and not self._told:
                # It was not the service that failed.
                self._tell()
        finally:
            self._trying = None
            if self._tell is not None:
                self._wait()
