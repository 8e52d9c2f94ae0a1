"""Whose offer a host takes up next, and who gives way to it.

An offer costs its sender next to nothing. To take it up costs sockets, checks of paths, and patience. So a host takes
up only so many in a second, only so many clients are on their way at once, and the other offers wait::

    offer --> waiting --> connecting --> connected       (--max-clients counts these alone)
                 |             |
                 v             v
              dropped      gives way

The host does not know where an offer comes from. It knows only the ID of its sender, and a signaling server that limits
nothing lets anybody have any number of IDs. So an ID has one offer, however many it sends. When too many wait, chance
decides which one is dropped. An ID that was dropped and asks again, as every honest client does after some seconds, is
served before the IDs that nobody has seen.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rtunnel.upkeep.token_bucket import TokenBucket
from rtunnel.wire.webrtc.signaling import Candidate, Description

#: How many offers are taken up in a second, and at once after a pause. One costs 2 ms of processor time.
OFFERS_PER_SECOND = 32
OFFERS_AT_ONCE = 64
#: How many clients may be on their way at once: as many as come while one is patiently waited for.
MAX_CONNECTING = 96
#: The share of this process's descriptors that they may use, and how many there may be whatever it is.
CONNECTING_SHARE = 1 / 8
MIN_CONNECTING = 4
#: Seconds after which a client of which nothing has come over the network may have to give way. The first check of one
#: behind a relay comes a second after our answer, and then there is the way of the answer itself.
SILENT_FOR = 3.0
#: The same for a client of which something has come, if others come from the same address: a handshake that loses
#: packets takes some seconds.
ALIVE_FOR = 8.0

#: How many offers wait. Each may have 32 KiB, and the last one waits for 4 s, while rtunnel's clients wait for 10 s.
MAX_WAITING = 128
#: How many candidates are kept for each of them.
MAX_CANDIDATES = 64
#: How many senders of dropped offers are remembered: those of half a minute, at 500 offers a second.
MAX_DROPPED = 16_384
#: Seconds after which a dropped sender may ask again and be served before others.
ASKS_AGAIN = 2.0


@dataclass(slots=True)
class Offer:
    """An offer that waits.

    :ivar candidates: those that came apart from it.
    """

    sender: str
    description: Description
    candidates: list[Candidate] = field(default_factory=list)

    def take_candidate(self, candidate: Candidate) -> None:
        """Keep a candidate, if there are not too many."""
        if len(self.candidates) < MAX_CANDIDATES:
            self.candidates.append(candidate)


class WaitingOffers:
    """The offers that wait, one for each sender."""

    def __init__(self) -> None:
        # Of senders that ask again, and of the others.
        self._again: OrderedDict[str, Offer] = OrderedDict()
        self._first: OrderedDict[str, Offer] = OrderedDict()
        # When an offer of a sender was first dropped, by the hash of the ID.
        self._dropped: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._again) + len(self._first)

    def get(self, sender: str) -> Offer | None:
        """Return the offer of *sender* that waits."""
        return self._again.get(sender) or self._first.get(sender)

    def add(self, offer: Offer, now: float) -> str:
        """Let an offer wait. It takes the place of an earlier one of the same sender.

        :returns: whose offer was dropped for it; empty: nobody's.
        """
        for queue in (self._again, self._first):
            if offer.sender in queue:
                queue[offer.sender] = offer
                return ""
        dropped_at = self._dropped.get(hash(offer.sender), now)
        queue = self._again if now - dropped_at >= ASKS_AGAIN else self._first
        queue[offer.sender] = offer
        return self._drop(now) if len(self) > MAX_WAITING else ""

    def _drop(self, now: float) -> str:
        queue = self._first or self._again
        sender = random.choice(list(queue))
        del queue[sender]
        self._dropped.setdefault(hash(sender), now)
        if len(self._dropped) > MAX_DROPPED:
            self._dropped.popitem(last=False)
        return sender

    def next(self) -> Offer | None:
        """Remove and return the offer whose turn it is; None if none waits."""
        queue = self._again or self._first
        if not queue:
            return None
        sender, offer = queue.popitem(last=False)
        self._dropped.pop(hash(sender), None)
        return offer

    def discard(self, sender: str) -> None:
        """Forget the offer of a sender, if there is one."""
        self._again.pop(sender, None)
        self._first.pop(sender, None)

    def clear(self) -> None:
        """Forget all offers."""
        self._again.clear()
        self._first.clear()


class Turns:
    """Takes up the offers that wait, when it is time and there is a place.

    :param make_place: returns whether there is a place at this time, in seconds; it may make one.
    :param answer: takes up an offer.
    :ivar waiting: those that wait.
    """

    def __init__(
        self, clock: IReactorTime, make_place: Callable[[float], bool], answer: Callable[[Offer], None]
    ) -> None:
        self.waiting = WaitingOffers()
        self._clock = clock
        self._make_place = make_place
        self._answer = answer
        self._bucket = TokenBucket(OFFERS_PER_SECOND, OFFERS_AT_ONCE, clock.seconds())
        self._next: IDelayedCall | None = None

    def add(self, offer: Offer) -> str:
        """Let an offer wait for its turn, which may be now. See :meth:`WaitingOffers.add`."""
        dropped = self.waiting.add(offer, self._clock.seconds())
        if self._next is None:
            self._take()
        return dropped

    def _take(self) -> None:
        self._next = None
        now = self._clock.seconds()
        try:
            while len(self.waiting) and self._bucket.left(now) and self._make_place(now):
                self._bucket.spend(1)
                offer = self.waiting.next()
                assert offer is not None
                self._answer(offer)
        finally:
            # Whatever went wrong with one, the others have their turn.
            if len(self.waiting):
                self._next = self._clock.callLater(1 / OFFERS_PER_SECOND, self._take)

    def stop(self) -> None:
        """Forget all offers."""
        self.waiting.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None


def count_places(sockets: int, descriptors: int) -> int:
    """Return how many clients may be on their way at once.

    :param sockets: how many each of them takes.
    :param descriptors: how many this process may open.
    """
    return max(MIN_CONNECTING, min(MAX_CONNECTING, int(descriptors * CONNECTING_SHARE) // max(sockets, 1)))


class Connecting(Protocol):
    """A client that is on its way.

    :ivar since: when its offer was taken up, in seconds.
    :ivar heard_from: see :attr:`rtunnel.rtc.interfaces.IPeerConnection.heard_from`.
    """

    since: float

    @property
    def heard_from(self) -> str: ...


class Connected(Protocol):
    """A client that is connected.

    :ivar party: see :attr:`rtunnel.rtc.peers.host_peer.HostPeer.party`.
    """

    @property
    def party(self) -> str: ...


T = TypeVar("T", bound=Connecting)
ConnectedT = TypeVar("ConnectedT", bound=Connected)


def who_has_most(connected: Iterable[ConnectedT], party: str) -> list[ConnectedT]:
    """Return the connections of the party that has most of them, so that one of them may be better used by another.

    :param connected: oldest first.
    :param party: who asks. With one more it must not have more than the others with one less.
    """
    by_party: dict[str, list[ConnectedT]] = {}
    for each in connected:
        by_party.setdefault(each.party, []).append(each)
    own = len(by_party.pop(party, ()))
    # Whoever has proved nothing is not one party.
    by_party.pop("", None)
    most = max(by_party.values(), key=len, default=[])
    return most if len(most) > own + 1 else []


def who_gives_way(connecting: Iterable[T], now: float) -> T | None:
    """Return the client whose place another one gets; None if all may stay for now.

    It is the one that has been silent for longest. If none is silent, it is the oldest of the address that most of them
    come from.

    :param connecting: oldest first.
    """
    alive: list[T] = []
    for client in connecting:
        if client.heard_from:
            alive.append(client)
        elif now - client.since >= SILENT_FOR:
            return client
    addresses = Counter(client.heard_from for client in alive)
    for address, count in addresses.most_common(1):
        oldest = next(client for client in alive if client.heard_from == address)
        if count > 1 and now - oldest.since >= ALIVE_FOR:
            return oldest
    return None
