"""A service stops in order: no new visitors, time for the present ones, then the links."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from rtunnel.upkeep.draining import DrainingService
from tests.leftovers import TestLog
from tests.upkeep.test_visitors import Visitor


class Draining(DrainingService):
    """Writes down what it does; has as many streams left as the test says."""

    def __init__(self, drain: float) -> None:
        super().__init__(Clock(), "service", drain)
        self.steps: list[str] = []
        self.streams = 0
        self.links_close: Deferred[None] = Deferred()

    async def refuse_visitors(self) -> None:
        self.steps.append("refuse")

    def streams_left(self) -> int:
        return self.streams

    async def close_links(self) -> None:
        self.steps.append("close")
        await self.links_close

    def stop(self) -> list[Any]:
        """Begin to stop; what is returned is no longer empty when it has."""
        self.startService()
        done: list[Any] = []
        self.stopService().addCallback(done.append)
        return done


@pytest.fixture
def service() -> Draining:
    return Draining(10.0)


def test_without_visitors_it_closes_at_once(service: Draining, logged: TestLog) -> None:
    done = service.stop()
    assert service.steps == ["refuse", "close"]
    assert not done
    service.links_close.callback(None)
    assert done
    assert "waiting" not in logged.text()


def test_visitors_have_time_to_finish(service: Draining, logged: TestLog) -> None:
    visitor = Visitor(service.visitors)
    service.links_close.callback(None)
    done = service.stop()
    service.reactor.advance(9)
    assert service.steps == ["refuse"]
    service.visitors.discard(visitor)
    assert service.steps == ["refuse", "close"]
    assert done
    assert "waiting up to 10 s for 1 visitors" in logged.text()
    assert "cut off" not in logged.text()


def test_those_who_do_not_finish_are_cut_off(service: Draining, logged: TestLog) -> None:
    visitor = Visitor(service.visitors)
    service.links_close.callback(None)
    done = service.stop()
    service.reactor.advance(10)
    assert visitor.aborted == 1
    assert done
    (event,) = [each for each in logged.events if each["log_level"] is LogLevel.warn]
    assert "did not finish in time and are cut off" in event["log_format"]


def test_it_waits_for_those_who_take_time_to_go(service: Draining) -> None:
    visitor = Visitor(service.visitors, lingers=True)
    service.links_close.callback(None)
    done = service.stop()
    service.reactor.advance(10)
    assert visitor.aborted == 1
    assert not done
    service.visitors.discard(visitor)
    assert done


def test_it_waits_for_the_streams_of_visitors_who_have_gone(service: Draining) -> None:
    service.streams = 1
    service.stop()
    service.reactor.pump([0.1] * 50)
    assert service.steps == ["refuse"]
    service.stream_ended()
    service.reactor.pump([0.1])
    assert service.steps == ["refuse"]
    service.streams = 0
    service.stream_ended()
    service.reactor.pump([0.1])
    assert service.steps == ["refuse", "close"]


def test_it_waits_for_streams_no_longer_than_for_visitors(service: Draining) -> None:
    service.streams = 1
    service.stop()
    service.reactor.pump([0.1] * 110)
    assert service.steps == ["refuse", "close"]


@pytest.mark.parametrize("waits_for", ["visitor", "stream"])
def test_stop_now(service: Draining, waits_for: str) -> None:
    if waits_for == "visitor":
        Visitor(service.visitors)
    else:
        service.streams = 1
    service.links_close.callback(None)
    done = service.stop()
    assert not done
    service.stop_now()
    service.reactor.pump([0.01] * 2)
    assert done


def test_as_long_as_visitors_need(service: Draining, logged: TestLog) -> None:
    visitor = Visitor(service.visitors)
    service.links_close.callback(None)
    service.set_drain(inf)
    done = service.stop()
    service.reactor.advance(1_000_000)
    assert not done
    service.visitors.discard(visitor)
    assert done
    assert "waiting for 1 visitors" in logged.text()


@pytest.mark.parametrize("before", [inf, 100.0])
def test_another_time_once_it_has_begun(service: Draining, before: float) -> None:
    visitor = Visitor(service.visitors)
    service.links_close.callback(None)
    service.set_drain(before)
    done = service.stop()
    service.reactor.advance(50)
    service.set_drain(20.0)
    service.reactor.advance(19)
    assert not done
    service.reactor.advance(1)
    assert (visitor.aborted, bool(done)) == (1, True)
    assert service.reactor.getDelayedCalls() == []
