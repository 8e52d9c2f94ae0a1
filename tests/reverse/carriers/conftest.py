"""Fixtures for the tests of data connections between real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.relay.turns import Turns, checked_turns
from tests.reverse.carriers.rig import PLAIN


@pytest.fixture(params=[*PLAIN, "running watch sealed"])
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    """Run the test on both reactors, with and without a poller, and with sealed records; nothing must stay open."""
    with checked_turns(request.param) as turns:
        yield turns
