"""The directory in memory: that of a server without a cluster, and of several nodes in one process, for tests.

A :class:`Shared` is what nodes have in common. By default each has its own, so every claim is granted at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from rtunnel.cluster.interface import Away, Claim, Taken
from rtunnel.cluster.times import Times
from rtunnel.upkeep.periodic import Repeated


@dataclass(slots=True)
class _Key:
    owner: str
    number: int
    nodes: set[str]


@dataclass(slots=True)
class Shared:
    """What the nodes of one process have in common.

    :ivar session: see :class:`~rtunnel.cluster.interface.IDirectory`.
    :ivar parted: names of nodes that cannot reach it now.
    """

    session: str = field(default_factory=lambda: secrets.token_hex(16))
    parted: set[str] = field(default_factory=set)
    _until: dict[str, float] = field(default_factory=dict)
    _about: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _keys: dict[str, _Key] = field(default_factory=dict)
    _tallies: dict[str, dict[str, int]] = field(default_factory=dict)
    _members: dict[str, MemoryDirectory] = field(default_factory=dict)
    _number: int = 0

    def is_there(self, node: str, now: float) -> bool:
        """Whether the lease of *node* lasts."""
        return self._until.get(node, 0.0) > now

    def claim(self, key: str, owner: str, node: str, now: float) -> int:
        """Return the fencing number.

        :raises Taken: another owner has it.
        """
        held = self._keys.get(key)
        nodes = self.find(key, now)
        if held is None or not nodes:
            self._number += 1
            held = self._keys[key] = _Key(owner, self._number, set())
        elif held.owner != owner:
            raise Taken(nodes)
        held.nodes.add(node)
        return held.number

    def find(self, key: str, now: float) -> tuple[str, ...]:
        """Return the nodes that hold *key*."""
        held = self._keys.get(key)
        return () if held is None else tuple(sorted(each for each in held.nodes if self.is_there(each, now)))

    def release(self, key: str, node: str) -> None:
        """Let *node* hold *key* no more."""
        held = self._keys.get(key)
        if held is not None:
            held.nodes.discard(node)
            if not held.nodes:
                del self._keys[key]

    def holds(self, key: str, owner: str, number: int, node: str) -> bool:
        """Whether *node* holds *key* still."""
        held = self._keys.get(key)
        return held is not None and (held.owner, held.number) == (owner, number) and node in held.nodes

    def remove(self, node: str) -> None:
        """Forget *node*, and what it holds."""
        self._until.pop(node, None)
        self._about.pop(node, None)
        self._members.pop(node, None)
        for key in [key for key, held in self._keys.items() if node in held.nodes]:
            self.release(key, node)
        for tally in self._tallies.values():
            tally.pop(node, None)


class MemoryDirectory(Service):
    """One node's view; see :class:`~rtunnel.cluster.interface.IDirectory`.

    :param reactor: provides the time.
    :param shared: what it has in common with others; None: it is alone.
    :param times: other than usual.
    """

    def __init__(self, reactor: Any, shared: Shared | None = None, times: Times | None = None) -> None:
        self.setName("directory")
        self.node = secrets.token_hex(8)
        self.is_cluster = shared is not None
        self._clock = reactor
        self._times = times or Times()
        self._shared = Shared() if shared is None else shared
        self.session = self._shared.session
        # Those of one key have one owner.
        self._claims: dict[str, list[Claim]] = {}
        # Released while the node was parted.
        self._released: set[str] = set()
        self._sure_until = 0.0 if self.is_cluster else float("inf")
        self._watchers: list[Callable[[], None]] = []
        self._listeners: dict[str, Callable[[str, Mapping[str, Any]], None]] = {}
        self._about: Mapping[str, Any] = {}
        self._nodes: dict[str, Mapping[str, Any]] = {}
        self._renewals = Repeated(reactor, "the lease", self.renew)

    def startService(self) -> None:
        """Make the node known."""
        super().startService()
        self.renew()
        if self.is_cluster:
            self._renewals.start(self._times.renew_every)

    def stopService(self) -> Deferred[None]:
        """Give back all that the node holds."""
        self._renewals.stop()
        self._claims.clear()
        self._sure_until = 0.0
        if self.node not in self._shared.parted:
            self._shared.remove(self.node)
            self._tell_all()
        super().stopService()
        return succeed(None)

    @property
    def is_sure(self) -> bool:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        now: float = self._clock.seconds()
        return now < self._sure_until - self._times.margin

    @property
    def why_away(self) -> str:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        return "it is parted from the others" if self.node in self._shared.parted else ""

    def _check_there(self) -> None:
        if self.why_away:
            raise Away(self.why_away)

    def renew(self) -> None:
        """Renew the lease, and make claims again that were void in between."""
        if self.why_away:
            return
        now = self._clock.seconds()
        self._shared._members[self.node] = self  # others may have taken it for gone
        for key in self._released:
            self._shared.release(key, self.node)
        self._released.clear()
        for key, claims in list(self._claims.items()):
            owner, number = claims[0].owner, claims[0].number
            if self._shared.holds(key, owner, number, self.node):
                continue
            try:
                self._number(key, self._shared.claim(key, owner, self.node, now))
            except Taken as taken:
                del self._claims[key]
                for claim in claims:
                    claim.is_lost = True
                    claim.on_lost(str(taken))
        self._shared._until[self.node] = now + self._times.lease if self.is_cluster else float("inf")
        self._shared._about[self.node] = self._about
        self._sure_until = self._shared._until[self.node]
        for node in [node for node in self._shared._until if not self._shared.is_there(node, now)]:
            self._shared.remove(node)
        self._tell_all()

    def _tell_all(self) -> None:
        for each in list(self._shared._members.values()):
            each.look()

    def look(self) -> None:
        """See which other nodes are there."""
        if self.why_away:
            return
        now = self._clock.seconds()
        about = self._shared._about
        nodes = {node: about[node] for node in about if node != self.node and self._shared.is_there(node, now)}
        if nodes != self._nodes:
            self._nodes = nodes
            for changed in list(self._watchers):
                changed()

    async def claim(self, key: str, owner: str, on_lost: Callable[[str], None]) -> Claim:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._check_there()
        number = self._shared.claim(key, owner, self.node, self._clock.seconds())
        self._released.discard(key)
        claim = Claim(self, key, owner, number, on_lost)
        self._claims.setdefault(key, []).append(claim)
        self._number(key, number)
        return claim

    def _number(self, key: str, number: int) -> None:
        for claim in self._claims.get(key, ()):
            claim.number = number

    def release(self, claim: Claim) -> None:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        claims = self._claims.get(claim.key, [])
        if claim not in claims:
            return
        claims.remove(claim)
        claim.is_lost = True
        if claims:
            return
        del self._claims[claim.key]
        if self.why_away:
            self._released.add(claim.key)
        else:
            self._shared.release(claim.key, self.node)

    async def find(self, key: str) -> tuple[str, ...]:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._check_there()
        return self._shared.find(key, self._clock.seconds())

    async def tally(self, name: str, amount: int) -> int:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._check_there()
        tally = self._shared._tallies.setdefault(name, {})
        tally[self.node] = amount
        now = self._clock.seconds()
        return sum(count for node, count in tally.items() if self._shared.is_there(node, now))

    def announce(self, about: Mapping[str, Any]) -> None:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._about = about
        if self.running and not self.why_away:
            self._shared._about[self.node] = about
            self._tell_all()

    @property
    def nodes(self) -> Mapping[str, Mapping[str, Any]]:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        return self._nodes

    def watch(self, changed: Callable[[], None]) -> None:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._watchers.append(changed)

    async def send(self, node: str, kind: str, message: Mapping[str, Any]) -> bool:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._check_there()
        other = self._shared._members.get(node)
        if other is None or other.why_away or kind not in other._listeners:
            return False
        self._clock.callLater(0, other._listeners[kind], self.node, message)
        return True

    def listen(self, kind: str, heard: Callable[[str, Mapping[str, Any]], None]) -> None:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._listeners[kind] = heard
