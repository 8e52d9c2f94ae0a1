"""Nodes of a signaling cluster without a socket: each has a switchboard, and all have one clock and one directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.task import Clock, deferLater
from twisted.logger import Logger

from rtunnel.addresses import ListenAddress
from rtunnel.cluster.interface import Claim
from rtunnel.cluster.memory import MemoryDirectory, Shared
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.crossing import MESSAGES, Crossing
from rtunnel.rtc.signaling.party import State
from rtunnel.upkeep.log_limiter import LogLimiter
from tests.rtc.signaling.switchboard_parts import SDP, Board, FakeLine

#: Seconds that each question to a slow directory takes.
SLOW = 0.01


class SlowDirectory(MemoryDirectory):
    """Takes its time, so that what comes meanwhile has to wait."""

    async def claim(self, key: str, owner: str, on_lost: Callable[[str], None]) -> Claim:
        await deferLater(self._clock, SLOW)
        return await super().claim(key, owner, on_lost)

    async def find(self, key: str) -> tuple[str, ...]:
        await deferLater(self._clock, SLOW)
        return await super().find(key)

    async def tally(self, name: str, amount: int) -> int:
        await deferLater(self._clock, SLOW)
        return await super().tally(name, amount)

    async def send(self, node: str, kind: str, message: Mapping[str, Any]) -> bool:
        is_there = await super().send(node, kind, message)
        await deferLater(self._clock, SLOW)
        return is_there


class Node(Board):
    """One node."""

    def __init__(self, cluster: Cluster, build: type[MemoryDirectory], **settings: Any) -> None:
        super().__init__(1000, 1000)
        self.cluster = cluster
        self.directory = build(cluster.clock, cluster.shared)
        self.settings = SignalSettings(ListenAddress.parse(":0"), **settings)
        limiter = LogLimiter(Logger(), cluster.clock)
        self.crossing = Crossing(
            cluster.clock, self.directory, self, lambda: self.settings, limiter, self._may_try_invitation
        )
        self.others = self.crossing
        self.directory.startService()

    @property
    def name(self) -> str:
        return self.directory.node

    def enter(self, name: str, *, key: str = "", kind: str = "register-host", address: str = "192.0.2.1") -> FakeLine:
        """Somebody who comes, and is not registered yet."""
        line = FakeLine(self)
        line.budget_key = address
        line.say(kind, name, key=key)
        return line

    def host(self, name: str = "host", key: str = "") -> FakeLine:
        line = self.enter(name, key=key)
        self.cluster.turn()
        assert line.party.state is State.REGISTERED, line.sent
        return line

    def client(self, name: str = "client", target: str = "host") -> FakeLine:
        line = FakeLine(self)
        line.say("offer", name, target, SDP)
        self.cluster.turn()
        assert line.party.state is State.REGISTERED
        return line

    def whisper(self, to: Node, /, **message: Any) -> None:
        """Send a message that no honest node sends."""
        to.directory._listeners[MESSAGES](self.name, message)
        self.cluster.turn()


class Cluster:
    """Nodes that have one directory."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.shared = Shared()
        self.nodes: list[Node] = []

    def node(self, build: type[MemoryDirectory] = MemoryDirectory, **settings: Any) -> Node:
        node = Node(self, build, **settings)
        self.nodes.append(node)
        return node

    def two(self, build: type[MemoryDirectory] = MemoryDirectory, **settings: Any) -> tuple[Node, Node]:
        return self.node(build, **settings), self.node(build, **settings)

    def turn(self) -> None:
        """Let everything happen that is due, or soon."""
        for _ in range(40):
            self.clock.advance(SLOW / 2)

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.25) + 1):
            self.clock.advance(0.25)

    def part(self, node: Node) -> None:
        """Let *node* reach nobody, and be reached by nobody."""
        self.shared.parted.add(node.name)

    def join(self, node: Node) -> None:
        self.shared.parted.discard(node.name)

    def die(self, node: Node) -> None:
        """End *node* without a word: its lease ends by itself."""
        self.part(node)
        node.directory._renewals.stop()

    def is_at_rest(self) -> bool:
        """Whether nothing waits, or is counted, on its way between nodes."""
        for node in self.nodes:
            crossing = node.crossing
            if crossing._outboxes or crossing._inboxes or crossing._unsent or crossing._all_unsent or crossing._running:
                return False
            if crossing._unheard or crossing.claims._asked:
                return False
        return True


def said(line: FakeLine) -> list[Any]:
    """What has come there: types, and of errors their text."""
    taken, line.sent[:] = list(line.sent), []
    return [each["payload"] if each["type"] == "error" else each["type"] for each in taken]


def state(line: FakeLine) -> State:
    return line.party.state
