"""Several nodes with one directory: in memory, or in Redis."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.logger import formatEvent

from rtunnel.cluster.interface import Away, Claim, IDirectory, Taken
from rtunnel.cluster.memory import MemoryDirectory, Shared
from rtunnel.cluster.redis import RedisDirectory
from rtunnel.cluster.settings import ClusterUrl
from rtunnel.cluster.times import Times
from tests.cluster.redis_server import RedisServer
from tests.leftovers import TestLog
from tests.reverse.net import reactor, turns, until

#: Nothing ends by itself.
LONG = Times(lease=600.0, margin=1.0, renew_every=0.05, reply=600.0)
#: Leases end soon. A machine that is busy may miss them, and tests must not mind.
SHORT = Times(lease=0.5, margin=0.1, renew_every=0.1, reply=600.0)

#: What does not answer is given up soon.
HASTY = replace(LONG, reply=0.2)
#: Something to claim.
KEY = "host app.example.org"

_prefixes = itertools.count()


def not_lost(reason: str) -> None:
    """The ``on_lost`` of a claim that must not be lost."""
    raise AssertionError(reason)


class World:
    """Makes nodes, and ends them."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def build(self, times: Times) -> Any:
        """Return a new directory."""
        raise NotImplementedError

    def part(self, node: IDirectory) -> None:
        """Let a node not reach the directory any more."""
        raise NotImplementedError

    def heal(self, node: IDirectory) -> None:
        """Undo :meth:`part`."""
        raise NotImplementedError

    async def node(self, times: Times = LONG) -> Any:
        """Return a new node, which is there."""
        node = self.build(times)
        await self.begin(node)
        return node

    async def begin(self, node: Any) -> None:
        """Start a node, and wait until it is there."""
        self.nodes.append(node)
        node.startService()
        await until(lambda: not node.why_away, "the node is there")

    async def healed(self, node: Any) -> None:
        """Undo :meth:`part`, and wait until the node is there."""
        self.heal(node)
        await until(lambda: not node.why_away, "the node is there again")

    async def stop(self) -> None:
        """Stop all nodes."""
        for node in self.nodes:
            await maybeDeferred(node.stopService)


class MemoryWorld(World):
    """Nodes of one process."""

    def __init__(self) -> None:
        super().__init__()
        self._shared = Shared()

    def build(self, times: Times) -> MemoryDirectory:
        return MemoryDirectory(reactor, self._shared, times)

    def part(self, node: IDirectory) -> None:
        self._shared.parted.add(node.node)

    def heal(self, node: IDirectory) -> None:
        self._shared.parted.discard(node.node)
        assert isinstance(node, MemoryDirectory)
        node.renew()


class RedisWorld(World):
    """Nodes with one Redis, to which each has a path of its own."""

    def __init__(self, server: RedisServer, directory: Path, password: str = "") -> None:
        super().__init__()
        self.server = server
        self.prefix = f"test-{next(_prefixes)}:"
        self._directory = directory
        self._password = password
        self._paths: dict[str, Path] = {}

    def build(self, times: Times) -> RedisDirectory:
        path = self._directory / f"n{next(_prefixes)}.sock"
        path.symlink_to(self.server.socket)
        url = ClusterUrl("redis+unix", (), str(path), password=self._password, prefix=self.prefix)
        node = RedisDirectory(reactor, url, times)
        self._paths[node.node] = path
        return node

    def part(self, node: IDirectory) -> None:
        self._paths[node.node].unlink()
        assert isinstance(node, RedisDirectory)
        if node._link is not None:
            node._drop(node._link, "parted")

    def heal(self, node: IDirectory) -> None:
        self._paths[node.node].symlink_to(self.server.socket)

    async def stop(self) -> None:
        await super().stop()
        for path in self._paths.values():
            if os.path.lexists(path):
                path.unlink()


async def claimed(
    node: IDirectory,
    key: str,
    owner: str,
    on_lost: Callable[[str], None] = not_lost,
    before: Callable[[], object] = int,
) -> Claim:
    """Claim a key as soon as it is free.

    :param before: called after each attempt.
    """
    while True:
        try:
            return await node.claim(key, owner, on_lost)
        except (Taken, Away):
            before()
            await turns(5)


def lines(log: TestLog) -> list[str]:
    """What the directories have logged as warnings."""
    return [formatEvent(event) for event in log.events if event["log_level"].name == "warn"]


async def answer(node: RedisDirectory) -> object:
    """What a node says to a claim for another owner, as soon as it can say anything."""
    while True:
        try:
            return await node.claim(KEY, "you", not_lost)
        except Away:
            await turns(5)
