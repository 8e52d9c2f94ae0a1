"""Log lines that strangers can cause are few, and none goes uncounted."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent

from rtunnel.upkeep.log_limiter import LogLimiter


class Log:
    """A limiter of 3 lines in each period, and what comes through."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.events: list[LogEvent] = []
        self.limiter = LogLimiter(Logger("test", observer=self.events.append), self.clock, 3)  # type: ignore[arg-type]

    def taken(self) -> list[str]:
        lines = [formatEvent(event) for event in self.events]
        self.events.clear()
        return lines


@pytest.fixture
def log() -> Log:
    return Log()


def test_the_first_are_logged_and_the_rest_is_counted(log: Log) -> None:
    for number in range(10):
        log.limiter.warn("bad: {number}", number=number)
    assert log.taken() == ["bad: 0", "bad: 1", "bad: 2"]
    log.clock.advance(9.9)
    log.limiter.tick()
    assert log.taken() == []
    log.clock.advance(0.1)
    log.limiter.tick()
    assert log.taken() == ["7 more times in 10 s, the last one: bad: 9"]
    log.limiter.warn("bad: {number}", number=10)
    assert log.taken() == ["bad: 10"]


def test_each_format_for_itself(log: Log) -> None:
    for number in range(4):
        log.limiter.warn("one {number}", number=number)
        log.limiter.info("two {number}", number=number)
    assert [event["log_level"] for event in log.events] == [LogLevel.warn, LogLevel.info] * 3
    assert sorted(log.taken()) == ["one 0", "one 1", "one 2", "two 0", "two 1", "two 2"]
    log.clock.advance(10)
    log.limiter.tick()
    assert log.taken() == ["1 more times in 10 s, the last one: one 3", "1 more times in 10 s, the last one: two 3"]


def test_the_next_line_tells_too(log: Log) -> None:
    """Even if nobody calls ``tick``."""
    for _ in range(5):
        log.limiter.warn("bad")
    log.taken()
    log.clock.advance(60)
    log.limiter.warn("bad")
    assert log.taken() == ["2 more times in 60 s, the last one: bad", "bad"]


def test_nothing_to_tell(log: Log) -> None:
    for _ in range(3):
        log.limiter.warn("bad")
    log.taken()
    for _ in range(5):
        log.clock.advance(10)
        log.limiter.tick()
    assert log.taken() == []
