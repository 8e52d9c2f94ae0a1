"""Who is put away for the next process when this one is told to stop: whom it can go on with. Others finish first.

As long as there is anybody else, all are served as ever. So nobody's bytes rest for longer than a start takes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.logger import Logger

from rtunnel.reverse.carriers.frozen import Frozen, Thawing, size_of, start
from rtunnel.reverse.carriers.in_use import InUse, Pair
from rtunnel.reverse.stored.pools import GARBAGE, IOwners, Sockets, Times, put, take
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.data.frozen import Fields, State
from rtunnel.wire.data.seal import Cipher

#: The most bytes of JSON; whoever does not fit in is not kept.
MOST_BYTES = 48 << 20

_log = Logger()


class IStore(Protocol):
    """What keeps descriptors until the next process is there.

    :ivar room: how many more it takes.
    """

    room: int

    def put(self, state: State, descriptors: Sequence[int]) -> None:
        """Keep descriptors, and say what they are.

        :raises OSError: the system does not let us.
        """


@dataclass(frozen=True, slots=True)
class Source:
    """What one link has, or has left.

    :ivar whose: returns what must be known of the other end.
    :ivar session: the link.
    """

    whose: Callable[[], State]
    in_use: InUse
    pairs: list[Pair]
    session: Any


class Keeper:
    """Puts visitors away."""

    def __init__(self, clock: Any, visitors: Visitors, owners: IOwners, store: IStore) -> None:
        self._clock = clock
        self._visitors = visitors
        self._owners = owners
        self._store = store
        self._bytes = MOST_BYTES

    def sources(self) -> Iterator[Source]:
        """Yield what there is."""
        raise NotImplementedError

    def link_streams(self) -> int:
        """Return how many streams links carry themselves."""
        raise NotImplementedError

    @property
    def can_keep_any(self) -> bool:
        """Whether there is a visitor with whom another process could go on."""
        return any(source.pairs for source in self.sources())

    @property
    def others(self) -> int:
        """How many visitors there are with whom no other process could go on."""
        kept = {local for source in self.sources() for _, local in source.pairs}
        return max(sum(end not in kept for end in self._visitors), self.link_streams())

    def put_all(self, waiting: Sequence[Frozen] = ()) -> list[Any]:
        """Put away all who can be. Return the links of which any are.

        :param waiting: those who wait for a client, and have no link.
        """
        times = Times(self._clock.seconds, time.time)
        peers: list[State] = []
        left: list[Frozen] = []
        sessions: list[Any] = []
        for source in list(self.sources()):
            whose = source.whose() if source.pairs else {}
            self._bytes -= len(json.dumps(whose))
            visitors = []
            for pair in source.pairs:
                if self._bytes < (size := size_of(*pair)) or self._store.room < len(pair):
                    continue
                frozen = put(pair, self._visitors, self._owners, times)
                if frozen is None:
                    continue
                self._bytes -= size
                self._store.room -= len(frozen.sockets)
                left.append(frozen)
                visitors.append(frozen.state)
                source.in_use.release(pair)
            if visitors:
                peers.append({"whose": whose, "cipher": int(source.in_use.cipher), "visitors": visitors})
                sessions.append(source.session)
        left += (kept := [each for each in waiting if self._has_room(each)])
        state: State = {"peers": peers}
        if kept:
            state["waiting"] = [each.state for each in kept]
        try:
            if left:
                self._store.put(state, [each.fileno() for frozen in left for each in frozen.sockets])
                _log.info("{count} visitors are left for the process that follows", count=len(left))
        except OSError as error:
            _log.warn("visitors cannot be left for the next process, and are cut off: {why}", why=error)
        finally:
            for frozen in (*left, *waiting):
                frozen.close()
        return sessions

    def _has_room(self, waiting: Frozen) -> bool:
        self._bytes -= len(json.dumps(waiting.state))
        self._store.room -= len(waiting.sockets)
        return self._bytes >= 0 and self._store.room >= 0


class IRevived(Protocol):
    """Takes what another process has put away of one link."""

    thawing: Thawing

    def keep(self) -> None: ...


def take_all(
    state: State,
    found: Sockets,
    clock: Any,
    visitors: Visitors,
    owners: IOwners,
    build: Callable[[Fields, Cipher], IRevived],
) -> None:
    """Go on with what :meth:`Keeper.put_all` has put away. What cannot be used is closed.

    :param build: returns what takes what is left of a link, by what must be known of its other end.
    """
    times = Times(clock.seconds, time.time)
    count, problems = 0, []
    try:
        for each in Fields(state).all("peers"):
            try:
                peer = Fields(each)
                revived = build(peer.fields("whose"), Cipher(peer.number("cipher", max(Cipher))))
                for entry in peer.all("visitors"):
                    try:
                        pair = take(Fields(entry), found, revived.thawing, visitors, owners, times)
                    except GARBAGE as error:
                        problems.append(error)
                        continue
                    revived.thawing.in_use.add(pair)
                    start(*pair)
                    count += 1
                revived.keep()
            except GARBAGE as error:
                problems.append(error)
    except GARBAGE as error:
        problems.append(error)
    if count:
        _log.info("{count} visitors of the last process go on", count=count)
    if problems:
        text = "of the visitors of the last process, some ({count}) cannot be used, and are closed: {why}"
        _log.warn(text, count=len(problems), why=problems[0])
