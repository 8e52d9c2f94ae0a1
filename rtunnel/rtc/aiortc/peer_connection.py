"""A peer connection: aiortc's ICE, DTLS and SCTP transports, put together for data channels.

    new --offer--> offering --take_answer--> connecting --> connected --> closed
     +--take_offer-------------------------> connecting

aiortc's own ``RTCPeerConnection`` also negotiates media, and cannot trickle candidates. Its transports, used here
directly, need neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import Enum, auto
from typing import Any

from aioice import Candidate as IceCandidate
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceTransport
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import BadDescription
from rtunnel.rtc.aiortc.addresses import NoAddress
from rtunnel.rtc.aiortc.bridge import Tasks, adopt_python_logging, as_deferred
from rtunnel.rtc.aiortc.channel import Channel
from rtunnel.rtc.aiortc.dtls import Certificate, DtlsTransport
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.sctp import Association
from rtunnel.rtc.aiortc.sdp import MAX_CANDIDATES, PeerDescription, read_description, write_description
from rtunnel.rtc.interfaces import IPeerConnection
from rtunnel.rtc.settings import IceSettings
from rtunnel.rtc.traffic import HANDSHAKE, PATH, SIGNALING, Traffic
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.webrtc.signaling import ANSWER, OFFER, Candidate

#: How many seconds a connection may take once the peer's description has come.
CONNECT_TIMEOUT = 20.0
#: How many seconds TURN servers and the peer have to acknowledge the end.
CLOSE_TIMEOUT = 2.0
#: How many candidates are kept until their description comes.
MAX_EARLY_CANDIDATES = 64
#: How many candidates are read, of which most may be useless.
MAX_CANDIDATES_READ = 256


class State(Enum):
    """The state of a connection; see the diagram at the top of the module."""

    NEW = auto()
    OFFERING = auto()
    CONNECTING = auto()
    CONNECTED = auto()
    CLOSED = auto()


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
        self._settings = settings
        self._user = user
        self._state = State.NEW
        self._tasks = Tasks(self._task_failed)
        self._closing: Deferred[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._certificate = certificate or Certificate.generateCertificate()
        # aiortc's transport around our agent. The agent's role is set when it is known which end offers.
        gatherer = RTCIceGatherer(iceServers=[])
        self._ice = gatherer._connection = IceAgent(settings, False, self._candidate_found, log_limiter)
        self._ice_transport = RTCIceTransport(gatherer)
        self._dtls = DtlsTransport(self._ice_transport, [self._certificate])
        self._sctp = Association(self._dtls, self, max_channels)
        self._dtls.on("statechange", self._dtls_changed)
        self._ice_transport.on("statechange", self._ice_changed)
        self._peer: PeerDescription | None = None
        self._early: list[Candidate] = []
        self._read = 0
        self._takes_candidates = False
        self._described = False
        self._found_early: list[IceCandidate | None] = []
        self._mid = "0"

    # Attributes

    @property
    def buffered(self) -> int:
        """See :class:`IPeerConnection`."""
        return self._sctp.buffered

    @property
    def kept(self) -> int:
        """See :class:`IPeerConnection`."""
        return self._sctp.kept

    @property
    def round_trip(self) -> float:
        """See :class:`IPeerConnection`."""
        return self._sctp.round_trip

    @property
    def max_message(self) -> int:
        """See :class:`IPeerConnection`."""
        return self._sctp.max_message

    @property
    def datagrams_dropped(self) -> int:
        """See :class:`IPeerConnection`."""
        return self._sctp.datagrams_dropped

    @property
    def path(self) -> str:
        """See :class:`IPeerConnection`."""
        return self._ice.path

    @property
    def traffic(self) -> Traffic:
        """See :class:`IPeerConnection`."""
        return self._sctp.traffic

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
            self._start(self._describe(OFFER, "actpass"))

    def take_offer(self, sdp: str) -> None:
        """See :class:`IPeerConnection`."""
        if self._state is not State.NEW:
            raise BadDescription("an offer where none was expected")
        self._peer = read_description(sdp)
        self._mid = self._peer.mid or "0"
        self._state = State.CONNECTING
        # The answerer should be active if it may choose: that saves half a round trip (RFC 5763, section 5).
        role = "server" if self._peer.dtls.role == "client" else "client"
        self._dtls._set_role(role)
        self._ice.ice_controlling = self._peer.ice.iceLite
        self._start(self._answer("passive" if role == "server" else "active"))

    def take_answer(self, sdp: str) -> None:
        """See :class:`IPeerConnection`."""
        if self._state is not State.OFFERING or not self._described:
            raise BadDescription("an answer where none was expected")
        self._peer = read_description(sdp)
        self._dtls._set_role("server" if self._peer.dtls.role == "client" else "client")
        self._state = State.CONNECTING
        self._start(self._connect())

    def take_candidate(self, candidate: object) -> None:
        """See :class:`IPeerConnection`."""
        assert isinstance(candidate, Candidate)
        if self._state is State.CLOSED:
            return
        if not self._takes_candidates:
            if len(self._early) < MAX_EARLY_CANDIDATES:
                self._early.append(candidate)
            return
        self._use_candidate(candidate)

    def _use_candidate(self, candidate: Candidate) -> None:
        self._read += 1
        if self._read > MAX_CANDIDATES_READ:
            return
        # This may be a late candidate of an earlier attempt. Above all, the earlier attempt's end of candidates must
        # not end these.
        if self._peer is not None and candidate.fragment not in (None, "", self._peer.ice.usernameFragment):
            return
        # Without a mid, the index of the media section counts; there is only one section.
        if candidate.mid and candidate.mid != self._mid:
            return
        if not candidate.mid and candidate.line_index not in (0, None):
            return
        self._start(self._ice.take_candidate(candidate.candidate))

    async def _describe(self, kind: str, setup: str) -> None:
        try:
            candidates = await self._ice.gather()
        except NoAddress as error:
            self._lose(str(error))
            return
        if self._state is State.CLOSED:
            return
        parameters = self._ice_transport.iceGatherer.getLocalParameters()
        prints = [print_ for print_ in self._certificate.getFingerprints() if print_.algorithm == "sha-256"]
        sdp = write_description(parameters, prints, setup, self._mid, candidates)
        self._described = True
        self._user.description_ready(kind, sdp)
        for late in (*candidates[MAX_CANDIDATES:], *self._found_early):
            self._candidate_found(late)

    def _candidate_found(self, candidate: IceCandidate | None) -> None:
        if self._state is State.CLOSED:
            return
        if not self._described:
            self._found_early.append(candidate)
            return
        text = "" if candidate is None else f"candidate:{candidate.to_sdp()}"
        self._user.candidate_found(Candidate(text, self._mid, 0, self._ice.local_username))

    # Connecting

    async def _answer(self, setup: str) -> None:
        await self._describe(ANSWER, setup)
        await self._connect()

    async def _connect(self) -> None:
        peer = self._peer
        if self._state is not State.CONNECTING or peer is None:
            return
        self._timer = asyncio.get_running_loop().call_later(CONNECT_TIMEOUT, self._too_late, CONNECT_TIMEOUT)
        for text in peer.candidates:
            self._start(self._ice.take_candidate(text))
        early, self._early = self._early, []
        self._takes_candidates = True
        for candidate in early:
            self._use_candidate(candidate)
        if peer.complete:
            self._start(self._ice.take_candidate(""))
        # Let the tasks above run first: the end of candidates must not find the list empty.
        await asyncio.sleep(0)
        try:
            await self._ice_transport.start(peer.ice)
            if self._ice_transport.state != "completed":
                # It was closed.
                return
            await self._dtls.start(peer.dtls)
            if self._dtls.state != "connected":
                self._lose(f"the DTLS handshake failed: {self._why_no_dtls()}")
                return
            await self._sctp.start_with(peer.max_message, peer.sctp_port)
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
            why = self._ice.why_no_path or f" {self._look_at}"
            self._lose(f"no path to the peer was found within {waited:.0f} s{why}")

    def _why_no_dtls(self) -> str:
        return self._certificate.failures.explain(self._dtls.encrypted, self._ice.heard)

    @property
    def _look_at(self) -> str:
        if self._settings.turn_servers:
            return "(do both ends reach the TURN server?)"
        return "(does UDP get out at both ends? otherwise a TURN server helps, see --turn-server)"

    # Called by the association

    def association_up(self) -> None:
        """Tell the user that channels can be used: SCTP is established."""
        if self._state is State.CONNECTING:
            self._state = State.CONNECTED
            self._stop_timer()
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

    def _ice_changed(self) -> None:
        if self._state is State.CONNECTED and self._ice_transport.state == "failed":
            self._lose(self._SILENT)

    def _why_over(self) -> str:
        # When ICE gives up a silent peer, the layers above may report the end first.
        return self._SILENT if self._ice.peer_is_silent else "the peer closed the connection"

    # Channels

    def open_channel(self, label: str, protocol: str = "", reliable: bool = True) -> Channel:
        """See :class:`IPeerConnection`."""
        return self._sctp.open_channel(label, protocol, reliable)

    def hold(self, count: int) -> None:
        """See :class:`IPeerConnection`."""
        self._sctp.hold(count)

    def release(self, count: int) -> None:
        """See :class:`IPeerConnection`."""
        self._sctp.release(count)

    # Closing

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.start(work)

    def _task_failed(self, failure: Failure) -> None:
        self.log.failure("in a peer connection", failure)
        self._lose("an internal error")

    def _lose(self, reason: str) -> None:
        if self._state is State.CLOSED:
            return
        # Channels end first; what their users still send is dropped.
        self._state = State.CLOSED
        try:
            self._sctp.drop()
            self.close()
        finally:
            self._user.lost(reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> Deferred[None]:
        """See :class:`IPeerConnection`."""
        self._state = State.CLOSED
        self._stop_timer()
        if self._closing is None:
            self._closing = as_deferred(self._close())
            self._closing.addErrback(lambda failure: self.log.failure("a peer connection was not closed", failure))
        done: Deferred[None] = Deferred()
        self._closing.addCallback(_pass_on, done)
        return done

    async def _close(self) -> None:
        await self._sctp.stop()
        await self._dtls.stop()
        ends = [asyncio.ensure_future(end) for end in (self._tasks.cancel(), self._ice_transport.stop())]
        ended, late = await asyncio.wait(ends, timeout=CLOSE_TIMEOUT)
        for end in ended:
            end.result()
        if late:
            self.log.debug("a TURN server did not acknowledge the end in time; the request goes on")
        # No reference cycles: DTLS and SCTP hold much, and would stay until the garbage collector comes.
        self._dtls.remove_all_listeners()
        self._ice_transport.remove_all_listeners()
        del self._user, self._tasks


def _pass_on(_result: None, done: Deferred[None]) -> None:
    done.callback(None)
