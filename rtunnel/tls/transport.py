"""The I/O of TLS: between a TCP connection and the protocol of a link, which is built once the other end is proved.

A handshake is bounded in time, and a connection that fails in one is closed so that the other end gets to read why. To
the link this is its transport; the TCP transport is below, as :attr:`TlsTransport.tcp`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, auto
from functools import partial

from cryptography import x509
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rtunnel import delayed_calls
from rtunnel.errors import TlsFailed
from rtunnel.reasons import reason_of
from rtunnel.relay.sockets import SocketTransport, format_address, tune
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.identity import Peer
from rtunnel.tls.policy import Role
from rtunnel.upkeep.periodic import do_all
from rtunnel.wire.opening import foreign_protocol

#: Seconds that the other end is given to read our last words.
LINGER = 3.0

_HANDSHAKE_RECORD, _ALERT_RECORD = 0x16, 0x15
#: A fatal alert, "unexpected message": who speaks no TLS can still be told by it that we do.
TLS_IS_SPOKEN_HERE = b"\x15\x03\x03\x00\x02\x02\x0a"
_NO_TLS = {
    Role.SERVER: "the client speaks no TLS; give it --tls, or start this server without",
    Role.CLIENT: "the server speaks no TLS there; start it with --tls, or remove --tls here",
}


class _State(Enum):
    HANDSHAKE = auto()
    UP = auto()
    CLOSING = auto()
    """Nothing more is sent or handed on; the other end may still read."""
    LOST = auto()


class Secured:
    """The user of a transport, told when the other end is proved or refused; server and client each have their own."""

    def build_protocol(self, transport: TlsTransport, peer: Peer) -> IProtocol | None:
        """Return the protocol for a connection whose other end is proved; None: close it."""
        raise NotImplementedError

    def failed(self, transport: TlsTransport, why: str) -> None:
        """Take note that the other end could not be proved, and why."""

    def gone(self, transport: TlsTransport) -> None:
        """Take note that the connection is lost, or is cut in its handshake."""


class TlsTransport(Protocol):
    """One connection.

    :param engine: of this connection only.
    :param role: which end this is.
    :param patience: seconds that the handshake may take.
    :ivar tcp: the transport below.
    :ivar protocol: what is above, once there is.
    """

    def __init__(self, engine: TlsEngine, role: Role, user: Secured, clock: IReactorTime, patience: float) -> None:
        self._engine = engine
        self._role = role
        self._user = user
        self._clock = clock
        self._patience = patience
        self._state = _State.HANDSHAKE
        self.protocol: IProtocol | None = None
        self._reason: Failure | None = None
        self._timer: IDelayedCall | None = None
        self._heard = False
        self.tcp: SocketTransport

    @property
    def role(self) -> Role:
        """Which end this is."""
        return self._role

    @property
    def certificate(self) -> x509.Certificate:
        """Our own certificate, as the other end has seen it."""
        return self._engine.certificate

    def export(self, label: bytes, length: int, context: bytes) -> bytes:
        """Return keying material of this connection (RFC 8446, section 7.5).

        :param length: in bytes.
        """
        return self._engine.connection.export_keying_material(label, length, context)

    @property
    def peer_name(self) -> str:
        """The other end's address, for logs; empty before there is a connection."""
        return format_address(self.tcp.getPeer()) if self.transport is not None else ""

    @property
    def in_handshake(self) -> bool:
        """Whether the other end is neither proved nor refused yet."""
        return self._state is _State.HANDSHAKE

    def leave(self) -> None:
        """Forget the connection, which somebody else has taken over before any handshake."""
        self._stop_timer()
        self._state = _State.LOST
        self._user.gone(self)

    # From TCP

    def connectionMade(self) -> None:
        """Begin the handshake."""
        self.tcp = self.transport  # type: ignore[assignment]
        tune(self.tcp)
        self._timer = self._clock.callLater(self._patience, self._too_slow)
        if self._role is Role.CLIENT:
            self._engine.start()
            self.tcp.write(self._engine.output())

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of TLS."""
        state = self._state
        if state is _State.LOST:
            return
        if not self._heard:
            self._heard = True
            if data[0] != _HANDSHAKE_RECORD and not (data[0] == _ALERT_RECORD and self._role is Role.CLIENT):
                self._hear_no_tls(data)
                return
        engine = self._engine
        received = engine.receive(data)
        if state is _State.HANDSHAKE and engine.peer is not None:
            self._state = _State.UP
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            above = self._user.build_protocol(self, engine.peer)
            if above is None:
                self.loseConnection()
            else:
                self.protocol = above
                above.makeConnection(self)  # type: ignore[arg-type]
        if received and self._state is _State.UP and self.protocol is not None:
            self.protocol.dataReceived(received)
        # Each of them may have taken the socket.
        if self._state is _State.LOST:
            return
        self.tcp.write(engine.output())
        if engine.failure:
            self._fail(engine.failure)
        elif engine.ended:
            self._peer_ended()

    def _hear_no_tls(self, data: bytes) -> None:
        """Close a connection whose first byte is not one of TLS."""
        if self._role is Role.SERVER:
            self.tcp.write(TLS_IS_SPOKEN_HERE)
        kind = foreign_protocol(data) if data[0] != _ALERT_RECORD else None
        self._fail(kind.value if kind is not None else _NO_TLS[self._role])

    def _peer_ended(self) -> None:
        if self._state is _State.UP:
            self._reason = connectionDone
            self._engine.say_goodbye()
            self.tcp.write(self._engine.output())
        self._state = _State.CLOSING
        self.unregisterProducer()
        self.tcp.loseConnection()

    def _too_slow(self) -> None:
        self._timer = None
        self._user.failed(self, f"no TLS handshake within {self._patience:g} s")
        self._state = _State.CLOSING
        self.tcp.abortConnection()

    def _fail(self, why: str) -> None:
        """Say why the connection is of no more use, let the other end read that, and close."""
        if self._state is _State.HANDSHAKE:
            self._user.failed(self, why)
        elif self._state is _State.UP:
            self._reason = Failure(TlsFailed(why))
            self.unregisterProducer()
        else:
            return
        self._state = _State.CLOSING
        self._stop_timer()
        self._timer = self._clock.callLater(LINGER, self.abortConnection)
        self.tcp.loseWriteConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Take note that TCP is gone; without a goodbye before, bytes may be missing."""
        self._stop_timer()
        was, self._state = self._state, _State.LOST
        # A load balancer that looks whether the port is open says nothing and leaves; so may anybody.
        if was is _State.HANDSHAKE and (self._heard or self._role is Role.CLIENT):
            other = self._role.other.value
            self._user.failed(self, f"the {other} closed the connection in the TLS handshake ({reason_of(reason)})")
        if was is _State.UP and reason.check(ConnectionLost, type(connectionDone.value)):
            reason = Failure(TlsFailed("the connection was cut"))
        above, self.protocol = self.protocol, None
        ends: list[Callable[[], object]] = [partial(self._user.gone, self)]
        if above is not None:
            ends.append(partial(above.connectionLost, self._reason or reason))
        do_all(ends)
        # No reference cycle. Others may keep this object until the garbage collector comes, but not OpenSSL's memory.
        del self._user, self._engine

    # For the link

    def write(self, data: bytes) -> None:
        """See :class:`~twisted.internet.interfaces.ITransport`."""
        self.writeSequence((data,))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See :class:`~twisted.internet.interfaces.ITransport`."""
        if self._state is _State.UP:
            self._engine.send(b"".join(data))
            self.tcp.write(self._engine.output())

    def loseConnection(self) -> None:
        """Say goodbye behind what was written, and wait for the other end's."""
        if self._state is _State.HANDSHAKE:
            self.abortConnection()
        elif self._state is _State.UP:
            self._state = _State.CLOSING
            self._reason = connectionDone
            self._engine.say_goodbye()
            self.tcp.write(self._engine.output())
            # The link may have stopped reading; the other end's goodbye is still to be heard. And a socket that is
            # closed with bytes unread, if only a ticket, is reset: the other end may lose what it has not read yet.
            self.tcp.resumeProducing()
            self._timer = self._clock.callLater(LINGER, self.abortConnection)

    def abortConnection(self) -> None:
        """End it at once."""
        self._stop_timer()
        if self._state is _State.HANDSHAKE:
            self._user.gone(self)
        if self._state is not _State.LOST:
            if self._state is not _State.CLOSING or self._reason is None:
                self._reason = Failure(ConnectionAborted())
            self._state = _State.CLOSING
            self.tcp.abortConnection()

    def pauseProducing(self) -> None:
        """Read no more for now."""
        if self._state is _State.UP:
            self.tcp.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        if self._state is _State.UP:
            self.tcp.resumeProducing()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Tell *producer* when TCP takes no more."""
        if self._state is _State.UP:
            self.tcp.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Tell nobody any more."""
        self.tcp.unregisterProducer()

    def getPeer(self) -> IAddress:
        """Return the other end's address."""
        return self.tcp.getPeer()

    def getHost(self) -> IAddress:
        """Return this end's address."""
        return self.tcp.getHost()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        delayed_calls.cancel(timer)
