"""Agents that end with the test, and leave no socket and no task."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from aioice import Candidate
from twisted.internet.defer import Deferred

from rtunnel.rtc.aiortc.bridge import adopt_python_logging, as_deferred
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.sdp import parse_candidate
from rtunnel.rtc.settings import IceSettings
from tests.leftovers import TestLog
from tests.reverse.net import HOST, turns, until
from tests.rtc.fakes import log_limiter

LOOPBACK = IceSettings(interfaces=(HOST,))


HIDDEN = "4a1b7c1e-66a3-4d8b-b1ae-7b2f0e35b1a1.local"
GOOD = "candidate:1 1 udp 2113937151 192.0.2.1 5000 typ host"


class Agents:
    """Agents of one test, each with what it found; they are closed with it."""

    def __init__(self, log: TestLog) -> None:
        adopt_python_logging()
        self.log = log
        self.log_limiter = log_limiter(most=1)
        self.agents: list[IceAgent] = []
        self.found: dict[IceAgent, list[Candidate | None]] = {}
        self._tasks: list[asyncio.Task[Any]] = []

    def make(self, settings: IceSettings = LOOPBACK, controlling: bool = False) -> IceAgent:
        found: list[Candidate | None] = []
        agent = IceAgent(settings, controlling, found.append, self.log_limiter)
        self.agents.append(agent)
        self.found[agent] = found
        return agent

    async def gather(self, agent: IceAgent) -> list[Candidate]:
        await run(agent.gather())
        return agent.local_candidates

    async def pair(self, settings: IceSettings = LOOPBACK) -> tuple[IceAgent, IceAgent]:
        """Two that have a path."""
        one, two = self.make(settings, True), self.make(settings)
        for agent in (one, two):
            await self.gather(agent)
        await introduce(one, two)
        connecting = [self.start(agent.connect()) for agent in (one, two)]
        await until(lambda: all(task.done() for task in connecting), "a path")
        for task in connecting:
            task.result()
        return one, two

    def start(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.append(task)
        return task

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for agent in self.agents:
            await run(agent.close())
        await turns(3)
        for task in self._tasks:
            if not task.cancelled():
                task.exception()


async def run(work: Any) -> None:
    """A coroutine of asyncio's to its end."""
    error: list[BaseException] = []

    async def guarded() -> None:
        try:
            await work
        except Exception as caught:
            error.append(caught)

    await as_deferred(guarded())
    if error:
        raise error[0]


async def introduce(one: IceAgent, two: IceAgent) -> None:
    for agent, other in ((one, two), (two, one)):
        agent.remote_username, agent.remote_password = other.local_username, other.local_password
        for candidate in other.local_candidates:
            await agent.add_remote_candidate(parse_candidate(candidate.to_sdp()))
        await agent.add_remote_candidate(None)


@pytest.fixture
def agents(_nothing_left_behind: TestLog) -> Iterator[Agents]:
    made = Agents(_nothing_left_behind)
    before = open_sockets()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.end()))
    assert open_sockets() <= before, "sockets are left"
    left = [task for task in asyncio_tasks() if "aioice" in repr(task) or "rtunnel" in repr(task)]
    assert not left


def asyncio_tasks() -> set[asyncio.Task[Any]]:
    from twisted.internet import reactor

    return asyncio.all_tasks(reactor._asyncioEventloop)  # type: ignore[attr-defined]


def open_sockets() -> int:
    """UDP sockets of this process."""
    known = set()
    for table in ("udp", "udp6"):
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
        known |= {f"socket:[{line.split()[9]}]" for line in lines}
    count = 0
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            count += str(entry.readlink()) in known
        except OSError:
            continue
    return count


class Silent:
    """A UDP port that takes everything and says nothing."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((HOST, 0))
        self.port: int = self.socket.getsockname()[1]

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    port = Silent()
    yield port
    port.close()


async def datagram(handle: socket.socket) -> tuple[bytes, Any]:
    handle.setblocking(False)
    got: list[tuple[bytes, Any]] = []

    def look() -> bool:
        try:
            got.append(handle.recvfrom(2000))
        except BlockingIOError:
            return False
        return True

    await until(look, "a datagram")
    return got[0]
    # The fixture looks for sockets.


async def turn() -> None:
    """One turn of the loop."""
    waiting: Deferred[None] = Deferred()
    asyncio.get_running_loop().call_soon(waiting.callback, None)
    await waiting
