"""The congestion window: how it grows and shrinks, alone and beside others at a bottleneck."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.sctp.path.congestion import CUBIC_BETA, CUBIC_C, UNUSED_FOR, Congestion
from tests.wire.sctp.path.bottleneck import PACKET, Bottleneck, Sender

RATE, ROUND_TRIP = 100e6 / 8, 0.05
HOLDS = RATE * ROUND_TRIP


class Rounds:
    """Whole round trips, with an acknowledgement for two packets."""

    def __init__(self, segment: int = 1000, round_trip: float = 0.1) -> None:
        self.congestion = Congestion(segment)
        self.round_trip = round_trip
        self.now = 0.0
        self.sent = 0

    def run(self, rounds: int = 1, *, limited: bool = True, used: float = 1.0) -> int:
        congestion, segment = self.congestion, self.congestion.segment
        for _ in range(rounds):
            in_flight = int(congestion.window * used)
            acked, self.sent = self.sent, self.sent + max(1, in_flight // segment)
            self.now += self.round_trip
            for number in range(acked, self.sent, 2):
                congestion.acked(
                    2 * segment, in_flight, number, self.sent, self.round_trip, self.round_trip, limited, self.now
                )
        return congestion.window


@pytest.mark.parametrize(("segment", "window"), [(536, 5360), (1200, 12_000), (1460, 14_600), (16_000, 32_000)])
def test_the_initial_window(segment: int, window: int) -> None:
    assert Congestion(segment).window == window


def test_slow_start_doubles_the_window_in_a_round_trip() -> None:
    rounds = Rounds()
    before = rounds.congestion.window
    assert before * 15 < rounds.run(4) < before * 17


def test_a_window_that_is_not_used_does_not_grow() -> None:
    rounds = Rounds()
    rounds.run(3)
    before = rounds.run(limited=False, used=0.4)
    assert rounds.run(10, limited=False, used=0.4) == before
    # Pacing may hold back somebody who sends little.
    assert rounds.run(10, limited=True, used=0.4) == before
    # In slow start it has just doubled if more than half of it is in flight, so it is used.
    assert rounds.run(1, limited=False, used=0.6) > before
    rounds.congestion.congested(rounds.congestion.window, rounds.now)
    before = rounds.congestion.window
    assert rounds.run(10, limited=False, used=0.9) == before
    assert rounds.run(10) > before


def test_a_window_that_is_long_unused_is_halved_down_to_the_initial_one() -> None:
    rounds = Rounds()
    rounds.run(5)
    before = rounds.run(limited=False, used=0.1)
    rounds.now += UNUSED_FOR - 1
    assert rounds.run(limited=False, used=0.1) == before
    rounds.now += 2
    assert rounds.run(limited=False, used=0.1) == before // 2
    for _ in range(20):
        rounds.now += UNUSED_FOR + 1
        rounds.run(limited=False, used=0.1)
    assert rounds.congestion.window == 14_600


def test_a_loss_leaves_a_part_of_the_window() -> None:
    rounds = Rounds()
    window = rounds.run(5)
    rounds.congestion.congested(window, rounds.now)
    first = rounds.congestion.window
    assert first == pytest.approx(CUBIC_BETA * window, rel=0.01)
    rounds.run(3)
    window = rounds.congestion.window
    rounds.congestion.congested(window, rounds.now)
    assert rounds.congestion.window == pytest.approx(CUBIC_BETA * window, rel=0.01)


def test_a_pause_before_a_loss_does_not_make_the_window_tiny() -> None:
    """The last packets of a burst are lost, when little is in flight: that says little about the window."""
    rounds = Rounds()
    window = rounds.run(6)
    rounds.congestion.congested(3000, rounds.now)
    assert rounds.congestion.window >= 0.24 * window


def test_the_window_follows_the_cubic_curve() -> None:
    segment, round_trip = 1000, 0.1
    rounds = Rounds(segment, round_trip)
    rounds.congestion.limit(9_000, 1_000_000)
    while rounds.congestion.window < 1_000_000:
        rounds.run()
    plateau = float(rounds.congestion.window)
    rounds.congestion.congested(rounds.congestion.window, rounds.now)
    window, began = rounds.run(), rounds.now
    until_plateau = ((plateau - CUBIC_BETA * plateau) / (CUBIC_C * segment)) ** (1 / 3)
    while rounds.now < began + 2 * until_plateau:
        window = rounds.run()
        curve = CUBIC_C * segment * (rounds.now - began - until_plateau) ** 3 + plateau
        assert window == pytest.approx(curve, rel=0.05)


def test_a_pause_does_not_move_the_window_along_its_curve() -> None:
    """What grows with time would otherwise jump after a pause (RFC 9438, section 5.8)."""
    rounds = Rounds()
    rounds.run(5)
    rounds.congestion.congested(rounds.congestion.window, rounds.now)
    rounds.run(5)
    before = rounds.congestion.window
    rounds.run(limited=False, used=0.1)
    rounds.now += 60.0
    assert rounds.run() <= 1.2 * before


def test_a_time_out_begins_with_one_segment_and_ends_slow_start_in_time() -> None:
    rounds = Rounds()
    window = rounds.run(5)
    for _ in range(3):
        rounds.congestion.timed_out(window, rounds.now)
        assert rounds.congestion.window == 1000
        # Copies of what timed out say nothing of the window before.
        assert rounds.congestion.threshold == pytest.approx(CUBIC_BETA * window, rel=0.01)
        window = rounds.congestion.window if rounds.congestion.window > 1000 else window
    for _ in range(20):
        rounds.run()
        assert rounds.congestion.window <= 1.3 * CUBIC_BETA * window
    assert rounds.congestion.window >= CUBIC_BETA * window


def test_slow_start_ends_when_the_round_trip_grows() -> None:
    """HyStart++: some milliseconds more, and five cautious rounds."""
    rounds = Rounds()
    rounds.run(4)
    rounds.round_trip = 0.12
    window = rounds.run(2)
    rounds.run(2)
    assert rounds.congestion.window < 2 * window
    rounds.run(3)
    assert rounds.congestion.threshold < inf
    assert rounds.congestion.window >= rounds.congestion.threshold


def test_slow_start_goes_on_if_the_round_trip_was_only_a_wave() -> None:
    rounds = Rounds()
    rounds.run(4)
    rounds.round_trip = 0.12
    rounds.run(2)
    rounds.round_trip = 0.1
    rounds.run(2)
    window = rounds.congestion.window
    assert rounds.run() >= 1.9 * window
    assert rounds.congestion.threshold == inf


def test_a_limit_holds_and_can_be_undone_within_round_trips() -> None:
    rounds = Rounds()
    window = rounds.run(6)
    rounds.congestion.limit(2 * window)
    assert rounds.congestion.window == window
    rounds.congestion.limit(16_384, window)
    assert rounds.congestion.window == 16_384
    assert rounds.run(8) >= window
    rounds.congestion.limit(16_384)
    assert 16_384 < rounds.run(8) <= 16_384 + 9 * 1000


def test_the_pace_is_above_the_window_in_a_round_trip() -> None:
    congestion = Congestion(1000)
    assert congestion.pacing_rate(0.0) == inf
    assert congestion.pacing_rate(0.001) == inf
    assert congestion.pacing_rate(0.1) == 2 * 10_000 / 0.1
    congestion.congested(10_000, 1.0)
    assert congestion.pacing_rate(0.1) == pytest.approx(1.25 * 7000 / 0.1)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("acked"), st.integers(1, 10**6), st.floats(0.0, 10.0), st.booleans()),
            st.tuples(st.just("congested"), st.integers(0, 10**7)),
            st.tuples(st.just("timed_out"), st.integers(0, 10**7)),
            st.tuples(st.just("limit"), st.integers(1200, 10**7)),
            st.tuples(st.just("segment"), st.integers(500, 16_000)),
        ),
        max_size=60,
    )
)
def test_the_window_is_sound_whatever_happens(steps: list[Any]) -> None:
    congestion = Congestion(1200)
    for number, (kind, count, *rest) in enumerate(steps):
        now = 100.0 + 0.01 * number
        before = congestion.window
        if kind == "acked":
            trip, limited = rest
            congestion.acked(count, count, number, number + 10, trip or None, trip, bool(limited), now)
            assert congestion.window >= min(before, 14_600)
            assert congestion.window <= max(before + count, 2 * before) + 1
        elif kind == "segment":
            congestion.segment = count
        elif kind == "limit":
            congestion.limit(count)
            assert congestion.window == min(before, count)
        else:
            getattr(congestion, kind)(count, now)
            assert congestion.window <= max(before, 2 * congestion.segment)
        assert isinstance(congestion.window, int)
        assert congestion.window >= 500


# At a bottleneck


@pytest.mark.parametrize("queue", [0.25, 1.0])
def test_one_sender_fills_the_path(queue: float) -> None:
    path = Bottleneck(RATE, ROUND_TRIP, queue * HOLDS)
    sender = Sender(path, PACKET)
    sender.send()
    path.run(2.0)
    begun = sender.delivered
    path.run(6.0)
    assert sender.delivered - begun >= 0.93 * 4.0 * RATE
    # Slow start leaves the path in time, or loses no more than it holds.
    assert sender.lost * PACKET <= 0.75 * HOLDS


def test_a_short_path_is_filled_too() -> None:
    path = Bottleneck(RATE, 0.004, 100_000)
    sender = Sender(path, PACKET)
    sender.send()
    path.run(3.0)
    assert sender.delivered >= 0.9 * 3.0 * RATE


@pytest.mark.parametrize(("loss", "share"), [(0.001, 0.1), (0.01, 0.02)])
def test_losses_cost_no_more_than_reno_pays(loss: float, share: float) -> None:
    path = Bottleneck(RATE, ROUND_TRIP, HOLDS, loss)
    sender = Sender(path, PACKET)
    sender.send()
    path.run(10.0)
    reno = 1.22 * PACKET / ROUND_TRIP / loss**0.5
    assert sender.delivered / 10.0 >= 0.8 * min(RATE, reno)
    assert sender.delivered / 10.0 >= share * RATE


def test_two_senders_share_the_path() -> None:
    path = Bottleneck(RATE / 4, 0.02, 0.5 * RATE / 4 * 0.04)
    first, second = Sender(path, PACKET), Sender(path, PACKET)
    first.send()
    path.run(2.0)
    second.send()
    path.run(15.0)
    begun = first.delivered, second.delivered
    path.run(45.0)
    shares = [sender.delivered - before for sender, before in zip((first, second), begun, strict=True)]
    assert min(shares) >= 0.66 * max(shares)
    assert sum(shares) >= 0.9 * 30.0 * RATE / 4
