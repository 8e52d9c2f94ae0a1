"""One connection to the signaling server: HTTP at first, then a WebSocket.

Autobahn parses the handshake and the frames. This module adds the rest: a bound on the size of the request, paths other
than ``/``, who may connect, how often and how much a peer may send, how much may wait for a peer that does not read,
and all time-outs, which the server's one timer checks (:meth:`ServerProtocol.tick`).
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from functools import partial
from http import HTTPStatus
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from OpenSSL import SSL
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from txaio import tx
from zope.interface import implementer

from rtunnel.access.tokens import BearerTokens
from rtunnel.access.web_admission import Origins
from rtunnel.relay.last_bytes import abort_at_once
from rtunnel.relay.sockets import address_prefix, format_address
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.connections import Connections
from rtunnel.rtc.signaling.http import NO_TLS_HERE, Step, encode_answer, read_request
from rtunnel.rtc.signaling.limits import InvitationRate, MessageRate, Times
from rtunnel.rtc.signaling.pace import Pace, Paces
from rtunnel.rtc.signaling.party import GOING_AWAY, POLICY_VIOLATION, UNSUPPORTED_DATA, Line, Party, State
from rtunnel.rtc.signaling.share import Share
from rtunnel.rtc.signaling.switchboard import Switchboard
from rtunnel.tls.messages import limit_messages
from rtunnel.tls.web_server import explain_web_failure
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.periodic import do_all
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import SUBPROTOCOL

#: Bytes that may wait for a peer that does not read, beyond what the transport buffers before it pauses us.
MAX_UNSENT = 1024 * 1024
#: Above this, messages from other peers are refused. Otherwise they could get a peer dropped by sending it more than
#: its path carries.
SLOW = MAX_UNSENT // 2

_log = Logger()


@implementer(IPushProducer, IHandshakeListener)
class ServerProtocol(WebSocketServerProtocol):
    """A connection to the signaling server: of a host, a client, or a stranger.

    :ivar address_prefix: the key under which its address is counted.
    :ivar touched: set whenever bytes come; the search for idle connections clears it.
    :ivar budget_key: whose budgets it uses: its address's, or its own if all come from the address of a proxy.
    """

    # This class logs what bad peers do, in fewer lines than Autobahn.
    log = tx.make_logger(level="none")
    transport: Any
    pace: Pace

    def __init__(self, factory: ServerFactory) -> None:
        super().__init__()
        self.factory = factory
        self._clock: Any = factory.reactor
        self._times = factory.times
        self._log_limiter = factory.log_limiter
        self._switchboard = factory.switchboard
        self._connections = factory.connections
        self._memory = factory.memory
        self._share = Share(self)
        self.address_prefix = ""
        self.touched = True
        self.budget_key: Hashable = object()  # not self, as budgets keep it for longer
        self.party = Party(self)
        self.peer_name = ""
        # The deadline of the current step (the upgrade, the first message, closing).
        self._deadline: float | None = self._clock.seconds() + self._times.upgrade
        self._heard = self._pinged = self._clock.seconds()
        self._probe: tuple[bytes, float] | None = None
        self._delayed_pong: bytes | None = None
        self._rate = MessageRate(factory.settings.max_rate, self._clock.seconds(), factory.settings.max_per_address)
        self._in_handshake = factory.settings.cert is not None
        self._deaf = False
        self._aborted = False
        self._paused = False
        self._unsent = 0

    # The connection

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.protocol.Protocol`."""
        limit_messages(self.transport)
        address = self.transport.getPeer()
        self.peer_name = format_address(address)
        self.address_prefix = address_prefix(address)
        if self.address_prefix and self.factory.settings.max_per_address:
            self.budget_key = self.address_prefix
        self.pace = Pace(self.factory.paces, self.budget_key, self.transport, self._handle)
        super().connectionMade()
        self._connections.add(self)
        self._memory.join(self._share)

    def handshakeCompleted(self) -> None:
        """See :class:`IHandshakeListener`."""
        self._in_handshake = False

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.protocol.Protocol`."""
        self._heard = self._clock.seconds()
        self.touched = True
        self._memory.add(len(data))
        self.pace.received(data)
        if self.pace.is_waiting and not self._deaf:
            self._log_limiter.warn(
                "{peer} is read slowly: its address, or all together, keep this server busy", peer=self.peer_name
            )

    def _handle(self, data: bytes) -> None:
        # What is ignored counts too: to receive it is not for nothing.
        if not self._deaf:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.protocol.Protocol`."""
        lost = partial(super().connectionLost, reason)
        tell = partial(self._tell_failure, reason)
        left = partial(self._switchboard.left, self.party)
        forget = partial(self._memory.leave, self._share)
        do_all([lost, tell, left, forget, self.pace.leave, partial(self._connections.remove, self)])

    def _tell_failure(self, reason: Failure) -> None:
        """Log why there is no TLS, unless this end did not wait for it."""
        if not self._in_handshake:
            return
        why = explain_web_failure(reason.value)
        if self._aborted:
            if self._deadline is None or self._clock.seconds() < self._deadline:
                return
            why = f"no TLS handshake within {self._times.upgrade:g} s"
        # Who has sent no hello may only have looked whether the port is open, as load balancers do.
        is_client = isinstance(reason.value, SSL.Error) or self.transport.getHandle().client_random() is not None
        log = self._log_limiter.warn if is_client else _log.debug
        log("connection from {peer} closed: {why}", peer=self.peer_name, why=why)

    def tick(self, now: float, was_stopped: bool) -> None:
        """See :class:`~rtunnel.rtc.signaling.connections.Connection`. Ping when it is time."""
        if self.pace.is_waiting or was_stopped:
            # We do not hear what it says, and that is no fault of its own.
            self._heard = now
            if self._probe is not None:
                self._probe = (self._probe[0], now + self._times.answer)
        is_open = self.state == self.STATE_OPEN
        if is_open and self.party.state in (State.WAITING, State.REGISTERED):
            self._deadline = None
        elif self._deadline is None:
            self._deadline = now + self._times.close
        elif now >= self._deadline and is_open and self.party.state is State.NEW:
            self._switchboard.dismiss(self.party, "it did not register", POLICY_VIOLATION)
        elif now >= self._deadline:
            self.abort()
        if not is_open:
            return
        if self._probe is not None and now >= self._probe[1]:
            self._give_up("it did not answer, and another wants its ID")
        elif now - self._heard >= self._times.silent:
            self._give_up(f"silent for {self._times.silent:g} s")
        elif now - self._pinged >= self._times.ping_every:
            self._pinged = now
            self.sendPing()

    def _give_up(self, why: str) -> None:
        _log.debug("{peer} is given up: {why}", peer=self.peer_name, why=why)
        self._switchboard.left(self.party)
        self.abort()

    def go_away(self) -> None:
        """See :class:`~rtunnel.rtc.signaling.connections.Connection`."""
        self._switchboard.left(self.party)
        self.close(GOING_AWAY, "the server is going down")

    def abort(self) -> None:
        """Drop the connection now. May be called again."""
        self._deaf = True
        if not self._aborted:
            self._aborted = True
            self.transport.abortConnection()

    def cut(self) -> None:
        """Drop the connection, and close its socket at once."""
        self.abort()
        abort_at_once(self.transport)

    # HTTP

    def processHandshake(self) -> None:
        """Called by Autobahn before there is a WebSocket. Requests for other paths are answered here."""
        step, answer = read_request(self.data)
        if step is Step.ANSWER:
            self._answer(answer)
        elif step is Step.NO_TLS:
            self.failHandshake(NO_TLS_HERE)
        elif step is Step.WEBSOCKET:
            super().processHandshake()

    def onConnect(self, request: ConnectionRequest) -> str | None:
        """Called by Autobahn for a valid request."""
        if not self.factory.tokens.allow(request.headers.get("authorization")):
            raise ConnectionDeny(HTTPStatus.UNAUTHORIZED.value, "no valid token")
        origin = request.headers.get("origin")
        if not self.factory.origins.allow(origin):
            raise ConnectionDeny(HTTPStatus.FORBIDDEN.value, f"the origin '{origin}' is not among --allowed-origins")
        return SUBPROTOCOL if SUBPROTOCOL in request.protocols else None

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: object = None) -> None:
        """Called by Autobahn for an invalid request."""
        self._log_limiter.warn(
            "{peer} gets no WebSocket ({code:d}): {why}", peer=self.peer_name, code=code, why=clean_text(reason)
        )
        self._answer(encode_answer(HTTPStatus(code)))

    def _answer(self, answer: bytes) -> None:
        self.sendData(answer)
        self._deadline = self._clock.seconds() + self._times.close
        self._deaf = True
        self.dropConnection()

    # WebSocket

    def onOpen(self) -> None:
        """Called by Autobahn when the WebSocket is open."""
        self._deadline = self._clock.seconds() + self._times.first_message
        self._pinged = self._clock.seconds()
        self.registerProducer(self, True)

    def onMessageFrameBegin(self, length: int) -> None:
        """Called by Autobahn for each frame of a message."""
        self._is_in_time()
        super().onMessageFrameBegin(length)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Called by Autobahn."""
        if self._deaf:
            return
        if isBinary:
            self._switchboard.dismiss(self.party, "a binary message", UNSUPPORTED_DATA)
            return
        self._switchboard.receive(self.party, payload)
        if self.party.state in (State.WAITING, State.REGISTERED):
            self._connections.has_registered(self)
        self.pace.is_registered = self.party.state is State.REGISTERED

    def onPing(self, payload: bytes) -> None:
        """Called by Autobahn."""
        if not self._is_in_time():
            return
        if self.party.state is State.WAITING:
            # rtunnel's ends take the answer to a ping after their registration as its confirmation.
            self._delayed_pong = payload
        else:
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        """Called by Autobahn."""
        if self._is_in_time() and self._probe is not None and payload == self._probe[0]:
            self._probe = None
            self._switchboard.probe_answered(self.party)

    def _is_in_time(self) -> bool:
        # Every frame counts, not only the last of a message: each has a cost.
        if not self._rate.take(self._clock.seconds()) and not self._deaf:
            self._stop_listening()
            self._switchboard.dismiss(self.party, "too many messages", POLICY_VIOLATION)
        return not self._deaf

    def _stop_listening(self) -> None:
        """Ignore everything that the peer sends from now on."""
        self._deaf = True
        self.data = b""

    def _fail_connection(self, code: int = GOING_AWAY, reason: str = "going away") -> None:
        # Autobahn would either drop the connection without a close frame, or go on parsing.
        self.failedByMe = True
        self._log_limiter.warn(
            "{peer} broke the WebSocket protocol: {why}", peer=self.peer_name, why=clean_text(reason)
        )
        self._switchboard.left(self.party)
        self.close(code, reason)
        self._stop_listening()

    # Called by the switchboard

    @property
    def is_slow(self) -> bool:
        """See :class:`~rtunnel.rtc.signaling.party.Line`."""
        return self._unsent > SLOW

    def send(self, text: bytes) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Line`."""
        if self.state == self.STATE_OPEN:
            self.sendMessage(text)

    def close(self, code: int, reason: str) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Line`."""
        self._deadline = self._clock.seconds() + self._times.close
        if self.state == self.STATE_OPEN:
            # `sendClose` accepts only the codes for applications.
            self.sendCloseFrame(code, reason.encode("utf-8", "replace")[:120].decode("utf-8", "ignore").encode("utf-8"))
        else:
            self.abort()

    def probe(self) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Line`."""
        if self._probe is None:
            self._probe = (secrets.token_bytes(8), self._clock.seconds() + self._times.answer)
            self.sendPing(self._probe[0])

    def admitted(self) -> None:
        """See :class:`~rtunnel.rtc.signaling.party.Line`."""
        self.pace.is_registered = self.party.state is State.REGISTERED
        if self._delayed_pong is not None and self.pace.is_registered:
            self.sendPong(self._delayed_pong)
            self._delayed_pong = None

    def takes_offer_of(self, sender: Line) -> bool:
        """See :class:`~rtunnel.rtc.signaling.party.Line`."""
        return self._rate.takes_offer_of(sender.budget_key, self._clock.seconds())

    # Sending

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Called by Autobahn for everything that is sent."""
        if self._aborted:
            return
        self._memory.add(len(data))
        if self._paused:
            self._unsent += len(data)
            if self._unsent > MAX_UNSENT:
                self._log_limiter.warn("{peer} does not read, and is dropped", peer=self.peer_name)
                self.abort()
                return
        super().sendData(data, sync, chopsize)

    def pauseProducing(self) -> None:
        """See :class:`IPushProducer`."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See :class:`IPushProducer`."""
        self._paused = False
        self._unsent = 0

    def stopProducing(self) -> None:
        """See :class:`IPushProducer`; :meth:`connectionLost` follows."""


class ServerFactory(WebSocketServerFactory):
    """What all connections share.

    :raises ConfigError: one of the allowed origins is malformed.
    """

    noisy = False

    def __init__(self, reactor: Any, settings: SignalSettings, times: Times, log_limiter: LogLimiter, memory: Memory):
        super().__init__(reactor=reactor, server="")
        self.settings = settings
        self.times = times
        self.log_limiter = log_limiter
        self.paces = Paces(reactor)
        self.memory = memory
        self.tokens = BearerTokens(settings.valid_tokens)
        self.origins = Origins(settings.allowed_origins)
        self.descriptors = Descriptors(reactor)
        self.connections = Connections(settings.max_per_address, log_limiter, self.descriptors)
        max_message = settings.max_message
        self.may_try = InvitationRate(reactor).take
        self.switchboard = Switchboard(settings.max_hosts, settings.max_clients, max_message, log_limiter, self.may_try)
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            maxFramePayloadSize=max_message,
            maxMessagePayloadSize=max_message,
            # ServerProtocol has its own time-outs, and checks origins itself.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            allowNullOrigin=True,
        )

    def buildProtocol(self, addr: object) -> ServerProtocol:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        return ServerProtocol(self)
