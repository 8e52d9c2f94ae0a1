"""Where Deferreds and asyncio meet."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rtunnel.names import Resolver
from rtunnel.rtc.aiortc.bridge import Tasks, adopt_python_logging, as_deferred, look_up_as
from tests.leftovers import LoggedError, TestLog
from tests.reverse.net import reactor, turns, until


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


def resolve(name: str, port: object, type: int) -> list[Any]:
    """The system's look-up: every name of ``example`` has two addresses."""
    if not name.endswith(".example"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [
        (socket.AF_INET6, type, 6, "", ("2001:db8::1", 0, 0, 0)),
        (socket.AF_INET, type, 6, "", ("192.0.2.1", 0)),
    ]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The loop, which looks names up as the reactor does."""
    loop = asyncio.get_event_loop()
    monkeypatch.setattr(loop, "getaddrinfo", None)
    before = reactor.installNameResolver(Resolver(reactor, resolve))
    look_up_as(reactor, loop)
    yield loop
    reactor.installNameResolver(before)


@pytest_twisted.ensureDeferred
async def test_names_are_looked_up_by_the_reactors_resolver(loop: Any) -> None:
    found: list[Any] = []

    async def look_up() -> None:
        found.append(await loop.getaddrinfo("turn.example", 3478, type=socket.SOCK_DGRAM))
        found.append(await loop.getaddrinfo("turn.example", 3478, family=socket.AF_INET, type=socket.SOCK_STREAM))
        for name, family in (("nas.lan", 0), ("turn.example", socket.AF_UNIX)):
            with pytest.raises(socket.gaierror):
                await loop.getaddrinfo(name, 1, family=family)

    await as_deferred(look_up())
    four, six = ("192.0.2.1", 3478), ("2001:db8::1", 3478, 0, 0)
    assert found == [
        [(socket.AF_INET6, socket.SOCK_DGRAM, 0, "", six), (socket.AF_INET, socket.SOCK_DGRAM, 0, "", four)],
        [(socket.AF_INET, socket.SOCK_STREAM, 0, "", four)],
    ]
