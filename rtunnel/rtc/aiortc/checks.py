"""aioice's connectivity checks, made faster and more patient.

aioice begins one check every 20 ms. Two machines with 32 addresses each have 1,024 pairs, which would take 20 s; here
they take 5 s, and the pairs of the preferred addresses come first.

aioice gives up when no candidate of the peer is left to try. But the peer's own checks may still come through (RFC
8863), for example those of a browser whose candidates are names that only its own network knows. So this one goes on
until it is closed.

A peer may name addresses that are not its own, so that this end sends checks to somebody else. :class:`CheckBudget`
bounds how many.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from aioice import Candidate, Connection
from aioice.candidate import candidate_priority
from aioice.ice import CandidatePair, StunProtocol
from aioice.stun import Class, Message
from twisted.internet.address import IPv4Address

from rtunnel.relay.sockets import address_prefix
from rtunnel.rtc.aiortc.addresses import broadcast_addresses, why_unusable
from rtunnel.rtc.aiortc.sdp import UnusableCandidate
from rtunnel.rtc.aiortc.udp_socket import ITakesRecords

#: Seconds from one check to the next (RFC 8445, section 14.2).
CHECK_EVERY = 0.005
#: How many candidates of the peer are accepted.
MAX_REMOTE_CANDIDATES = 64
#: Beyond so many pairs (RFC 8445, section 6.1.2.5) a failure is put down to their number.
MANY_PAIRS = 100

#: How many checks one socket sends to one address (the /64 of an IPv6 address) before anything has answered from there.
#: For up to two ports these are all that would be sent in 20 s; for eight ports it is enough for two each.
MAX_TO_ADDRESS = 16
#: How many checks one socket sends to all addresses that have not answered: so many, and two for each candidate. With
#: six candidates each gets four, over 3.5 s.
MAX_UNANSWERED = 16
#: How many more are sent to an address for each check of the peer that came from there, and how many of these are kept.
#: The source of a check may be forged, so it does not prove that anybody there wants an answer.
PER_CHECK, MAX_CREDIT = 2, 4

_TO_BEGIN = (CandidatePair.State.WAITING, CandidatePair.State.FROZEN)


def local_preference(candidate: Candidate) -> int:
    """Return the local preference in the priority of a candidate of ours (RFC 8445, section 5.1.2.1)."""
    return candidate.priority >> 8 & 0xFFFF


def explain_no_path(pairs: int, accepted: int, unusable: Mapping[str, int]) -> str:
    """Return a hint to follow "no path to the peer was found"; empty if there is none.

    :param pairs: how many pairs of addresses there were to try.
    :param accepted: how many candidates of the peer were accepted.
    :param unusable: how many were not, by reason.
    """
    if pairs > MANY_PAIRS:
        return f", with {pairs:,} pairs of addresses; choose which are offered with --ice-interface, at both ends"
    if pairs:
        return ""
    reasons = [f"{count} {why}" for why, count in unusable.items()]
    if accepted:
        reasons.append(f"{accepted} of an IP version of which this end has no address")
    return f": none of its candidates can be used ({', '.join(reasons)})" if reasons else ": it offers no address"


class CheckBudget:
    """How many checks may be sent to addresses that have not answered any.

    An answer repeats a random number from the check, so whoever answers has received it. Until then a candidate is only
    what the peer claims. One of our sockets sends at most 16 checks of 116 bytes (with the longest username fragment)
    to one address, for an offer that has at least 350 bytes, and 42 for each of three candidates or more: 4 bytes for
    one. To all addresses together it is 6 bytes for one: two checks for each candidate, and 16 for the offer itself.
    """

    def __init__(self) -> None:
        self._answered: set[str] = set()
        self._credit: Counter[str] = Counter()
        self._to_address: Counter[tuple[int, str]] = Counter()
        self._unanswered: Counter[int] = Counter()
        self._held: set[tuple[int, str]] = set()

    def spend(self, socket: int, host: str, candidates: int) -> bool:
        """Take note of a check that is about to be sent; return False if it must not be sent.

        :param socket: the number of the socket.
        :param candidates: how many candidates of the peer were accepted.
        """
        where = _prefix(host)
        if where in self._answered:
            return True
        if self._credit[where]:
            self._credit[where] -= 1
            return True
        most = MAX_UNANSWERED + 2 * candidates
        if self._to_address[socket, where] >= MAX_TO_ADDRESS or self._unanswered[socket] >= most:
            self._held.add((socket, where))
            return False
        self._to_address[socket, where] += 1
        self._unanswered[socket] += 1
        return True

    def answered(self, host: str) -> None:
        """Take note of an answer: there is no bound for this address any more."""
        self._answered.add(_prefix(host))

    def checked(self, socket: int, host: str) -> bool:
        """Take note of a check with the right password; return whether one of ours was held back meanwhile."""
        where = _prefix(host)
        self._credit[where] = min(self._credit[where] + PER_CHECK, MAX_CREDIT)
        was_held = (socket, where) in self._held
        self._held.discard((socket, where))
        return was_held


def _prefix(host: str) -> str:
    return address_prefix(IPv4Address("UDP", host, 0))


class PatientConnection(Connection):
    """aioice's agent for one component.

    :ivar heard_from: where the peer's first check, or its first answer to one of ours, came from; empty before it. Only
        whoever has our description can send either. An IP address, or the /64 of one.
    :ivar reader: what takes DTLS records; None until the handshake is over.
    :ivar packets: how many packets of these have come.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pacing: asyncio.Task[None] | None = None
        #: The role in which each check was sent.
        self._roles: dict[asyncio.Task[Any] | None, bool] = {}
        self._has_switched = False
        self._budget = CheckBudget()
        self.heard_from = ""
        self.reader: ITakesRecords | None = None
        self.packets = 0
        self._proved: set[tuple[Any, ...]] = set()
        #: What the username of the peer's checks begins with (RFC 8445, section 7.2.2).
        self.check_name = f"{self.local_username}:".encode()

    @property
    def checks_take(self) -> float:
        """The seconds it takes to begin the checks of all pairs."""
        return len(self._check_list) * CHECK_EVERY

    async def connect(self) -> None:
        """Find a path. Without one, this goes on until :meth:`close`.

        :raises ConnectionError: it was closed.
        """
        # The task runs when aioice has made the pairs, and waits.
        self._pacing = asyncio.create_task(self._pace())
        await super().connect()

    def hurry(self) -> None:
        """Begin the checks of new pairs as fast as those of the first."""
        if self._early_checks_done and not self._closing and (self._pacing is None or self._pacing.done()):
            self._pacing = asyncio.create_task(self._pace())

    async def _pace(self) -> None:
        # Every 20 ms aioice begins a check as well.
        while any(pair.state in _TO_BEGIN for pair in self._check_list) and self._check_periodic():
            await asyncio.sleep(CHECK_EVERY * 4 / 3)

    def switch_role(self, ice_controlling: bool) -> None:
        """See aioice. One switch settles a conflict (RFC 8445, section 7.3.1.1); a peer that wants another is wrong."""
        if ice_controlling != self.ice_controlling and not self._has_switched:
            self._has_switched = True
            super().switch_role(ice_controlling)

    async def check_start(self, pair: CandidatePair) -> None:
        """See aioice, which calls it once more, from within, whenever the peer reports a conflict of roles.

        Another check makes sense only in the other role (RFC 8445, section 7.2.5.1).
        """
        task = asyncio.current_task()
        if self._roles.get(task) == self.ice_controlling:
            self.check_state(pair, CandidatePair.State.FAILED)
            self.check_complete(pair)
            return
        self._roles[task] = self.ice_controlling
        try:
            await super().check_start(pair)
        finally:
            self._roles.pop(task, None)

    def may_send(self, protocol: StunProtocol, message: Message, host: str) -> bool:
        """Return whether a STUN message may be sent to an address now, and take note that it is.

        A stranger gets no answer to what is not a check with our password: it would go to whatever address the stranger
        wrote down as the source.
        """
        if message.message_class == Class.ERROR:
            return message.error_code not in (400, 401)
        if message.message_class != Class.REQUEST or "USERNAME" not in message.attributes:
            return True
        return self._budget.spend(protocol.id, host, len(self._remote_candidates))

    def check_state(self, pair: CandidatePair, state: CandidatePair.State) -> None:
        """See aioice. A pair succeeds when its address has answered."""
        if state is CandidatePair.State.SUCCEEDED:
            self._heard(pair.remote_addr[0])
            self._budget.answered(pair.remote_addr[0])
            self.prove(pair.remote_addr)
        super().check_state(pair, state)

    def check_incoming(self, message: Message, addr: tuple[str, int], protocol: StunProtocol) -> None:
        """See aioice. What the budget has held back towards this address may be sent now."""
        self._heard(addr[0])
        if self._budget.checked(protocol.id, addr[0]):
            for pair in self._check_list:
                if pair.protocol is protocol and pair.remote_addr == addr and pair.task is not None:
                    pair.task.cancel()
                    pair.task = None
                    self.check_state(pair, CandidatePair.State.WAITING)
        super().check_incoming(message, addr, protocol)

    def prove(self, addr: tuple[Any, ...]) -> None:
        """Take note that the peer is at an address: a check, or the answer to one, was authenticated.

        There can be no more such addresses than candidates.
        """
        if len(self._proved) < MAX_REMOTE_CANDIDATES:
            self._proved.add(addr[:2])

    def is_proved(self, addr: tuple[Any, ...]) -> bool:
        """Return whether the peer is known to be at this address."""
        return addr[:2] in self._proved

    def _heard(self, host: str) -> None:
        self.heard_from = self.heard_from or _prefix(host)

    @cached_property
    def _broadcasts(self) -> set[str]:
        return broadcast_addresses()

    def _add_remote_candidate(self, remote_candidate: Candidate, network_host: str) -> None:
        """See aioice.

        :raises UnusableCandidate: nothing may be sent to its address.
        """
        own = [candidate.host for candidate in self._local_candidates]
        try:
            why = why_unusable(network_host, remote_candidate.port, own, self._broadcasts)
        except ValueError:
            why = "malformed"
        if why:
            raise UnusableCandidate(why)
        super()._add_remote_candidate(remote_candidate, network_host)

    def _remote_candidates_expected(self) -> bool:
        """Return whether there may be more paths. There always may: a check of the peer can bring one."""
        return True

    def _prune_components(self) -> None:
        """Keep the one component, even if the peer has told no candidate."""

    def build_request(self, pair: CandidatePair, nominate: bool) -> Message:
        """See aioice. It tells the peer how this end ranks the address (RFC 8445, section 7.1.1)."""
        request = super().build_request(pair, nominate)
        request.attributes["PRIORITY"] = candidate_priority(1, "prflx", local_preference(pair.local_candidate))
        return request
