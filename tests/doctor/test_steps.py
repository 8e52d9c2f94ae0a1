"""Steps end in time, tell in words, and are left out where one before them failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock

from rtunnel.doctor.steps import MOST_LINES, PATIENCE, Check, Examination, Found, Status, Step, Trouble


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[Step]:
    return []


@pytest.fixture
def examination(clock: Clock, told: list[Step]) -> Examination:
    return Examination(clock, told.append)


def result_of(work: Coroutine[Any, Any, Any]) -> Any:
    results: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(results.append)
    return results[0]


def check(outcome: Found | BaseException) -> Check:
    async def run() -> Found:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return run


@pytest.mark.parametrize(
    ("outcome", "status", "text", "works"),
    [
        (Found("fine"), Status.OK, "fine", True),
        (Found("so-so", "do this", Status.WARN), Status.WARN, "so-so", True),
        (Found("who knows", "", Status.SKIPPED), Status.SKIPPED, "who knows", False),
        (Trouble("bad", "do that"), Status.FAIL, "bad", False),
        (ConnectionRefusedError(), Status.FAIL, "Connection was refused by other side", False),
        (ValueError("\x1b[2J\n"), Status.FAIL, "\\x1b[2J\\n", False),
        (asyncio.CancelledError("gone"), Status.FAIL, "gone", False),
    ],
)
def test_outcomes(
    outcome: Found | BaseException,
    status: Status,
    text: str,
    works: bool,
    examination: Examination,
    told: list[Step],
) -> None:
    assert result_of(examination.step("it", check(outcome))) is works
    assert told == examination.steps
    assert (told[0].status, told[0].text) == (status, text)
    assert examination.is_well == (status is not Status.FAIL)


@pytest.mark.parametrize("is_odd", [False, True])
def test_a_check_that_never_ends(is_odd: bool, examination: Examination, clock: Clock, told: list[Step]) -> None:
    def cancel(waiting: Deferred[None]) -> None:
        # As Twisted's connectors do.
        if is_odd:
            waiting.errback(ValueError("not connecting"))

    async def hang() -> Found:
        await Deferred(cancel)
        raise AssertionError

    Deferred.fromCoroutine(examination.step("it", hang))
    clock.advance(PATIENCE - 0.1)
    assert told == []
    clock.advance(0.1)
    assert told == [Step("it", Status.FAIL, "not over within 5 s", "", PATIENCE)]


def test_what_comes_after_a_failure_is_not_tried(examination: Examination, told: list[Step]) -> None:
    def never() -> Coroutine[Any, Any, Found]:
        raise AssertionError

    result_of(examination.step("first", check(Trouble("bad"))))
    assert not result_of(examination.step("second", never, "first"))
    assert not result_of(examination.step("third", never, "second"))
    assert result_of(examination.step("other", check(Found("fine"))))
    assert [step.text for step in told[1:3]] == ["not tried: 'first' comes first", "not tried: 'second' comes first"]


def test_many_of_a_kind(examination: Examination, told: list[Step]) -> None:
    def step(number: int, status: Status) -> Step:
        return Step("service", status, f"{number}", "", number / 1000)

    few = [step(number, Status.OK) for number in range(MOST_LINES)]
    examination.note_all(few)
    assert told == few
    told.clear()
    many = [step(number, Status.FAIL if number in (3, 700) else Status.OK) for number in range(1000)]
    examination.note_all(many)
    assert told == [Step("service", Status.OK, "998 of 1000 are in order", "", 0.999), many[3], many[700]]


def test_stopped(examination: Examination, told: list[Step]) -> None:
    ran: list[Callable[[], object]] = []

    async def run() -> Found:
        ran.append(run)
        return Found("fine")

    examination.stop()
    assert not result_of(examination.step("it", run))
    assert (told, ran) == ([], [])
