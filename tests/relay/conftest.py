"""Fixtures for the tests of the direct relay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from rtunnel.relay.sockets import QuietFactory
from tests.relay.direct_rig import Turns, no_descriptor_left


@pytest.fixture(params=["running", "epoll", "running watch", "epoll watch"])
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    """Run the test on both reactors, with and without a :class:`Poller`, and check that nothing stays open."""
    name, _, watch = request.param.partition(" ")
    turns = Turns(name, bool(watch))
    # Twisted opens descriptors of its own when a reactor first runs, and when a port is first opened.
    pytest_twisted.blockon(ensureDeferred(Turns("running").turn()))
    pytest_twisted.blockon(ensureDeferred(turns.turn()))
    stopped: list[object] = []
    turns.reactor.listenTCP(0, QuietFactory(), interface="127.0.0.1").stopListening().addBoth(stopped.append)
    pytest_twisted.blockon(ensureDeferred(turns.until(lambda: stopped)))
    with no_descriptor_left(turns):
        yield turns
    turns.close()
