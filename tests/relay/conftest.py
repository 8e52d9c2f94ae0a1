"""What tests of the direct relay share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from rtunnel.relay.sockets import QuietFactory
from tests.relay.direct_rig import Turns, no_descriptor_left


@pytest.fixture(params=["running", "epoll"])
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    """Both reactors, and nothing left open behind the test."""
    turns = Turns(request.param)
    # Twisted opens descriptors of its own when the reactor first runs, and when a port is first opened.
    pytest_twisted.blockon(ensureDeferred(turns.turn()))
    stopped: list[object] = []
    turns.reactor.listenTCP(0, QuietFactory(), interface="127.0.0.1").stopListening().addBoth(stopped.append)
    pytest_twisted.blockon(ensureDeferred(turns.until(lambda: stopped)))
    with no_descriptor_left(turns):
        yield turns
    turns.close()
