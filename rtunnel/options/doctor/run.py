"""Run an examination in the reactor, from its first step to its last."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.doctor.steps import Examination
from rtunnel.errors import RtunnelError


@implementer(ILogObserver)
def _drop(_event: LogEvent) -> None:
    """Log nothing: each step says what there is to say."""


def complete(examination: Examination) -> None:
    """Run an examination.

    :raises RtunnelError: it could not be completed, which would be a bug; the message is one line.
    :raises KeyboardInterrupt: it was interrupted.
    """
    globalLogBeginner.beginLoggingTo([_drop], redirectStandardIO=False, discardBuffer=True)
    reactor = examination.reactor
    failures: list[Failure] = []
    over: list[bool] = []

    def ended(_result: object) -> None:
        over.append(True)
        # What was closed is to be gone.
        reactor.callLater(0.05, reactor.stop)

    def begin() -> None:
        running = Deferred.fromCoroutine(examination.examine())
        running.addErrback(failures.append)
        running.addBoth(ended)

    reactor.callWhenRunning(begin)
    reactor.run()
    if failures:
        raise RtunnelError(f"the examination cannot be completed: {failures[0].getErrorMessage()}; please report this")
    if not over:
        raise KeyboardInterrupt
