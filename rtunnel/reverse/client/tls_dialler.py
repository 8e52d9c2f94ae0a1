"""Links over TLS, as the client makes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel.errors import ConfigError, TlsFailed
from rtunnel.relay.sockets import QuietFactory
from rtunnel.reverse.secured import log_secured
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.identity import Peer
from rtunnel.tls.policy import Role, TlsSettings
from rtunnel.tls.server_names import judge_of, sni
from rtunnel.tls.transport import Secured, TlsTransport

_log = Logger()


class Identified(Protocol):
    """What is built for a connection whose other end is proved: an :class:`~twisted.internet.interfaces.IProtocol`.

    :ivar identity: who is there; set before there is a connection.
    """

    identity: Peer | None


P = TypeVar("P", bound=Identified)


class _Attempt(QuietFactory, Secured, Generic[P]):
    """One attempt to connect: the factory of one connection, and its user until the server is proved.

    :param build: builds the protocol of the connection.
    :param make_engine: called once TCP is connected. Twisted keeps an attempt that was refused until the garbage
        collector comes, and that must not keep OpenSSL's memory too.
    :param patience: seconds that the handshake may take.
    """

    def __init__(
        self,
        build: Callable[[], P],
        make_engine: Callable[[], TlsEngine],
        clock: Any,
        patience: float,
    ) -> None:
        self._build = build
        self._make_engine = make_engine
        self._clock = clock
        self._patience = patience
        self._transport: TlsTransport | None = None
        self._session: Deferred[P] = Deferred(self._cancel)

    def connect(self, endpoint: IStreamClientEndpoint) -> Deferred[P]:
        """Connect. The result is the connection's protocol; the failure is :class:`TlsFailed` or the endpoint's."""
        self._connecting = endpoint.connect(self)
        self._connecting.addErrback(self._not_connected)
        return self._session

    def _not_connected(self, failure: Failure) -> None:
        if not self._session.called:
            self._session.errback(failure)

    def _cancel(self, _session: Deferred[P]) -> None:
        self._connecting.cancel()
        if self._transport is not None and self._transport.transport is not None:
            self._transport.abortConnection()

    def buildProtocol(self, addr: IAddress | None) -> TlsTransport:
        """Return the transport, which begins the handshake once it is connected."""
        self._transport = TlsTransport(self._make_engine(), Role.CLIENT, self, self._clock, self._patience)
        return self._transport

    def build_protocol(self, transport: TlsTransport, peer: Peer) -> IProtocol | None:
        """See :class:`Secured`."""
        log_secured(transport, peer)
        session = self._build()
        session.identity = peer
        self._session.callback(session)
        return session  # type: ignore[return-value]

    def failed(self, transport: TlsTransport, why: str) -> None:
        """See :class:`Secured`."""
        if not self._session.called:
            self._session.errback(TlsFailed(why))


class TlsDialler:
    """Makes a client's connections.

    :param patience: seconds that a handshake may take.
    """

    def __init__(self, clock: Any, settings: TlsSettings, patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self.credentials = Credentials(settings, Role.CLIENT)
        self._pins = settings.pins
        self._name = settings.server_name
        self._warned: tuple[str, ...] = ()

    async def connect(self, endpoint: IStreamClientEndpoint, build: Callable[[], P], name: str = "") -> P:
        """Connect, and give the link's protocol once the server is proved.

        :param name: what the server's certificate must be for, if the settings leave it open.
        :raises TlsFailed: it is not.
        """
        self.look_at_files()
        name = self._name or name
        make_engine = partial(TlsEngine, self.credentials, judge_of(name, self._pins), sni(name))
        return await _Attempt(build, make_engine, self._clock, self._patience).connect(endpoint)

    def why_void(self, server: Peer) -> str:
        """Return which certificate of the server's chain has expired, or is revoked by the present files, if any."""
        return server.why_expired or self.credentials.now.why_revoked(server)

    def has_later(self, shown: x509.Certificate) -> bool:
        """Return whether *shown*, which a link has shown of us, expires soon, and the files have one that does not."""
        return self.credentials.now.is_later(shown)

    def look_at_files(self) -> None:
        """Read the files again if they have changed. Call it about once a second while there is a link."""
        try:
            if self.credentials.refresh():
                _log.info("the TLS files have changed, and are in use now")
        except ConfigError as error:
            _log.warn("the TLS files cannot be used, and those from before stay in use: {why}", why=error)
        if self.credentials.now.warnings != self._warned:
            self._warned = self.credentials.now.warnings
            for warning in self._warned:
                _log.warn("{warning}", warning=warning)
