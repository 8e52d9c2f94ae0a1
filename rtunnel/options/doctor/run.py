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
    :raises OSError: the report cannot be written.
    :raises SystemExit: its reader has closed the pipe.
    """
    globalLogBeginner.beginLoggingTo([_drop], redirectStandardIO=False, discardBuffer=True)
    reactor = examination.reactor
    failures: list[Failure] = []
    is_over = is_interrupted = False

    def ended(_result: object) -> None:
        nonlocal is_over
        is_over = True
        # What was closed is to be gone.
        if not is_interrupted:
            reactor.callLater(0.05, reactor.stop)

    def begin() -> None:
        running = Deferred.fromCoroutine(examination.examine())
        running.addErrback(failures.append)
        running.addBoth(ended)

    def stopping() -> None:
        nonlocal is_interrupted
        is_interrupted = not is_over
        if is_interrupted:
            examination.stop()

    reactor.addSystemEventTrigger("before", "shutdown", stopping)
    reactor.callWhenRunning(begin)
    reactor.run()
    if is_interrupted:
        raise KeyboardInterrupt
    if failures and failures[0].check(SystemExit, OSError):
        # Nobody reads what is printed.
        failures[0].raiseException()
    if failures:
        raise RtunnelError(f"the examination cannot be completed: {failures[0].getErrorMessage()}; please report this")
