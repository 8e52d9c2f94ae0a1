"""The connection of a host or client to its signaling server, dialled again whenever it is lost.

    dialling -> TLS -> WebSocket handshake -> registering -> up -> lost -> waiting -> dialling ...

rtunnel's servers agree on a WebSocket subprotocol. A server that does not is a reference server, where clients register
in another way. A connection keeps its messages in order, so the answer to a ping that was sent after the registration
shows that the server has processed the registration. Only then is the link up, and the user told.

A server that is away for a moment needs no action by the operator: it is dialled again, ever more slowly, and only
failures for a new reason are logged as warnings.

There may be several servers, of one cluster. An attempt begins with the one that worked last, and goes on with the next
one if that cannot be reached. One that is reached but cannot be used is the last to be dialled from then on.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any, cast

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger, LogLevel

from rtunnel.addresses import DialAddress
from rtunnel.errors import BadSignal
from rtunnel.reasons import reason_and_advice
from rtunnel.relay.sockets import QuietFactory, format_host_port
from rtunnel.rtc.interfaces import ISignalUser
from rtunnel.rtc.settings import SignalClientSettings, SignalUrl
from rtunnel.rtc.signaling.client_protocol import ClientProtocol, WebSocketFactory
from rtunnel.tls.web_client import ServerCheck
from rtunnel.upkeep.held_connection import HeldConnection
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import AS_CLIENT, ERROR, REGISTER_HOST, Signal, decode_signal, encode_signal

#: Seconds after which the next server is dialled, if there is one.
NEXT_AFTER = 3.0
#: Seconds for which a link must be up to reset the back-off.
USEFUL_AFTER = 5.0


class _Dial(QuietFactory):
    """The factory of one attempt. If a name has several addresses, the first that answers gets the connection."""

    def __init__(self, build: Callable[[], ClientProtocol]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> ClientProtocol:
        return self._build()


class SignalLink(HeldConnection[ClientProtocol]):
    """Holds one connection to the signaling server.

    :param reactor: provides TCP, time and name resolution.
    :param identity: the host's ID, or the client's UUID.
    :param user: receives the events of the link.
    :ivar identity: the ID under which we register; a client may change it whenever the link is down.
    :ivar is_reference: whether the server that we are, or were last, registered at is a reference server.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, settings: SignalClientSettings, identity: str, user: ISignalUser, *, is_host: bool
    ) -> None:
        peer = _name(settings)
        super().__init__(reactor, peer, settings.reconnect_min, settings.reconnect_max, repeated=LogLevel.debug)
        self.setName("signaling")
        self._settings = settings
        #: The servers in the order in which they are dialled, the one of which we speak, and the last that was reached.
        self._servers = list(settings.url.all)
        self._server = self._reached = self._servers[0]
        self.identity = identity
        self.is_reference = False
        #: By this the server gives us our ID again although it may still believe in our last connection.
        self._key = secrets.token_hex(16)
        self._user = user
        self._is_host = is_host
        self._factory = WebSocketFactory(reactor)
        self._log_limiter = LogLimiter(self.log, reactor)
        self._up_since: float | None = None

    @property
    def url(self) -> str:
        """The URL of the server where we are, or were last, or the first that is dialled; without secrets."""
        return str(self._server)

    @property
    def up(self) -> bool:
        """Whether the link is connected and registered."""
        return self._up_since is not None

    def send(self, signal: Signal) -> bool:
        """Send a message in our name.

        :returns: False if it was not sent: the link is down, or the message is longer than this server accepts.
        """
        connection = self.connection
        # Do not wait until the link is up: an offer may come before the answer to our ping.
        if connection is None:
            return False
        message = encode_signal(replace(signal, sender_id=self.identity))
        if len(message) > connection.max_message:
            self._log_limiter.warn(
                "a message of type {type} is too large for signaling server {url} and not sent: {size} bytes, "
                "{most} are allowed",
                type=signal.type,
                url=self.url,
                size=len(message),
                most=connection.max_message,
            )
            return False
        return connection.send(message)

    def prove(self) -> None:
        """Find out whether the server is there, and dial soon again if not: a peer does not answer."""
        if self.connection is not None:
            self.hurry()
            self.connection.prove()

    def must_be_proved(self) -> None:
        """Dial anew if the server has not answered since :meth:`prove`."""
        connection = self.connection
        if connection is not None and self.up and not connection.is_proved:
            self.hurry()
            connection.give_up("it does not answer any more, and nor does a peer")

    def addresses_changed(self, addresses: Collection[str]) -> None:
        """Dial anew, or at once if there is no connection, now that this machine has these addresses."""
        connection = self.connection
        if connection is None:
            self.hurry()
        elif "%" not in connection.local_address and connection.local_address not in addresses:
            self.hurry()
            connection.give_up("this machine has no longer the address of the connection")

    # Called by HeldConnection

    async def dial(self) -> ClientProtocol:
        """See :class:`HeldConnection`."""
        servers = list(self._servers)
        for number, server in enumerate(servers, 1):
            try:
                connection = await self._dial(server, is_last=number == len(servers))
            except Exception as error:
                if number == len(servers):
                    raise
                self.log.debug("cannot reach signaling server {url}: {why}", url=server, why=reason_and_advice(error))
            else:
                self._put_first(server)
                self._reached = server
                return connection
        raise AssertionError("there is no server")

    async def _dial(self, url: SignalUrl, *, is_last: bool) -> ClientProtocol:
        settings = replace(self._settings, url=url)
        deadline = self.reactor.seconds() + settings.connect_timeout
        tls = ServerCheck(url.host, settings.ca_file) if url.secure else None
        address = DialAddress.parse(format_host_port(url.host, url.port))
        wait = settings.connect_timeout if is_last else min(settings.connect_timeout, NEXT_AFTER)
        endpoint = address.endpoint(self.reactor, wait)
        factory: Any = _Dial(partial(ClientProtocol, self.reactor, self._factory, self, settings, deadline, tls))
        connecting = endpoint.connect(factory) if tls is None else tls.connect(endpoint, factory)
        return cast(ClientProtocol, await connecting)

    def _put_first(self, server: SignalUrl) -> None:
        self._server = server
        if server in self._servers:
            self._servers.remove(server)
            self._servers.insert(0, server)

    def lost(self, connection: ClientProtocol, reason: str) -> str:
        """See :class:`HeldConnection`."""
        up_since, self._up_since = self._up_since, None
        if up_since is None:
            if self._reached in self._servers:
                self._servers.remove(self._reached)
                self._servers.append(self._reached)
            return f"cannot use signaling server {self._reached}: {reason}"
        if self.reactor.seconds() - up_since >= USEFUL_AFTER:
            self.was_useful()
        self._user.signaling_down(reason)
        return f"signaling lost: {reason}"

    def leave(self, connection: ClientProtocol) -> None:
        """Leave the server, so that our ID is free there."""
        self._up_since = None
        connection.leave()

    def give_up(self, connection: ClientProtocol) -> None:
        """See :class:`HeldConnection`."""
        connection.leave()

    def use(self, settings: SignalClientSettings) -> None:
        """Use other settings: another server, token or CA at once, and waits and time-outs from the next attempt on."""
        before, self._settings = self._settings, settings
        self._servers = list(settings.url.all)
        is_known = self._server in self._servers
        self._put_first(self._server if is_known else self._servers[0])
        if is_known and (before.token, before.ca_file) == (settings.token, settings.ca_file):
            self._peer = self._leads_to = _name(settings)
            self.set_waits(settings.reconnect_min, settings.reconnect_max)
        else:
            self.dial_anew(_name(settings), settings.reconnect_min, settings.reconnect_max)

    # Called by the connection

    def registration(self, is_reference: bool) -> bytes:
        """Return the message that registers us. To a reference server, which knows only hosts, a client is one too."""
        payload = None if self._is_host or is_reference else AS_CLIENT
        key = "" if is_reference else self._key
        return encode_signal(Signal(REGISTER_HOST, payload, sender_id=self.identity, key=key))

    def registered(self, is_reference: bool) -> None:
        """Tell the user that the link is up: the server has registered us."""
        self._up_since = self.reactor.seconds()
        self.is_reference = is_reference
        self.log.info(
            "connected to signaling server {url}{protocol}",
            url=self.url,
            protocol=" (reference protocol)" if is_reference else "",
        )
        self._user.signaling_up()

    def message_received(self, message: bytes, is_binary: bool) -> str:
        """Pass a message of the server to the user.

        :returns: the server's complaint about us, which is the reason if the connection ends now; otherwise empty.
        """
        if is_binary:
            self._log_limiter.warn("signaling server {url} sent a binary message; ignored", url=self.url)
            return ""
        try:
            signal = decode_signal(message)
        except BadSignal as error:
            self._log_limiter.warn(
                "signaling server {url} sent an invalid message; ignored: {error}",
                url=self.url,
                error=str(error),
            )
            return ""
        if self.running:
            self._user.signal_received(signal)
        about_us = signal.type == ERROR and signal.sender_id in ("", self.identity)
        return clean_text(str(signal.payload)) if about_us else ""


def _name(settings: SignalClientSettings) -> str:
    urls = settings.url.all
    return f"signaling server{'s' if len(urls) > 1 else ''} {', '.join(map(str, urls))}"
