"""Work that is done again and again, and that no exception ends.

Twisted's ``TimerService`` ends for good at the first exception. A server whose guard has ended in this way looks well,
and lets in clients whose certificates are revoked.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rtunnel import delayed_calls

#: How many kinds of failures are logged; a kind is an exception, and the line of code that raised it.
MAX_KINDS = 20
#: The longest text of an exception in the log, in characters.
MAX_TEXT = 200

_PACKAGE = Path(__file__).parent.parent


def do_all(work: Iterable[Callable[[], object]]) -> None:
    """Make all these calls, even if some of them raise.

    :raises ExceptionGroup: some have raised.
    """
    errors = []
    for each in work:
        try:
            each()
        except Exception as error:
            errors.append(error)
    if errors:
        raise ExceptionGroup("", errors)


class Repeated:
    """Does some work every few seconds. If it raises, one line in the log says so, once for each kind of failure.

    :param what: names the work in the log.
    :ivar problem: why the last time has failed; empty if it has not.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, what: str, work: Callable[[], object]) -> None:
        self.problem = ""
        self._clock = clock
        self._what = what
        self._work = work
        self._every = 0.0
        self._call: IDelayedCall | None = None
        self._kinds: set[str] = set()
        self._is_said = False

    @property
    def is_running(self) -> bool:
        """Whether it has begun, and not ended."""
        return self._call is not None

    def start(self, every: float) -> None:
        """Begin; the first time is *every* seconds from now."""
        self._every = every
        self._call = self._clock.callLater(every, self._next)

    def stop(self) -> None:
        """End. May be called again, and within the work."""
        call, self._call = self._call, None
        delayed_calls.cancel(call)

    def _next(self) -> None:
        self._call = self._clock.callLater(self._every, self._next)
        self.run()

    def run(self) -> None:
        """Do the work now."""
        try:
            self._work()
        except Exception as error:
            self.problem = ""
            for each in _flat(error):
                self._note(each)
        else:
            if self._is_said:
                self.log.info("{what} works again", what=self._what)
            self.problem, self._is_said = "", False

    def _note(self, error: Exception) -> None:
        place = _place_of(error)
        kind = f"{type(error).__name__} at {place}"
        text = repr(error)[:MAX_TEXT]
        self.problem = self.problem or text
        if kind not in self._kinds and len(self._kinds) < MAX_KINDS:
            self._kinds.add(kind)
            self._is_said = True
            self.log.error(
                "{what} has failed and goes on; please report this: {error} at {place}",
                what=self._what,
                error=text,
                place=place,
            )


def _flat(error: Exception) -> Iterable[Exception]:
    if not isinstance(error, ExceptionGroup):
        return [error]
    return [inner for each in error.exceptions for inner in _flat(each)]


def _place_of(error: Exception) -> str:
    """Return the line of ours that has raised an exception, or has called what did."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "an unknown place"


class PeriodicService(Service):
    """Does some work when it is started, and every few seconds from then on; see :class:`Repeated`.

    :param every: seconds.
    :ivar repeated: says whether it has failed.
    """

    def __init__(self, clock: IReactorTime, name: str, every: float, work: Callable[[], object]) -> None:
        self.setName(name)
        self.repeated = Repeated(clock, name, work)
        self._every = every

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self.repeated.start(self._every)
        self.repeated.run()

    def stopService(self) -> None:
        """End."""
        super().stopService()
        self.repeated.stop()
