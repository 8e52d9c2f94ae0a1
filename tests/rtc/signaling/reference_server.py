"""The reference signaling server, as a fake: docs/wire.rst says what it does, defects included.

It is written from that page alone and shares no code with ``rtunnel.wire``: a mistake there must not be made here once
more. What it is good for is a host, and a client that registers as if it were one.
"""

from __future__ import annotations

import json
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.application.service import Service
from twisted.internet.defer import Deferred

READ_LIMIT = 10240


class _Peer(WebSocketServerProtocol):
    """One connection; ``host_id`` is what it registered as."""

    transport: Any
    host_id = ""

    def __init__(self, server: ReferenceSignalServer) -> None:
        super().__init__()
        self._server = server

    def onOpen(self) -> None:
        self._server.peers.add(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        try:
            message = json.loads(payload)
        except ValueError:
            return
        self._server.received.append(message)
        sender, target = message.get("sender_id", ""), message.get("target_id", "")
        if message["type"] == "register-host":
            if sender in self._server.hosts:
                self.tell_error("Host ID already in use")
                self.sendClose()
                return
            self.host_id = sender
            self._server.hosts[sender] = self
        elif target in self._server.hosts:
            self._server.hosts[target].sendMessage(payload)
        elif message["type"] == "offer":
            self.tell_error("Host not found")
        # There is no place for an answer to a client: it is lost.

    def tell_error(self, text: str) -> None:
        self.sendMessage(json.dumps({"type": "error", "payload": text}).encode())

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._server.peers.discard(self)
        if self._server.hosts.get(self.host_id) is self:
            del self._server.hosts[self.host_id]
        self._server.look()


class ReferenceSignalServer(Service):
    """Listens on loopback.

    :param port: 0: any free one.
    :ivar port: where it listens, once it runs.
    :ivar hosts: connections by the ID that they registered.
    :ivar received: every message that came, in order.
    """

    def __init__(self, reactor: Any, port: int = 0) -> None:
        self.setName("reference signaling")
        self.port = port
        self.hosts: dict[str, _Peer] = {}
        self.peers: set[_Peer] = set()
        self.received: list[dict[str, Any]] = []
        self._reactor = reactor
        self._listening: Any = None
        self._empty: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        factory: Any = WebSocketServerFactory(reactor=self._reactor)
        factory.noisy = False
        # No subprotocol, no compression, and a message that is too large ends the connection.
        factory.setProtocolOptions(maxMessagePayloadSize=READ_LIMIT, openHandshakeTimeout=0, closeHandshakeTimeout=0)
        factory.protocol = lambda: _Peer(self)
        self._listening = self._reactor.listenTCP(self.port, factory, interface="127.0.0.1")
        self.port = self._listening.getHost().port

    async def _stop(self) -> None:
        await self._listening.stopListening()
        for peer in list(self.peers):
            peer.transport.abortConnection()
        if self.peers:
            self._empty = Deferred()
            await self._empty

    def stopService(self) -> Deferred[None]:
        """Cut everybody off."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def look(self) -> None:
        """Somebody is gone."""
        if self._empty is not None and not self.peers:
            empty, self._empty = self._empty, None
            empty.callback(None)
