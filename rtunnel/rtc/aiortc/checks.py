"""aioice's connectivity checks, made faster and more patient.

aioice begins one check every 20 ms. Two machines with 32 addresses each have 1,024 pairs, which would take 20 s; here
they take 5 s, and the pairs of the preferred addresses come first.

aioice gives up when no candidate of the peer is left to try. But the peer's own checks may still come through (RFC
8863), for example those of a browser whose candidates are names that only its own network knows. So this one goes on
until it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aioice import Candidate, Connection
from aioice.candidate import candidate_priority
from aioice.ice import CandidatePair
from aioice.stun import Message

#: Seconds from one check to the next (RFC 8445, section 14.2).
CHECK_EVERY = 0.005
#: Beyond so many pairs (RFC 8445, section 6.1.2.5) a failure is put down to their number.
MANY_PAIRS = 100

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


class PatientConnection(Connection):
    """aioice's agent for one component."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pacing: asyncio.Task[None] | None = None
        #: The role in which each check was sent.
        self._roles: dict[asyncio.Task[Any] | None, bool] = {}
        self._has_switched = False

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
