"""The time-outs of the signaling server, and how fast a peer may send."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from rtunnel.upkeep.token_bucket import KeyedBuckets, TokenBucket

#: How many seconds' worth of messages may come at once.
BURST = 10
#: How many extra messages an offer allows its target to send: the answer and candidates. Otherwise clients could make a
#: host exceed its rate by sending it offers.
ANSWER = 8
#: The most extra messages at any time: nobody answers more than a thousand offers at once.
MAX_ANSWERS = 1024 * ANSWER

#: Offers to one party from one address, a second and in a burst: at least so many, and two attempts of all connections
#: that the address may have, since they may come back at the same time. And offers to one party from all: as many as a
#: host may have clients by default. Each costs the host milliseconds, and a socket for each of its addresses.
OFFERS, OFFERS_BURST, ATTEMPTS = 5.0, 128, 2
ALL_OFFERS, ALL_OFFERS_BURST = 20.0, 512

#: Offers to invitations, whether these exist or not: of one address, a second and at once, and of all. A person needs
#: one or two, and each may spend an invitation of somebody else.
INVITATIONS, INVITATIONS_BURST = 10 / 3600, 10
ALL_INVITATIONS, ALL_INVITATIONS_BURST = 720 / 3600, 512
#: In a cluster, messages to IDs that nobody has, of one address, a second and at once, and of all: each asks the
#: directory.
MISSES, MISSES_BURST = 10.0, 200
ALL_MISSES, ALL_MISSES_BURST = 200.0, 4000


@dataclass(frozen=True, slots=True)
class Times:
    """Time-outs and intervals, in seconds.

    :ivar upgrade: from the connection to its WebSocket, TLS handshake included.
    :ivar first_message: from the WebSocket to the message that registers it.
    :ivar ping_every: the time between two pings.
    :ivar silent: the time without a byte received after which a peer is dropped.
    :ivar answer: the time that the holder of an ID has to answer a probe, when another peer wants the ID.
    :ivar close: the time that a peer has to close its connection.
    :ivar look_every: the time between two checks of all these.
    """

    upgrade: float = 10.0
    first_message: float = 10.0
    ping_every: float = 54.0
    silent: float = 60.0
    answer: float = 3.0
    close: float = 2.0
    look_every: float = 0.25


#: The times that the server uses, except in tests.
TIMES = Times()


class MessageRate:
    """How fast a peer may send: a token bucket, plus an allowance for answers to the offers that it was sent.

    It bounds these offers too.

    :param rate: messages per second; :data:`BURST` times as many in a burst.
    :param max_per_address: connections that one address may have; 0: any number, each counted by itself.
    """

    def __init__(self, rate: int, now: float, max_per_address: int = 0) -> None:
        self._bucket = TokenBucket(rate, rate * BURST, now)
        self._answers = 0
        self._offers_burst = max(OFFERS_BURST, ATTEMPTS * max_per_address)
        self._offers: KeyedBuckets | None = None

    def takes_offer_of(self, sender: Hashable, now: float) -> bool:
        """Count an offer to the peer, and let it send :data:`ANSWER` more messages, whenever it likes.

        :param sender: by what the offers of its sender are counted.
        :returns: False if there are too many offers.
        """
        if self._offers is None:
            self._offers = KeyedBuckets(OFFERS, self._offers_burst, ALL_OFFERS, ALL_OFFERS_BURST, now)
        if not self._offers.take(sender, 1, now):
            return False
        self._answers = min(self._answers + ANSWER, MAX_ANSWERS)
        return True

    def take(self, now: float) -> bool:
        """Count a message. Return False if the peer sends too fast."""
        if self._answers:
            self._answers -= 1
            return True
        return self._bucket.take(now)


class InvitationRate:
    """How many invitations may be tried, so that nobody tries them in bulk."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        now = clock.seconds()
        self._tries = KeyedBuckets(INVITATIONS, INVITATIONS_BURST, ALL_INVITATIONS, ALL_INVITATIONS_BURST, now)

    def take(self, sender: Hashable) -> bool:
        """Count an offer to an invitation. Return False if there are too many.

        :param sender: by what the offers of its sender are counted.
        """
        return self._tries.take(sender, 1, self._clock.seconds())
