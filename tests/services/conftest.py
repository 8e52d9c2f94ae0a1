"""What the tests of health checks see of the log."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from twisted.logger import LogEvent, formatEvent

from tests.leftovers import TestLog


@pytest.fixture
def logged(_nothing_left_behind: TestLog) -> Any:
    events: deque[LogEvent] = _nothing_left_behind.events
    return lambda: [event for event in events if "local" in event]


@pytest.fixture
def lines(logged: Any) -> Any:
    return lambda: [formatEvent(event) for event in logged()]
