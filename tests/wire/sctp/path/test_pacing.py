"""Bursts: how large they are, when they are due, and that they keep the rate."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.sctp.path.pacing import INITIAL_PACKETS, MAX_BURST, UNLIMITED, Pacer

PACKET = 1200


def bursts(pacer: Pacer, rate: float, seconds: float, late: float = 0.0) -> list[int]:
    """Send all that may be sent, whenever it may be, and return the sizes of the bursts."""
    now, sizes = 100.0, []
    end = now + seconds
    while now < end:
        size = 0
        while pacer.allowance(rate, now) > 0:
            pacer.sent(pacer.packet, now)
            size += pacer.packet
        sizes.append(size)
        at = pacer.next_time(rate, now)
        assert at > now
        now = at + late
    return sizes


def test_without_a_rate_all_may_go() -> None:
    pacer = Pacer(PACKET)
    for _ in range(100):
        assert pacer.allowance(inf, 1.0) == UNLIMITED
        pacer.sent(10**6, 1.0)
        assert pacer.next_time(inf, 1.0) == 1.0
    # Nothing of that is owed when a rate is known.
    assert pacer.allowance(inf, 2.0) == UNLIMITED
    assert pacer.allowance(1e6, 2.0) == INITIAL_PACKETS * PACKET


def test_the_initial_window_goes_at_once() -> None:
    assert bursts(Pacer(PACKET), 100_000.0, 0.001)[0] == INITIAL_PACKETS * PACKET


@pytest.mark.parametrize(
    ("rate", "burst"),
    # Two packets at least, 2 ms, and what one system call takes.
    [(1e5, 2 * PACKET), (1e6, 2 * PACKET), (5e6, 10_000), (20e6, 40_000), (50e6, MAX_BURST), (500e6, MAX_BURST)],
)
def test_the_size_of_bursts(rate: float, burst: int) -> None:
    for size in bursts(Pacer(PACKET), rate, 1.0)[1:]:
        assert burst - PACKET <= size <= burst + PACKET


@pytest.mark.parametrize("late", [0.0, 0.001])
@pytest.mark.parametrize("rate", [1e5, 1e6, 5e6, 20e6])
def test_the_rate_is_kept_though_timers_are_late(rate: float, late: float) -> None:
    assert sum(bursts(Pacer(PACKET), rate, 3.0, late)) == pytest.approx(3.0 * rate, rel=0.05, abs=20_000)


def test_packets_that_are_larger_than_a_burst_go_one_by_one() -> None:
    assert set(bursts(Pacer(100_000), 1e6, 10.0)[1:]) == {100_000, 200_000} - {200_000}


def test_a_pause_earns_no_large_burst() -> None:
    pacer = Pacer(PACKET)
    bursts(pacer, 5e6, 0.1)
    assert pacer.allowance(5e6, 1000.0) <= 2 * 10_000
    assert Pacer(16_000).allowance(1e5, 1.0) <= MAX_BURST


@given(st.lists(st.tuples(st.floats(1e3, 1e9), st.floats(0.0, 0.1), st.integers(0, 200_000)), max_size=50))
def test_a_burst_is_due_at_its_time(steps: list[tuple[float, float, int]]) -> None:
    """Whoever waits until then may send: no busy loop, no stall."""
    pacer, now = Pacer(PACKET), 1e6
    for rate, elapsed, count in steps:
        now += elapsed
        pacer.allowance(rate, now)
        pacer.sent(count, now)
        if pacer.allowance(rate, now) <= 0:
            at = pacer.next_time(rate, now)
            assert now < at <= now + (2 * MAX_BURST + 1) / rate + 1e-6
            assert pacer.allowance(rate, at) > 0
