"""The server's end of TLS: accepts connections, bounds their handshakes, and gives them turns.

A handshake that does not come to its end costs a place among ``--max-handshakes`` and disturbs nobody else. When all
places are taken, one gives way: the oldest of the address that has most, among the addresses that are known or among
the others, whichever have more. So a flood of connections keeps no client out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime

from rtunnel.relay.sockets import QuietFactory, address_prefix, descriptor_limit
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.identity import Peer
from rtunnel.tls.policy import Role, TlsSettings
from rtunnel.tls.transport import Secured, TlsTransport
from rtunnel.tls.turns import Turn, Turns
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.places import Places

#: The share of our descriptors that handshakes may hold, however many ``--max-handshakes`` allows.
SHARE = 1 / 8
_log = DebugLog()


class _Accepted(TlsTransport):
    """A connection whose handshake takes turns with others."""

    turn: Turn
    enter: Callable[[_Accepted], None]
    hears_no_tls: Callable[[_Accepted, bytes], bool]
    _is_begun = False

    def connectionMade(self) -> None:
        """See :class:`TlsTransport`."""
        self.enter(self)
        super().connectionMade()
        self.turn.transport = self.tcp

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of TLS: in the handshake, when it is their turn."""
        if not self._is_begun:
            self._is_begun = True
            if self.hears_no_tls(self, data):
                return
        if self.in_handshake:
            self.turn.received(data)
        else:
            super().dataReceived(data)

    def have_turn(self, data: bytes) -> None:
        """Take bytes of the handshake."""
        if self.in_handshake:
            super().dataReceived(data)


class TlsListener(QuietFactory, Secured):
    """Accepts connections under TLS.

    :param patience: seconds that a handshake may take; may be changed.
    :param most: handshakes that may be under way at once; may be changed.
    :param build: gives the protocol for a connection whose client is proved; None: it is closed.
    :param is_known: whether an address is that of a link, see :func:`~rtunnel.relay.sockets.address_prefix`.
    :param hears_no_tls: called with the transport below and the first bytes of a connection; returns whether it has
        taken the connection over.
    :ivar credentials: of the server; others are for new connections.
    :ivar log_limiter: for what strangers can cause as often as they like.
    """

    def __init__(
        self,
        clock: IReactorTime,
        settings: TlsSettings,
        patience: float,
        most: int,
        build: Callable[[Peer], IProtocol | None],
        is_known: Callable[[str], bool] = lambda _address: False,
        hears_no_tls: Callable[[Any, bytes], bool] = lambda _transport, _data: False,
    ) -> None:
        self._clock = clock
        self.patience = patience
        self.most = most
        self._is_known = is_known
        self._hears_no_tls = hears_no_tls
        self._build = build
        self._known: Places[_Accepted] = Places()
        self._strange: Places[_Accepted] = Places()
        self._turns = Turns(clock)
        self.credentials = Credentials(settings, Role.SERVER)
        self.log_limiter = LogLimiter(_log, clock)

    def __len__(self) -> int:
        return len(self._known) + len(self._strange)

    def buildProtocol(self, addr: IAddress | None) -> TlsTransport:
        """Make the transport of a connection, which may still fail."""
        transport = _Accepted(TlsEngine(self.credentials), Role.SERVER, self, self._clock, self.patience)
        address = address_prefix(addr)
        transport.turn = Turn(self._turns, address, self._is_known(address), transport.have_turn)
        transport.enter = self._enter
        transport.hears_no_tls = self._look_at_first_bytes
        return transport

    def _look_at_first_bytes(self, transport: _Accepted, data: bytes) -> bool:
        if not self._hears_no_tls(transport.tcp, data):
            return False
        transport.leave()
        return True

    def _enter(self, transport: _Accepted) -> None:
        """Count a handshake, in place of another one if there are too many."""
        if len(self) >= min(self.most, descriptor_limit() * SHARE):
            crowd = self._known if len(self._known) > len(self._strange) else self._strange
            first_to_go = crowd.first_to_go
            self.log_limiter.warn(
                "connection from {peer} closed in its TLS handshake: there are more than {count} (--max-handshakes)",
                peer=first_to_go.peer_name,
                count=len(self),
            )
            self.gone(first_to_go)
            first_to_go.abortConnection()
        (self._known if transport.turn.is_known else self._strange).add(transport, transport.turn.address)

    def build_protocol(self, transport: TlsTransport, peer: Peer) -> IProtocol | None:
        """See :class:`Secured`."""
        self.gone(transport)
        return self._build(peer)

    def failed(self, transport: TlsTransport, why: str) -> None:
        """See :class:`Secured`."""
        self.log_limiter.warn("connection from {peer} closed: {why}", peer=transport.peer_name, why=why)

    def gone(self, transport: TlsTransport) -> None:
        """See :class:`Secured`."""
        assert isinstance(transport, _Accepted)
        (self._known if transport.turn.is_known else self._strange).discard(transport)
        transport.turn.leave()
