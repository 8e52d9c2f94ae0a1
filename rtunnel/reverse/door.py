"""The front door of the server: what a new connection to the control port is, before anything is built for it.

    port --------------------------> Door.landed ----+      a bare socket, where the port can give it
    port --> TlsListener (handshake) --> Incoming ---+--> link:             a session is built
                                                     +--> data connection:  its socket goes to whose ticket it shows
                                                     +--> anything else:    one line in the log, and the end

``Incoming`` stands for a connection, plain or under TLS, until its first bytes tell what it is
(:mod:`rtunnel.wire.opening`). A client of the reference protocol that wants the shared port says nothing at all: after
a second of silence a connection is taken for one. What asks for nothing in time is closed.

A connection counts to ``--max-links`` once its client is let in. Until then it is in a table of its own. When that is
full, the oldest connection of the address that has most gives way, so whoever only connects keeps no client out.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol as TypingProtocol

from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rtunnel import delayed_calls
from rtunnel.relay.bare_port import Accepted, LandingFactory
from rtunnel.relay.sockets import (
    address_prefix,
    clear_user_timeout,
    descriptor_limit,
    format_address,
    take_socket,
)
from rtunnel.tls.messages import limit_messages
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.places import Places
from rtunnel.wire.frames import CLOSE_CONN, HEADER_SIZE, encode_frame
from rtunnel.wire.opening import ATTACH_START, MAX_ATTACH, Kind, Opening, read_opening

if TYPE_CHECKING:
    from rtunnel.reverse.settings import ServerSettings
    from rtunnel.tls.identity import Peer
    from rtunnel.tls.listener import TlsListener

#: Seconds of silence after which a connection is taken for a reference client that waits on the shared port.
SILENT_AFTER = 1.0
#: The answer to a TLS client: its first byte is none of TLS, and it means nothing to anybody else.
NO_TLS_HERE = encode_frame(CLOSE_CONN, 0)
#: Connections that may be at the door at once. An honest one is there for a round trip.
MAX_UNPROVED = 1024
#: The share of our descriptors that they may hold.
UNPROVED_SHARE = 1 / 8
_log = DebugLog()


class ILinkSession(TypingProtocol):
    """A session, as the door sees it.

    :ivar on_dropped: called when the link has lost its place, and its connection is still there.
    """

    on_dropped: Callable[[], None]

    def makeConnection(self, transport: Any) -> None: ...
    def dataReceived(self, data: bytes) -> None: ...
    def connectionLost(self, reason: Failure = ...) -> None: ...
    @property
    def has_place(self) -> bool:
        """Whether the client is let in, so that its link has one of the places of ``--max-links``."""

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
    def descriptors(self) -> Descriptors: ...
    def serves_silent_client(self, *, has_certificate: bool) -> bool:
        """Whether a client that says nothing can be of use."""

    def build_session(self, identity: Peer | None) -> ILinkSession:
        """Build a session for a link, or what is taken for one."""

    def expect(self, opening: Opening, address: IAddress) -> Callable[[socket.socket], None] | None:
        """Return what takes a data connection; None if its ticket is not good, which is logged."""


class Incoming(Protocol):
    """One connection, until its first bytes tell what it is.

    :param identity: who TLS has proved to be at the other end; None without TLS.
    :param is_link: it may be a link; otherwise only a data connection, as links have TLS here.
    """

    transport: Any

    def __init__(self, door: Door, identity: Peer | None, *, is_link: bool = True) -> None:
        self.identity = identity
        self._may_be_link = is_link
        self.session: ILinkSession | None = None
        self._door = door
        self._held = b""
        self._timer: IDelayedCall | None = None

    @property
    def peer_name(self) -> str:
        """The other end's address, for logs."""
        return format_address(self.transport.getPeer())

    def connectionMade(self) -> None:
        """Give the client a bounded time to say what it wants."""
        limit_messages(self.transport)
        house = self._door.house
        self._door.enter(self)
        if DebugLog.is_wanted:
            _log.debug("connection from {peer} to the control port", peer=self.peer_name)
        patience = house.handshake_timeout
        if (
            self._may_be_link
            and patience > SILENT_AFTER
            and house.serves_silent_client(has_certificate=self.identity is not None)
        ):
            self._timer = house.reactor.callLater(SILENT_AFTER, self._silent)
        else:
            self._timer = house.reactor.callLater(patience, self._late)

    def dataReceived(self, data: bytes) -> None:
        """Take first bytes; once they tell what the connection is, see that it gets there."""
        house = self._door.house
        self._held += data
        # What comes by TLS is a link.
        may_be_data = house.takes_data_connections and self.identity is None
        opening = read_opening(self._held, house.max_frame, data_connections=may_be_data)
        if opening is None:
            return
        session = self.session
        if opening.kind is Kind.LINK or (session is not None and not session.may_be_no_link):
            self.session = session or self._build_session()
            self.dataReceived = self._link_received  # type: ignore[method-assign]
            self._link_received(self._held)
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

    def _link_received(self, data: bytes) -> None:
        session = self.session
        assert session is not None
        session.dataReceived(data)
        if session.has_place:
            self._door.incoming.discard(self)
            # From now on nothing stands between the connection and its session.
            self.dataReceived = session.dataReceived  # type: ignore[method-assign]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is lost, perhaps before anything was built for it."""
        self.leave()
        if self.session is not None:
            self.session.connectionLost(reason)

    def _silent(self) -> None:
        """Take a client that says nothing for one of the reference protocol that wants the shared port."""
        house = self._door.house
        self._timer = house.reactor.callLater(house.handshake_timeout - SILENT_AFTER, self._late)
        session = self.session or self._build_session()
        session.was_silent()
        if session.has_place:
            self._door.incoming.discard(self)

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
        session.on_dropped = partial(self._door.enter, self)
        session.makeConnection(self.transport)
        return session

    def refuse(self, why: str) -> None:
        """Close a connection that is of no use here, with one line in the log that says why."""
        self._door.house.log_limiter.warn("connection from {peer} closed: {why}", peer=self.peer_name, why=why)
        self.close()

    def give_way(self, count: int) -> None:
        """Cut the connection, as there are *count* of them and another one has come."""
        self._door.house.log_limiter.warn(
            "connection from {peer} closed: no client is let in by it yet, like {count} others",
            peer=self.peer_name,
            count=count,
        )
        self.leave()
        self.dataReceived = _ignore  # type: ignore[method-assign,assignment]
        self.transport.abortConnection()

    def close(self) -> None:
        """Close the connection, and look at no more of its bytes."""
        self._stop_timer()
        self.dataReceived = _ignore  # type: ignore[method-assign,assignment]
        self.transport.loseConnection()

    def leave(self) -> None:
        """Forget about it: it is somebody else's now, or nobody's."""
        self._door.incoming.discard(self)
        self._stop_timer()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        delayed_calls.cancel(timer)


def _ignore(_data: bytes) -> None:
    pass


class Door(LandingFactory):
    """Accepts connections to the control port; under TLS, those whose client is proved.

    Its length is the number of connections whose clients are not let in yet.

    :ivar incoming: these connections, by address.
    :ivar tls: makes the transports of links, if they have TLS.
    """

    def __init__(self, house: IHouse) -> None:
        self.house = house
        self.incoming: Places[Incoming] = Places()
        self.tls: TlsListener | None = None

    def __len__(self) -> int:
        return len(self.incoming)

    def build_tls(self, reactor: Any, settings: ServerSettings, has_link: Callable[[str], bool]) -> TlsListener | None:
        """Let links have TLS, if the settings say so; return what makes their transports.

        :param has_link: see :class:`~rtunnel.tls.listener.TlsListener`.
        :raises ConfigError: the files cannot be used.
        """
        if settings.tls is not None:
            from rtunnel.tls.listener import TlsListener

            bounds = settings.handshake_timeout, settings.max_handshakes
            self.tls = TlsListener(reactor, settings.tls, *bounds, self.proved, has_link, self.heard_no_tls)
        return self.tls

    def build(self, address: IAddress | None) -> Protocol:
        """See :class:`LandingFactory`."""
        return Incoming(self, None) if self.tls is None else self.tls.buildProtocol(address)

    def proved(self, peer: Peer) -> Incoming:
        """Return the protocol of a connection whose client is proved by TLS."""
        return Incoming(self, peer)

    def heard_no_tls(self, transport: Any, data: bytes) -> bool:
        """Take over a connection that was expected to begin with TLS, if it may be a data connection."""
        if not (self.house.takes_data_connections and data.startswith(ATTACH_START)):
            return False
        incoming = transport.protocol = Incoming(self, None, is_link=False)
        incoming.makeConnection(transport)
        incoming.dataReceived(data)
        return True

    def enter(self, incoming: Incoming) -> None:
        """Count a connection that was just made. If there are too many already, one of them gives way."""
        self.house.descriptors.make_room()
        count = len(self.incoming)
        if count >= min(MAX_UNPROVED, descriptor_limit() * UNPROVED_SHARE):
            self.incoming.first_to_go.give_way(count)
        self.incoming.add(incoming, address_prefix(incoming.transport.getPeer()))

    def landed(self, accepted: Accepted, address: Any) -> None:
        """See :class:`LandingFactory`. A data connection whose ticket is there already never needs a transport."""
        house = self.house
        data = b""
        with suppress(OSError):
            data = accepted.socket.recv(HEADER_SIZE + MAX_ATTACH + 1)
        opening = read_opening(data, house.max_frame, data_connections=house.takes_data_connections)
        if opening is not None and opening.kind is Kind.DATA_CONNECTION and not opening.problem:
            take = house.expect(opening, address)
            if take is None:
                accepted.socket.close()
            else:
                take(accepted.socket)
            return
        protocol = self.build(address)
        try:
            accepted.give(protocol)
        except OSError as error:
            _log.debug("connection from {peer} is lost: {why}", peer=format_address(address), why=error)
            return
        if data:
            protocol.dataReceived(data)

    def take_data_connection(self, incoming: Incoming, opening: Opening, *, was_link: bool) -> None:
        """Give a connection to the link whose ticket it shows, or close it.

        :param was_link: it was silent for so long that it was taken for a link.
        """
        transport = incoming.transport
        take = self.house.expect(opening, transport.getPeer())
        try:
            sock = take_socket(transport)[0] if take is not None else None
        except ValueError:
            sock = None
        if take is None or sock is None:
            incoming.close()
            return
        incoming.leave()
        if was_link:
            clear_user_timeout(sock)
        take(sock)

    def close(self) -> None:
        """Cut the connections that are counted here."""
        for incoming in list(self.incoming):
            incoming.transport.abortConnection()
