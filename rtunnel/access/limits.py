"""Who may come to one public place, and how often: what all rules that hold there say of each address.

Facts go in, a reason comes out. One address is what budgets count as one: of IPv6, a /64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rtunnel.access.rules import Rules
from rtunnel.upkeep.token_bucket import KeyedBuckets

#: Seconds for which an address may save up connections, or requests.
BURST = 2.0
#: Connections or requests a second of all addresses together: there is no such bound.
_MANY = 1e9

MAY_NOT_COME = "its address may not come"
_AT_ONCE = " at once, the limit"


class Limits:
    """The rules of one place, of which all must let a visitor in. They may change; what was counted stays.

    :param of: what is counted: ``connections``, or ``flows``.
    :ivar is_open: nobody is ever refused.
    :ivar at_once: connections (of HTTP, requests) that one address may have at once; None: as many as it likes.
    """

    def __init__(self, of: str = "connections") -> None:
        self.is_open = True
        self.at_once: int | None = None
        self._of = of
        self._networks: list[Rules] = []
        self._connections = _Rate()
        self._requests = _Rate()

    def use(self, rules: Iterable[Rules], now: float) -> None:
        """Let all *rules* hold, and no others.

        :param now: the time, in seconds.
        """
        every = list(rules)
        self._networks = [each for each in every if each.allow or each.deny]
        self.at_once = min((each.connections for each in every if each.connections is not None), default=None)
        self._connections.use((each.connection_rate for each in every), now)
        self._requests.use((each.requests for each in every), now)
        bounds = (self.at_once, self._connections.rate, self._requests.rate)
        self.is_open = not self._networks and all(each is None for each in bounds)

    def admits(self, address: str) -> bool:
        """Return whether a visitor may come at all; see :meth:`Rules.admits`."""
        return all(rules.admits(address) for rules in self._networks)

    def why_not(self, address: str, prefix: str, at_once: Callable[[str], int], now: float) -> str:
        """Return why a new connection or flow is refused; empty if it may come, and then it is counted.

        :param address: the visitor's IP address, without a port.
        :param prefix: the key under which *address* is counted.
        :param at_once: returns how many a prefix has now.
        :param now: the time, in seconds.
        """
        if self.is_open:
            return ""
        if self._networks and not self.admits(address):
            return MAY_NOT_COME
        if self.at_once is not None and at_once(prefix) >= self.at_once:
            return f"its address has {counted(self.at_once, self._of)}{_AT_ONCE}"
        if not self._connections.take(prefix, now):
            return f"its address opens more than {self._connections.per_second(self._of)}"
        return ""

    def why_no_request(self, address: str, prefix: str, count: int, now: float) -> str:
        """Return why an HTTP request is refused; empty if it may come, and then it is counted.

        :param count: how many requests *prefix* has at once now.
        """
        if self.is_open:
            return ""
        if self._networks and not self.admits(address):
            return MAY_NOT_COME
        if not self._requests.take(prefix, now):
            return f"its address sends more than {self._requests.per_second('requests')}"
        if self.at_once is not None and count >= self.at_once:
            return f"its address has {counted(self.at_once, 'requests')}{_AT_ONCE}"
        return ""


#: The kinds of rules that refuse visitors.
KINDS = ("address", "at-once", "rate")


def kind_of(why: str) -> str:
    """Return which of :data:`KINDS` has refused a visitor.

    :param why: as :meth:`Limits.why_not` or :meth:`Limits.why_no_request` say it.
    """
    return KINDS[0 if why == MAY_NOT_COME else 1 if why.endswith(_AT_ONCE) else 2]


def counted(number: float, what: str) -> str:
    """Return how many there are of *what*, a plural."""
    return f"{number:.12g} {what[:-1] if number == 1 else what}"


class _Rate:
    """How many each address may begin in a second for long.

    :ivar rate: None: as many as it likes.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self._buckets: KeyedBuckets | None = None

    def per_second(self, what: str) -> str:
        return f"{counted(self.rate or 0.0, what)} a second"

    def use(self, rates: Iterable[float | None], now: float) -> None:
        rate = min((each for each in rates if each is not None), default=None)
        if rate != self.rate:
            self.rate = rate
            self._buckets = None if rate is None else KeyedBuckets(rate, max(1.0, BURST * rate), _MANY, _MANY, now)

    def take(self, prefix: str, now: float) -> bool:
        return self._buckets is None or self._buckets.take(prefix, 1, now)
