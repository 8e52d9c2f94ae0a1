"""The fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.leftovers import TestLog

if TYPE_CHECKING:
    from tests.rtc.signaling.link_parts import World
    from tests.rtc.signaling.server_parts import SignalWorld


@pytest.fixture
def signaling(_nothing_left_behind: TestLog) -> Iterator[SignalWorld]:
    """See :class:`SignalWorld`; everything in it has ended before anybody looks for what is left behind."""
    # It imports the reactor, and pytest reads this file before pytest-twisted installs one.
    from tests.rtc.signaling.server_parts import SignalWorld

    world = SignalWorld(_nothing_left_behind)
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.end()))


@pytest.fixture
def world(_nothing_left_behind: TestLog) -> Iterator[World]:
    """Links and servers, which are stopped when the test is over."""
    from twisted.internet import reactor

    from tests.rtc.signaling.link_parts import World

    world = World(reactor, _nothing_left_behind)
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.stop_all()))
