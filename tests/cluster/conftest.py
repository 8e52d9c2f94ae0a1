"""A Redis for all tests of a process, one for a single test, and worlds with either engine."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_twisted

from tests.cluster.redis_server import RedisServer, a_redis
from tests.leftovers import TestLog

# The reactor, which this imports, is installed by pytest-twisted, after it has imported this module.
if TYPE_CHECKING:
    from tests.cluster.world import RedisWorld, World


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis that several tests use, each with a prefix of its own."""
    with a_redis() as server:
        yield server


@pytest.fixture
def log(_nothing_left_behind: TestLog) -> TestLog:
    """What was logged in this test."""
    return _nothing_left_behind


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for sockets."""
    with tempfile.TemporaryDirectory(prefix="rt-") as directory:
        yield Path(directory)


@pytest.fixture
def own_redis(short_path: Path) -> Iterator[RedisServer]:
    """A Redis for this test, to be started."""
    server = RedisServer(short_path)
    yield server
    server.kill()


@pytest_twisted.async_yield_fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A world with the engine that the parameter names."""
    from tests.cluster.world import MemoryWorld, RedisWorld

    world: World
    if request.param == "memory":
        world = MemoryWorld()
    else:
        world = RedisWorld(request.getfixturevalue("redis_server"), request.getfixturevalue("short_path"))
    yield world
    await world.stop()


@pytest_twisted.async_yield_fixture
async def own_world(own_redis: RedisServer, short_path: Path) -> AsyncIterator[RedisWorld]:
    """A world with a Redis of its own, which runs."""
    from tests.cluster.world import RedisWorld

    own_redis.start()
    world = RedisWorld(own_redis, short_path)
    yield world
    await world.stop()
