"""The reference server, as a Twisted service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rtunnel.relay.sockets import QuietFactory
from rtunnel.testing.reference_peer import INIT, NEW_CONN, ReferencePeer, ReferenceSocket


class ReferenceServer(Service):
    """The reference server: it passes the visitors of one public port to the client that connected last.

    :param reactor: provides TCP.
    :param shared: whether it has a public port from the start and ignores INIT. Otherwise the client's INIT names the
        port.
    :param control_port: the port for clients; 0: any free port.
    :ivar control_port: the port for clients, once the service runs.
    :ivar public_port: the port for visitors; 0 before it is open.
    :ivar peer: the newest link.
    :ivar inits: the payload of each INIT that came.
    :ivar links: how many links there have been.
    """

    def __init__(self, reactor: Any, *, shared: bool = False, control_port: int = 0) -> None:
        self.control_port = control_port
        self.public_port = 0
        self.peer: ServerPeer | None = None
        self.inits: list[bytes] = []
        self.shared = shared
        self.links = 0
        self._reactor = reactor
        self._listening: list[Any] = []
        self._public: Any = None
        self._next_id = 1

    def startService(self) -> None:
        """Listen for clients, and with *shared* for visitors."""
        super().startService()
        self.control_port = self._listen(self.control_port, self._build_peer).getHost().port
        if self.shared:
            self.open_public_port(0)

    def stopService(self) -> Any:
        """Stop listening, and cut the link."""
        super().stopService()
        if self.peer is not None:
            self.peer.cut()
        listening, self._listening = self._listening, []
        self._public = None
        for port in listening:
            port.stopListening()

    def _listen(self, number: int, build: Callable[[Any], Protocol | None]) -> Any:
        factory = QuietFactory()
        factory.buildProtocol = build  # type: ignore[method-assign,assignment]
        listening: list[Any] = []
        TCP4ServerEndpoint(self._reactor, number, interface="127.0.0.1").listen(factory).addCallback(listening.append)
        self._listening += listening
        return listening[0]

    def open_public_port(self, number: int) -> None:
        """Listen for visitors on port *number*, unless a public port is open."""
        if self._public is None:
            self._public = self._listen(number, self._build_visitor)
            self.public_port = self._public.getHost().port

    def _build_peer(self, _address: Any) -> Protocol:
        self.links += 1
        self._next_id = 1
        self.peer = ServerPeer(self)
        return self.peer

    def _build_visitor(self, _address: Any) -> Protocol | None:
        if self.peer is None or not self.peer.up:
            return None
        conn_id, self._next_id = self._next_id, self._next_id + 1
        socket = self.peer.sockets[conn_id] = ReferenceSocket(self.peer, conn_id)
        self.peer.send(NEW_CONN, conn_id)
        return socket


class ServerPeer(ReferencePeer):
    def __init__(self, server: ReferenceServer) -> None:
        super().__init__({})
        self._server = server

    def got_frame(self, frame_type: int, conn_id: int, payload: bytes) -> None:
        if frame_type != INIT:
            super().got_frame(frame_type, conn_id, payload)
            return
        self._server.inits.append(payload)
        if not self._server.shared:
            self._server.open_public_port(int(payload.partition(b":")[0]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        for socket in list(self.sockets.values()):
            socket.abort()
