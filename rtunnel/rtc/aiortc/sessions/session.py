"""One ICE session: an agent, the peer's description, and the candidates of both ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aioice import Candidate as IceCandidate
from aiortc.rtcicetransport import RTCIceParameters

from rtunnel.rtc.aiortc.bridge import Tasks
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.sdp import PeerDescription
from rtunnel.rtc.settings import IceSettings
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.webrtc.signaling import Candidate

#: How many candidates are kept until their description comes.
MAX_EARLY_CANDIDATES = 64
#: How many candidates are read, of which most may be useless.
MAX_CANDIDATES_READ = 256


class IceSession:
    """One ICE session.

    :param mid: the name of the media section.
    :param tasks: those of the connection.
    :param on_candidate: called with each candidate of ours that is not in our description.
    :ivar peer: the peer's description; None before it has come.
    :ivar is_described: whether our description was written.
    :ivar is_gathering: whether it is about to be.
    """

    def __init__(
        self,
        settings: IceSettings,
        mid: str,
        tasks: Tasks,
        on_candidate: Callable[[Candidate], None],
        log_limiter: LogLimiter,
    ) -> None:
        self.agent = IceAgent(settings, False, self._found, log_limiter)
        self.mid = mid
        self.peer: PeerDescription | None = None
        self.is_described = self.is_gathering = False
        self._tasks = tasks
        self._on_candidate = on_candidate
        self._found_early: list[IceCandidate | None] = []
        self._early: list[Candidate] = []
        self._read = 0
        self._takes_candidates = False

    # Our candidates

    async def gather(self) -> list[IceCandidate]:
        """Return our candidates: those of this machine, and later those too that servers have told.

        :raises rtunnel.rtc.aiortc.addresses.NoAddress: see :meth:`IceAgent.gather`.
        """
        if not self.agent._local_candidates_end:
            self.is_gathering = True
            try:
                await self.agent.gather()
            finally:
                self.is_gathering = False
        return self.agent.local_candidates

    @property
    def parameters(self) -> RTCIceParameters:
        """Our ufrag and password."""
        return RTCIceParameters(usernameFragment=self.agent.local_username, password=self.agent.local_password)

    def tell(self, candidates: list[IceCandidate]) -> None:
        """Tell these candidates, which had no room in our description, and from now on those that are found."""
        self.is_described = True
        found, self._found_early = self._found_early, []
        for candidate in (*candidates, *found):
            self._found(candidate)

    def _found(self, candidate: IceCandidate | None) -> None:
        if not self.is_described:
            self._found_early.append(candidate)
            return
        text = "" if candidate is None else f"candidate:{candidate.to_sdp()}"
        self._on_candidate(Candidate(text, self.mid, 0, self.agent.local_username))

    # The peer's

    def has_fragment(self, fragment: str | None) -> bool:
        """Return whether this is the peer's username fragment in this session."""
        return self.peer is not None and fragment == self.peer.ice.usernameFragment

    def take_candidate(self, candidate: Candidate) -> None:
        """Use a candidate of the peer, once its description has come."""
        if self._takes_candidates:
            self._use_candidate(candidate)
        elif len(self._early) < MAX_EARLY_CANDIDATES:
            self._early.append(candidate)

    def _use_candidate(self, candidate: Candidate) -> None:
        self._read += 1
        if self._read > MAX_CANDIDATES_READ:
            return
        # This may be a late candidate of an earlier attempt. Above all, the earlier attempt's end of candidates must
        # not end these.
        if candidate.fragment and not self.has_fragment(candidate.fragment):
            return
        # Without a mid, the index of the media section counts; there is only one section.
        if candidate.mid and candidate.mid != self.mid:
            return
        if not candidate.mid and candidate.line_index not in (0, None):
            return
        self._tasks.start(self.agent.take_candidate(candidate.candidate))

    def take_description(self, peer: PeerDescription) -> None:
        """Use the candidates of a description of the peer, which may be one that comes again with more of them."""
        self.peer = peer
        for text in peer.candidates:
            self._tasks.start(self.agent.take_candidate(text))
        early, self._early = self._early, []
        self._takes_candidates = True
        for candidate in early:
            self._use_candidate(candidate)
        if peer.complete:
            self._tasks.start(self.agent.take_candidate(""))

    async def connect(self) -> None:
        """Find a path.

        :raises ConnectionError: the agent was closed.
        """
        assert self.peer is not None
        # Let the candidates be taken first: the end of candidates must not find the list empty.
        await asyncio.sleep(0)
        agent, ice = self.agent, self.peer.ice
        agent.remote_is_lite, agent.remote_username, agent.remote_password = (
            ice.iceLite,
            ice.usernameFragment,
            ice.password,
        )
        await agent.connect()

    def clear(self) -> None:
        """Refer to nothing of the connection any more."""
        del self._tasks, self._on_candidate
