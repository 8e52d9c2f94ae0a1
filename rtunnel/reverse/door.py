"""The front door of the server: what a new connection to the control port is, before anything is built for it.

    port --------------------------> Door.landed ----+      a bare socket, where the port can give it
    port --> TlsListener (handshake) --> Incoming ---+--> link:             a session is built
                                                     +--> data connection:  its socket goes to whose ticket it shows
                                                     +--> anything else:    one line in the log, and the end

``Incoming`` stands for a connection, plain or under TLS, until its first bytes tell what it is
(:mod:`rtunnel.wire.opening`). A client of the reference protocol that wants the shared port says nothing at all: after
a second of silence a connection is taken for one. What asks for nothing in time is closed.

A TLS handshake that does not come to its end costs a place among ``--max-handshakes`` and disturbs nobody else: when
all places are taken, the handshake that has taken longest gives way, so a flood of connections keeps no client out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol as TypingProtocol

from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rtunnel.relay.bare_port import Accepted, LandingFactory
from rtunnel.relay.sockets import QuietFactory, StreamSocket, clear_user_timeout, format_address, take_socket
from rtunnel.reverse.carriers.sockets import WireUser, give_socket
from rtunnel.reverse.secured import log_data_connection
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.identity import Peer
from rtunnel.tls.policy import Role, TlsSettings
from rtunnel.tls.transport import Secured, TlsTransport
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.frames import CLOSE_CONN, HEADER_SIZE, encode_frame
from rtunnel.wire.opening import MAX_ATTACH, Kind, Opening, read_opening

#: Seconds of silence after which a connection is taken for a reference client that waits on the shared port.
SILENT_AFTER = 1.0
#: The answer to a TLS client: its first byte is none of TLS, and it means nothing to anybody else.
NO_TLS_HERE = encode_frame(CLOSE_CONN, 0)
#: Why a link whose TLS session is resumed is refused. Resumption does not tell which CAs vouch for the client, so the
#: link would outlive their revocation.
RESUMED = "it resumes a TLS session for a link, which needs a whole handshake"
_log = DebugLog()


class ILinkSession(TypingProtocol):
    """A session, as the door sees it."""

    def makeConnection(self, transport: Any) -> None: ...
    def dataReceived(self, data: bytes) -> None: ...
    def connectionLost(self, reason: Failure = ...) -> None: ...
    @property
    def has_place(self) -> bool:
        """Whether the link has one of the places of ``--max-links``."""

    @property
    def may_be_no_link(self) -> bool:
        """Whether the client has been silent up to now, and no visitor has been sent to it."""

    def was_silent(self) -> None:
        """Take the client's silence for the wish to serve the shared port."""

    def check_asked(self) -> None:
        """Close the link unless the client has asked for something."""

    def was_no_link(self) -> None:
        """Free everything, as the connection turns out to be something else."""


class IHouse(TypingProtocol):
    """What is behind the door.

    :ivar handshake_timeout: seconds in which a connection must have asked for something.
    :ivar max_frame: longest payload of a frame that is accepted, in bytes.
    :ivar takes_data_connections: ATTACH means something.
    """

    log_limiter: LogLimiter
    handshake_timeout: float
    max_frame: int
    takes_data_connections: bool

    @property
    def reactor(self) -> Any: ...
    @property
    def poller(self) -> Any: ...
    def has_room(self) -> bool:
        """Whether there may be another connection; if not, that is logged."""

    def serves_silent_client(self, *, has_certificate: bool) -> bool:
        """Whether a client that says nothing can be of use."""

    def build_session(self, identity: Peer | None) -> ILinkSession:
        """Build a session for a link, or what is taken for one."""

    def expect(self, opening: Opening, identity: Peer | None, address: IAddress) -> WireUser | None:
        """Return whose data connection it is; None if its ticket is not good, which is logged."""


class Incoming(Protocol):
    """One connection, until its first bytes tell what it is.

    :param identity: who TLS has proved to be at the other end; None without TLS.
    """

    transport: Any

    def __init__(self, door: Door, identity: Peer | None) -> None:
        self.identity = identity
        self.session: ILinkSession | None = None
        self._door = door
        self._held = b""
        self._timer: IDelayedCall | None = None

    @property
    def peer_name(self) -> str:
        """The other end's address, for logs."""
        return format_address(self.transport.getPeer())

    @property
    def _is_resumed(self) -> bool:
        return isinstance(self.transport, TlsTransport) and self.transport.is_resumed

    def connectionMade(self) -> None:
        """Give the client a bounded time to say what it wants."""
        house = self._door.house
        if DebugLog.is_wanted:
            _log.debug("connection from {peer} to the control port", peer=self.peer_name)
        patience = house.handshake_timeout
        if patience > SILENT_AFTER and house.serves_silent_client(has_certificate=self.identity is not None):
            self._timer = house.reactor.callLater(SILENT_AFTER, self._silent)
        else:
            self._timer = house.reactor.callLater(patience, self._late)

    def dataReceived(self, data: bytes) -> None:
        """Take first bytes; once they tell what the connection is, see that it gets there."""
        house = self._door.house
        self._held += data
        opening = read_opening(self._held, house.max_frame, data_connections=house.takes_data_connections)
        if opening is None:
            return
        session = self.session
        if opening.kind is Kind.LINK or (session is not None and not session.may_be_no_link):
            if session is None and self._is_resumed:
                self.refuse(RESUMED)
                return
            session = session or self._build_session()
            # From now on nothing stands between the connection and its session.
            self.dataReceived = session.dataReceived  # type: ignore[method-assign]
            session.dataReceived(self._held)
            return
        if session is not None:
            session.was_no_link()
            self.session = None
        if opening.problem:
            if opening.kind in (Kind.TLS, Kind.TLS_ALERT):
                self.transport.write(NO_TLS_HERE)
            self.refuse(opening.problem)
        else:
            self._door.take_data_connection(self, opening, was_link=session is not None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is lost, perhaps before anything was built for it."""
        self.leave()
        if self.session is not None:
            self.session.connectionLost(reason)

    def _silent(self) -> None:
        """Take a client that says nothing for one of the reference protocol that wants the shared port."""
        if self._is_resumed:
            self.refuse(RESUMED)
            return
        house = self._door.house
        self._timer = house.reactor.callLater(house.handshake_timeout - SILENT_AFTER, self._late)
        session = self.session or self._build_session()
        session.was_silent()

    def _late(self) -> None:
        if self.session is not None:
            self.session.check_asked()
            return
        self._door.house.log_limiter.info(
            "connection from {peer} closed: it asked for nothing within {seconds:g} s",
            peer=self.peer_name,
            seconds=self._door.house.handshake_timeout,
        )
        self.close()

    def _build_session(self) -> ILinkSession:
        session = self.session = self._door.house.build_session(self.identity)
        if session.has_place:
            self._door.incoming.pop(self, None)
        session.makeConnection(self.transport)
        return session

    def refuse(self, why: str) -> None:
        """Close a connection that is of no use here, with one line in the log that says why."""
        self._door.house.log_limiter.warn("connection from {peer} closed: {why}", peer=self.peer_name, why=why)
        self.close()

    def close(self) -> None:
        """Close the connection, and look at no more of its bytes."""
        self._stop_timer()
        self.dataReceived = _ignore  # type: ignore[method-assign,assignment]
        self.transport.loseConnection()

    def leave(self) -> None:
        """Forget about it: it is somebody else's now, or nobody's."""
        self._door.incoming.pop(self, None)
        self._stop_timer()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


def _ignore(_data: bytes) -> None:
    pass


class Door(LandingFactory):
    """Accepts connections to the control port; under TLS, those whose client is proved.

    Its length is the number of connections that have no session with a place among ``--max-links``, nor anything else.

    :ivar incoming: these connections, in the order of their arrival.
    """

    def __init__(self, house: IHouse) -> None:
        self.house = house
        self.incoming: dict[Incoming, None] = {}

    def __len__(self) -> int:
        return len(self.incoming)

    def build(self, address: IAddress | None, identity: Peer | None = None) -> Incoming | None:
        """See :class:`LandingFactory`."""
        if not self.house.has_room():
            return None
        incoming = Incoming(self, identity)
        self.incoming[incoming] = None
        return incoming

    def landed(self, accepted: Accepted, address: Any) -> None:
        """See :class:`LandingFactory`. A data connection whose ticket is there already never needs a transport."""
        house = self.house
        data = b""
        with suppress(OSError):
            data = accepted.socket.recv(HEADER_SIZE + MAX_ATTACH + 1)
        opening = read_opening(data, house.max_frame, data_connections=house.takes_data_connections)
        if opening is not None and opening.kind is Kind.DATA_CONNECTION and not opening.problem:
            user = house.expect(opening, None, address)
            if user is None:
                accepted.socket.close()
            else:
                give_socket(accepted.socket, house.poller, user)
        elif (incoming := self.build(address)) is not None:
            try:
                accepted.give(incoming)
            except OSError as error:
                _log.debug("connection from {peer} is lost: {why}", peer=format_address(address), why=error)
                incoming.leave()
                return
            if data:
                incoming.dataReceived(data)
        else:
            accepted.socket.close()

    def take_data_connection(self, incoming: Incoming, opening: Opening, *, was_link: bool) -> None:
        """Give a connection to the link whose ticket it shows, or close it.

        :param was_link: it was silent for so long that it was taken for a link.
        """
        transport = incoming.transport
        if DebugLog.is_wanted and incoming.identity is not None:
            log_data_connection(transport, incoming.identity)
        user = self.house.expect(opening, incoming.identity, transport.getPeer())
        if user is None:
            incoming.close()
            return
        sock: StreamSocket
        try:
            sock = transport.take_socket() if isinstance(transport, TlsTransport) else take_socket(transport)[0]
        except ValueError:
            incoming.close()
            return
        incoming.leave()
        if was_link:
            clear_user_timeout(sock)
        give_socket(sock, self.house.poller, user)

    def close(self) -> None:
        """Cut the connections that are counted here."""
        for incoming in list(self.incoming):
            incoming.transport.abortConnection()


class TlsListener(QuietFactory, Secured):
    """Accepts connections under TLS.

    :param patience: seconds that a handshake may take.
    :param most: handshakes that may be under way at once.
    :param build: gives the protocol for a connection whose client is proved; None: it is closed.
    :ivar credentials: of the server.
    :ivar log_limiter: for what strangers can cause as often as they like.
    """

    def __init__(
        self,
        clock: IReactorTime,
        settings: TlsSettings,
        patience: float,
        most: int,
        build: Callable[[Peer], IProtocol | None],
    ) -> None:
        self._clock = clock
        self._patience = patience
        self._most = most
        self._build = build
        self._pending: dict[TlsTransport, None] = {}
        self.credentials = Credentials(settings, Role.SERVER)
        self.log_limiter = LogLimiter(_log, clock)

    def buildProtocol(self, addr: IAddress | None) -> TlsTransport:
        """Begin a handshake, in place of the oldest one if there are too many."""
        if len(self._pending) >= self._most:
            oldest = next(iter(self._pending))
            self.log_limiter.warn(
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
        del self._pending[transport]
        return self._build(peer)

    def failed(self, transport: TlsTransport, why: str) -> None:
        """See :class:`Secured`."""
        self.log_limiter.warn("connection from {peer} closed: {why}", peer=transport.peer_name, why=why)

    def gone(self, transport: TlsTransport) -> None:
        """See :class:`Secured`."""
        self._pending.pop(transport, None)
