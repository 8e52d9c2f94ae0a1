"""A connection that is held: dialled, lost, dialled again, and left at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError, TimeoutError as ConnectTimeout
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel
from twisted.python.failure import Failure

from rtunnel.upkeep.held_connection import SOON, SOON_ATTEMPTS, HeldConnection
from tests.leftovers import TestLog


class FakeConnection:
    def __init__(self) -> None:
        self.ended: Deferred[str] = Deferred()


class Held(HeldConnection[FakeConnection]):
    """Dials as the test says: each attempt is a Deferred of its own."""

    log = Logger()

    def __init__(self, clock: Clock, **more: Any) -> None:
        super().__init__(clock, "server 192.0.2.1:7000", 1.0, 30.0, **more)
        self.attempts: list[Deferred[FakeConnection]] = []
        self.left: list[FakeConnection] = []
        self.useful = False

    async def dial(self) -> FakeConnection:
        attempt: Deferred[FakeConnection] = Deferred()
        self.attempts.append(attempt)
        return await attempt

    def lost(self, connection: FakeConnection, reason: str) -> str:
        if self.useful:
            self.was_useful()
        return f"lost: {reason}"

    def leave(self, connection: FakeConnection) -> None:
        self.left.append(connection)

    def refuse(self, why: str = "refused.") -> None:
        self.attempts[-1].errback(Failure(OSError(why)))

    def restart(self) -> None:
        """Refuse as a machine does on which the server does not listen yet."""
        self.attempts[-1].errback(Failure(ConnectionRefusedError()))

    def drop(self) -> None:
        self.attempts[-1].errback(Failure(ConnectTimeout()))

    def connect(self) -> FakeConnection:
        connection = FakeConnection()
        self.attempts[-1].callback(connection)
        return connection


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(_nothing_left_behind: TestLog) -> deque[LogEvent]:
    return _nothing_left_behind.events


def start(clock: Clock, **more: Any) -> Held:
    held = Held(clock, **more)
    held.startService()
    return held


def after_start(log: deque[LogEvent]) -> list[LogEvent]:
    """What is logged after the first line, which comes at once."""
    first, *others = log
    assert (first["log_level"], first["log_format"], first["peer"]) == (
        LogLevel.info,
        "connecting to {peer}",
        "server 192.0.2.1:7000",
    )
    return others


def test_is_dialled_again_after_it_could_not_be_reached(clock: Clock, log: deque[LogEvent]) -> None:
    held = start(clock)
    held.refuse()
    assert [(event["log_level"], event["why"]) for event in after_start(log)] == [
        (LogLevel.warn, "cannot reach server 192.0.2.1:7000: refused")
    ]
    assert 1.0 <= log[-1]["wait"] <= 1.4
    clock.advance(0.9)
    assert len(held.attempts) == 1
    clock.advance(0.6)
    assert len(held.attempts) == 2


def test_says_what_to_look_at_where_a_firewall_drops_the_packets(clock: Clock, log: deque[LogEvent]) -> None:
    held = start(clock)
    assert after_start(log) == []
    held.drop()
    (line,) = after_start(log)
    assert line["why"] == (
        "cannot reach server 192.0.2.1:7000: no answer in time (is the port open in all firewalls on the way, and the "
        "address right?)"
    )


def test_is_dialled_again_after_it_was_lost(clock: Clock, log: deque[LogEvent]) -> None:
    held = start(clock)
    connection = held.connect()
    before = held.connection
    connection.ended.callback("the cable was cut")
    assert (before, held.connection) == (connection, None)
    assert [event["why"] for event in after_start(log)] == ["lost: the cable was cut"]
    clock.advance(1.5)
    assert len(held.attempts) == 2


def fail_often(held: Held, clock: Clock, times: int = 20) -> None:
    for _ in range(times):
        held.refuse()
        clock.advance(30.0)


def test_waits_longer_each_time_and_starts_again_after_a_useful_connection(clock: Clock, log: deque[LogEvent]) -> None:
    held = start(clock)
    fail_often(held, clock)
    assert log[-1]["wait"] > 20.0
    held.connect().ended.callback("as useless as the attempts before")
    assert log[-1]["wait"] > 20.0
    held.useful = True
    clock.advance(30.0)
    held.connect().ended.callback("useful")
    assert log[-1]["wait"] <= 1.4


def lose(held: Held, clock: Clock, lasted: float = 60.0) -> None:
    """Connect, and lose the useful connection that has *lasted* so many seconds."""
    held.useful = True
    connection = held.connect()
    clock.advance(lasted)
    connection.ended.callback("cut")


def test_is_dialled_again_soon_after_it_was_lost(clock: Clock, log: deque[LogEvent]) -> None:
    """The waits differ: a thousand clients that lose their server together come back one after the other."""
    held, waits = start(clock), set()
    for _ in range(50):
        lose(held, clock)
        waits.add(log[-1]["wait"])
        count = len(held.attempts)
        clock.advance(SOON)
        assert len(held.attempts) == count + 1
    assert min(waits) < SOON / 3
    assert max(waits) > SOON / 3 * 2
    assert len(waits) > 40


def test_server_that_is_restarted_is_dialled_soon_for_about_two_seconds(clock: Clock, log: deque[LogEvent]) -> None:
    held, took = start(clock), []
    for _ in range(20):
        lose(held, clock)
        began = clock.seconds()
        for _attempt in range(SOON_ATTEMPTS):
            count = len(held.attempts)
            while len(held.attempts) == count:
                clock.advance(0.001)
            held.restart()
        took.append(clock.seconds() - began)
        assert 1.0 <= log[-1]["wait"] <= 1.4
        clock.advance(1.5)
    assert 1.5 < sum(took) / len(took) < 2.5


def test_attempts_that_come_soon_do_not_fill_the_log(clock: Clock, log: deque[LogEvent]) -> None:
    held = start(clock)
    lose(held, clock)
    for _ in range(SOON_ATTEMPTS + 2):
        clock.advance(2.0)
        held.restart()
    levels = [event["log_level"] for event in after_start(log)]
    # The loss and the first refusal; the other attempts that come soon; the one that ends them, and the next two.
    assert levels == [LogLevel.warn] * 2 + [LogLevel.debug] * (SOON_ATTEMPTS - 2) + [LogLevel.warn] * 3


@pytest.mark.parametrize("fails", [Held.refuse, Held.drop, lambda held: held.connect().ended.callback("rejected")])
def test_only_refusals_are_followed_by_another_attempt_soon(
    clock: Clock, log: deque[LogEvent], fails: Callable[[Held], None]
) -> None:
    held = start(clock)
    lose(held, clock)
    held.useful = False
    clock.advance(SOON)
    fails(held)
    assert 1.0 <= log[-1]["wait"] <= 1.4


def test_server_that_drops_each_connection_at_once_is_not_dialled_soon(clock: Clock, log: deque[LogEvent]) -> None:
    held = start(clock)
    for _ in range(10):
        lose(held, clock, lasted=0.9)
        assert 1.0 <= log[-1]["wait"] <= 1.4
        clock.advance(1.5)


def test_no_attempt_comes_later_than_the_shortest_wait_says(clock: Clock, log: deque[LogEvent]) -> None:
    held = start(clock)
    held._shortest = 0.01
    for _ in range(10):
        lose(held, clock)
        assert log[-1]["wait"] <= 0.01
        clock.advance(1.5)


@pytest.mark.parametrize("repeated", [LogLevel.warn, LogLevel.debug])
def test_the_level_of_a_failure_like_the_one_before(clock: Clock, log: deque[LogEvent], repeated: LogLevel) -> None:
    held = start(clock, repeated=repeated)
    fail_often(held, clock, 3)
    held.refuse("no route")
    clock.advance(30.0)
    held.useful = True
    held.connect().ended.callback("cut")
    clock.advance(30.0)
    held.connect().ended.callback("cut")
    clock.advance(30.0)
    held.useful = False
    held.connect().ended.callback("cut")
    warn = LogLevel.warn
    assert [event["log_level"] for event in after_start(log)] == [warn, repeated, repeated, warn, warn, warn, repeated]


def test_stops_while_it_dials(clock: Clock) -> None:
    held = start(clock)
    stopped = held.stopService()
    assert stopped.called
    assert not clock.getDelayedCalls()
    assert len(held.attempts) == 1
    assert not held.left


def test_stops_while_it_waits(clock: Clock) -> None:
    held = start(clock)
    held.refuse()
    assert held.stopService().called
    assert not clock.getDelayedCalls()


def test_stops_when_the_connection_is_left(clock: Clock, log: deque[LogEvent]) -> None:
    held = start(clock)
    connection = held.connect()
    stopped = held.stopService()
    assert held.left == [connection]
    before = stopped.called
    connection.ended.callback("we left")
    assert (before, stopped.called) == (False, True)
    assert not clock.getDelayedCalls()
    assert not after_start(log), "nobody wants to know why it ended"


def test_can_be_stopped_again_or_before_it_starts(clock: Clock) -> None:
    held = Held(clock)
    held.startService()
    assert held.stopService().called
    assert held.stopService().called
    held.startService()
    assert len(held.attempts) == 2
    held.stopService()


def test_dials_no_more_but_stays(clock: Clock) -> None:
    held = start(clock)
    connection = held.connect()
    held.dial_no_more()
    connection.ended.callback("cut")
    assert not clock.getDelayedCalls()
    assert held.stopService().called
    assert not held.left


def test_dials_no_more_and_ends_what_it_was_at(clock: Clock) -> None:
    held = start(clock)
    held.refuse()
    held.dial_no_more()
    assert not clock.getDelayedCalls()


def test_a_mistake_of_ours_is_logged_and_does_not_end_the_dialling(
    clock: Clock, log: deque[LogEvent], monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Callable[..., object]
) -> None:
    held = start(clock)
    monkeypatch.setattr(held, "lost", lambda connection, reason: 1 / 0)
    held.connect().ended.callback("cut")
    assert ["please report this" in event["log_format"] for event in after_start(log)] == [True, False]
    clock.advance(60.0)
    held.connect()
    assert flush_logged_errors(ZeroDivisionError)


def test_leads_elsewhere_while_it_is_connected(clock: Clock, log: deque[LogEvent]) -> None:
    held = start(clock)
    connection = held.connect()
    held.dial_anew("server 192.0.2.2:7000", 60.0, 60.0)
    assert held.left == [connection]
    connection.ended.callback("so it was said")
    assert log[-1]["why"] == "lost: so it was said"
    clock.advance(SOON)
    assert len(held.attempts) == 2
    held.refuse()
    assert log[-1]["why"] == "cannot reach server 192.0.2.2:7000: refused"
    assert log[-1]["wait"] >= 60.0


@pytest.mark.parametrize("waits", [True, False])
def test_leads_elsewhere_while_it_is_not(clock: Clock, log: deque[LogEvent], waits: bool) -> None:
    """Neither the present attempt nor the wait for the next one counts any more."""
    held = start(clock)
    if waits:
        held.refuse()
    held.dial_anew("server 192.0.2.2:7000", 1.0, 30.0)
    assert len(held.attempts) == 2
    held.connect()
    clock.advance(100)
    assert len(held.attempts) == 2
    assert clock.getDelayedCalls() == []


def test_leads_elsewhere_although_the_attempt_ends_in_its_own_way(clock: Clock) -> None:
    """As endpoints do that raise something else when they are cancelled."""
    held = start(clock)
    held.attempts[-1]._canceller = lambda attempt: attempt.errback(Failure(OSError("cancelled")))
    held.dial_anew("server 192.0.2.2:7000", 1.0, 30.0)
    held.connect()
    clock.advance(100)
    assert len(held.attempts) == 2


def test_leads_elsewhere_once_it_starts(clock: Clock, log: deque[LogEvent]) -> None:
    held = Held(clock)
    held.dial_anew("server 192.0.2.2:7000", 1.0, 30.0)
    assert held.attempts == []
    held.startService()
    assert log[-1]["peer"] == "server 192.0.2.2:7000"


@pytest.mark.parametrize("is_lost", [True, False])
def test_dials_again_after_all(clock: Clock, is_lost: bool) -> None:
    """It was to dial no more, and nothing has come of that."""
    held = start(clock)
    connection = held.connect()
    held.dial_no_more()
    if is_lost:
        connection.ended.callback("lost meanwhile")
        clock.advance(100)
        assert len(held.attempts) == 1
    held.dial_again()
    assert len(held.attempts) == 1 + is_lost
    if not is_lost:
        connection.ended.callback("lost later")
        clock.advance(100)
        assert len(held.attempts) == 2
    held.connect()
    held.dial_again()
    assert len(held.attempts) == 2


def test_dials_again_what_it_was_at(clock: Clock) -> None:
    held = start(clock)
    held.dial_no_more()
    assert len(held.attempts) == 1
    held.dial_again()
    assert len(held.attempts) == 2
    held.connect()
    clock.advance(100)
    assert len(held.attempts) == 2
