"""Fail a test that leaves something behind: a logged error, a delayed call, an open port or connection.

Trial does this for its own test cases, but pytest-twisted does not. It matters here: an exception in a callback of the
reactor shows only in the log, and a timer or socket that a service forgets is a leak in a server that runs for months.

A test that provokes an error on purpose uses ``flush_logged_errors`` and names the errors that it expects. The log of a
test that fails is shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.base import DelayedCall
from twisted.internet.task import deferLater
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEventAsClassicLogText,
    globalLogBeginner,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from tests import watched

TURNS = 20
"""After so many turns of the reactor, what is still there counts as left behind."""
SLOW_TURN = 0.01
"""The length of the later half of these turns, in seconds: the kernel may need a moment to tell the other end."""

_log_key = pytest.StashKey["TestLog"]()


class LoggedError(Exception):
    """Stands for an event of level error or critical that carries no exception."""


class Leftovers(AssertionError):
    """The test left something behind."""


@implementer(ILogObserver)
class TestLog:
    """The log of one test: its errors, which make the test fail, and its last events, which are shown then."""

    __test__ = False

    def __init__(self) -> None:
        self.events: deque[LogEvent] = deque(maxlen=1000)
        self.errors: list[Failure] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)
        failure = event.get("log_failure")
        if failure is not None:
            self.errors.append(failure)
        elif event.get("log_level") in (LogLevel.error, LogLevel.critical):
            self.errors.append(Failure(LoggedError(formatEventAsClassicLogText(event))))

    def flush_errors(self, *types: type[BaseException]) -> list[Failure]:
        """Remove and return the errors of these types, or all errors, as trial's ``flushLoggedErrors`` does."""
        flushed = [error for error in self.errors if not types or error.check(*types)]
        self.errors = [error for error in self.errors if error not in flushed]
        return flushed

    def text(self) -> str:
        return "".join(formatEventAsClassicLogText(event) or "" for event in self.events)


def pytest_configure() -> None:
    # Until logging begins, Twisted keeps every event for later observers, and prints the critical ones.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    log = item.stash.get(_log_key, None)
    if report.failed and log is not None and log.events:
        report.sections += [("twisted log", log.text()), ("sockets of this process", watched.sockets())]
    if report.when == "teardown" and log is not None:
        # An event keeps alive what it mentions: links, failures, frames.
        del item.stash[_log_key]
    return report


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest, twisted_greenlet: object) -> Iterator[TestLog]:
    """Check for leftovers. As the first fixture it looks last, when the test's own fixtures have cleaned up."""
    log = TestLog()
    request.node.stash[_log_key] = log
    globalLogPublisher.addObserver(log)
    before = _pending()
    try:
        yield log
        left = _wait_until_gone(before)
    finally:
        globalLogPublisher.removeObserver(log)
    lines = [f"left in the reactor: {thing!r}" for thing in left]
    lines += [f"closed, and left in the selector: {watched.forget(fd)}" for fd in watched.stale()]
    lines += [f"logged: {error.getTraceback() if error.frames else error.value!r}" for error in log.errors]
    for thing in left:
        _dispose(thing)
    if lines:
        raise Leftovers("\n".join(lines))


@pytest.fixture
def flush_logged_errors(_nothing_left_behind: TestLog) -> Callable[..., list[Failure]]:
    """Provide ``flush_logged_errors(*types)``: it returns the errors logged so far, which then do not fail the test.

    Events of level error without an exception have the type :class:`LoggedError`.
    """
    return _nothing_left_behind.flush_errors


def _reactor() -> Any:
    """Return the reactor, which pytest-twisted installs before a test runs."""
    from twisted.internet import reactor

    return reactor


def _pending() -> list[object]:
    """Return what the reactor watches and will call, without its own waker and signal pipes."""
    reactor = _reactor()
    internal: set[object] = getattr(reactor, "_internalReaders", set())
    seen: dict[int, object] = {}
    for thing in [*reactor.getReaders(), *reactor.getWriters(), *reactor.getDelayedCalls()]:
        if thing not in internal and (not isinstance(thing, DelayedCall) or thing.active()):
            seen[id(thing)] = thing
    return list(seen.values())


def _wait_until_gone(before: list[object]) -> list[object]:
    """Let the reactor finish what is ending. Return what stays and was not there before the test."""
    reactor = _reactor()
    # *before* keeps these objects alive, so that no new object can have the id of an old one.
    known = {id(thing) for thing in before}
    for turn in range(TURNS + 1):
        left = [thing for thing in _pending() if id(thing) not in known]
        if not left:
            break
        if turn < TURNS:
            pytest_twisted.blockon(deferLater(reactor, 0 if turn < TURNS // 2 else SLOW_TURN))
    return left


def _dispose(thing: object) -> None:
    """Remove what one test has left, so that it does not disturb the next one."""
    reactor = _reactor()
    if isinstance(thing, DelayedCall):
        if thing.active():
            thing.cancel()
        return
    reactor.removeReader(thing)
    reactor.removeWriter(thing)
    for name in ("abortConnection", "stopListening"):
        close = getattr(thing, name, None)
        if close is not None:
            close()
            break
