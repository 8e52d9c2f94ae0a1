"""Log lines that strangers can cause are few, and none goes uncounted."""

from __future__ import annotations

import re

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent
from twisted.python.failure import Failure

from rtunnel.upkeep.log_limiter import (
    BURST,
    LEFT_OUT_EVERY,
    MOST_ADMITTED,
    MOST_COUNTED,
    RATE,
    STRANGER_BURST,
    STRANGERS_BURST,
    STRANGERS_RATE,
    LogBudget,
    LogLimiter,
    Source,
)


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
    # Whoever wants no lines of level info wants none that counts them.
    assert [event["log_level"] for event in log.events] == [LogLevel.warn, LogLevel.info]
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


def test_one_source_that_floods_does_not_hide_the_lines_about_another(log: Log) -> None:
    for number in range(100):
        log.limiter.warn("{peer}: bad {number}", peer=f"192.0.2.1:{number}", number=number)
    assert len(log.taken()) == 3
    log.limiter.warn("{peer}: bad {number}", peer="192.0.2.2:1", number=0)
    log.limiter.warn("{peer}: worse", peer="192.0.2.1:1")
    assert log.taken() == ["192.0.2.2:1: bad 0", "192.0.2.1:1: worse"]
    log.clock.advance(10)
    log.limiter.tick()
    assert log.taken() == ["97 more times in 10 s, the last one: 192.0.2.1:99: bad 99"]


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ({"peer": "192.0.2.1:1"}, {"peer": "192.0.2.1:2"}, True),
        ({"peer": "192.0.2.1:1"}, {"peer": "192.0.2.2:1"}, False),
        ({"peer": "[2001:db8::1]:1"}, {"peer": "[2001:db8::2]:1"}, True),
        ({"peer": "[2001:db8::1]:1"}, {"peer": "[2001:db8:0:1::1]:1"}, False),
        ({"peer": "192.0.2.1:1 (alice)"}, {"peer": "192.0.2.1:2"}, True),
        ({"peer": "local"}, {"peer": "unix:/run/other"}, False),
        ({"client": "a"}, {"client": "b"}, True),
        ({}, {}, True),
    ],
)
def test_who_is_the_source(log: Log, first: dict[str, str], second: dict[str, str], are_one: bool) -> None:
    for _ in range(3):
        log.limiter.warn("bad", **first)
    log.limiter.warn("bad", **second)
    assert len(log.taken()) == 3 + (not are_one)


def test_admitted_clients_are_counted_by_name_and_may_say_more(log: Log) -> None:
    for number in range(MOST_ADMITTED + 10):
        log.limiter.info("{peer} serves {number}", admitted="alice", peer="192.0.2.1:1", number=number)
    assert len(log.taken()) == MOST_ADMITTED
    log.limiter.info("{peer} serves {number}", admitted="bob", peer="192.0.2.1:1", number=0)
    assert len(log.taken()) == 1
    log.limiter.info("{peer} serves {number}", peer="192.0.2.1:1", number=0)
    assert len(log.taken()) == 1


def test_what_is_counted_is_bounded(log: Log) -> None:
    for number in range(2 * MOST_COUNTED):
        log.limiter.warn("bad", peer=str(number))
    assert len(log.taken()) == MOST_COUNTED + 3
    assert len(log.limiter._counts) <= MOST_COUNTED + 1


# Bytes

LONG = "x" * 200
STRANGER = Source("192.0.2.1")


class Budget:
    """A budget, and what comes through."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[LogEvent] = []
        self.budget = LogBudget(
            self.events.append,  # type: ignore[arg-type]
            lambda event: len(formatEvent(event)),
            lambda: self.now,
        )
        self.log = Logger("test", observer=self.budget)
        self.limiter = LogLimiter(self.log, Clock())

    def taken(self) -> list[str]:
        lines = [formatEvent(event) for event in self.events]
        self.events.clear()
        return lines

    def flood(self, seconds: int, *sources: Source) -> int:
        """Two lines a second from each source; how many bytes came through."""
        for second in range(seconds):
            self.now += 1
            for source in sources * 2:
                self.log.warn(
                    "{peer}: bad: {second} {what}", peer=source.key, second=second, what=LONG, log_from=source
                )
        return sum(map(len, self.taken()))


@pytest.fixture
def budget() -> Budget:
    return Budget()


def test_so_many_bytes_about_one_stranger(budget: Budget) -> None:
    written = budget.flood(1000, STRANGER)
    # Beside its own lines, one about those left out in every minute.
    assert 0.9 * (STRANGER_BURST + 1000 * RATE) < written < STRANGER_BURST + 1000 * RATE + 17 * 400


def test_a_stranger_that_floods_hides_no_other(budget: Budget) -> None:
    budget.flood(1000, STRANGER)
    budget.limiter.warn("{peer}: bad", peer="192.0.2.2:1")
    assert "192.0.2.2:1: bad" in budget.taken()


def test_a_stranger_without_an_address_hides_no_other_kind_of_line(budget: Budget) -> None:
    for _ in range(1000):
        budget.limiter._counts.clear()
        budget.limiter.warn("client {sender} sent nonsense " + LONG, sender="x", peer="")
    assert len("".join(budget.taken())) < STRANGER_BURST + 500
    budget.limiter.warn("the service does not answer " + LONG)
    assert budget.taken() == ["the service does not answer " + LONG]


def test_so_many_bytes_about_all_strangers(budget: Budget) -> None:
    sources = [Source(f"192.0.2.{number}") for number in range(50)]
    written = budget.flood(200, *sources)
    assert written < STRANGERS_BURST + 200 * STRANGERS_RATE + 5 * 400
    for now in range(60):
        budget.flood(1, *sources)
        if now % 20 == 0:
            budget.limiter.warn("{peer}: bad", peer="198.51.100.1:1")
            assert "198.51.100.1:1: bad" in budget.taken()


def test_an_admitted_client_that_floods_hides_no_other_and_no_stranger(budget: Budget) -> None:
    written = budget.flood(3000, Source("192.0.2.1", True))
    assert 0.9 * (BURST + 3000 * RATE) < written < BURST + 3000 * RATE + 51 * 400
    budget.limiter.warn("bad", admitted="bob")
    budget.limiter.warn("{peer} is bad", peer="192.0.2.1:1")
    assert budget.taken() == ["bad", "192.0.2.1:1 is bad"]


def test_what_is_left_out_is_counted(budget: Budget) -> None:
    budget.flood(100, STRANGER)
    budget.now += LEFT_OUT_EVERY
    budget.log.info("something else")
    first, second = budget.taken()
    assert first == "something else"
    assert re.match(r"\d+ lines are not in this log: .*; the last one: 192\.0\.2\.1: bad: 99 x+$", second)
    budget.log.info("something else")
    assert budget.taken() == ["something else"]


def test_our_own_lines_and_tracebacks_are_bounded_by_their_format(budget: Budget) -> None:
    for number in range(3000):
        budget.log.failure("in {number}", Failure(ValueError("x")), number=LONG)
        budget.log.info("{number} " + "y" * 10, number=number)
    written = budget.taken()
    assert 0.9 * BURST < sum(len(line) for line in written if line.startswith("in")) <= BURST
    assert len([line for line in written if line.endswith("y")]) == 3000


def test_one_bug_does_not_hide_another_that_is_logged_in_the_same_words(budget: Budget) -> None:
    for _ in range(3000):
        budget.log.failure("in a connection " + LONG, Failure(ValueError("x" * 10_000)))
    budget.taken()
    budget.log.failure("in a connection " + LONG, Failure(KeyError("y")))
    assert len(budget.taken()) == 1
    budget.now += LEFT_OUT_EVERY
    budget.log.info("something else")
    (summary,) = budget.taken()[-1:]
    assert "in a connection" in summary
    assert "(xxx" in summary
    assert len(summary) < 1000


def test_debug_lines_are_not_bounded(budget: Budget) -> None:
    budget.flood(100, STRANGER)
    for _ in range(2000):
        budget.log.debug(LONG)
    assert budget.taken().count(LONG) == 2000
