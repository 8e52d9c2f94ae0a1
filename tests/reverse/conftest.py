"""The fixtures of this folder."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.leftovers import TestLog

if TYPE_CHECKING:
    from tests.reverse.world import World


@pytest.fixture
def world(
    _nothing_left_behind: TestLog, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """See :class:`World`; everything in it has ended before anybody looks for what is left behind.

    Tests of what holds on both planes say so by :data:`tests.reverse.net.BOTH_PLANES`.
    """
    # It imports the reactor, and pytest reads this file before pytest-twisted installs one.
    from tests.reverse.world import World

    # Peers that a test holds in its hands do not close their half when we have closed ours.
    monkeypatch.setattr("rtunnel.reverse.carriers.link_protocol.LINGER", 0.5)
    world = World(_nothing_left_behind, getattr(request, "param", "mux"))
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.end()))


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A port whose program accepts nobody, with no room left in the queue of the kernel."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    waiting = []
    for _ in range(3):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(listening.getsockname())
        waiting.append(one)
    yield listening.getsockname()[1]
    for one in (*waiting, listening):
        one.close()
