"""Work that goes on whatever happens."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from rtunnel.upkeep.periodic import MAX_KINDS, PeriodicService, Repeated, do_all
from tests.leftovers import LoggedError, TestLog


class Work:
    """Raises what the test says."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.count += 1
        if self.error is not None:
            raise self.error


def lines(log: TestLog) -> list[str]:
    found = [line.partition("] ")[2] for line in log.text().splitlines()]
    log.flush_errors(LoggedError)
    log.events.clear()
    return found


def test_goes_on_whatever_the_work_raises(logged: TestLog) -> None:
    clock, work = Clock(), Work()
    service = PeriodicService(clock, "guard", 1.0, work)
    service.startService()
    assert work.count == 1
    work.error = ValueError("one\ntwo")
    for _ in range(3):
        clock.advance(1.0)
    assert (work.count, service.repeated.problem) == (4, "ValueError('one\\ntwo')")
    [line] = lines(logged)
    assert line.startswith(
        "guard has failed and goes on; please report this: ValueError('one\\ntwo') at test_periodic.py"
    )
    work.error = None
    clock.advance(1.0)
    assert (work.count, service.repeated.problem) == (5, "")
    assert lines(logged) == ["guard works again"]
    # The same again is no news, and neither is its end.
    work.error = ValueError("three")
    clock.advance(1.0)
    work.error = None
    clock.advance(1.0)
    assert lines(logged) == []
    # Another kind is.
    work.error = KeyError("x" * 1000)
    clock.advance(1.0)
    [line] = lines(logged)
    assert len(line) < 400
    service.stopService()
    assert not clock.getDelayedCalls()


def test_the_first_time_may_fail(logged: TestLog) -> None:
    clock, work = Clock(), Work()
    work.error = ValueError()
    service = PeriodicService(clock, "guard", 1.0, work)
    service.startService()
    assert logged.events[-1]["log_level"] is LogLevel.error
    lines(logged)
    clock.advance(1.0)
    assert work.count == 2
    service.stopService()


def test_kinds_are_bounded(logged: TestLog) -> None:
    clock, work = Clock(), Work()
    repeated = Repeated(clock, "it", work)
    repeated.start(1.0)
    for number in range(2 * MAX_KINDS):
        work.error = type(f"Error{number}", (Exception,), {})()
        clock.advance(1.0)
    assert len(lines(logged)) == MAX_KINDS
    repeated.stop()


def test_may_be_stopped_by_its_work() -> None:
    clock = Clock()

    def stop() -> None:
        repeated.stop()

    repeated = Repeated(clock, "it", stop)
    repeated.start(1.0)
    clock.advance(1.0)
    assert not clock.getDelayedCalls()
    repeated.stop()


def test_one_that_fails_keeps_none_of_the_others(logged: TestLog) -> None:
    done: list[int] = []

    def fails(number: int) -> None:
        raise ValueError(number)

    with pytest.raises(ExceptionGroup) as caught:
        do_all([lambda: done.append(1), lambda: fails(2), lambda: done.append(3), lambda: fails(4)])
    assert done == [1, 3]
    assert [error.args for error in caught.value.exceptions] == [(2,), (4,)]
    # Each has its line, although they are nested.
    clock = Clock()
    inner = [lambda: fails(2), lambda: int("x")]
    repeated = Repeated(clock, "it", lambda: do_all([lambda: do_all(inner), lambda: done.append(5)]))
    repeated.run()
    assert done[-1] == 5
    assert ["ValueError(2)" in line for line in lines(logged)] == [True, False]
    assert repeated.problem == "ValueError(2)"
