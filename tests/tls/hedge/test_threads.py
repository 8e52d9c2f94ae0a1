"""Threads in which keys of hedges are made."""

from __future__ import annotations

import threading
from queue import SimpleQueue

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import gatherResults

from rtunnel.tls.hedge.threads import AT_ONCE, HedgeThreads


@ensureDeferred
async def test_no_more_than_some_at_once() -> None:
    from twisted.internet import reactor

    threads, began, may_end = HedgeThreads(reactor), SimpleQueue[threading.Thread](), threading.Event()

    def work() -> str:
        began.put(threading.current_thread())
        assert may_end.wait(60)
        return threading.current_thread().name

    results = [threads.run(work) for _ in range(AT_ONCE + 3)]
    first = {began.get(timeout=60) for _ in range(AT_ONCE)}
    assert threading.current_thread() not in first
    assert began.empty()
    may_end.set()
    assert await gatherResults(results) == ["hedge"] * (AT_ONCE + 3)


@ensureDeferred
async def test_what_is_raised_arrives_and_the_place_is_free() -> None:
    from twisted.internet import reactor

    threads = HedgeThreads(reactor)

    def fail() -> None:
        raise ValueError("KEYS with a bad key")

    for _ in range(AT_ONCE + 1):
        with pytest.raises(ValueError, match=r"^KEYS with a bad key$"):
            await threads.run(fail)
    assert await threads.run(lambda: 7) == 7


@ensureDeferred
async def test_the_stack_of_other_threads_is_as_before() -> None:
    from twisted.internet import reactor

    before = threading.stack_size()
    await HedgeThreads(reactor).run(lambda: None)
    assert threading.stack_size() == before
