"""No two owners are served for one key, whatever is parted, paused or stopped, and in whatever order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater

from rtunnel.cluster.interface import Away, Claim, Taken
from rtunnel.cluster.memory import MemoryDirectory, Shared
from rtunnel.cluster.times import Times
from tests.cluster.history import History, Served
from tests.cluster.world import RedisWorld
from tests.reverse.net import reactor

KEYS, OWNERS = ("k", "l"), ("me", "you")
NODES = 3


@dataclass(eq=False)
class Node:
    """A node, and the claims that it was granted.

    :ivar is_paused: its process does nothing.
    """

    directory: Any
    claims: list[Claim] = field(default_factory=list)
    is_paused: bool = False

    async def claim(self, key: str, owner: str) -> None:
        """Claim a key, if it can be had."""
        try:
            self.claims.append(await self.directory.claim(key, owner, lambda why: None))
        except (Taken, Away):
            pass

    def release(self, index: int) -> None:
        """Release one of the claims."""
        if self.claims:
            self.directory.release(self.claims.pop(index % len(self.claims)))

    def pause(self) -> None:
        """Do nothing any more."""
        self.is_paused = True
        self.directory._renewals.stop()

    def wake(self, every: float) -> None:
        """Go on."""
        self.is_paused = False
        self.directory._renewals.start(every)


class Nodes(RuleBasedStateMachine):
    """Three nodes in memory, by a clock that the test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.shared = Shared()
        self.history = History()
        self.nodes = [self.new() for _ in range(NODES)]

    def new(self) -> Node:
        directory = MemoryDirectory(self.clock, self.shared)
        directory.startService()
        return Node(directory)

    @rule(at=st.integers(0, NODES - 1), key=st.sampled_from(KEYS), owner=st.sampled_from(OWNERS))
    def claim(self, at: int, key: str, owner: str) -> None:
        if not self.nodes[at].is_paused:
            Deferred.fromCoroutine(self.nodes[at].claim(key, owner))

    @rule(at=st.integers(0, NODES - 1), index=st.integers(0, 5))
    def release(self, at: int, index: int) -> None:
        if not self.nodes[at].is_paused:
            self.nodes[at].release(index)

    @rule(at=st.integers(0, NODES - 1))
    def part(self, at: int) -> None:
        self.shared.parted.add(self.nodes[at].directory.node)

    @precondition(lambda self: self.shared.parted)
    @rule()
    def heal(self) -> None:
        self.shared.parted.clear()

    @rule(at=st.integers(0, NODES - 1))
    def pause(self, at: int) -> None:
        self.nodes[at].pause()

    @rule(at=st.integers(0, NODES - 1))
    def wake(self, at: int) -> None:
        if self.nodes[at].is_paused:
            self.nodes[at].wake(self.nodes[at].directory._times.renew_every)

    @rule(at=st.integers(0, NODES - 1))
    def stop(self, at: int) -> None:
        """A node ends, perhaps without a word to the directory, and a new one takes its place."""
        self.nodes[at].directory.stopService()
        self.nodes[at] = self.new()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 1.5, 4.0, 5.0]))
    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            self.visit()

    @invariant()
    def visit(self) -> None:
        for node in self.nodes:
            if not node.is_paused:
                self.history.visit(self.clock.seconds(), node.directory.node, node.claims)
        assert not self.history.wrong

    def teardown(self) -> None:
        for node in self.nodes:
            node.directory.stopService()


Nodes.TestCase.settings = settings(max_examples=60, stateful_step_count=40)


def test_in_memory() -> None:
    Nodes.TestCase("runTest").runTest()


#: Short, so that leases end often.
TIMES = Times(lease=0.25, margin=0.05, renew_every=0.08, reply=0.2)
STEPS = 250


@ensureDeferred
async def test_in_redis(own_world: RedisWorld) -> None:
    """By real time: what happens is chosen at random, and a busy machine only makes more leases end."""
    history = History()
    nodes = [Node(await own_world.node(TIMES)) for _ in range(NODES)]
    parted: set[str] = set()
    chosen = random.Random(f"{own_world.prefix}")
    asked = []
    for _ in range(STEPS):
        node = chosen.choice(nodes)
        name = node.directory.node
        what = chosen.randrange(20)
        if what == 0 and name not in parted:
            parted.add(name)
            own_world.part(node.directory)
        elif what in (1, 2) and name in parted:
            parted.discard(name)
            own_world.heal(node.directory)
        elif what == 3 and not node.is_paused:
            node.pause()
        elif what == 4:
            for each in nodes:
                if each.is_paused:
                    each.wake(TIMES.renew_every)
        elif what == 5:
            own_world.server.freeze()
            await deferLater(reactor, 0.02)
            own_world.server.thaw()
        elif what < 12:
            node.release(chosen.randrange(5))
        elif not node.is_paused:
            asked.append(Deferred.fromCoroutine(node.claim(chosen.choice(KEYS), chosen.choice(OWNERS))))
        await deferLater(reactor, chosen.random() * 0.02)
        for each in nodes:
            history.visit(reactor.seconds(), each.directory.node, each.claims)
        assert not history.wrong
    await gatherResults(asked)
    assert history.count > STEPS / 10
    assert len(history.owners) == len(KEYS) * len(OWNERS)


ME, YOU = Served(1.0, "a", "k", "me", 1), Served(2.0, "b", "k", "you", 2)


@pytest.mark.parametrize(
    ("served", "is_right"),
    [
        ([ME, ME, YOU, YOU], True),
        ([ME, YOU, ME], False),
        ([ME, Served(2.0, "b", "k", "me", 1), YOU], True),
        ([ME, Served(2.0, "b", "k", "you", 1)], False),
        ([ME, YOU, Served(3.0, "a", "l", "me", 1)], True),
        ([ME, YOU, Served(3.0, "a", "k", "me", 3)], True),
    ],
)
def test_the_checker_itself(served: list[Served], is_right: bool) -> None:
    history = History()
    for each in served:
        history.add(each)
    assert (not history.wrong) is is_right
