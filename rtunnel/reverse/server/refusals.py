"""Tells who is turned away by rules, and clients what the clients file says of their visitors.

the log      a line for each address and reason, see LogLimiter; fail2ban and the like read these lines
the client   NOTICE: the first one at once, and then how many there were, once a minute for each tunnel
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from twisted.logger import Logger

from rtunnel.access.limits import KINDS, kind_of
from rtunnel.access.public import Public
from rtunnel.relay.sockets import plain_host
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.upkeep.log_limiter import LogLimiter

#: How many of those who were turned away are remembered.
MOST_KEPT = 20
#: Seconds between two notices about one tunnel.
TELL_EVERY = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A visitor who was turned away.

    :ivar at: when, in seconds since 1970.
    :ivar address: his IP address.
    """

    at: float
    place: str
    address: str
    why: str


@dataclass(slots=True)
class _Count:
    """How often visitors were refused since *since*.

    :ivar last: the last one, and why.
    """

    since: float
    count: int = 0
    last: str = ""


class Refusals:
    """Tells who is turned away.

    :param clock: provides the time.
    :ivar kinds: how many there were, by :func:`~rtunnel.access.limits.kind_of`.
    :ivar recent: the last of them, the oldest first.
    """

    log = Logger()

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._limiter = LogLimiter(self.log, clock, most=1)
        self.kinds = Counter(dict.fromkeys(KINDS, 0))
        self.recent: deque[Refusal] = deque(maxlen=MOST_KEPT)
        self._counts: dict[Iterable[Backend] | Backend, _Count] = {}

    def refused(self, by: Iterable[Backend] | Backend, place: Public, address: str, name: str, why: str) -> None:
        """Tell of a visitor who was turned away.

        :param by: the tunnels whose rules say so. Their clients are told.
        :param address: the visitor's IP address.
        :param name: his address as logs count it, with a port.
        :param why: as :meth:`~rtunnel.access.limits.Limits.why_not` says it.
        """
        host = plain_host(address) or name
        self.kinds[kind_of(why)] += 1
        self.recent.append(Refusal(time.time(), str(place), host, why))
        # One line for each address and reason: what is not in the format does not tell lines apart.
        format = f"visitor {{host}} of {{place}} refused: {why}"
        self._limiter.info(format, host=host, place=str(place), peer=name)
        count = self._counts.get(by)
        if count is None:
            self._counts[by] = _Count(self._clock.seconds())
            _tell(by, f"visitor {host} was refused: {why}")
        else:
            count.count += 1
            count.last = f"{host}: {why}"

    def tick(self) -> None:
        """Tell clients how many visitors were refused. Call this about once a second."""
        self._limiter.tick()
        now = self._clock.seconds()
        for by, count in list(self._counts.items()):
            if now - count.since < TELL_EVERY:
                continue
            if not count.count:
                del self._counts[by]
                continue
            times = f"{count.count} times" if count.count > 1 else "once more"
            _tell(by, f"visitors were refused {times} in the last minute, the last one {count.last}")
            self._counts[by] = _Count(now)


def _tell(by: Iterable[Backend] | Backend, text: str) -> None:
    for backend in [by] if isinstance(by, Backend) else list(by):
        if backend.group is not None:
            backend.session.link.send_notice(backend.number, text)
            backend.session.flush()
