"""One WebSocket to a signaling server. Its owner is :mod:`rtunnel.rtc.signaling.link`.

Autobahn speaks the protocol. Its log is silenced, because its lines contain the token, and because an operator should
read once, in plain words, why a connection ended. Its timers are not used: they belong to the global reactor, and one
of them outlives its connection.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.types import ConnectingRequest
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from txaio.tx import make_logger
from zope.interface import implementer

from rtunnel import delayed_calls
from rtunnel.reasons import reason_of
from rtunnel.rtc.settings import SignalClientSettings
from rtunnel.tls.messages import limit_messages
from rtunnel.tls.web_client import ServerCheck
from rtunnel.upkeep import AGENT
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import MAX_MESSAGE, REFERENCE_MAX_MESSAGE, SUBPROTOCOL

#: Seconds between two pings; a server that sends nothing in between is dead.
PING_EVERY = 10.0
#: How many seconds the closing handshake may take.
GOODBYE = 2.0
#: The longest head of an HTTP response, in bytes.
MAX_HEAD = 16384
#: Bytes that may wait for a server that does not read.
MAX_UNSENT = 1 << 20

_REGISTERED = b"registered"
_ALIVE = b"alive"
_STATUS = {
    401: "it does not accept the token (401); see --token",
    403: "it does not let us in (403); is the token right, see --token?",
    404: "there is no signaling at this path (404); is the URL right?",
}


class Owner(Protocol):
    """The owner of a connection; see :class:`rtunnel.rtc.signaling.link.SignalLink`."""

    def registration(self, is_reference: bool) -> bytes: ...
    def registered(self, is_reference: bool) -> None: ...
    def message_received(self, message: bytes, is_binary: bool) -> str: ...


class WebSocketFactory(WebSocketClientFactory):
    """The options of Autobahn that all connections share."""

    noisy = False

    def __init__(self, reactor: Any) -> None:
        # Without a URL: an endpoint dials, and each connection says for itself what it requests.
        super().__init__(protocols=[SUBPROTOCOL], reactor=reactor)
        self.setProtocolOptions(
            maxFramePayloadSize=MAX_MESSAGE,
            maxMessagePayloadSize=MAX_MESSAGE,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
            autoPingInterval=0,
        )


@implementer(IPushProducer)
class ClientProtocol(WebSocketClientProtocol):
    """One connection.

    :param deadline: the reactor time by which it must be registered.
    :param tls: the check of the server's certificate, for ``wss``; else None.
    :ivar ended: fires with the reason when the connection is lost.
    :ivar max_message: the longest message that the server accepts, in bytes; known after the handshake.
    """

    transport: Any
    log = make_logger(level="none")

    def __init__(
        self,
        reactor: Any,
        factory: WebSocketFactory,
        owner: Owner,
        settings: SignalClientSettings,
        deadline: float,
        tls: ServerCheck | None,
    ) -> None:
        super().__init__()
        self.factory = factory
        self._reactor = reactor
        self._owner = owner
        self._settings = settings
        self._tls = tls
        self._timer: IDelayedCall | None = None
        self._deadline = deadline
        self._is_registered = False
        self._is_reference = False
        self._heard = True
        self._goodbye = False
        self._is_slow = False
        self._unsent = 0
        self._why = ""
        self._complaint = ""
        self.ended: Deferred[str] = Deferred()
        self.max_message = MAX_MESSAGE

    # The handshake

    def connectionMade(self) -> None:
        """Start the handshake and its time-out."""
        limit_messages(self.transport)
        self._wait(max(0.0, self._deadline - self._reactor.seconds()), self._too_slow)
        super().connectionMade()

    def onConnecting(self, transport_details: object) -> ConnectingRequest:
        """Called by Autobahn: return what to request."""
        url, token = self._settings.url, self._settings.token
        return ConnectingRequest(
            host=f"[{url.host}]" if ":" in url.host else url.host.encode("idna").decode("ascii"),
            port=url.port,
            resource=url.path,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            useragent=AGENT,
            protocols=[SUBPROTOCOL],
        )

    def dataReceived(self, data: bytes) -> None:
        """Check the response before Autobahn does, which would buffer any amount of it and raise for what is not
        HTTP."""
        self._heard = True
        if self.state != self.STATE_CONNECTING:
            super().dataReceived(data)
        elif len(self.data) > MAX_HEAD:
            self.give_up("its answer is not HTTP, or has too many headers")
        elif self._tls is None and not self.data and data.startswith(b"\x15\x03"):
            self.give_up("it speaks TLS; did you mean wss://?")
        else:
            try:
                super().dataReceived(data)
            except Exception:
                if self.state != self.STATE_CONNECTING:
                    raise
                self.give_up("its answer is not HTTP")

    def failHandshake(self, reason: str) -> None:
        """Called by Autobahn: the server's response does not open a WebSocket."""
        found = re.match(r"HTTP/1\.[01] (\d{3})\b", self.http_status_line)
        status = int(found[1]) if found else 101
        if status == 101:
            # What follows the colon may differ each time, which would make each failure look new.
            self.give_up(f"it speaks WebSocket wrongly: {clean_text(reason.partition(' : ')[0])}")
        elif 300 <= status < 400:
            self.give_up(f"it redirects us ({status}), which we do not follow; write the final URL")
        elif status == 401 and not self._settings.token:
            self.give_up("it asks for a token (401); see --token")
        else:
            answer = clean_text(self.http_status_line)
            self.give_up(_STATUS.get(status, f"it answers '{answer}' and opens no WebSocket"))

    def onOpen(self) -> None:
        """Called by Autobahn: messages can be sent."""
        self.registerProducer(self, True)
        self._is_reference = self.websocket_protocol_in_use != SUBPROTOCOL
        if self._is_reference:
            self.max_message = REFERENCE_MAX_MESSAGE
        self.send(self._owner.registration(self._is_reference))
        self.sendPing(_REGISTERED)

    # While the connection is open

    def send(self, message: bytes) -> bool:
        """Send a message. Return False if it was not sent: the connection is not open, or the server does not read."""
        if self.state != self.STATE_OPEN:
            return False
        if self._is_slow:
            self._unsent += len(message)
            if self._unsent > MAX_UNSENT:
                return False
        self.sendMessage(message)
        return True

    def pauseProducing(self) -> None:
        """Count what is sent from now on: the server does not read."""
        self._is_slow = True

    def resumeProducing(self) -> None:
        """Stop counting: everything has been sent."""
        self._is_slow = False
        self._unsent = 0

    def stopProducing(self) -> None:
        """Called by the transport when the connection is lost; ``connectionLost`` follows."""

    def onPing(self, payload: bytes) -> None:
        """Called by Autobahn. A server that does not read gets no more answers."""
        if not self._is_slow:
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        """Called by Autobahn. The first pong shows that the server has seen the registration."""
        if payload == _REGISTERED and not self._is_registered and not self._goodbye:
            self._is_registered = True
            self._wait(PING_EVERY, self._look)
            self._owner.registered(self._is_reference)

    def _look(self) -> None:
        if not self._heard:
            self.give_up(f"nothing was heard from it for {PING_EVERY:g} s, not even the answer to a ping")
            return
        # The complaint did not end the connection.
        self._complaint = ""
        self._ask()

    def _ask(self) -> None:
        # Whoever asks, the server has as long to answer.
        self._heard = False
        self._wait(PING_EVERY, self._look)
        self.sendPing(_ALIVE)

    def prove(self) -> None:
        """Find out whether the server is there: until it has sent something, :attr:`is_proved` is false."""
        if self._is_registered and self._heard and self.state == self.STATE_OPEN:
            self._ask()

    @property
    def is_proved(self) -> bool:
        """Whether something has come since the last ping."""
        return self._heard

    @property
    def local_address(self) -> str:
        """The IP address of this end; empty if it has none any more."""
        return str(getattr(self.transport.getHost(), "host", ""))

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Called by Autobahn."""
        self._complaint = self._owner.message_received(payload, isBinary)

    # Closing

    def leave(self) -> None:
        """Start the closing handshake; drop the connection soon, whatever the server does."""
        self._goodbye = True
        if self.state == self.STATE_OPEN:
            self.sendClose(1000)
            self._wait(GOODBYE, lambda: self.give_up("it does not answer our close frame"))
        elif self.state == self.STATE_CLOSING:
            self._wait(GOODBYE, lambda: self.give_up("it does not close"))
        else:
            self.give_up("we leave")

    def give_up(self, why: str) -> None:
        """Drop the connection now, for this reason."""
        self._why = self._why or why
        self.dropConnection(abort=True)
        self.transport.abortConnection()

    def _too_slow(self) -> None:
        self.give_up(f"it was not ready within {self._settings.connect_timeout:g} s")

    def onCloseFrame(self, code: Any, reasonRaw: Any) -> bool | None:
        """Called by Autobahn: the server answers our close frame, or sends its own. The server should then close the
        connection, and gets some time to do so."""
        result = super().onCloseFrame(code, reasonRaw)
        if self._goodbye:
            self.dropConnection(abort=False)
        elif self.state == self.STATE_CLOSING:
            self._wait(GOODBYE, lambda: self.give_up("it does not close"))
        return result

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the owner why the connection is lost."""
        delayed_calls.cancel(self._timer)
        was_open = self.state not in (self.STATE_CONNECTING, self.STATE_PROXY_CONNECTING)
        why = reason_of(reason)
        try:
            super().connectionLost(reason)
            why = self._why_lost(reason, was_open)
        finally:
            # Whatever happens, the owner dials again.
            self.ended.callback(why)

    def _why_lost(self, reason: Failure, was_open: bool) -> str:
        if self._complaint:
            return f"the server says: {self._complaint}"
        if self._why:
            return self._why
        if self._tls is not None and isinstance(reason.value, SSL.Error):
            return self._tls.explain(reason.value)
        if self.failedByMe:
            return clean_text(f"it breaks the WebSocket protocol: {self.wasNotCleanReason}")
        if self.remoteCloseCode is not None:
            return clean_text(
                f"it closed the connection ({self.remoteCloseCode} {self.remoteCloseReason or ''}".rstrip() + ")"
            )
        if not was_open:
            hint = "; did you mean wss://?" if self._tls is None and not self.data else ""
            return f"it closed the connection in the handshake{hint}"
        return reason_of(reason)

    def _wait(self, seconds: float, call: Any) -> None:
        """Replace the one timer of this connection."""
        delayed_calls.cancel(self._timer)
        self._timer = self._reactor.callLater(seconds, call)
