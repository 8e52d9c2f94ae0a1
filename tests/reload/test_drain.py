"""``rtunnel drain``: first load balancers are told, then no visitors are taken, and the last one ends the process."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Clock

from rtunnel.errors import ConfigError
from rtunnel.options.reload.drain import NOTICE, Drain
from tests.leftovers import TestLog


class Reactor(Clock):
    """One that can be stopped, once."""

    def __init__(self) -> None:
        super().__init__()
        self.stops = 0

    @property
    def stopped(self) -> bool:
        return self.stops > 0

    def stop(self) -> None:
        if self.stops:
            raise ReactorNotRunning
        self.stops += 1


class Visited:
    """A service with three visitors."""

    visitors = (1, 2, 3)

    def __init__(self) -> None:
        self.limits: list[float] = []

    def set_drain(self, seconds: float) -> None:
        self.limits.append(seconds)


class World:
    def __init__(self, service: Any, *, can_be_asked: bool = True) -> None:
        self.reactor = Reactor()
        self.service = service
        self.drain = Drain(self.reactor, service, lambda: 10.0, lambda: can_be_asked)


@pytest.fixture
def world() -> World:
    return World(Visited())


def test_it_tells_and_then_stops(world: World, logged: TestLog) -> None:
    assert world.drain.act({}) == {"visitors": 3, "had_begun": False}
    assert world.drain.has_begun
    assert world.service.limits == [inf]
    world.reactor.advance(NOTICE - 0.1)
    assert world.reactor.stops == 0
    world.reactor.advance(0.1)
    assert [world.reactor.stops] == [1]
    assert "draining: /readyz says so; in 10 s no more visitors are taken" in logged.text()


def test_within(world: World, logged: TestLog) -> None:
    world.drain.act({"within": "1m"})
    assert world.service.limits == [60]
    assert "in 10 s no more visitors are taken, and those there are have 60 s to finish" in logged.text()


def test_a_second_one_says_how_far_it_is(world: World) -> None:
    world.drain.act({})
    assert world.drain.act({}) == {"visitors": 3, "had_begun": True}
    assert world.service.limits == [inf]
    world.drain.act({"within": 7})
    assert world.service.limits == [inf, 7]
    world.reactor.advance(NOTICE)
    assert world.drain.act({"within": 3})["had_begun"]
    assert world.reactor.stops == 1


def test_nobody_can_be_told(logged: TestLog) -> None:
    world = World(Visited(), can_be_asked=False)
    world.drain.act({"within": 3})
    world.reactor.advance(0)
    assert world.reactor.stopped
    assert "draining: no more visitors are taken, and those there are have 3 s to finish" in logged.text()


def test_sigterm_means_the_time_of_the_setting(world: World) -> None:
    world.drain.act({})
    world.drain.hurry()
    world.reactor.stop()
    assert world.service.limits == [inf, 10]
    assert not world.reactor.getDelayedCalls()


def test_sigterm_without_a_drain(world: World) -> None:
    world.drain.hurry()
    assert world.drain.has_begun
    assert world.service.limits == []


def test_something_else_stops_the_process_meanwhile(world: World) -> None:
    world.drain.act({})
    world.reactor.stop()
    world.reactor.advance(NOTICE)


def test_a_service_without_visitors() -> None:
    world = World(object(), can_be_asked=False)
    assert world.drain.act({"within": 1}) == {"visitors": None, "had_begun": False}
    world.reactor.advance(0)
    assert world.reactor.stopped


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"within": "soon"}, "^'within': "),
        ({"within": -1}, "^'within': "),
        ({"within": None}, "^'within': "),
        ({"notice": 1}, "the key 'notice' is unknown"),
    ],
)
def test_what_is_no_time(world: World, asked: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        world.drain.act(asked)
    assert not world.drain.has_begun
