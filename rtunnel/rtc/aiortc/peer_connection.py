"""A peer connection: aiortc's ICE, DTLS and SCTP transports, put together for data channels.

    new --offer--> offering --take_answer--> connecting --> connected --> closed
     +--take_offer-------------------------> connecting       ^   |
                                                              +---+ restart, or another offer: ICE restarts

aiortc's own ``RTCPeerConnection`` also negotiates media, and cannot trickle candidates. Its transports, used here
directly, need neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from enum import Enum
from functools import partial
from typing import Any, cast

from aiortc.rtcicetransport import RTCIceTransport
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import BadDescription
from rtunnel.rtc.aiortc.addresses import NoAddress
from rtunnel.rtc.aiortc.bridge import Tasks, adopt_python_logging, as_deferred
from rtunnel.rtc.aiortc.dtls import Certificate, DtlsTransport, digest_of
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.records import Path
from rtunnel.rtc.aiortc.sdp import MAX_CANDIDATES, Origin, PeerDescription, read_description, write_description
from rtunnel.rtc.aiortc.sessions.restarts import Restarts
from rtunnel.rtc.aiortc.sessions.session import IceSession
from rtunnel.rtc.aiortc.sessions.sessions import Sessions
from rtunnel.rtc.channels.channel import Channel
from rtunnel.rtc.channels.data_channels import DataChannels
from rtunnel.rtc.interfaces import IPeerConnection
from rtunnel.rtc.settings import IceSettings
from rtunnel.rtc.traffic import HANDSHAKE, PATH, SIGNALING, Traffic
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.webrtc.signaling import ANSWER, OFFER, Candidate

#: How many seconds a connection may take once the peer's description has come.
CONNECT_TIMEOUT = 20.0
#: How many seconds TURN servers and the peer have to acknowledge the end.
CLOSE_TIMEOUT = 2.0


State = Enum("State", "NEW OFFERING CONNECTING CONNECTED CLOSED")
"""The state of a connection; see the diagram at the top of the module."""


@implementer(IPeerConnection)
class PeerConnection:
    """One connection to one peer. Make it while the reactor runs.

    :param user: an :class:`~rtunnel.rtc.interfaces.IPeerConnectionUser`.
    :param max_channels: channels that may be open at once.
    :param log_limiter: for log lines that peers can cause.
    :param certificate: what this end presents; None: a new one.
    """

    log = Logger()
    _SILENT = "the peer no longer answers"

    def __init__(
        self,
        settings: IceSettings,
        user: Any,
        max_channels: int,
        log_limiter: LogLimiter,
        certificate: Certificate | None = None,
    ) -> None:
        adopt_python_logging()
        self._user = user
        self._state = State.NEW
        self._tasks = Tasks(self._task_failed)
        self._closing: Deferred[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._certificate = certificate or Certificate.generateCertificate()
        self._origin = Origin()
        make = partial(IceSession, settings, "0", self._tasks, self._candidate_found, log_limiter)
        self._sessions = Sessions(make, self._tasks)
        self._dtls = DtlsTransport(cast(RTCIceTransport, self._sessions.transport), [self._certificate])
        self._channels = DataChannels(self, max_channels)
        self._path: Path | None = None
        self._dtls.on("statechange", self._dtls_changed)
        #: The first description of the peer.
        self._peer: PeerDescription | None = None
        self._restarts: Restarts | None = None
        self.fingerprints = b"", b""

    @property
    def _ice(self) -> IceAgent:
        return self._sessions.current.agent

    # Attributes

    @property
    def buffered(self) -> int:
        """See :class:`IPeerConnection`."""
        return self._channels.buffered

    @property
    def kept(self) -> int:
        """See :class:`IPeerConnection`."""
        return self._channels.kept

    @property
    def round_trip(self) -> float:
        """See :class:`IPeerConnection`."""
        return self._channels.round_trip

    @property
    def max_message(self) -> int:
        """See :class:`IPeerConnection`."""
        return self._channels.max_message

    @property
    def datagrams_dropped(self) -> int:
        """See :class:`IPeerConnection`."""
        return self._channels.datagrams_dropped

    @property
    def path(self) -> str:
        """See :class:`IPeerConnection`."""
        return self._ice.path

    @property
    def traffic(self) -> Traffic:
        """See :class:`IPeerConnection`."""
        return self._channels.traffic

    @property
    def stage(self) -> str:
        """See :class:`IPeerConnection`."""
        if self._peer is None:
            return SIGNALING
        return HANDSHAKE if self._ice.selected else PATH

    @property
    def heard_from(self) -> str:
        """See :class:`IPeerConnection`."""
        return self._ice.heard_from

    # Offer and answer

    def offer(self) -> None:
        """See :class:`IPeerConnection`."""
        if self._state is State.NEW:
            self._state = State.OFFERING
            self._ice.ice_controlling = True
            self._tasks.start(self._describe(self._sessions.current, OFFER))

    def take_offer(self, sdp: str) -> None:
        """See :class:`IPeerConnection`."""
        if self._restarts is not None:
            self._restarts.take_offer(read_description(sdp))
            return
        if self._state is not State.NEW:
            raise BadDescription("an offer where none was expected")
        self._peer = read_description(sdp)
        self._sessions.current.mid = self._peer.mid or "0"
        self._state = State.CONNECTING
        # The answerer should be active if it may choose: that saves half a round trip (RFC 5763, section 5).
        self._dtls._set_role("server" if self._peer.dtls.role == "client" else "client")
        self._ice.ice_controlling = self._peer.ice.iceLite
        self._tasks.start(self._answer())

    def take_answer(self, sdp: str) -> None:
        """See :class:`IPeerConnection`."""
        if self._restarts is not None:
            if not self._restarts.take_answer(read_description(sdp)):
                self._lose("the peer has given this connection up")
            return
        if self._state is not State.OFFERING or not self._sessions.current.is_described:
            raise BadDescription("an answer where none was expected")
        self._peer = read_description(sdp)
        self._dtls._set_role("server" if self._peer.dtls.role == "client" else "client")
        self._state = State.CONNECTING
        self._tasks.start(self._connect())

    def take_candidate(self, candidate: object) -> None:
        """See :class:`IPeerConnection`."""
        assert isinstance(candidate, Candidate)
        if self._state is not State.CLOSED:
            self._sessions.take_candidate(candidate)

    async def _describe(self, session: IceSession, kind: str) -> None:
        """Send our description: the first one of a session, or a later one with all candidates that it has now."""
        try:
            candidates = await session.gather()
        except NoAddress as error:
            if not self._sessions.give_up(session):
                self._lose(str(error))
            return
        if self._state is State.CLOSED or session not in (self._sessions.current, self._sessions.next):
            return
        setup = "actpass" if kind == OFFER else "passive" if self._dtls._role == "server" else "active"
        prints, ice = self._certificate.getFingerprints(), session.parameters
        sdp = write_description(self._origin, ice, prints, setup, session.mid, candidates)
        self._user.description_ready(kind, sdp)
        session.tell(candidates[MAX_CANDIDATES:])

    def _candidate_found(self, candidate: Candidate) -> None:
        if self._state is not State.CLOSED:
            self._user.candidate_found(candidate)

    # ICE restarts

    @property
    def wants_restart(self) -> bool:
        """See :class:`IPeerConnection`."""
        return self._restarts is not None and self._restarts.is_wanted

    def restart(self) -> None:
        """See :class:`IPeerConnection`."""
        if self._restarts is not None:
            self._restarts.offer()

    def continues(self, sdp: str) -> bool:
        """See :class:`IPeerConnection`."""
        return self._restarts is not None and self._peer is not None and read_description(sdp).continues(self._peer)

    def addresses_changed(self, addresses: Collection[str]) -> None:
        """See :class:`IPeerConnection`."""
        self._sessions.addresses_changed(addresses)

    # Called by the sessions

    def path_doubtful(self) -> None:
        """Tell the user: an answer of the peer is late."""
        self._user.path_doubtful()

    def path_silent(self) -> None:
        """Tell the user: the path has failed."""
        self._user.path_silent()

    def path_changed(self) -> None:
        """Go on over another path."""
        if self._path is not None:
            self._path.use(self._ice)
        self._channels.path_changed()
        self._user.path_changed()

    def path_dead(self) -> None:
        """End the connection: there is no path any more."""
        self._lose(self._SILENT)

    # Connecting

    async def _answer(self) -> None:
        await self._describe(self._sessions.current, ANSWER)
        await self._connect()

    async def _connect(self) -> None:
        peer = self._peer
        if self._state is not State.CONNECTING or peer is None:
            return
        self._timer = asyncio.get_running_loop().call_later(CONNECT_TIMEOUT, self._too_late, CONNECT_TIMEOUT)
        self._sessions.current.take_description(peer)
        try:
            await self._sessions.current.connect()
            await self._dtls.start(peer.dtls)
            if self._closing is not None:
                # In the meantime. What is handed over now would stay for ever.
                return
            if self._dtls.state != "connected":
                self._lose(f"the DTLS handshake failed: {self._why_no_dtls()}")
                return
            self.fingerprints = digest_of(self._certificate), self._dtls.peer_digest
            self._path = Path(self._dtls, self._ice, self._channels.packets_received, self._channels.packet_too_big)
            self._sessions.user = self
            self._channels.start(
                self._path,
                initiates=self._ice.ice_controlling,
                even=self._dtls._role == "client",
                peer_port=peer.sctp_port,
                max_message=peer.max_message,
                max_packet=peer.max_packet,
            )
        except ConnectionError as error:
            self._lose(str(error) or "connection lost")

    def _too_late(self, waited: float) -> None:
        if self._state is not State.CONNECTING:
            return
        patience = CONNECT_TIMEOUT + self._ice.checks_take
        if waited < patience and not self._ice.selected:
            self._timer = asyncio.get_running_loop().call_later(patience - waited, self._too_late, patience)
        elif self._ice.selected:
            # After DTLS there is SCTP, which fails only if the path does.
            why = "" if self._dtls.state == "connected" else f" (DTLS: {self._why_no_dtls()})"
            self._lose(f"the peer did not answer over the path within {waited:.0f} s{why}")
        else:
            self._lose(f"no path to the peer was found within {waited:.0f} s{self._ice.why_no_path}")

    def _why_no_dtls(self) -> str:
        return self._certificate.failures.explain(self._dtls.encrypted, self._ice.heard)

    # Called by the association

    def association_up(self) -> None:
        """Tell the user that channels can be used: SCTP is established."""
        if self._state is State.CONNECTING and self._peer is not None:
            self._state = State.CONNECTED
            self._stop_timer()
            self._restarts = Restarts(self._sessions, self._peer, self._origin, self._describe, self._tasks)
            self._user.connected()

    def association_down(self) -> None:
        """End the connection: SCTP is closed."""
        self._lose(self._why_over())

    def association_broken(self, reason: str) -> None:
        """End the connection: the peer violated the protocol."""
        self._lose(f"the peer broke the protocol: {reason}")

    def channel_arrived(self, channel: Channel) -> None:
        """Pass a channel that the peer opened to the user."""
        if self._state is not State.CLOSED:
            self._user.channel_arrived(channel)

    def has_room(self) -> None:
        """Let the user send more."""
        if self._state is not State.CLOSED:
            self._user.has_room()

    def _dtls_changed(self) -> None:
        # A failed handshake is reported where it is awaited.
        if self._state in (State.CONNECTING, State.CONNECTED) and self._dtls.state == "closed":
            self._lose(self._why_over())

    def _why_over(self) -> str:
        # When ICE gives up a silent peer, the layers above may report the end first.
        return self._SILENT if self._ice.peer_is_silent else "the peer closed the connection"

    # Channels

    def open_channel(self, label: str, protocol: str = "", reliable: bool = True) -> Channel:
        """See :class:`IPeerConnection`."""
        return self._channels.open_channel(label, protocol, reliable)

    def hold(self, count: int) -> None:
        """See :class:`IPeerConnection`."""
        self._channels.hold(count)

    def release(self, count: int) -> None:
        """See :class:`IPeerConnection`."""
        self._channels.release(count)

    # Closing

    def _task_failed(self, failure: Failure) -> None:
        self.log.failure("in a peer connection", failure)
        self._lose("an internal error")

    def _lose(self, reason: str) -> None:
        if self._state is State.CLOSED:
            return
        # Channels end first; what their users still send is dropped.
        self._state, self._restarts = State.CLOSED, None
        try:
            self._channels.drop()
            self.close()
        finally:
            self._user.lost(reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> Deferred[None]:
        """See :class:`IPeerConnection`."""
        self._state, self._restarts, self._sessions.user = State.CLOSED, None, None
        self._stop_timer()
        if self._closing is None:
            self._closing = as_deferred(self._close())
            self._closing.addErrback(lambda failure: self.log.failure("a peer connection was not closed", failure))
        done: Deferred[None] = Deferred()
        self._closing.addCallback(lambda _: done.callback(None))
        return done

    async def _close(self) -> None:
        self._channels.stop()
        if self._path is not None:
            self._path.close()
        await self._dtls.stop()
        self._sessions.stop()
        ends = [asyncio.ensure_future(end) for end in (self._tasks.cancel(), self._sessions.close())]
        ended, late = await asyncio.wait(ends, timeout=CLOSE_TIMEOUT)
        for end in ended:
            end.result()
        if late:
            self.log.debug("a TURN server did not acknowledge the end in time; the request goes on")
        # No reference cycles: DTLS and SCTP hold much, and would stay until the garbage collector comes.
        self._dtls.remove_all_listeners()
        self._sessions.clear()
        del self._user, self._tasks
