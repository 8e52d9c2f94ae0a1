"""The directory in Redis (docs/cluster.rst).

The link and the lease are in :mod:`rtunnel.cluster.redis_node`, what is kept in Redis in
:mod:`rtunnel.cluster.redis_scripts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from rtunnel.cluster import redis_scripts as scripts
from rtunnel.cluster.interface import Away, Claim, Taken
from rtunnel.cluster.redis_link import RedisLink
from rtunnel.cluster.redis_node import BATCH, RedisNode
from rtunnel.cluster.redis_texts import packed, parsed, unpacked
from rtunnel.cluster.settings import ClusterUrl
from rtunnel.cluster.times import Times


class RedisDirectory(RedisNode):
    """One node's view; see :class:`~rtunnel.cluster.interface.IDirectory`.

    :param reactor: provides time and connections.
    :param times: other than usual.
    """

    def __init__(self, reactor: Any, url: ClusterUrl, times: Times | None = None) -> None:
        super().__init__(reactor, url, times)
        # Those of one key have one owner.
        self._claims: dict[str, list[Claim]] = {}
        self._claiming: Counter[str] = Counter()
        self._tallies: dict[str, int] = {}
        self.session = url.session
        self._listeners: dict[str, Callable[[str, Mapping[str, Any]], None]] = {}

    # What a node has

    def _channels(self) -> Sequence[str]:
        return [self._channel(self.node, kind) for kind in self._listeners]

    def _forget(self) -> None:
        self._claims.clear()
        self._tallies.clear()

    def _count(self) -> int:
        return len(self._claims)

    async def _make_again(self, held: Sequence[object]) -> None:
        await self._claim_again()
        await self._in_parts(scripts.RELEASE, [name for name in held if not self._has(str(name))])
        await self._in_parts(scripts.TALLY, [part for each in self._tallies.items() for part in each])

    async def _in_parts(self, script: str, arguments: list[Any]) -> None:
        for start in range(0, len(arguments), 2 * BATCH):
            await self._run(script, *arguments[start : start + 2 * BATCH])

    def _has(self, name: str) -> bool:
        kind, _, rest = name.partition(":")
        if kind == "tally":
            return rest in self._tallies
        return rest in self._claims or rest in self._claiming

    async def _claim_again(self) -> None:
        keys = list(self._claims)
        for start in range(0, len(keys), BATCH):
            # Some may have been released in between.
            batch = [(key, self._claims[key][0].owner) for key in keys[start : start + BATCH] if key in self._claims]
            if not batch:
                continue
            reply = await self._run(scripts.CLAIM, *(part for each in batch for part in each))
            for (key, _), answer in zip(batch, parsed(reply, "answers", len(batch)), strict=True):
                if isinstance(answer, list):
                    for claim in self._claims.pop(key, ()):
                        claim.is_lost = True
                        self._call(claim.on_lost, str(Taken(tuple(map(str, answer)))))
                else:
                    self._number(key, int(answer))

    def _number(self, key: str, number: int) -> None:
        for claim in self._claims.get(key, ()):
            claim.number = number

    # What a node asks

    async def claim(self, key: str, owner: str, on_lost: Callable[[str], None]) -> Claim:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._check_there()
        answer = None
        self._claiming[key] += 1
        try:
            answer = parsed(await self._run(scripts.CLAIM, key, owner), "answers", 1)[0]
        finally:
            self._claiming[key] -= 1
            if not self._claiming[key]:
                del self._claiming[key]
            if answer is None:
                # Nobody knows whether Redis has it.
                self._release_unused(key)
        if isinstance(answer, list):
            # If it is this node, what was released meanwhile is not released in Redis.
            self._release_unused(key)
            raise Taken(tuple(map(str, answer)))
        claim = Claim(self, key, owner, int(answer), on_lost)
        self._claims.setdefault(key, []).append(claim)
        self._number(key, claim.number)
        return claim

    def release(self, claim: Claim) -> None:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        claims = self._claims.get(claim.key, [])
        if claim not in claims:
            return
        claims.remove(claim)
        claim.is_lost = True
        if not claims:
            del self._claims[claim.key]
            self._release_unused(claim.key)

    def _release_unused(self, key: str) -> None:
        # What is released before this node has joined is not claimed again.
        if self._link is not None and self._is_joined and not self._has(f"key:{key}"):
            self._background(self._release(self._link, f"key:{key}"))

    async def _release(self, link: RedisLink, name: str) -> None:
        try:
            await self._run(scripts.RELEASE, name)
        except Away as away:
            # Redis may have it still. Joining again puts that right.
            if self._is_settled:
                self._drop(link, str(away))

    async def find(self, key: str) -> tuple[str, ...]:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._check_there()
        return tuple(map(str, parsed(await self._run(scripts.FIND, key), "nodes")))

    async def tally(self, name: str, amount: int) -> int:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._check_there()
        if amount:
            self._tallies[name] = amount
        else:
            self._tallies.pop(name, None)
        return int(parsed(await self._run(scripts.TALLY, name, amount), "sums", 1)[0])

    # Messages

    def _channel(self, node: str, kind: str) -> str:
        return f"{self._url.prefix}to:{node}:{kind}"

    async def send(self, node: str, kind: str, message: Mapping[str, Any]) -> bool:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._check_there()
        link = cast(RedisLink, self._link)
        return await link.publish(self._channel(node, kind), packed(self.node, message)) > 0

    def listen(self, kind: str, heard: Callable[[str, Mapping[str, Any]], None]) -> None:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        is_new = kind not in self._listeners
        self._listeners[kind] = heard
        if is_new and self._link is not None:
            self._background(self._hear(self._link, kind))

    async def _hear(self, link: RedisLink, kind: str) -> None:
        try:
            await link.hear(self._channel(self.node, kind))
        except Away as away:
            self._drop(link, str(away))

    def _heard(self, channel: bytes, message: bytes) -> None:
        name = str(channel, "utf-8", "replace").removeprefix(self._url.prefix)
        if name == "nodes":
            if message != self.node.encode():
                self.renew()
            return
        heard = self._listeners.get(name.removeprefix(f"to:{self.node}:"))
        try:
            sender, inner = unpacked(message)
        except ValueError as error:
            self._odd(str(error))
            return
        if heard is not None:
            self._call(heard, sender, inner)
