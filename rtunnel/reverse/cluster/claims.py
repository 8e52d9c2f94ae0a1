"""Claims of places: what only one client, or one group of clients, may have in the whole cluster (docs/cluster.rst).

    PublicPorts, HostNames --> Claims.hold(public, backend) --> IDirectory.claim("host app.example.org", owner)

A host name is one claim for all its paths and both protocols. A claim is released when no client of ours serves the
place, and none is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from secrets import token_hex
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtunnel.access.public import Public
from rtunnel.cluster.interface import Away, Claim, IDirectory, Taken
from rtunnel.errors import Code, Refused
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.take_over import is_gone

#: The message that asks another node whether its client of a key lives.
LET_GO = "let-go"
#: Seconds between two looks whether another node has taken over what is kept for a client.
LOOK_EVERY = 0.05
# Tells links of this process from those of others.
_PROCESS = token_hex(8)


def key_of(public: Public) -> str:
    """Return the key of a place in the directory."""
    return f"host {public.host}" if public.host else f"port {public.protocol} {public.port}"


def owner_of(backend: Backend) -> str:
    """Return under which name *backend* holds its place: that of its group, or of its client's process.

    Links of one process have session names that differ behind a plus.
    """
    if backend.behalf is not None:
        return backend.behalf.owner
    rules, session = backend.rules, backend.session
    if rules.group:
        return f"group {_hash(rules.group, rules.group_key)}"
    if session.known_as is None:
        return f"link {_PROCESS} {id(session)}"  # of the reference protocol: it cannot come back
    name, proof = session.known_as
    return f"client {_hash(name.partition('+')[0], proof)}"


def link_of(known_as: tuple[str, str]) -> str:
    """Return under which name other nodes hear of a client's link.

    :param known_as: by what the client is known when it is back.
    """
    return _hash(*known_as)


def _hash(*parts: str) -> str:
    return sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


@dataclass(slots=True, eq=False)
class _Held:
    """What this node holds.

    :ivar asking: how many are about to join.
    :ivar is_asked: another node has asked whether its client lives, and that is looked at.
    :ivar is_kept: its client was sent to another node, and is to find it there.
    """

    claim: Claim
    owner: str
    groups: set[Group] = field(default_factory=set)
    asking: int = 0
    is_asked: bool = False
    is_kept: bool = False

    @property
    def is_used(self) -> bool:
        return self.is_kept or bool(self.asking) or any(group.is_held_here for group in self.groups)


class Claims:
    """The places that clients of this node hold."""

    log = Logger()

    def __init__(self, reactor: Any, directory: IDirectory) -> None:
        self._reactor = reactor
        self._directory = directory
        directory.listen(LET_GO, self._heard_let_go)
        self._held: dict[str, _Held] = {}
        self._locks: dict[str, DeferredLock] = {}

    def __len__(self) -> int:
        return len(self._held)

    async def hold(self, public: Public, backend: Backend) -> None:
        """Claim *public* for the owner of *backend*; :meth:`joined` or :meth:`settle` has to follow. What other nodes
        pass on is claimed there.

        :raises Refused: it is somebody else's, or the directory cannot be asked.
        """
        if backend.is_elsewhere:
            return
        key, owner = key_of(public), owner_of(backend)
        # One client after the other: the directory has one claim of ours for each key.
        lock = self._locks.setdefault(key, DeferredLock())
        await lock.acquire()
        try:
            held = self._of_owner(key, owner, public)
            if held is None:
                held = self._held[key] = _Held(await self._claim(key, owner, public), owner)
            # Before the next one has his turn.
            held.asking += 1
            backend.claim = held.claim
        finally:
            if not lock.waiting:
                del self._locks[key]
            lock.release()

    def _of_owner(self, key: str, owner: str, public: Public) -> _Held | None:
        """Return what this node holds of *key* for *owner*; None: nothing.

        :raises Refused: it holds that for another one.
        """
        held = self._held.get(key)
        # Alone, the groups see to it that two owners do not serve one place.
        if held is None or held.owner == owner or not self._directory.is_cluster:
            return held
        if held.asking or any(map(len, held.groups)):
            code = Code.HOST_IN_USE if public.host else Code.PORT_IN_USE
            raise Refused(code, f"{public.host or public} is served, or was just asked for, by another client or group")
        # Its client is gone, and only visitors wait for it.
        self._release(key, held)
        return None

    async def _claim(self, key: str, owner: str, public: Public) -> Claim:
        try:
            claim = await self._directory.claim(key, owner, partial(self._lost, key))
        except Taken as taken:
            for node in taken.nodes:
                self._send_let_go(node, key)
            raise self._in_use(public, str(taken)) from None
        except Away as away:
            text = "the server cannot ask its cluster now who has it"
            raise Refused(Code.CLUSTER_AWAY, f"{public}: {text}", str(away)) from None
        return claim

    # What is held by a client that is gone

    def _send_let_go(self, node: str, key: str) -> None:
        """Ask another node whether its client of *key* lives. If not, *key* is free soon."""
        sent = Deferred.fromCoroutine(self._directory.send(node, LET_GO, {"key": key}))
        sent.addErrback(lambda failure: failure.trap(Away))

    def _heard_let_go(self, _node: str, message: Mapping[str, object]) -> None:
        held = self._held.get(str(message.get("key")))
        if held is not None and not (held.is_asked or held.is_kept):
            held.is_asked = True
            asking = Deferred.fromCoroutine(self._let_go(held))
            asking.addErrback(lambda failure: self.log.failure("whether a client lives", failure))

    async def _let_go(self, held: _Held) -> None:
        """Free what is held for clients that do not answer, or are only waited for."""
        try:
            members = [member for group in held.groups for member in group if not member.is_elsewhere]
            for member in members:
                if not await is_gone(self._reactor, member.session):
                    return
            for session in {member.session for member in members}:
                session.lose("it does not answer, and a client of another node asks for what it has")
            for group in list(held.groups):
                if not len(group):
                    group.end()
        finally:
            held.is_asked = False

    # What is held for a client that goes to another node

    def keep(self, backend: Backend) -> None:
        """Keep what *backend* holds until :meth:`hand_over`, as its client is sent away."""
        held = self._of(backend)
        if held is not None and backend.session.known_as is not None:
            held.is_kept = self._directory.is_cluster

    async def hand_over(self, seconds: float) -> None:
        """Give back what is kept, each claim as soon as another node has it for the same client.

        :param seconds: for which that is waited for.
        """
        until = self._reactor.seconds() + seconds
        for held in [each for each in self._held.values() if each.is_kept]:
            while self._reactor.seconds() < until and not await self._is_elsewhere(held):
                await deferLater(self._reactor, LOOK_EVERY)
            held.is_kept = False
            self._look(held)

    async def _is_elsewhere(self, held: _Held) -> bool:
        try:
            return held.claim.is_lost or any(
                node != self._directory.node for node in await self._directory.find(held.claim.key)
            )
        except Away:
            return False

    def check(self, backend: Backend) -> None:
        """Check whether the claim of *backend*, which has joined its group, was lost meanwhile.

        :raises Refused: it was.
        """
        if backend.claim is not None and backend.claim.is_lost:
            raise self._in_use(backend.asked, "the claim was lost at once")

    @staticmethod
    def _in_use(public: Public, detail: str) -> Refused:
        code = Code.HOST_IN_USE if public.host else Code.PORT_IN_USE
        what = public.host or str(public)
        return Refused(code, f"{what} is served by another client, at another server of the cluster", detail)

    def joined(self, backend: Backend) -> None:
        """Take note that *backend* has joined its group."""
        held = self._of(backend)
        if held is not None and backend.group is not None:
            group: Group = backend.group
            held.groups.add(group)
            group.on_change = partial(self._look, held)

    def settle(self, backend: Backend) -> None:
        """Take note that *backend* has what it asked for, or does not get it."""
        held = self._of(backend)
        if held is not None:
            held.asking -= 1
            self._look(held)

    def _of(self, backend: Backend) -> _Held | None:
        claim = backend.claim
        held = None if claim is None else self._held.get(claim.key)
        return held if held is not None and held.claim is claim else None

    @contextmanager
    def asking(self, backend: Backend) -> Iterator[None]:
        """Do :meth:`joined` at the end of a block that may let *backend* join, and :meth:`settle` in any case."""
        try:
            yield
            self.joined(backend)
        finally:
            self.settle(backend)

    def _look(self, held: _Held) -> None:
        held.groups = {group for group in held.groups if group.is_held_here}
        if not held.is_used:
            self._release(held.claim.key, held)

    def _release(self, key: str, held: _Held) -> None:
        if self._held.get(key) is held:
            del self._held[key]
            self._directory.release(held.claim)

    def _lost(self, key: str, why: str) -> None:
        """Somebody else has *key* now: give up what serves it."""
        held = self._held.pop(key, None)
        if held is None:
            return
        for group in list(held.groups):
            for backend in [each for each in group if each.claim is held.claim]:
                refusal = self._in_use(backend.place, f"the claim was lost: {why}")
                backend.session.revoke_tunnel(backend, refusal)
            if group.is_held_here:
                group.end()
