"""Health checks: what takes a service out, and what puts it back."""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.error import ConnectError
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from rtunnel.services.health_settings import HealthSettings
from rtunnel.services.watch import MOST_AT_ONCE, SOON
from tests.services.checked import HTTP, Checked
from tests.services.test_service_watch import refusal

OUT = "fails its health check (connection refused): out until it passes"
PASSES = "published; the service passes its health check"
BACK = "web: the service at here passes its health check again"


def test_so_many_failures_in_a_row_and_so_many_passed(lines: Any, logged: Any) -> None:
    it = Checked()
    it.start()
    it.result("accept")
    for result in ("refuse", "refuse", "accept", "refuse", "refuse"):
        it.next(result)
    assert it.changes == []
    assert lines() == [PASSES]
    it.next("refuse")
    assert it.changes == [False]
    assert lines()[1:] == [f"web: the service at here {OUT}"]
    for result in ("accept", "refuse", "accept"):
        it.next(result)
    assert it.changes == [False]
    it.next("accept")
    assert it.changes == [False, True]
    assert lines()[2:] == [BACK]
    assert [event["log_level"] for event in logged()] == [LogLevel.info, LogLevel.warn, LogLevel.info]
    it.stop()


def test_the_first_check_decides_at_once(lines: Any) -> None:
    """As with HAProxy: a service that was not there when the client began gets no visitor for the next 30 s."""
    it = Checked()
    it.start()
    assert it.watch.is_ready
    it.result("refuse")
    assert it.changes == [False]
    assert lines() == [f"published; the service {OUT}"]
    it.next("accept")
    assert it.changes == [False], "one is not two in a row"
    it.next("accept")
    assert it.changes == [False, True]
    it.stop()


def test_waits_are_an_interval_apart_but_not_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", random.Random(7).uniform)
    it = Checked()
    it.start()
    waits = []
    for _ in range(50):
        it.result("accept")
        waits.append(it.wait())
    assert all(9 <= wait <= 11 for wait in waits)
    assert max(waits) - min(waits) > 1
    it.stop()


def test_the_interval_counts_from_the_beginning_and_checks_do_not_overlap() -> None:
    it = Checked(HealthSettings(interval=4.0, timeout=4.0, fall=1))
    it.start()
    it.clock.advance(3.0)
    it.result("accept")
    assert it.wait() < 4.0 * 1.1 - 3.0 + 0.01
    it.clock.advance(4.0)
    assert not it.watch.is_ready, "it has taken the whole of the interval"
    it.clock.advance(0.41)
    assert len(it.endpoint.attempts) == 3
    it.stop()


def test_visitors_that_are_refused_count(lines: Any) -> None:
    it = Checked(HTTP)
    it.start()
    it.result("200")
    assert not it.watch.failed(refusal())
    it.next("503")
    it.watch.answered()
    assert not it.watch.failed(refusal()), "in a row"
    assert it.watch.failed(refusal()), "with the check that failed"
    assert lines() == [PASSES, f"web: the service at here {OUT}"]
    for _ in range(5):
        it.watch.answered()
    assert it.changes == [False], "that it accepts does not mean that it is well"
    it.next("200")
    it.watch.failed(refusal())
    it.next("200")
    assert it.changes == [False]
    it.next("200")
    assert it.changes == [False, True]
    it.stop()


def test_visitors_are_checks_where_these_only_connect() -> None:
    it = Checked()
    it.start()
    it.watch.answered()
    it.result("accept")
    for _ in range(3):
        it.watch.failed(refusal())
    assert it.changes == [False]
    it.watch.answered()
    it.watch.answered()
    assert it.changes == [False, True]
    it.stop()


def test_a_lack_of_descriptors_says_nothing_of_the_service(lines: Any) -> None:
    it = Checked(HealthSettings(fall=1))
    it.start()
    for _ in range(3):
        it.endpoint.attempts[-1].errback(Failure(ConnectError(errno.EMFILE, "Too many open files")))
        it.wait()
    assert not it.watch.failed(Failure(OSError(errno.ENFILE, "x")))
    assert it.watch.is_ready
    assert lines() == ["published; the service has not answered yet"]
    it.stop()


def test_one_that_takes_its_time_is_published_meanwhile(lines: Any) -> None:
    it = Checked()
    it.start()
    it.clock.advance(SOON)
    assert lines() == ["published; the service has not answered yet"]
    it.clock.advance(3.0 - SOON)
    assert lines()[1:] == ["published; the service fails its health check (no answer within 3 s): out until it passes"]
    it.stop()


@pytest.mark.parametrize("result", ["accept", "refuse"])
def test_a_link_that_comes_back_soon_goes_on_where_it_was(lines: Any, result: str) -> None:
    it = Checked()
    it.start()
    it.result(result)
    for _ in range(5):
        it.watch.stop()
        it.clock.advance(1.0)
        it.start()
    assert len(it.endpoint.attempts) == 1
    assert lines() == [PASSES if result == "accept" else f"published; the service {OUT}"] * 6
    assert 3.9 <= it.wait() <= 6.1
    it.stop()


def test_a_link_that_comes_back_late_checks_at_once(lines: Any) -> None:
    it = Checked()
    it.start()
    it.result("refuse")
    it.watch.stop()
    it.clock.advance(60.0)
    assert not it.watch.is_ready, "which the server is told with the tunnel"
    it.start()
    it.result("accept")
    assert it.changes == [False, True]
    assert lines()[1:] == [PASSES]
    it.stop()


def test_stopped_while_it_checks(lines: Any) -> None:
    it = Checked(HTTP)
    for _ in range(3):
        it.start()
        it.stop()
    assert len(it.endpoint.attempts) == 3
    assert lines() == it.changes == []


def test_a_mistake_of_ours_does_not_end_the_checks(monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any) -> None:
    it = Checked()
    it.start()
    with monkeypatch.context() as patch:
        patch.setattr(it.watch, "_fails", lambda _problem: 1 / 0)
        it.result("refuse")
    assert flush_logged_errors(ZeroDivisionError)
    it.next("refuse")
    assert it.changes == [False]
    it.stop()


def test_many_are_not_checked_all_at_once_and_time_counts_from_their_turn() -> None:
    turns = DeferredSemaphore(MOST_AT_ONCE)
    all_of_them = [Checked(turns=turns) for _ in range(MOST_AT_ONCE + 2)]
    for it in all_of_them:
        it.start()
    assert sum(len(it.endpoint.attempts) for it in all_of_them) == MOST_AT_ONCE
    last = all_of_them[-2]
    last.clock.advance(100.0)
    assert last.watch.is_ready
    all_of_them[0].result("accept")
    last.result("accept")
    for it in all_of_them:
        it.stop()
