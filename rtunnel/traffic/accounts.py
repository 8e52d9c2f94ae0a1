"""Who has used a tunnel or service, and how much: counts, and a line about each visitor in the access log.

    relay (LocalSocket, SocketEnd, ...) --> Visit --> Account    of one tunnel or service
                                                  --> Accounts   of all: how long visits last, and why they end
                                                  --> AccessLog

Each relay counts the bytes of its own socket as they pass, which is one addition. An account adds up the relays that
are over, and asks the others when somebody wants to know.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from weakref import WeakValueDictionary

from rtunnel.errors import Code
from rtunnel.relay.interfaces import CLOSED, GAVE_WAY, IDLE, RESET
from rtunnel.traffic.access_log import AccessLog

#: How a visitor travels: on the link or peer connection with others, on a data connection of his own, as datagrams, or
#: as a request, which travels with others on one of these.
LINK, CONNECTION, DATAGRAMS, REQUEST = "link", "connection", "datagrams", "request"
#: Why a visit ended, besides the reasons of a relay: properly at both ends; by an error page of ours.
DONE, REFUSED = "done", "refused"
#: A code that is none of those that we know.
OTHER = "other"
_REASONS = frozenset((DONE, REFUSED, RESET, CLOSED, GAVE_WAY, IDLE, *Code))
#: What a service without a name is called.
DEFAULT = "(default)"
#: A visitor whose address nobody has said: the server speaks the reference protocol.
UNKNOWN = "unknown"
#: The upper bounds of the histogram of how long visits last, in seconds.
BOUNDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0, 3600.0, 36000.0)
# What a status is counted as, by its first digit; 0: there was none.
_KINDS = ("none", *(f"{digit}xx" for digit in range(1, 10)))
#: Accounts that are kept although their clients are gone.
MOST_ACCOUNTS = 4096
#: Seconds between two looks from which rates follow, and the shortest time of which one is told.
LOOK_EVERY, LEAST = 5.0, 1.0


class IRelay(Protocol):
    """Relays a visitor, and counts. Hashed by identity.

    :ivar bytes_received: how many bytes its own socket has received for the other end.
    :ivar bytes_sent: how many bytes from the other end were written to its socket, or wait for it.
    :ivar reason: why it ended: see :mod:`rtunnel.relay.interfaces`; empty: it has ended properly, or not ended.
    """

    bytes_received: int
    bytes_sent: int

    @property
    def reason(self) -> str: ...


class Visit:
    """One visitor of an account.

    :ivar who: his address as logs show it; empty: it is not a visitor but a stream that requests of several share, so
        that only its bytes count.
    :ivar carrier: how he travels.
    """

    # Made for each visitor, so it has no __init__, which would cost a call.
    __slots__ = ("account", "began", "carrier", "who")

    account: Account
    who: str
    carrier: str
    began: float


class Account:
    """What one tunnel or service has carried.

    :ivar client: the client's name, at the server.
    :ivar tunnel: what the tunnel or service is called.
    :ivar visitors: how many there have been; with HTTP by Host, how many requests.
    :ivar statuses: how many requests were answered with a status of each class, such as ``2xx``.
    :ivar live: those that there are.
    """

    __slots__ = (
        *("statuses", "tunnel", "visitors"),
        *("__weakref__", "_accounts", "_received", "_samples", "_sent", "client", "live"),
    )

    def __init__(self, accounts: Accounts, client: str, tunnel: str) -> None:
        self.client = client
        self.tunnel = tunnel
        self.visitors = 0
        self.statuses: dict[str, int] = {}
        self.live: dict[IRelay, Visit] = {}
        self._accounts = accounts
        self._received = self._sent = 0
        # When the last two looks were, and what was counted: the older one first.
        self._samples = ((accounts.seconds(), 0, 0),) * 2

    def __del__(self) -> None:
        self._accounts.forgotten(self)

    def begin(self, relay: IRelay, who: str, carrier: str) -> Visit:
        """Count a visitor from now on."""
        visit = Visit()
        visit.account, visit.who, visit.carrier, visit.began = self, who, carrier, self._accounts.seconds()
        self.live[relay] = visit
        if who:
            self.visitors += 1
        return visit

    def replace(self, relay: IRelay, other: IRelay) -> None:
        """Let *other* relay the visitor instead of *relay*."""
        visit = self.live.pop(relay, None)
        if visit is not None:
            self.live[other] = visit
            other.bytes_received += relay.bytes_received
            other.bytes_sent += relay.bytes_sent

    def moved(self, relay: IRelay) -> None:
        """Take note that a visitor has left the link, for a data connection of his own."""
        self.live[relay].carrier = CONNECTION

    def release(self, relay: IRelay) -> None:
        """Forget a visitor with whom another process goes on, but for the bytes that have passed here."""
        del self.live[relay]
        self._received += relay.bytes_received
        self._sent += relay.bytes_sent

    def resume(self, relay: IRelay, who: str, carrier: str, began: float) -> None:
        """Count a visitor again whom another process has counted, with all that *relay* has passed there."""
        visit = self.live[relay] = Visit()
        visit.account, visit.who, visit.carrier, visit.began = self, who, carrier, began
        # That process has told of them.
        self._received -= relay.bytes_received
        self._sent -= relay.bytes_sent

    def over(self, relay: IRelay) -> None:
        """Add up what a visitor has sent and got, who is gone. May be called again."""
        visit = self.live.pop(relay, None)
        if visit is None:
            return
        received, sent = relay.bytes_received, relay.bytes_sent
        self._received += received
        self._sent += sent
        if visit.who:
            self._accounts.ended(visit, received, sent, relay.reason or DONE)

    @property
    def totals(self) -> tuple[int, int]:
        """How many bytes have come from visitors, and how many went to them."""
        received, sent = self._received, self._sent
        for relay in self.live:
            received += relay.bytes_received
            sent += relay.bytes_sent
        return self._accounts.from_and_to(received, sent)

    @property
    def rates(self) -> tuple[float, float]:
        """The same as bytes a second, over the last 5 to 10 s."""
        then, came, went = self._samples[0]
        now = self._accounts.seconds()
        if now - then < LEAST:
            return 0.0, 0.0
        received, sent = self.totals
        return (received - came) / (now - then), (sent - went) / (now - then)

    def sample(self, now: float) -> None:
        """Take note of what was carried so far."""
        self._samples = self._samples[1], (now, *self.totals)


class Accounts:
    """All accounts of a process.

    :param clock: provides the time.
    :param are_services: the sockets of relays are those of local services, so what they receive goes to visitors.
    :ivar log: gets a line about each visitor who is gone; None: nobody wants them.
    :ivar reasons: how often visits have ended, by carrier and reason.
    :ivar durations: for each carrier, how many visits have lasted up to each of :data:`BOUNDS` and no less than the one
        before, and how many longer.
    :ivar seconds_of: for each carrier, the sum of how long they have lasted.
    """

    def __init__(self, clock: Any, *, are_services: bool = False) -> None:
        self.seconds: Callable[[], float] = clock.seconds
        self.log: AccessLog | None = None
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.durations: dict[str, list[int]] = {}
        self.seconds_of: dict[str, float] = {}
        self._are_services = are_services
        # Those in use, and those used last; a client may come back.
        self._accounts: WeakValueDictionary[tuple[str, str], Account] = WeakValueDictionary()
        self._last: OrderedDict[tuple[str, str], Account] = OrderedDict()
        # Of accounts that are forgotten.
        self._visitors = 0
        self._totals = 0, 0

    def of(self, client: str, tunnel: str) -> Account:
        """Return the account of a tunnel or service. It outlives the client's link."""
        key = client, tunnel
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(self, client, tunnel)
        self._last[key] = account
        self._last.move_to_end(key)
        if len(self._last) > MOST_ACCOUNTS:
            self._last.popitem(last=False)
        return account

    def forgotten(self, account: Account) -> None:
        """Keep the sums of an account that nobody uses any more."""
        self._visitors += account.visitors
        came, went = account.totals
        self._totals = self._totals[0] + came, self._totals[1] + went

    def from_and_to(self, received: int, sent: int) -> tuple[int, int]:
        """Return how many bytes that is from visitors, and to them."""
        return (sent, received) if self._are_services else (received, sent)

    @property
    def visitors(self) -> int:
        """How many there have been."""
        return self._visitors + sum(account.visitors for account in self._accounts.values())

    @property
    def totals(self) -> tuple[int, int]:
        """How many bytes have come from visitors, and how many went to them."""
        came, went = self._totals
        for account in self._accounts.values():
            each = account.totals
            came += each[0]
            went += each[1]
        return came, went

    @property
    def rates(self) -> tuple[float, float]:
        """The same as bytes a second, over the last 5 to 10 s."""
        rates = [account.rates for account in self._accounts.values()]
        return sum(each[0] for each in rates), sum(each[1] for each in rates)

    def tick(self) -> None:
        """Take note of what was carried so far. Call this every :data:`LOOK_EVERY` seconds."""
        now = self.seconds()
        for account in self._accounts.values():
            account.sample(now)

    # What has ended

    def ended(self, visit: Visit, received: int, sent: int, reason: str) -> None:
        """Take note that a visitor is gone.

        :param received: bytes that our socket has received; *sent* is the opposite.
        """
        lasted = self.seconds() - visit.began
        self._count(visit.carrier, reason, lasted)
        if self.log is not None:
            came, went = self.from_and_to(received, sent)
            account = visit.account
            self._write(account.client, account.tunnel, visit.who, visit.carrier, came, went, lasted, reason)

    def request(
        self,
        account: Account | None,
        status: int,
        came: int,
        went: int,
        began: float,
        reason: str,
        line: Callable[[], tuple[str, Mapping[str, object]]] | None,
    ) -> None:
        """Take note that a request is over.

        :param account: of the tunnel that it went to; None: it was answered here.
        :param status: of the answer; 0: there was none.
        :param came: bytes from the visitor, as they went on to the service; *went* is the opposite.
        :param line: returns the visitor, and what the access log has in addition; None: there is no log.
        """
        lasted = self.seconds() - began
        if account is not None:
            kind, statuses = _KINDS[status // 100], account.statuses
            statuses[kind] = statuses.get(kind, 0) + 1
        self._count(REQUEST, reason, lasted)
        if self.log is not None and line is not None:
            client, tunnel = ("", "") if account is None else (account.client, account.tunnel)
            who, more = line()
            self._write(client, tunnel, who, REQUEST, came, went, lasted, reason, status=status, **more)

    def _count(self, carrier: str, reason: str, lasted: float) -> None:
        self.reasons[carrier, reason if reason in _REASONS else OTHER] += 1
        counts = self.durations.get(carrier)
        if counts is None:
            counts = self.durations[carrier] = [0] * (len(BOUNDS) + 1)
            self.seconds_of[carrier] = 0.0
        counts[bisect_left(BOUNDS, lasted)] += 1
        self.seconds_of[carrier] += lasted

    def _write(
        self,
        client: str,
        tunnel: str,
        who: str,
        carrier: str,
        came: int,
        went: int,
        lasted: float,
        reason: str,
        **more: object,
    ) -> None:
        assert self.log is not None
        self.log.write(
            time.time(),
            {
                "visitor": who,
                "client": client,
                "tunnel": tunnel,
                "carrier": carrier,
                "from_visitor": came,
                "to_visitor": went,
                "seconds": round(lasted, 3),
                "reason": reason,
                **more,
            },
        )
