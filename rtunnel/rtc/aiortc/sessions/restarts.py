"""The offers and answers of a connection that is established: each is about another ICE session (an ICE restart).

Either end may make such an offer. It is known by its fingerprints and the number of its session, which are those of the
first one (RFC 8842, section 5.5). A browser that reloads its page, say, has others: its offer is for a new connection.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from rtunnel.errors import BadDescription
from rtunnel.rtc.aiortc.bridge import Tasks
from rtunnel.rtc.aiortc.sdp import Origin, PeerDescription
from rtunnel.rtc.aiortc.sessions.session import IceSession
from rtunnel.rtc.aiortc.sessions.sessions import Sessions
from rtunnel.wire.webrtc.signaling import ANSWER, OFFER

Describe = Callable[[IceSession, str], Coroutine[Any, Any, None]]


class Restarts:
    """Makes and answers further offers.

    :param peer: the first description of the peer.
    :param origin: of our descriptions.
    :param describe: sends our offer or answer for a session.
    """

    def __init__(
        self, sessions: Sessions, peer: PeerDescription, origin: Origin, describe: Describe, tasks: Tasks
    ) -> None:
        self._sessions = sessions
        self._peer = peer
        self._origin = origin
        self._describe = describe
        self._tasks = tasks

    @property
    def is_wanted(self) -> bool:
        """Whether there should be an offer: there was none, or there is no answer to it yet."""
        return self._sessions.wants_restart or self._sessions.is_unanswered

    def offer(self) -> None:
        """Make an offer. One that is not answered yet is made again, with all candidates that there are now."""
        session = self._sessions.next
        if session is None:
            session = self._begin()
        if session.peer is None and not session.is_gathering:
            self._tasks.start(self._describe(session, OFFER))

    def _begin(self) -> IceSession:
        self._origin.version += 1
        return self._sessions.begin()

    def take_offer(self, peer: PeerDescription) -> None:
        """Answer an offer, or answer it once more.

        :raises BadDescription: it is for another connection.
        """
        if not peer.continues(self._peer):
            raise BadDescription("an offer of another connection")
        current, coming = self._sessions.current, self._sessions.next
        if current.has_fragment(peer.ice.usernameFragment):
            # The peer wants something else than another ICE session, or has missed our answer.
            self._tasks.start(self._describe(current, ANSWER))
        elif coming is None or not coming.has_fragment(peer.ice.usernameFragment):
            self._tasks.start(self._answer(self._begin(), peer))
        elif not coming.is_gathering:
            coming.take_description(peer)
            self._tasks.start(self._describe(coming, ANSWER))

    async def _answer(self, session: IceSession, peer: PeerDescription) -> None:
        session.peer = peer
        await self._describe(session, ANSWER)
        if session is self._sessions.next:
            # Which candidates of a peer may be used depends on our own addresses.
            session.take_description(peer)
            await self._sessions.connect_next(session)

    def take_answer(self, peer: PeerDescription) -> bool:
        """Use the answer to our offer.

        :returns: False if the peer has answered for another connection: this one is over.
        :raises BadDescription: there was no offer.
        """
        current, coming = self._sessions.current, self._sessions.next
        for session in (current, coming):
            if session is not None and session.has_fragment(peer.ice.usernameFragment):
                # The offer was made more than once, and so was this.
                return True
        if coming is None or coming.peer is not None:
            raise BadDescription("an answer where none was expected")
        if not peer.continues(self._peer):
            return False
        coming.take_description(peer)
        self._tasks.start(self._sessions.connect_next(coming))
        return True
