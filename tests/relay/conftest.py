"""What tests of the direct relay share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from tests.relay.direct_rig import Turns, no_descriptor_left


@pytest.fixture(params=["running", "epoll"])
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    """Both reactors, and nothing left open behind the test."""
    turns = Turns(request.param)
    # The running reactor opens descriptors of its own when it is first used.
    pytest_twisted.blockon(ensureDeferred(turns.turn()))
    with no_descriptor_left(turns):
        yield turns
    turns.close()
