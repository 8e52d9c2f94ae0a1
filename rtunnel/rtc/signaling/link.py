"""The connection of a host or client to its signaling server, held for ever.

    dialling -> TLS -> WebSocket handshake -> registering -> up -> lost -> waiting -> dialling ...

Our own servers agree on a WebSocket subprotocol; one that does not is a reference server, which is to be told who we
are in another way. The order of a connection's messages is kept, so the answer to a ping that was sent behind the
registration says that the server has that: only then is the link up, and its user told.

Nobody is asked to do anything about a server that is away for a moment. It is dialled again, ever more slowly, and
only what is new about it is said aloud.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IAddress
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtunnel.addresses import DialAddress
from rtunnel.errors import BadSignal
from rtunnel.relay.sockets import QuietFactory, show_host_port
from rtunnel.rtc.interfaces import ISignalUser
from rtunnel.rtc.settings import SignalClientSettings
from rtunnel.rtc.signaling.connection import Connection, WebSocketFactory
from rtunnel.tls.web_client import ServerCheck
from rtunnel.upkeep.backoff import Backoff
from rtunnel.upkeep.few_lines import FewLines
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import AS_CLIENT, ERROR, REGISTER_HOST, Signal, decode_signal, encode_signal

#: Seconds that a link must be up before the next attempt need not wait longer than the first.
USEFUL_AFTER = 5.0


class _Dial(QuietFactory):
    """One attempt: the address of a name that answers first gets the connection."""

    def __init__(self, build: Any) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        connection: Connection = self._build()
        return connection


class SignalLink(Service):
    """Keeps one connection to the signaling server, whatever happens to it.

    :param reactor: provides TCP, time and name resolution.
    :param identity: the host's ID, or the client's UUID.
    :param user: told what happens.
    :ivar identity: under which we register; a client may take another one whenever the link is down.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, settings: SignalClientSettings, identity: str, user: ISignalUser, *, is_host: bool
    ) -> None:
        self.setName("signaling")
        self._reactor = reactor
        self._settings = settings
        self.identity = identity
        self._user = user
        self._is_host = is_host
        self._factory = WebSocketFactory(reactor)
        self._backoff = Backoff(settings.reconnect_min, settings.reconnect_max)
        self._few = FewLines(self.log, reactor)
        self._running: Deferred[None] | None = None
        self._connection: Connection | None = None
        self._up_since: float | None = None
        self._said = ""

    @property
    def up(self) -> bool:
        """Connected and registered."""
        return self._up_since is not None

    def send(self, signal: Signal) -> bool:
        """Send a message in our name.

        :returns: whether it is on its way; not while the link is down, nor if it is larger than this server takes.
        """
        connection = self._connection
        # Before the link is up too: an offer may be here before the answer to our ping.
        if connection is None:
            return False
        message = encode_signal(replace(signal, sender_id=self.identity))
        if len(message) > connection.max_message:
            self._few.warn(
                "a message of type {type} is too large for signaling server {url} and not sent: {size} bytes, "
                "{most} are allowed",
                type=signal.type,
                url=self._settings.url,
                size=len(message),
                most=connection.max_message,
            )
            return False
        return connection.send(message)

    # For ever

    def startService(self) -> None:
        """Start dialling."""
        super().startService()
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._crashed)

    def _crashed(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.log.failure("the signaling link has failed; please report this", failure)

    async def _run(self) -> None:
        while self.running:
            why = await self._hold()
            if not self.running:
                return
            wait = self._backoff.next_wait()
            log = self.log.debug if why == self._said else self.log.warn
            self._said = why
            log("{why}; next attempt in {wait:.1f} s", why=why, wait=wait)
            await deferLater(self._reactor, wait)

    async def _hold(self) -> str:
        """Connect, and stay until the connection is lost; why it is."""
        settings = self._settings
        url = settings.url
        deadline = self._reactor.seconds() + settings.connect_timeout
        try:
            tls = ServerCheck(url.host, settings.ca_file) if url.secure else None
            address = DialAddress.parse(show_host_port(url.host, url.port))
            endpoint = address.endpoint(self._reactor, settings.connect_timeout)
            if tls is not None:
                endpoint = wrapClientTLS(tls, endpoint)
            dial = _Dial(lambda: Connection(self._reactor, self._factory, self, settings, deadline, tls))
            connection: Any = await endpoint.connect(dial)
        except CancelledError:
            raise
        except Exception as error:
            return f"cannot reach signaling server {url}: {str(error).rstrip('.')}"
        self._connection = connection
        why: str = await connection.ended
        self._connection = None
        up_since, self._up_since = self._up_since, None
        if up_since is None:
            return f"cannot use signaling server {url}: {why}"
        if self._reactor.seconds() - up_since >= USEFUL_AFTER:
            self._backoff.reset()
            self._said = ""
        self._user.signaling_down(why)
        return f"signaling lost: {why}"

    async def _close(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        self._up_since = None
        if self._connection is not None:
            self._connection.leave()
        else:
            running.cancel()
        await running

    def stopService(self) -> Deferred[None]:
        """Leave the server, so that our ID is free there, and dial no more."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    # What the connection tells

    def registration(self, is_reference: bool) -> bytes:
        """What the server must be sent before anything else. A reference server knows hosts only, so there a client
        is one too."""
        payload = None if self._is_host or is_reference else AS_CLIENT
        return encode_signal(Signal(REGISTER_HOST, payload, sender_id=self.identity))

    def registered(self, is_reference: bool) -> None:
        """The server knows us."""
        self._up_since = self._reactor.seconds()
        self.log.info(
            "connected to signaling server {url}{protocol}",
            url=self._settings.url,
            protocol=" (reference protocol)" if is_reference else "",
        )
        self._user.signaling_up()

    def message_received(self, message: bytes, is_binary: bool) -> str:
        """The server has sent something.

        :returns: its complaint about us, which is why, if the connection ends now; else nothing.
        """
        if is_binary:
            self._few.warn("signaling server {url} sends a binary message; ignored", url=self._settings.url)
            return ""
        try:
            signal = decode_signal(message)
        except BadSignal as error:
            self._few.warn(
                "signaling server {url} sends what cannot be understood; ignored: {error}",
                url=self._settings.url,
                error=str(error),
            )
            return ""
        if self.running:
            self._user.signal_received(signal)
        about_us = signal.type == ERROR and signal.sender_id in ("", self.identity)
        return clean_text(str(signal.payload)) if about_us else ""
