"""The marker ``process``: tests that start other processes. ``make test-quick`` leaves them out.

Most of them need not say so: whatever takes one of the fixtures through which processes are started has the marker. A
test without it that starts a process all the same fails, so that what is quick stays quick.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path

import pytest

FIXTURES = {"twistd", "pytester", "lab", "venv", "wheel", "redis_server", "own_redis"}
"""Whoever takes one of these starts processes."""
FOLDERS = {"process", "chrome", "hostile", "nat", "packaging"}
"""What is here starts processes."""
EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}
"""Audit events of the interpreter that say that a process is about to be started."""

_watched: list[str] = []
"""Names of the test that may start none; what it starts all the same is added."""


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _watched and event in EVENTS:
        _watched.append(f"{event} {arguments[0]!r}")


sys.addaudithook(_audit)


@cache
def _starts_processes(path: Path) -> bool:
    here = Path(__file__).parent
    return path.is_relative_to(here) and path.relative_to(here).parts[0] in FOLDERS


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _starts_processes(item.path) or FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("process")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    _watched[:] = [] if item.get_closest_marker("process") is not None else [item.name]
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    yield
    started = _watched[1:]
    _watched.clear()
    assert not started, f"starts processes, and so needs the marker 'process': {started}"
