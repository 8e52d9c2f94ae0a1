"""The fixtures through which the tests of this folder get their internet, and processes in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.nat.lab import Lab, need_root
from tests.nat.machines import Machines
from tests.process.harness import Twistds
from tests.process.services import Service, Talent


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two home networks behind NATs, and servers outside. Skipped where it cannot be built."""
    need_root()
    built = Lab()
    yield built
    built.close()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """The machines on which the commands of the documents run."""
    need_root()
    built = Machines(tmp_path)
    yield built
    built.close()


@pytest.fixture
def twistd(tmp_path: Path) -> Iterator[Twistds]:
    """Starts processes, in the network where the thread is; ends those that still run when the test is over."""
    started = Twistds(tmp_path)
    yield started
    started.end_all()


@pytest.fixture
def serve(lab: Lab) -> Iterator[Callable[..., Service]]:
    """``serve(get=get, count=count)``: a service with these talents in lan1, for the time of the test."""
    services: list[Service] = []

    def start(**talents: Talent) -> Service:
        with lab.lan1.inside():
            services.append(Service(talents))
        return services[-1]

    yield start
    for service in services:
        service.close()
