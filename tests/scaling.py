"""That work grows with its input, and not with the square of it: by a ratio, as no test knows how fast a machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

InputT = TypeVar("InputT")

TIMES = 8
MOST = 4 * TIMES
"""Work that grows with the square of its input takes 64 times as long for one that is eight times as large."""
LEAST = 0.001
"""Seconds of processor time that are too few to be compared."""


def assert_grows_with(make: Callable[[int], InputT], work: Callable[[InputT], object], size: int) -> None:
    """Do *work* on ``make(size)`` and on an input that is eight times as large. It may refuse both."""
    small, large = (_seconds(work, make(each)) for each in (size, TIMES * size))
    assert large < MOST * max(small, LEAST), f"{small:.4f} s, and {large:.4f} s for an input of {TIMES} times that size"


def _seconds(work: Callable[[InputT], object], given: InputT) -> float:
    """The least of a few attempts: something else may have been at work in the others."""
    found = []
    for _ in range(3):
        before = time.thread_time()
        with suppress(Exception):
            work(given)
        found.append(time.thread_time() - before)
    return min(found)
