"""What these tests share."""

from __future__ import annotations

import pytest

from tests.leftovers import TestLog


@pytest.fixture
def logged(_nothing_left_behind: TestLog) -> TestLog:
    """What the test has logged so far."""
    return _nothing_left_behind
