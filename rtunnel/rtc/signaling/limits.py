"""The time-outs of the signaling server, and how fast a peer may send."""

from __future__ import annotations

from dataclasses import dataclass

from rtunnel.upkeep.token_bucket import TokenBucket

#: How many seconds' worth of messages may come at once.
BURST = 10
#: Messages that each offer lets its target send beside: the answer and candidates. Otherwise those who send offers to
#: a host could make it exceed its rate.
ANSWER = 8
#: The most that these add up to: nobody answers more than a thousand offers at once.
MAX_ANSWERS = 1024 * ANSWER


@dataclass(frozen=True, slots=True)
class Times:
    """Time-outs and intervals, in seconds.

    :ivar upgrade: from a connection to its WebSocket, TLS handshake included.
    :ivar first_message: from the WebSocket to the message that registers it.
    :ivar ping_every: between two pings.
    :ivar silent: without a byte received, after which a peer is dropped.
    :ivar answer: for the holder of an ID to answer a probe, when another peer wants the ID.
    :ivar close: for a peer to close its connection.
    :ivar look_every: between two checks of all these.
    """

    upgrade: float = 10.0
    first_message: float = 10.0
    ping_every: float = 54.0
    silent: float = 60.0
    answer: float = 3.0
    close: float = 2.0
    look_every: float = 0.25


#: The times outside tests.
TIMES = Times()


class MessageRate:
    """How fast a peer may send: a token bucket, and beside it the answers to the offers that it was sent.

    :param rate: messages a second; :data:`BURST` times as many at once.
    """

    def __init__(self, rate: int, now: float) -> None:
        self._bucket = TokenBucket(rate, rate * BURST, now)
        self._answers = 0

    def allow_answer(self) -> None:
        """Let the peer send :data:`ANSWER` more messages, whenever it likes."""
        self._answers = min(self._answers + ANSWER, MAX_ANSWERS)

    def take(self, now: float) -> bool:
        """Count a message; False if the peer sends too fast."""
        if self._answers:
            self._answers -= 1
            return True
        return self._bucket.take(now)
