"""The fixtures of this folder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.leftovers import TestLog
from tests.reverse.conftest import world
from tests.tls.conftest import authority as bare_authority, first_authority
from tests.tls.parts import Authority

if TYPE_CHECKING:
    from tests.reload.parts import Running

__all__ = ["bare_authority", "first_authority", "world"]

Run = Callable[..., "Running"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reloads need not wait for each other, and signals stay those of pytest."""
    monkeypatch.setattr("rtunnel.options.reload.reloader.REST", 0.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def authority(bare_authority: Authority) -> Authority:
    """With a certificate for the status port."""
    bare_authority.server("web", kind="ECDSA")
    return bare_authority


@pytest.fixture
def logged(_nothing_left_behind: TestLog) -> TestLog:
    """What was logged."""
    return _nothing_left_behind


@pytest.fixture
def run(_nothing_left_behind: TestLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Start a service with options."""
    # It imports the reactor, and pytest reads this file before pytest-twisted installs one.
    from twisted.internet import reactor

    from tests.reload.parts import Running

    def prepared(*_names: object) -> Any:
        """The reactor as it is: it stays that of all other tests."""
        return reactor

    started: list[Running] = []

    def start(plugin: ModuleType, flags: tuple[str, ...] = (), **settings: Any) -> Running:
        for name in ("prepared_reactor", "prepared_asyncio_reactor"):
            monkeypatch.setattr(plugin, name, prepared, raising=False)
        running = Running(plugin, tmp_path, settings, flags)
        started.append(running)
        return running

    yield start
    for running in reversed(started):
        pytest_twisted.blockon(Deferred.fromCoroutine(running.stop()))
