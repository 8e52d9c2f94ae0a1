"""Fixtures for the tests with real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.relay.turns import Turns, checked_turns


@pytest.fixture(params=["running", "epoll", "running watch", "epoll watch"])
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    """Run the test on both reactors, with and without a :class:`Poller`, and check that nothing stays open."""
    with checked_turns(request.param) as turns:
        yield turns
