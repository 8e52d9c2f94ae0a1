"""The fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.leftovers import TestLog

if TYPE_CHECKING:
    from tests.rtc.world import World


@pytest.fixture
def rtc(_nothing_left_behind: TestLog) -> Iterator[World]:
    """See :class:`World`; everything in it has ended before anybody looks for what is left behind."""
    # It imports the reactor, and pytest reads this file before pytest-twisted installs one.
    from tests.rtc.world import World

    world = World(_nothing_left_behind)
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.end()))
