"""The reference client, as a Twisted service."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from rtunnel.relay.sockets import QuietFactory
from rtunnel.testing.reference_peer import INIT, NEW_CONN, ReferencePeer, ReferenceSocket


class ReferenceClient(Service):
    """The reference client: one link, one local service.

    :param reactor: provides TCP and time.
    :param server_port: the server's control port on this machine.
    :param local_port: the local service's port on this machine.
    :param remote_port: the public port to ask for; 0: send no INIT, and be served from the shared port.
    :param reconnect_delay: seconds before it dials again.
    :param keeps_streams: after a reconnect, continue to send the bytes of old streams under their old conn_ids, as the
        real client does.
    :ivar peer: the newest link.
    :ivar links: how many links there have been.
    """

    def __init__(
        self,
        reactor: Any,
        server_port: int,
        local_port: int,
        remote_port: int = 0,
        *,
        reconnect_delay: float = 5.0,
        keeps_streams: bool = False,
    ) -> None:
        self.remote_port = remote_port
        self.local_port = local_port
        self.keeps_streams = keeps_streams
        self.peer: ClientPeer | None = None
        self.sockets: dict[int, ReferenceSocket] = {}
        self.links = 0
        self.reactor = reactor
        self._server_port = server_port
        self._delay = reconnect_delay
        self._dialling: Any = None
        self._again: Any = None

    def startService(self) -> None:
        """Dial the server."""
        super().startService()
        self._dial()

    def _dial(self) -> None:
        self._again = None
        if not self.keeps_streams:
            self.sockets = {}
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self._server_port)
        self._dialling = endpoint.connect(QuietFactory.forProtocol(lambda: ClientPeer(self)))
        self._dialling.addErrback(self.lost)

    def lost(self, _reason: Any) -> None:
        """Dial again after the delay: the link is lost, or the dial failed."""
        if self.running:
            self._again = self.reactor.callLater(self._delay, self._dial)

    def stopService(self) -> Any:
        """Stop dialling, and cut the link and its streams."""
        super().stopService()
        self._dialling.cancel()
        if self._again is not None:
            self._again.cancel()
        if self.peer is not None:
            self.peer.cut()
        for socket in list(self.sockets.values()):
            socket.abort()


class ClientPeer(ReferencePeer):
    def __init__(self, client: ReferenceClient) -> None:
        super().__init__(client.sockets)
        self._client = client

    def connectionMade(self) -> None:
        super().connectionMade()
        client = self._client
        client.peer = self
        client.links += 1
        if client.keeps_streams:
            for socket in self.sockets.values():
                socket._peer = self
        if client.remote_port:
            self.send(INIT, 0, b"%d:127.0.0.1:%d" % (client.remote_port, client.local_port))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if not self._client.keeps_streams:
            for socket in list(self.sockets.values()):
                socket.abort()
        self._client.lost(reason)

    def got_frame(self, frame_type: int, conn_id: int, payload: bytes) -> None:
        if frame_type != NEW_CONN:
            super().got_frame(frame_type, conn_id, payload)
            return
        socket = self.sockets[conn_id] = ReferenceSocket(self, conn_id)
        endpoint = TCP4ClientEndpoint(self._client.reactor, "127.0.0.1", self._client.local_port, timeout=5)
        dialled = endpoint.connect(QuietFactory.forProtocol(lambda: socket))
        dialled.addErrback(lambda _failure: socket.connectionLost())
