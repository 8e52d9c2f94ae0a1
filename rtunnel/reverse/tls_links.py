"""Links and data connections over TLS: at the server what accepts them, at the client what makes them.

A handshake that does not come to its end costs the server a place among ``--max-handshakes``, and nobody else anything:
when all places are taken, the handshake that has taken longest gives way, so that who floods the port with connections
does not keep clients out.

A link is a whole handshake. A data connection goes on from the session of its link, where both ends still may.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger

from rtunnel.errors import ConfigError, TlsFailed
from rtunnel.relay.sockets import QuietFactory
from rtunnel.reverse.carriers.link_protocol import LinkProtocol
from rtunnel.reverse.settings import ServerSettings
from rtunnel.tls.credentials import Credentials, Loaded, Own
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.identity import Peer, expiry_warning
from rtunnel.tls.policy import Role, TlsSettings
from rtunnel.tls.server_names import judge_of, sni
from rtunnel.tls.sessions import Session
from rtunnel.tls.transport import Secured, TlsTransport
from rtunnel.upkeep.few_lines import FewLines

_log = Logger()


class Identified(Protocol):
    """What is built for a connection whose other end is proved: an :class:`~twisted.internet.interfaces.IProtocol`.

    :ivar identity: who is there; set before there is a connection.
    """

    identity: Peer | None


P = TypeVar("P", bound=Identified)


def log_data_connection(transport: Any, peer: Peer) -> None:
    """There may be many of them, and their link has been logged."""
    _log.debug(
        "data connection {peer}: TLS 1.3, key exchange {group}, {how}",
        peer=transport.peer_name,
        group=peer.group,
        how="resumed" if transport.is_resumed else "a whole handshake",
    )


def log_secured(transport: Any, peer: Peer) -> None:
    """One line for each link: what protects it, and who is there.

    :param transport: a :class:`TlsTransport`.
    """
    _log.info(
        "link {peer}: TLS 1.3, key exchange {group}, certificate of {name} ({signature})",
        peer=transport.peer_name,
        group=peer.group,
        name=f"'{peer.name}'" if peer.name else peer.fingerprint,
        signature=peer.signature,
    )
    warning = expiry_warning(peer.certificate)
    if warning:
        _log.warn("link {peer}: {warning}", peer=transport.peer_name, warning=warning)


class TlsListener(QuietFactory, Secured):
    """Accepts connections to the control port.

    :param build: gives the protocol for a connection whose client is proved; None: there is no room for it.
    :ivar credentials: of the server.
    :ivar lines: for what happens as often as strangers like.
    """

    def __init__(
        self, clock: IReactorTime, settings: ServerSettings, build: Callable[[IAddress | None], LinkProtocol | None]
    ) -> None:
        assert settings.tls is not None
        self._clock = clock
        self._patience = settings.handshake_timeout
        self._most = settings.max_handshakes
        self._build = build
        self._pending: dict[TlsTransport, None] = {}
        self.credentials = Credentials(settings.tls, Role.SERVER)
        self.lines = FewLines(_log, clock)

    @property
    def handshakes(self) -> int:
        """Connections that are in the handshake now."""
        return len(self._pending)

    def buildProtocol(self, addr: IAddress | None) -> TlsTransport:
        """The lower half of a connection; the link comes when the client is proved."""
        if len(self._pending) >= self._most:
            oldest = next(iter(self._pending))
            self.lines.warn(
                "connection from {peer} closed in its TLS handshake: there are more than {count} (--max-handshakes)",
                peer=oldest.peer_name,
                count=self._most,
            )
            self.gone(oldest)
            oldest.abortConnection()
        transport = TlsTransport(TlsEngine(self.credentials), Role.SERVER, self, self._clock, self._patience)
        self._pending[transport] = None
        return transport

    def build_protocol(self, transport: TlsTransport, peer: Peer) -> IProtocol | None:
        """See :class:`Secured`."""
        # What it is for, and so what to say of it, shows in its first frame.
        session = self._build(transport.getPeer())
        if session is not None:
            session.identity = peer
        return session

    def failed(self, transport: TlsTransport, why: str) -> None:
        """See :class:`Secured`."""
        self.lines.warn("connection from {peer} closed: {why}", peer=transport.peer_name, why=why)

    def gone(self, transport: TlsTransport) -> None:
        """See :class:`Secured`."""
        self._pending.pop(transport, None)


class _Attempt(Secured, Generic[P]):
    """One connection that a client makes.

    :param log: says that it is up.
    :ivar session: fires with the protocol of the connection, or fails with :class:`TlsFailed`.
    """

    def __init__(self, build: Callable[[], P], log: Callable[[TlsTransport, Peer], None]) -> None:
        self._build = build
        self._log = log
        self._transport: TlsTransport | None = None
        self.session: Deferred[P] = Deferred(self._cancel)

    def _cancel(self, _session: Deferred[P]) -> None:
        if self._transport is not None:
            self._transport.abortConnection()

    def watch(self, transport: TlsTransport) -> None:
        """It is this connection."""
        self._transport = transport

    def build_protocol(self, transport: TlsTransport, peer: Peer) -> IProtocol | None:
        """See :class:`Secured`."""
        self._log(transport, peer)
        session = self._build()
        session.identity = peer
        self.session.callback(session)
        return session  # type: ignore[return-value]

    def failed(self, transport: TlsTransport, why: str) -> None:
        """See :class:`Secured`."""
        if not self.session.called:
            self.session.errback(TlsFailed(why))


class TlsDialler:
    """Makes a client's connections.

    :param patience: seconds that a handshake may take.
    """

    def __init__(self, clock: Any, settings: TlsSettings, patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self.credentials = Credentials(settings, Role.CLIENT)
        self._judge = judge_of(settings.server_name, settings.pins)
        self._sni = sni(settings.server_name)
        self._warned: tuple[str, ...] = ()
        # What the present link has shown of us, and the newest files with that.
        self._shown: Own | None = None
        self._kept: Credentials | None = None
        self._kept_of: Loaded | None = None
        self._session: Session | None = None
        self._next_session: TlsEngine | None = None

    async def connect(self, endpoint: IStreamClientEndpoint, build: Callable[[], P]) -> P:
        """Connect, and give the link's protocol once the server is proved, by a whole handshake.

        :raises TlsFailed: it is not.
        """
        self._look_at_files()
        self._shown, self._kept = self.credentials.now.own, None
        return await self._connect(endpoint, _Attempt(build, log_secured), self.credentials, None)

    async def connect_data(self, endpoint: IStreamClientEndpoint, build: Callable[[], P]) -> P:
        """The same for a data connection: it goes on from the newest session that there is, if both ends still may, and
        shows the certificate that the link has shown: by that the server knows whose it is.

        The server may still refuse us when this returns; the connection is lost then.

        :raises TlsFailed: the server is not proved. The next data connection is then a whole handshake.
        """
        if self._next_session is not None and (session := self._next_session.session) is not None:
            self._session, self._next_session = session, None
        try:
            attempt = _Attempt(build, log_data_connection)
            return await self._connect(endpoint, attempt, self._credentials_of_link(), self._session)
        except TlsFailed:
            self._session = None
            raise

    @property
    def is_outdated(self) -> bool:
        """The certificate that the link has shown is over, and there is another in the files."""
        if self._shown is None or not self._shown.is_over:
            return False
        self._look_at_files()
        return not self.credentials.now.own.is_over

    def _credentials_of_link(self) -> Credentials:
        self._look_at_files()
        if self._shown is None:
            return self.credentials
        if self._kept is None or self._kept_of is not self.credentials.now:
            self._kept, self._kept_of = self.credentials.keeping(self._shown), self.credentials.now
        return self._kept

    async def _connect(
        self,
        endpoint: IStreamClientEndpoint,
        attempt: _Attempt[P],
        credentials: Credentials,
        session: Session | None,
    ) -> P:
        engine = TlsEngine(credentials, self._judge, self._sni, session)
        transport = TlsTransport(engine, Role.CLIENT, attempt, self._clock, self._patience)
        attempt.watch(transport)
        await endpoint.connect(QuietFactory.forProtocol(lambda: transport))
        protocol = await attempt.session
        if not engine.is_resumed:
            # Its session comes with the server's next bytes.
            self._next_session = engine
        return protocol

    def _look_at_files(self) -> None:
        try:
            if self.credentials.refresh():
                _log.info("the TLS files have changed, and are in use now")
        except ConfigError as error:
            _log.warn("the TLS files cannot be used, and those from before stay in use: {why}", why=error)
        if self.credentials.now.warnings != self._warned:
            self._warned = self.credentials.now.warnings
            for warning in self._warned:
                _log.warn("{warning}", warning=warning)
