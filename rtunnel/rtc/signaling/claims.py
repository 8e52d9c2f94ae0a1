"""IDs in the cluster: each is claimed before its party is registered, and has one holder among all nodes.

The owner of an ID is made of the key of its registration. So an end that comes back at another node, on a new
connection, is the same owner: it has the ID at once, and the node where it was before is told. A party without a key is
an owner of its own. If somebody else has the ID, his node finds out whether he is alive, as on a single node.

The connections of one address are counted in all nodes together.
"""

from __future__ import annotations

import itertools
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred

from rtunnel import delayed_calls
from rtunnel.cluster.interface import LEASE, Away, Claim, IDirectory, Taken
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.party import TRY_AGAIN_LATER, Party, State
from rtunnel.rtc.signaling.switchboard import Switchboard

#: Seconds that another node has to find out whether the holder of an ID is alive.
PROBE = 4.0
#: How often a node is asked for one party; then there is only an attempt now and then.
ASKS = 3
#: Seconds before the next attempt to claim what a node holds that does not listen.
AGAIN = 0.5
#: Seconds for which a party waits for its ID: a node that has died holds it for so long.
PATIENCE = LEASE + 1.5

#: Begins what parties are told when nothing can be claimed or found.
AWAY = "the cluster's directory is away"
#: What one node asks another, and tells it, about an ID.
PROBE_ID, FREE, ALIVE, MOVED = "probe", "free", "alive", "moved"


def key_of(name: str) -> str:
    """Return the directory's key of an ID."""
    return f"id {name}"


class Claims:
    """The claims of this node.

    :param send: sends a message to a node; returns whether it listens.
    :param start: runs a coroutine to its end.
    :param settings: returns the settings of now.
    :param came: called with an ID that is registered here from now on.
    """

    def __init__(
        self,
        clock: Any,
        directory: IDirectory,
        switchboard: Switchboard,
        send: Callable[[str, Mapping[str, Any]], Coroutine[Any, Any, bool]],
        start: Callable[[Coroutine[Any, Any, None]], None],
        settings: Callable[[], SignalSettings],
        came: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._directory = directory
        self._switchboard = switchboard
        self._send = send
        self._start = start
        self._settings = settings
        self._came = came
        #: Who waits for what another node says about its ID: which node that is, and what fires.
        self._asked: dict[Party, tuple[str, Deferred[bool]]] = {}
        self._counted: dict[Party, str] = {}
        self._counts: Counter[str] = Counter()
        self._unsaid: set[str] = set()

    def claim(self, party: Party) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Others`."""
        self._start(self._claim(party))

    async def _claim(self, party: Party) -> None:
        try:
            claim = await self._until_free(party)
            if not _waits(party):
                # Another connection of the same end, which has come meanwhile, has a claim of its own.
                self._directory.release(claim)
                return
            party.claim = claim
            has_room = await self._count(party)
        except _Refused:
            if _waits(party):
                self._switchboard.refused(party)
            return
        except Away as away:
            self._switchboard.dismiss(party, f"{AWAY}: {away}", TRY_AGAIN_LATER, about=party.id)
            return
        if not _waits(party):
            return
        if not has_room:
            why = "there are too many connections from your address, at all servers together"
            self._switchboard.dismiss(party, why, TRY_AGAIN_LATER, about=party.id)
            return
        self._came(party.id)
        self._switchboard.claimed(party)
        if party.key:
            await self._tell_moved(party)

    async def _until_free(self, party: Party) -> Claim:
        ends = self._clock.seconds() + PATIENCE
        secret = party.key or secrets.token_hex(16)
        owner = sha256(f"rtunnel signaling\n{party.id}\n{secret}".encode()).hexdigest()[:32]
        for attempt in itertools.count():
            try:
                return await self._directory.claim(key_of(party.id), owner, partial(self._lost, party.id))
            except Taken as taken:
                # A node that says again and again that the ID is free is not asked as often as it answers.
                node = taken.nodes[0] if attempt < ASKS else self._directory.node
                is_free = self._clock.seconds() < ends and await self._may_be_free(party, node)
            if not is_free or not _waits(party):
                break
        raise _Refused

    async def _may_be_free(self, party: Party, node: str) -> bool:
        answer: Deferred[bool] = Deferred()
        self._asked[party] = node, answer
        wait = AGAIN
        timer = None
        try:
            if node != self._directory.node and await self._send(node, {"do": PROBE_ID, "id": party.id}):
                wait = PROBE
            timer = self._clock.callLater(wait, self._answered, party, True)
            return await answer
        finally:
            self._asked.pop(party, None)
            delayed_calls.cancel(timer)

    def _answered(self, party: Party, is_free: bool) -> None:
        _, answer = self._asked.pop(party, ("", None))
        if answer is not None:
            answer.callback(is_free)

    async def _tell_moved(self, party: Party) -> None:
        try:
            for node in await self._directory.find(key_of(party.id)):
                if node != self._directory.node:
                    await self._send(node, {"do": MOVED, "id": party.id})
        except Away:
            # The other node finds out when it can reach nobody any more, or the end closes its old connection.
            return

    def _lost(self, name: str, why: str) -> None:
        party = self._switchboard.party_of(name)
        if party is not None and party.claim is not None and party.claim.is_lost:
            self._switchboard.dismiss(party, f"the ID '{name}' is somebody else's now: {why}", TRY_AGAIN_LATER, name)

    def took_over(self, holder: Party, party: Party) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Others`."""
        party.claim, holder.claim = holder.claim, None
        if holder in self._counted:
            self._counted[party] = self._counted.pop(holder)

    def left(self, party: Party) -> None:
        """Give back what *party* has."""
        claim, party.claim = party.claim, None
        if claim is not None:
            self._directory.release(claim)
        self._answered(party, False)
        key = self._counted.pop(party, "")
        if key:
            self._counts[key] -= 1
            self._start(self._say(key))

    # What other nodes ask and say

    def answer(self, claimant: Party, *, is_free: bool) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Others`."""
        self._start(self._tell(claimant.node, {"do": FREE if is_free else ALIVE, "id": claimant.id}))

    async def _tell(self, node: str, message: Mapping[str, Any]) -> None:
        try:
            await self._send(node, message)
        except Away:
            # It asks again.
            return

    def heard(self, node: str, name: str, is_free: bool) -> None:
        """Take the answer of another node."""
        for party, (asked, _) in list(self._asked.items()):
            if party.id == name and asked == node:
                self._answered(party, is_free)

    def moved(self, node: str, name: str) -> None:
        """Remove a party that has come to another node, as that node says."""
        party = self._switchboard.party_of(name)
        if party is not None and party.claim is not None:
            self._start(self._moved(node, party))

    async def _moved(self, node: str, party: Party) -> None:
        try:
            is_there = node in await self._directory.find(key_of(party.id))
        except Away:
            return
        # Both nodes hold the ID, so it is for the same owner.
        if is_there and party.claim is not None and party.state is State.REGISTERED:
            self._switchboard.replaced(party)

    def nodes_gone(self, nodes: set[str]) -> None:
        """Ask these nodes no more: they are gone."""
        for party, (node, _) in list(self._asked.items()):
            if node in nodes:
                self._answered(party, True)

    # Counting

    async def _count(self, party: Party) -> bool:
        """Count *party* at its address. Return whether there is room."""
        most, key = self._settings().max_per_address, party.line.budget_key
        if not most or not isinstance(key, str) or not key:
            return True
        self._counted[party] = key
        self._counts[key] += 1
        return await self._directory.tally(_tally(key), self._counts[key]) <= most

    async def _say(self, key: str) -> None:
        count = self._counts[key]
        if not count:
            del self._counts[key]
        try:
            await self._directory.tally(_tally(key), count)
        except Away:
            self._unsaid.add(key)

    def tick(self) -> None:
        """Say what could not be said while the directory was away. Call this regularly."""
        if self._unsaid and not self._directory.why_away:
            unsaid, self._unsaid = self._unsaid, set()
            for key in unsaid:
                self._start(self._say(key))


class _Refused(Exception):
    """Somebody else has the ID, and is alive."""


def _waits(party: Party) -> bool:
    return party.state is State.WAITING


def _tally(key: str) -> str:
    return f"signaling {key}"
