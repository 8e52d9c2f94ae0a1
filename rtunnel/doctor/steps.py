"""Steps: each is a check that ends in time, whatever the other end does, with one line about what was found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError as StepTimeout

from rtunnel.errors import RtunnelError, one_line
from rtunnel.reasons import reason_of

#: Seconds that a step may take.
PATIENCE = 5.0
#: Seconds that a step gives what it waits for, so that it can still say what it was.
WITHIN = 4.0


#: Up to so many steps of one name have a line each.
MOST_LINES = 10


class Status(StrEnum):
    """How a step ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    #: It was not tried, or its result cannot be told.
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """What came out of one step.

    :ivar name: what was looked at, such as ``port``.
    :ivar text: what was found, as one line.
    :ivar advice: what to change, as a sentence; empty: nothing.
    :ivar seconds: how long it took.
    """

    name: str
    status: Status
    text: str
    advice: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found, if it did not fail.

    :ivar status: :attr:`Status.OK`, or another one.
    """

    text: str
    advice: str = ""
    status: Status = Status.OK


class Trouble(RtunnelError):
    """A check failed.

    :ivar text: why, as one line.
    :ivar advice: what to change, as a sentence.
    """

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text, advice)
        self.text, self.advice = map(str, self.args)


#: A check: it returns what it found, or raises :class:`Trouble` or what a connection may raise.
Check = Callable[[], Coroutine[Any, Any, Found]]


async def within(reactor: Any, seconds: float, waiting: Deferred[Any]) -> Any:
    """Await a result for some seconds.

    :raises twisted.internet.defer.TimeoutError: it has not come.
    """
    waiting.addTimeout(seconds, reactor)
    return await waiting


class Examination:
    """The steps of one examination, in order.

    :param reactor: provides the time.
    :param tell: called with each step once it is over.
    :ivar steps: those that are over.
    """

    def __init__(self, reactor: Any, tell: Callable[[Step], None]) -> None:
        self.reactor = reactor
        self.steps: list[Step] = []
        self._tell = tell
        self._is_stopped = False

    @property
    def is_well(self) -> bool:
        """Whether no step failed."""
        return all(step.status is not Status.FAIL for step in self.steps)

    async def examine(self) -> None:
        """Run all steps."""
        raise NotImplementedError

    def stop(self) -> None:
        """Try nothing more, and tell nothing more."""
        self._is_stopped = True

    async def step(self, name: str, check: Check, *needs: str) -> bool:
        """Run a check.

        :param needs: steps without which it makes no sense. If one of them did not work, the check is not run.
        :returns: whether it worked.
        """
        return self.note(await self.outcome(name, check, *needs))

    def note(self, step: Step) -> bool:
        """Add a step that is over. Return whether it worked."""
        self.steps.append(step)
        if not self._is_stopped:
            self._tell(step)
        return step.status in (Status.OK, Status.WARN)

    def note_all(self, steps: Sequence[Step]) -> None:
        """Add steps of one name. Where there are many, those that say nothing of interest become one line together."""
        rest = list(steps)
        if len(rest) > MOST_LINES:
            for status, what in ((Status.OK, "are in order"), (Status.SKIPPED, "are not tried, or cannot be told")):
                alike = [step for step in rest if step.status is status]
                if len(alike) > 1:
                    rest = [step for step in rest if step.status is not status]
                    longest = max(step.seconds for step in alike)
                    self.note(Step(alike[0].name, status, f"{len(alike)} of {len(steps)} {what}", "", longest))
        for step in rest:
            self.note(step)

    async def outcome(self, name: str, check: Check, *needs: str) -> Step:
        """Run a check, and return what came out of it; see :meth:`step`."""
        done = {step.name: step.status for step in self.steps}
        if missing := next((need for need in needs if done.get(need) not in (Status.OK, Status.WARN)), ""):
            return Step(name, Status.SKIPPED, f"not tried: '{missing}' comes first", "", 0.0)
        if self._is_stopped:
            return Step(name, Status.SKIPPED, "not tried: stopped", "", 0.0)
        began = self.reactor.seconds()
        running = Deferred.fromCoroutine(check())
        running.addTimeout(PATIENCE, self.reactor)
        try:
            found = await running
        except Trouble as error:
            found = Found(error.text, error.advice, Status.FAIL)
        except StepTimeout:
            found = Found(f"not over within {PATIENCE:g} s", "", Status.FAIL)
        except (Exception, asyncio.CancelledError) as error:
            # What is cancelled may raise something of its own.
            is_late = self.reactor.seconds() - began >= PATIENCE
            found = Found(f"not over within {PATIENCE:g} s" if is_late else reason_of(error), "", Status.FAIL)
        seconds = round(self.reactor.seconds() - began, 3)
        return Step(name, found.status, one_line(found.text), one_line(found.advice), seconds)
