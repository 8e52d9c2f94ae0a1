"""The fixtures of the tests with other WebRTC stacks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from rtunnel.rtc.aiortc import peer_connection
from tests.patience import PATIENCE
from tests.peers.engines import ENGINES, Engine, Match
from tests.rtc.aiortc.peer_connection_parts import Ends, ends

__all__ = ["Meet", "ends", "engine", "meet"]

Meet = Callable[..., Awaitable[Match]]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    # With a short name, as browsers make sockets in it; and what they write at their very end is no matter.
    with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        engine = Engine(request.param, Path(directory))
        yield engine
        pytest_twisted.blockon(Deferred.fromCoroutine(engine.end()))


@pytest.fixture
def meet(engine: Engine, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> Meet:
    """``await meet(we_offer=True)``: the engine and our end, connected, however long it takes on a busy machine."""
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", PATIENCE)

    async def meet(**options: Any) -> Match:
        match = Match(engine, ends)
        await match.connect(**options)
        return match

    return meet
