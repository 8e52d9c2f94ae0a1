"""Windows: limits never fall, grants come in time, and windows grow with rate and round trip."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.credit import (
    CREDIT_PAYLOAD,
    FIN_PAYLOAD,
    MAX_OFFSET,
    SMALLEST_WINDOW,
    Growth,
    ReceiveWindow,
    SendWindow,
    Windows,
)


def test_payloads_are_u64_big_endian() -> None:
    assert CREDIT_PAYLOAD.pack(1, 2) == bytes(7) + b"\1" + bytes(7) + b"\2"
    assert FIN_PAYLOAD.pack(3) == bytes(7) + b"\3"


# The sender's side


def test_send_window() -> None:
    window = SendWindow(100)
    assert window.available == 100
    window.sent = 100
    assert window.available == 0
    assert window.raise_limit(150, 100) is True
    assert window.available == 50


def test_without_credit_there_is_no_limit() -> None:
    window = SendWindow(None)
    window.sent = 2**50
    assert window.available > 2**50


@pytest.mark.parametrize("limit", [0, 99, 100])
def test_a_limit_that_is_not_higher_is_ignored(limit: int) -> None:
    window = SendWindow(100)
    assert window.raise_limit(limit, 0) is False
    assert window.limit == 100


@pytest.mark.parametrize(("limit", "delivered"), [(200, 51), (0, 51), (MAX_OFFSET + 1, 0), (2**64 - 1, 50)])
def test_impossible_credit(limit: int, delivered: int) -> None:
    window = SendWindow(100)
    window.sent = 50
    with pytest.raises(ValueError, match=r"51 bytes delivered of 50 sent|limit \d+ is out of range"):
        window.raise_limit(limit, delivered)
    assert window.limit == 100


def test_the_largest_limit() -> None:
    window = SendWindow(0)
    assert window.raise_limit(MAX_OFFSET, 0) is True
    assert window.available == MAX_OFFSET


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 50))))
def test_a_send_limit_is_the_highest_that_was_ever_given(updates: list[tuple[int, int, int]]) -> None:
    window = SendWindow(100)
    given_limits = [100]
    for limit, delivered, sent in updates:
        if delivered <= window.sent:
            assert window.raise_limit(limit, delivered) is (limit > max(given_limits))
            given_limits.append(limit)
        else:
            with pytest.raises(ValueError, match="delivered"):
                window.raise_limit(limit, delivered)
        window.sent += min(sent, window.available)
        assert window.limit == max(given_limits)


# The receiver's side


def test_a_grant_is_due_when_half_is_delivered() -> None:
    window = ReceiveWindow(100, 0.0)
    window.received = 80
    due = []
    for window.delivered in (0, 49, 50):
        due.append(window.grant_is_due)
    assert due == [False, False, True]
    assert window.waiting == 30
    assert window.grant(10.0, 0.0, 1000) == 0
    assert (window.limit, window.size) == (150, 100)
    assert not window.grant_is_due


@pytest.mark.parametrize(
    ("elapsed", "round_trip", "growth", "grown"),
    [
        (1.99, 1.0, 1000, 100),
        (2.0, 1.0, 1000, 0),
        (0.0, 1.0, 1000, 100),
        (0.0, 0.0, 1000, 0),
        (0.0, 1.0, 30, 30),
        (0.0, 1.0, 0, 0),
        (0.0, 1.0, -50, 0),
    ],
)
def test_growth(elapsed: float, round_trip: float, growth: int, grown: int) -> None:
    window = ReceiveWindow(100, 5.0)
    window.received = window.delivered = 60
    assert window.grant(5.0 + elapsed, round_trip, growth) == grown
    assert window.size == 100 + grown
    assert window.limit == 60 + window.size


def test_growth_is_measured_from_grant_to_grant() -> None:
    window = ReceiveWindow(100, 0.0)
    window.delivered = window.received = 50
    assert window.grant(100.0, 1.0, 1000) == 0
    window.delivered = window.received = 100
    assert window.grant(101.0, 1.0, 1000) == 100


@pytest.mark.parametrize("rate", [10_000, 1_000_000, 50_000_000])
def test_a_window_settles_at_four_to_eight_times_what_is_under_way(rate: int) -> None:
    round_trip, now, initial = 0.1, 0.0, 1000
    window = ReceiveWindow(initial, now)
    for _ in range(200):
        now += window.size / 2 / rate
        window.received = window.delivered = window.delivered + (window.size + 1) // 2
        assert window.grant_is_due
        window.grant(now, round_trip, 1 << 40)
    under_way = rate * round_trip
    assert max(initial, 4 * under_way) <= window.size <= 8 * under_way


def test_what_a_stream_may_hold() -> None:
    window = ReceiveWindow(100, 0.0)
    assert window.reserved == 100
    window.received, window.delivered = 80, 30
    assert window.reserved == 100, "the next grant fills the window up again"
    window.end()
    assert window.reserved == window.waiting == 50
    window.received += 7
    assert window.reserved == 50, "what comes after the end has no room"


@given(
    st.integers(1, 200),
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 300), st.floats(0, 3), st.floats(0, 2), st.integers(-10, 500))
    ),
)
def test_a_receive_limit_never_falls(initial: int, steps: list[tuple[int, int, float, float, int]]) -> None:
    window = ReceiveWindow(initial, 0.0)
    now, grown = 0.0, 0
    for received, delivered, elapsed, round_trip, growth in steps:
        now += elapsed
        window.received += min(received, window.limit - window.received)
        window.delivered += min(delivered, window.waiting)
        before = window.limit
        if window.grant_is_due:
            risen = window.grant(now, round_trip, growth)
            assert 0 <= risen <= max(0, growth)
            grown += risen
            assert window.limit > before
            assert window.limit == window.delivered + window.size
        assert window.size == initial + grown
        assert window.delivered <= window.received <= window.limit <= window.delivered + window.size


# All windows of a link


KIB = 1024
INITIAL, LARGEST = 64 * KIB, 1024 * KIB


def used_up(window: ReceiveWindow) -> ReceiveWindow:
    """Let half of what is granted be delivered."""
    window.received = window.delivered = (window.limit + window.delivered + 1) // 2
    assert window.grant_is_due
    return window


def grown(windows: Windows, times: int = 4) -> ReceiveWindow:
    """A window that has grown as far as it may."""
    window, granted = ReceiveWindow(INITIAL, 0.0), INITIAL
    for _ in range(times):
        granted += windows.grant(used_up(window), 0.0, 1.0, granted)
    return window


def test_windows_grow_and_shrink() -> None:
    windows = Windows(INITIAL, LARGEST, 100 * LARGEST)
    window = grown(windows)
    assert window.size == LARGEST
    windows.is_short = True
    sizes = []
    for _ in range(8):
        limit = window.limit
        windows.grant(used_up(window), 0.0, 1.0, window.size)
        sizes.append(window.size // KIB)
        assert limit <= window.limit == window.delivered + window.size
    assert sizes == [512, 256, 128, 64, 32, 16, 16, 16]
    assert window.size == SMALLEST_WINDOW
    windows.is_short = False
    windows.grant(used_up(window), 0.0, 1.0, window.size)
    assert window.size == 2 * SMALLEST_WINDOW


def test_windows_that_are_small_anyway_do_not_shrink() -> None:
    windows = Windows(KIB, LARGEST, LARGEST)
    windows.is_short = True
    window = ReceiveWindow(KIB, 0.0)
    assert windows.grant(used_up(window), 0.0, 1.0, KIB) == 0
    assert window.size == KIB


def test_each_link_grows_by_as_much_as_it_leaves_to_others() -> None:
    growth = Growth(1024 * KIB)
    links = [Windows(INITIAL, LARGEST, 100 * LARGEST) for _ in range(3)]
    for link in links:
        link.growth = growth
    sizes = [grown(link).size // KIB for link in links]
    assert sizes == [64 + 512, 64 + 256, 64 + 128]
    assert growth.left == 128 * KIB
    # The first has more than twice what is left, and gives way when it is next granted credit.
    window = ReceiveWindow(INITIAL, 0.0)
    window.size = window.limit = 64 * KIB + 512 * KIB
    assert links[0].grant(used_up(window), 0.0, 1.0, window.size) == -window.size
    assert growth.left == (128 + 288) * KIB


def test_what_windows_have_grown_is_measured() -> None:
    windows = Windows(INITIAL, LARGEST, LARGEST)
    sizes = [16 * KIB, 64 * KIB, 65 * KIB, 128 * KIB]
    assert windows.measure([ReceiveWindow(size, 0.0) for size in sizes]) == windows.grown == 65 * KIB


@given(st.lists(st.tuples(st.integers(0, 2**20), st.booleans(), st.integers(0, 3)), max_size=60))
def test_a_limit_never_falls_and_a_window_holds_what_is_granted(steps: list[tuple[int, bool, int]]) -> None:
    windows = Windows(INITIAL, LARGEST, 4 * LARGEST)
    windows.growth = Growth(LARGEST)
    window, granted = ReceiveWindow(INITIAL, 0.0), INITIAL
    for count, is_short, seconds in steps:
        windows.is_short = is_short
        window.received = min(window.limit, window.received + count)
        window.delivered = window.received
        if window.grant_is_due:
            before = window.limit
            granted += windows.grant(window, float(seconds), 1.0, granted)
            assert before <= window.limit
        assert granted == window.size == window.reserved
        assert window.limit - window.delivered <= window.size <= LARGEST
