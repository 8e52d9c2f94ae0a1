"""Bandwidths, by a clock that stands still: how much passes, who gets it, and how evenly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.task import Clock

from rtunnel.reverse.metering.meter import ANY, Allowance, Budget
from rtunnel.shaping.shaper import BURST, LEAST_BURST, Lane, Shaper, piece_for

MBIT = 125_000.0
"""Bytes a second."""


class Greedy:
    """A visitor who has always more. *is_late*: what he reads shows in the next turn only, as with Twisted."""

    def __init__(self, clock: Clock, shapers: Sequence[Shaper], piece: int, *, is_late: bool = False) -> None:
        self.clock = clock
        self.lane = Lane(shapers, ())
        self.lane.go = self._go
        self.piece = piece
        self.is_late = is_late
        self.count = 0
        self.when: list[float] = []

    def start(self) -> None:
        if self.lane.may_pass():
            self._read()

    def _go(self) -> bool:
        if not self.is_late:
            self._read()
        else:
            self.clock.callLater(0, self._read)
        return not self.is_late

    def _read(self) -> None:
        self.count += self.piece
        self.when.append(self.clock.seconds())
        if self.lane.passed(self.piece):
            self.clock.callLater(0, self._read)


def run(clock: Clock, seconds: float, step: float = 0.001) -> None:
    until = clock.seconds() + seconds
    while clock.seconds() < until - step / 2:
        clock.advance(step)


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("rate", [MBIT / 10, MBIT, 10 * MBIT, 100 * MBIT, 1000 * MBIT])
def test_the_rate_is_kept(rate: float, count: int, is_late: bool) -> None:
    clock = Clock()
    tunnel = Shaper(clock, rate)
    piece = min(65536, piece_for(rate))
    visitors = [Greedy(clock, [tunnel], piece, is_late=is_late) for _ in range(count)]
    for each in visitors:
        each.start()
    run(clock, 1)
    before = [each.count for each in visitors]
    run(clock, 5)
    passed = [each.count - already for each, already in zip(visitors, before, strict=True)]
    assert sum(passed) == pytest.approx(5 * rate, rel=0.05, abs=piece)
    # In equal parts, and each about as often as his turn comes.
    assert max(passed) - min(passed) <= max(piece, 0.05 * sum(passed) / count)


def test_it_is_even() -> None:
    clock = Clock()
    rate = 10 * MBIT
    visitor = Greedy(clock, [Shaper(clock, rate)], min(65536, piece_for(rate)))
    visitor.start()
    run(clock, 1)
    gaps = [later - before for before, later in zip(visitor.when[-30:], visitor.when[-29:], strict=False)]
    assert max(gaps) <= 0.05


def test_a_late_timer_does_not_lower_the_rate() -> None:
    """The process is busy for longer than a timer should take."""
    clock = Clock()
    rate = 100 * MBIT
    visitor = Greedy(clock, [Shaper(clock, rate)], 65536)
    visitor.start()
    run(clock, 1, 0.03)
    before = visitor.count
    run(clock, 6, 0.03)
    assert visitor.count - before == pytest.approx(6 * rate, rel=0.05)


def test_what_was_saved_up_is_bounded() -> None:
    clock = Clock()
    rate = 10 * MBIT
    visitor = Greedy(clock, [Shaper(clock, rate)], 2048)
    clock.advance(3600)
    visitor.start()
    run(clock, 0.01)
    assert visitor.count <= BURST * rate + 0.01 * rate + 2 * 2048


def test_a_visitor_has_less_than_the_tunnel() -> None:
    clock = Clock()
    tunnel = Shaper(clock, 10 * MBIT)
    slow = Greedy(clock, [Shaper(clock, MBIT), tunnel], 2048)
    fast = Greedy(clock, [tunnel], 8192)
    for each in (slow, fast):
        each.start()
    run(clock, 1)
    before = slow.count, fast.count
    run(clock, 5)
    assert slow.count - before[0] == pytest.approx(5 * MBIT, rel=0.05)
    assert fast.count - before[1] == pytest.approx(5 * 9 * MBIT, rel=0.05)


def test_whoever_leaves_frees_the_others() -> None:
    clock = Clock()
    tunnel = Shaper(clock, MBIT)
    visitors = [Greedy(clock, [tunnel], 20_000) for _ in range(3)]
    for each in visitors:
        each.start()
    assert [each.lane.is_waiting for each in visitors] == [True, True, True]
    visitors[1].lane.close()
    assert not visitors[1].lane.is_waiting
    # What it still delivers is charged, and nothing waits.
    assert visitors[1].lane.passed(10)
    run(clock, 3)
    assert visitors[1].count == 0 or visitors[1].count == visitors[1].piece
    assert visitors[0].count > 100_000
    assert visitors[2].count > 100_000
    for each in visitors:
        each.lane.close()
    assert not clock.getDelayedCalls()


def test_one_that_breaks_does_not_stop_the_others(flush_logged_errors: object) -> None:
    clock = Clock()
    tunnel = Shaper(clock, MBIT)
    broken, other = Lane([tunnel], ()), Greedy(clock, [tunnel], 2048)

    def breaks() -> bool:
        raise ZeroDivisionError

    broken.go = breaks
    tunnel.spend(LEAST_BURST + 1)
    assert not broken.may_pass()
    other.start()
    run(clock, 1)
    assert other.count > 100_000
    flush_logged_errors(ZeroDivisionError)  # type: ignore[operator]


def test_datagrams_do_not_wait() -> None:
    clock = Clock()
    lane = Lane([Shaper(clock, MBIT)], ())
    sent = 0
    for _ in range(1000):
        sent += 1000 * lane.take(1000)
    assert sent == pytest.approx(LEAST_BURST, abs=1001)
    run(clock, 1)
    for _ in range(1000):
        sent += 1000 * lane.take(1000)
        clock.advance(0.004)
    assert sent == pytest.approx(2 * LEAST_BURST + 4 * MBIT, rel=0.02)


def test_a_change_counts_for_those_who_are_there() -> None:
    clock = Clock()
    allowance = Allowance(clock, MBIT, None)
    meter = Budget(clock, [allowance], None).meter()
    visitor = Greedy(clock, (), 2048)
    visitor.lane = meter.up
    meter.attach(visitor._go, lambda: True, lambda: None)
    visitor.start()
    run(clock, 2)
    allowance.change(10 * MBIT, None)
    run(clock, 1)
    before = visitor.count
    run(clock, 5)
    assert visitor.count - before == pytest.approx(50 * MBIT, rel=0.05)
    visitor.piece = int(ANY / 1000)
    allowance.change(None, None)
    before = visitor.count
    run(clock, 0.1)
    assert visitor.count - before == pytest.approx(0.2 * ANY, rel=0.1)


def test_a_visitor_of_several_requests_is_one() -> None:
    clock = Clock()

    class Who:
        pass

    one, other = Who(), Who()
    limits = Budget(clock, [], MBIT)
    for _ in range(3):
        meter = limits.meter(one)
        meter.attach(lambda: True, lambda: True, lambda: None)
        meter.down.passed(LEAST_BURST)
        meter.close()
    meter = limits.meter(one)
    meter.attach(lambda: True, lambda: True, lambda: None)
    assert not meter.down.may_pass()
    assert meter.up.may_pass()
    assert limits.meter(other).down.may_pass()
    meter.close()
    assert len(limits._visitors) == 2
    del one, other
    assert len(limits._visitors) == 0
