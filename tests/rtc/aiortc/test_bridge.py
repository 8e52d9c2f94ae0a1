"""Where Deferreds and asyncio meet."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rtunnel.rtc.aiortc.bridge import Tasks, adopt_python_logging, as_deferred
from tests.leftovers import LoggedError, TestLog
from tests.reverse.net import turns, until


@pytest.fixture
def log(_nothing_left_behind: TestLog) -> TestLog:
    """What is logged."""
    return _nothing_left_behind


async def fails(error: Exception) -> None:
    raise error


@pytest_twisted.ensureDeferred
async def test_a_coroutine_of_asyncio_as_a_deferred() -> None:
    done = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append("done")

    await as_deferred(work())
    assert done == ["done"]


@pytest_twisted.ensureDeferred
async def test_its_error_is_the_deferreds() -> None:
    told: list[Failure] = []
    as_deferred(fails(KeyError("x"))).addErrback(told.append)
    await until(lambda: told, "an error")
    assert told[0].check(KeyError)


@pytest_twisted.ensureDeferred
async def test_tasks_that_fail_are_told_and_those_cancelled_are_not() -> None:
    told: list[Failure] = []
    tasks = Tasks(told.append)
    ended = []

    async def long() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("long")

    async def quick() -> None:
        ended.append("quick")

    tasks.start(long())
    tasks.start(fails(ValueError("y")))
    tasks.start(quick())
    await until(lambda: told, "an error")
    assert told[0].check(ValueError)
    await as_deferred(tasks.cancel())
    assert ended == ["quick", "long"]
    assert len(told) == 1
    assert not tasks._tasks
    await as_deferred(tasks.cancel())


@pytest_twisted.ensureDeferred
async def test_a_task_can_cancel_all_the_others() -> None:
    told: list[Failure] = []
    tasks = Tasks(told.append)
    done: Deferred[None] = Deferred()

    async def cancels() -> None:
        await tasks.cancel()
        done.callback(None)

    tasks.start(asyncio.sleep(1000))
    tasks.start(cancels())
    await done
    await turns(2)
    assert not told
    assert not tasks._tasks


def test_python_logging_is_adopted_once() -> None:
    for _ in range(3):
        adopt_python_logging()
    for name in ("asyncio", "aiortc", "aioice"):
        assert len([one for one in logging.getLogger(name).handlers if "_ToTwisted" in repr(type(one))]) == 1


def test_what_libraries_log_is_for_debugging(log: TestLog) -> None:
    adopt_python_logging()
    logging.getLogger("aiortc.rtcdtlstransport").warning("something %s", "odd")
    logging.getLogger("aioice.ice").error("braces {like this} and %s")
    record = logging.makeLogRecord(
        {"name": "asyncio", "levelno": logging.WARNING, "msg": "slow %d", "args": ("no number",)}
    )
    next(one for one in logging.getLogger("asyncio").handlers if "_ToTwisted" in repr(type(one))).emit(record)
    events = [(event["log_level"].name, event["text"]) for event in log.events]
    assert events == [
        ("debug", "something odd"),
        ("debug", "braces {like this} and %s"),
        ("debug", "slow %d"),
    ]
    assert "braces {like this}" in log.text()


@pytest_twisted.ensureDeferred
async def test_a_task_that_nobody_looked_after_is_a_mistake(flush_logged_errors: Any) -> None:
    adopt_python_logging()
    asyncio.ensure_future(fails(RuntimeError("a mistake")))  # noqa: RUF006
    await turns(3)
    gc.collect()
    assert len(flush_logged_errors(RuntimeError)) == 1


@pytest_twisted.ensureDeferred
async def test_a_path_that_is_lost_is_none(log: TestLog) -> None:
    adopt_python_logging()
    asyncio.ensure_future(fails(ConnectionError("lost")))  # noqa: RUF006
    await turns(3)
    gc.collect()
    assert not log.errors


def test_an_error_of_asyncio_without_an_exception(flush_logged_errors: Any) -> None:
    adopt_python_logging()
    logging.getLogger("asyncio").error("Task was destroyed but it is pending!")
    assert len(flush_logged_errors(LoggedError)) == 1
