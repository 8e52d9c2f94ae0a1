"""Health checks: a service that fails them is taken out of its group, and put back when it passes them again.

::

    HealthWatch --> every interval: connect; ask for a path --> so many failures in a row   --> not ready
                <-- visitors whom the service refuses       --> so many passed in a row     --> ready again

A service is ready until its first check, which is made as soon as its tunnel is published, and decides at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel import delayed_calls
from rtunnel.addresses import DialAddress
from rtunnel.reasons import reason_of
from rtunnel.relay.sockets import QuietFactory, format_host_port
from rtunnel.services.health_settings import HealthSettings
from rtunnel.services.watch import SOON, is_our_fault, try_service
from rtunnel.upkeep import AGENT
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.web.heads import Problem, ResponseHead
from rtunnel.wire.web.parsers import END, ResponseParser

#: Bytes of an answer that are read, with what is not final before it and the body behind it.
MOST_READ = 16 * 1024
#: How much shorter or longer than the interval a wait may be, so that many checks do not fall together.
JITTER = 0.1

# What TLS says to a client that does not speak it: an alert (RFC 8446, section 6).
_ALERT = b"\x15\x03"


class Unhealthy(Exception):
    """The service does not answer as it should; says why."""


class _Answer(Protocol):
    """One request, and its answer.

    :ivar status: that of the answer; 0: it has not come.
    :ivar over: fires when nothing more is wanted; fails with :class:`Unhealthy` if there was no status.
    """

    transport: Any

    def __init__(self, request: bytes) -> None:
        self.status = 0
        self.over: Deferred[None] = Deferred()
        self._request = request
        self._received = 0
        self._parser = ResponseParser()
        self._parser.expect(is_head=False)

    def connectionMade(self) -> None:
        """Ask."""
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        """Look for the status, and then for the end of the body, so that the service is not cut short."""
        is_tls = not self._received and data.startswith(_ALERT)
        self._received += len(data)
        for event in self._parser.feed(data):
            if isinstance(event, Problem):
                self._end("it speaks TLS, and no HTTP" if is_tls else "its answer is not HTTP")
            elif isinstance(event, ResponseHead) and event.is_final:
                self.status = event.status
                if event.is_complete or event.status == 101:
                    self._end()
            elif event is END:
                self._end()
        if self._received > MOST_READ:
            self._end(f"its answer has no status in the first {MOST_READ // 1024} KiB")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Take what has come for the whole answer."""
        self._end(f"it closed the connection {'in' if self._received else 'without'} its answer")

    def _end(self, problem: str = "") -> None:
        if self.over.called:
            return
        if self.status:
            self.over.callback(None)
        else:
            self.over.errback(Unhealthy(problem))


async def ask(endpoint: IStreamClientEndpoint, request: bytes) -> int:
    """Send a request, and return the status of the answer. If this is cancelled behind the status, that counts.

    :raises Exception: there is no connection, or no such answer.
    """
    answer: Any = await endpoint.connect(QuietFactory.forProtocol(partial(_Answer, request)))
    try:
        await answer.over
    except CancelledError:
        if not answer.status:
            raise
    finally:
        answer.transport.abortConnection()
    status: int = answer.status
    return status


def _request(settings: HealthSettings, address: DialAddress) -> bytes:
    host = settings.host
    if not host and address.host and address.port:
        # The zone of an IPv6 address means something only here (RFC 6874, section 3).
        host = format_host_port(address.host.partition("%")[0], address.port)
    fields = {"Host": host or "localhost", "User-Agent": AGENT, "Accept": "*/*", "Connection": "close"}
    lines = [f"GET {settings.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


class HealthWatch:
    """Checks one service. To a link it is what a :class:`~rtunnel.services.watch.ServiceWatch` is.

    :param address: where the service is.
    :param turns: bounds how many services of a process are tried at once.
    :param header: the PROXY header of a check.
    :ivar is_ready: whether visitors should be sent to it.
    :ivar problem: why it failed the last time.
    :ivar on_change: called when *is_ready* has changed.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: DialAddress,
        settings: HealthSettings,
        turns: DeferredSemaphore,
        header: bytes = b"",
    ) -> None:
        self.settings = settings
        self.is_ready = True
        self.problem = ""
        self.on_change: Callable[[], None] = _do_nothing
        self._reactor = reactor
        self._turns = turns
        self._endpoint = address.endpoint(reactor, settings.timeout)
        self._header = header
        self._request = header + _request(settings, address)
        # Whether the next check decides at once.
        self._is_first = True
        # Checks in a row, and visitors in a row.
        self._passed = self._failures = self._refused = 0
        self._seen = float("-inf")
        self._tell: Callable[[], None] | None = None
        self._told = False
        self._timer: IDelayedCall | None = None
        self._soon: IDelayedCall | None = None
        self._checking: Deferred[Any] | None = None

    @property
    def trouble(self) -> str | None:
        """Why visitors should not be sent to it; empty: they should; None: that is not known yet."""
        if not self._seen > float("-inf"):
            return None
        return "" if self.is_ready else self.problem

    def start(self, log: Logger, limiter: LogLimiter, what: str, meanwhile: str, /, **fields: Any) -> None:
        """Check the service, from now on; log the result once it is known, and again whenever it is taken out or back.

        :param limiter: for the changes.
        :param what: the format of the beginning of the first line, which ends with the subject: ``...; the service``.
        :param meanwhile: what becomes of visitors while the service fails, as in ``visitors get ... until ...``.
        :param fields: the fields of *what*, with *tunnel* and *local*.
        """
        self.stop()
        self._told = False
        self.speak_of(log, limiter, what, meanwhile, **fields)
        age = self._reactor.seconds() - self._seen
        if age < self.settings.interval:
            if self._tell is not None:
                self._tell()
            self._wait(age)
        else:
            self._is_first = True
            self._soon = self._reactor.callLater(SOON, log.info, what + " has not answered yet", **fields)
            self._check()

    def speak_of(self, log: Logger, limiter: LogLimiter, what: str, meanwhile: str, /, **fields: Any) -> None:
        """Use other words from now on; the parameters are those of :meth:`start`."""

        def tell() -> None:
            target, subject = (limiter, "{tunnel}: the service at {local}") if self._told else (log, what)
            again = " again" if self._told else ""
            self._told = True
            self._cancel(self._soon)
            self._say(target, subject, meanwhile, fields, again)

        self._tell = tell

    def say(self, log: Logger, what: str, meanwhile: str, /, **fields: Any) -> None:
        """Log what is known now in other words; the parameters are those of :meth:`start`."""
        if self.trouble is None:
            log.info(what + " has not answered yet", **fields)
        else:
            self._say(log, what, meanwhile, fields)

    def _say(
        self, target: Logger | LogLimiter, subject: str, meanwhile: str, fields: dict[str, Any], again: str = ""
    ) -> None:
        if self.is_ready:
            target.info(f"{subject} passes its health check{again}", **fields)
        else:
            text = f"{subject} fails its health check ({{problem}}): {meanwhile}"
            target.warn(text, problem=self.problem, **fields)

    def stop(self) -> None:
        """Check it no more. May be called again."""
        self._tell = None
        self._cancel(self._timer)
        self._cancel(self._soon)
        checking, self._checking = self._checking, None
        if checking is not None:
            checking.cancel()

    def _cancel(self, call: IDelayedCall | None) -> None:
        delayed_calls.cancel(call)

    # What has been seen

    def answered(self) -> None:
        """Note that the service accepted a visitor. Where a check asks for no more, that is one that passes."""
        self._refused = 0
        if not self.settings.path:
            self._passes()

    def failed(self, failure: Failure) -> bool:
        """Note that the service did not accept a visitor, which is as bad as a check that fails.

        :returns: whether the log says so already, because the service is out.
        """
        if is_our_fault(failure):
            return False
        self._refused += 1
        self._fails(reason_of(failure))
        return self._told and not self.is_ready

    def _passes(self) -> None:
        self._failures = self._refused = 0
        self._passed += 1
        self._decide(self.is_ready or self._is_first or self._passed >= self.settings.rise)

    def _fails(self, problem: str) -> None:
        self._passed = 0
        self.problem = problem
        is_out = self._is_first or self._failures + self._refused >= self.settings.fall
        self._decide(self.is_ready and not is_out)

    def _decide(self, is_ready: bool) -> None:
        self._seen = self._reactor.seconds()
        self._is_first = False
        before, self.is_ready = self.is_ready, is_ready
        if is_ready != before:
            self.on_change()
        if self._tell is not None and (is_ready != before or not self._told):
            self._tell()

    # Checks

    def _wait(self, passed: float = 0.0) -> None:
        """Set the timer for the next check.

        :param passed: seconds since the last one began.
        """
        self._cancel(self._timer)
        wait = self.settings.interval * random.uniform(1 - JITTER, 1 + JITTER) - passed
        self._timer = self._reactor.callLater(max(0.0, wait), self._check)

    def _check(self) -> None:
        self._checking = checking = self._turns.run(self._ask)
        checking.addBoth(self._checked, checking, self._reactor.seconds())
        checking.addErrback(lambda failure: self.log.failure("in the health check of a service", failure))

    def _ask(self) -> Deferred[int | None]:
        if self.settings.path:
            asking: Deferred[Any] = Deferred.fromCoroutine(ask(self._endpoint, self._request))
        else:
            asking = Deferred.fromCoroutine(try_service(self._endpoint, self._header))
        return asking.addTimeout(self.settings.timeout, self._reactor, self._too_late)

    async def check_once(self) -> str:
        """Check the service now, without any effect. Return what is wrong with its answer; empty: nothing.

        :raises Exception: there is no answer.
        """
        return self._wrong(await self._ask())

    def _wrong(self, status: object) -> str:
        is_wrong = isinstance(status, int) and not any(low <= status <= high for low, high in self.settings.statuses)
        return f"status {status}" if is_wrong else ""

    def _too_late(self, result: Any, timeout: float) -> Any:
        if isinstance(result, Failure):
            result.trap(CancelledError)
            raise ConnectTimeout(string=f"no answer within {timeout:g} s")
        return result

    def _checked(self, result: object, checking: Deferred[Any], began: float) -> None:
        if self._checking is not checking:
            return  # stopped
        self._checking = None
        try:
            if isinstance(result, Failure):
                if not is_our_fault(result):
                    self._failures += 1
                    self._fails(reason_of(result))
            elif problem := self._wrong(result):
                self._failures += 1
                self._fails(problem)
            else:
                self._passes()
        finally:
            if self._tell is not None:
                self._wait(self._reactor.seconds() - began)


def _do_nothing() -> None:
    pass
