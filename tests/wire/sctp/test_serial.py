"""Numbers of few bits, and those that they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.sctp.serial import unwrap


@pytest.mark.parametrize(
    ("value", "near", "bits", "expected"),
    [
        (5, 4, 32, 5),
        (0, 2**32 - 1, 32, 2**32),
        (2**32 - 1, 2**32, 32, 2**32 - 1),
        (2**32 - 1, 0, 32, -1),
        (3, 7 * 2**16 - 1, 16, 7 * 2**16 + 3),
        (2**31 - 1, 0, 32, 2**31 - 1),
        (2**31, 0, 32, -(2**31)),
    ],
)
def test_the_closest(value: int, near: int, bits: int, expected: int) -> None:
    assert unwrap(value, near, bits) == expected


@given(st.integers(-1, 2**70), st.data(), st.sampled_from([16, 32]))
def test_everything_within_half_of_the_numbers_comes_back(near: int, data: st.DataObject, bits: int) -> None:
    number = near + data.draw(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    assert unwrap(number % 2**bits, near, bits) == number
