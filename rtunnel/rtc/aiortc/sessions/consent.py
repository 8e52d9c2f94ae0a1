"""The path in use, watched: whether the peer still answers over it, and whether there is a better one.

    answered --a check is late--> doubtful --SILENT_AFTER checks--> silent --DEAD_AFTER--> dead
        ^_________________________________________________________________|  (any answer)

Each end asks the other about once a second (consent, RFC 7675). When an answer is late it asks four times a second, so
that a path that has failed is known after 1.6 to 2 seconds, and the loss of a packet or two is not taken for that. Then
there is time for another path (ICE restart) before the peer counts as dead.

A relayed path is only the best one that could be had at first. While it is in use, both ends go on checking the direct
ones. The controlling end nominates the first that works.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Protocol

from aioice.ice import CandidatePair
from aioice.stun import Message, TransactionError

from rtunnel.rtc.aiortc.checks import PatientConnection

#: Seconds without an answer after which the peer counts as dead, plus or minus a fifth.
DEAD_AFTER = 7
#: After how many checks without an answer a path counts as silent.
SILENT_AFTER = 3
#: A path over which so many packets have come since the last check is not silent, but busy: answers were lost in the
#: crowd. A peer that gets none of our acknowledgements sends fewer.
BUSY = 8
#: Seconds between two checks when one was not answered: so many, or this many round trips if that is longer.
LATE, LATE_ROUND_TRIPS = 0.25, 2.0
#: Seconds between two rounds of checks for a direct path, and the most pairs that are checked in one. A round is one
#: packet for each pair: fewer bytes than the peer's own checks of consent cost it, whatever addresses it has named.
LOOK_FOR_DIRECT, MAX_DIRECT = 8.0, 8


class PathUser(Protocol):
    """Is told about the path in use."""

    def path_doubtful(self) -> None:
        """Take note that an answer is late."""

    def path_silent(self) -> None:
        """Take note that nothing is answered any more: another path is needed."""

    def path_dead(self) -> None:
        """Take note that the session is over: the peer has not answered for :data:`DEAD_AFTER`."""

    def path_moved(self) -> None:
        """Take note that another pair of addresses is in use."""


def is_relayed(pair: CandidatePair) -> bool:
    """Return whether a pair of addresses leads through a TURN server."""
    return "relay" in (pair.local_candidate.type, pair.remote_candidate.type)


class WatchedConnection(PatientConnection):
    """An agent that watches the path that it has found.

    :ivar user: is told about it; None: nobody is.
    :ivar path_is_silent: whether the path in use counts as failed.
    :ivar path_round_trip: the last round trip of a check, in seconds.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.user: PathUser | None = None
        self.path_round_trip = 0.0
        self._asking: set[asyncio.Task[None]] = set()
        #: Seconds in which this loop ran, and checks, since the last answer.
        self._silent = 0.0
        self._unanswered = 0
        self.path_is_silent = False
        self._looking: asyncio.Task[None] | None = None
        #: The direct pair that is being nominated in the place of a relayed one.
        self._favourite: CandidatePair | None = None
        #: Checks that the budget does not count; see :data:`MAX_DIRECT`.
        self._unbudgeted: set[bytes] = set()

    @property
    def selected(self) -> CandidatePair | None:
        """The candidate pair in use; None before there is one."""
        return self._nominated.get(1)

    @property
    def peer_is_silent(self) -> bool:
        """Whether the peer has not answered for :data:`DEAD_AFTER` and so counts as dead."""
        return self._silent >= DEAD_AFTER

    def stop_watching(self) -> None:
        """Ask no more, and tell nobody anything: another session has taken the place of this one."""
        self.user = None
        for task in (self._query_consent_task, self._looking):
            if task is not None:
                task.cancel()

    # Consent

    async def query_consent(self) -> None:
        """Check consent; close when the peer has not answered for :data:`DEAD_AFTER`.

        Only seconds in which this loop runs are counted: a process that was stopped for a while (SIGSTOP, suspend) does
        not take its peer for dead when it resumes.
        """
        self._answered()
        self._look_for_direct()
        while self._silent < DEAD_AFTER:
            wait, before = self._until_next(), self.packets
            await asyncio.sleep(wait)
            self._silent += wait
            if self.packets - before > BUSY:
                self._unanswered = min(self._unanswered, 1)
            self._judge()
            self._unanswered += 1
            self._start(self._ask_consent())
        self._query_consent_task = None
        user = self.user
        await self.close()
        if user is not None:
            user.path_dead()

    def _until_next(self) -> float:
        if 0 < self._unanswered <= SILENT_AFTER:
            return max(LATE, LATE_ROUND_TRIPS * self.path_round_trip)
        return 0.8 + 0.4 * random.random()

    def _answered(self) -> None:
        self._silent, self._unanswered, self.path_is_silent = 0.0, 0, False

    def _judge(self) -> None:
        self.path_is_silent = self._unanswered >= SILENT_AFTER
        if self.user is None:
            return
        if self._unanswered == 1:
            self.user.path_doubtful()
        elif self._unanswered == SILENT_AFTER:
            self.user.path_silent()

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask_consent(self) -> None:
        pair = self.selected
        if pair is None or self.remote_password is None:
            return
        asked_at = asyncio.get_running_loop().time()
        request = self.build_request(pair, nominate=False)
        if await self._is_answered(pair, request, retransmissions=2) and pair is self.selected:
            self._answered()
            self.path_round_trip = asyncio.get_running_loop().time() - asked_at

    async def _is_answered(self, pair: CandidatePair, request: Message, retransmissions: int) -> bool:
        assert self.remote_password is not None
        try:
            _, source = await pair.protocol.request(
                request,
                pair.remote_addr,
                integrity_key=self.remote_password.encode(),
                retransmissions=retransmissions,
            )
        except (TransactionError, OSError) as error:
            # No cycle: aioice's transaction has the error, and the traceback has the transaction.
            error.__traceback__ = None
            return False
        return source == pair.remote_addr

    # Better paths

    def _look_for_direct(self) -> None:
        pair = self.selected
        if pair is not None and is_relayed(pair) and self._looking is None:
            self._looking = asyncio.create_task(self._check_direct())

    async def _check_direct(self) -> None:
        while (used := self.selected) is not None and is_relayed(used):
            await asyncio.sleep(LOOK_FOR_DIRECT * (0.8 + 0.4 * random.random()))
            for remote in self._remote_candidates:
                self._pair_remote_candidate(remote)
            self.sort_check_list()
            direct = [pair for pair in self._check_list if not is_relayed(pair)]
            for pair in direct[:MAX_DIRECT]:
                self._start(self._check_again(pair))
        self._looking = None

    async def _check_again(self, pair: CandidatePair) -> None:
        """Send one check, however often one has failed."""
        if pair.task is not None and pair.task.done():
            # aioice has cancelled it, and would start no other when the peer checks the pair.
            pair.task = None
            if pair.state is CandidatePair.State.IN_PROGRESS:
                self.check_state(pair, CandidatePair.State.FAILED)
        request = self.build_request(pair, nominate=False)
        self._unbudgeted.add(request.transaction_id)
        try:
            answered = await self._is_answered(pair, request, retransmissions=0)
        finally:
            self._unbudgeted.discard(request.transaction_id)
        if answered and self.ice_controlling and self._is_wanted(pair):
            answered = await self._is_answered(pair, self.build_request(pair, nominate=True), retransmissions=2)
            pair.nominated = True
        if answered and pair in self._check_list:
            pair.nominated = pair.nominated or pair.remote_nominated
            self.check_state(pair, CandidatePair.State.SUCCEEDED)
            self.check_complete(pair)
        elif self._favourite is pair:
            self._favourite = None

    def may_send(self, protocol: Any, message: Message, host: str) -> bool:
        """See :class:`PatientConnection`."""
        return message.transaction_id in self._unbudgeted or super().may_send(protocol, message, host)

    def build_request(self, pair: CandidatePair, nominate: bool) -> Message:
        """See aioice. A path that works gives way to a better one only."""
        nominate = nominate and self._is_wanted(pair)
        if nominate and self.selected is not None:
            self._favourite = pair
        return super().build_request(pair, nominate)

    def _is_wanted(self, pair: CandidatePair) -> bool:
        used = self.selected
        if used is None or used is pair:
            return True
        return is_relayed(used) and not is_relayed(pair) and self._favourite in (None, pair)

    def check_complete(self, pair: CandidatePair) -> None:
        """See aioice. Whoever is controlling decides which path is used."""
        used = self.selected
        if used is not None and self.ice_controlling and not self._is_wanted(pair):
            pair.nominated = False
        super().check_complete(pair)
        if self._favourite is pair:
            self._favourite = None
        if used is not None and self.selected is not used:
            self._answered()
            if self.user is not None:
                self.user.path_moved()
            self._look_for_direct()
