"""Both ends of WebSocket, by Autobahn: ``python -m tests.process.websocket_ends serve``, or ``visit PORT HOST``."""

from __future__ import annotations

import sys
from typing import Any

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from twisted.internet import reactor

LOOPBACK = "127.0.0.1"
SIZES = (0, 1, 125, 126, 65_535, 65_536, 1_000_000)


class Echo(WebSocketServerProtocol):
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if payload == b"close":
            self.sendClose(4000, "as you wish")
        else:
            self.sendMessage(payload, isBinary)


class Visitor(WebSocketClientProtocol):
    def onOpen(self) -> None:
        self.left = list(SIZES)
        self._next()

    def _next(self) -> None:
        self.sendMessage(bytes(self.left[0]) if self.left else b"close", True)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert payload == bytes(self.left.pop(0))
        assert isBinary
        self._next()

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        print(f"closed clean={wasClean} {code} {reason}; {len(self.left)} left", flush=True)
        reactor.stop()


def main() -> None:
    if sys.argv[1] == "serve":
        factory = WebSocketServerFactory()
        factory.protocol = Echo
        host: Any = reactor.listenTCP(0, factory, interface=LOOPBACK).getHost()
        print(f"echo at {host.port}", flush=True)
    else:
        client = WebSocketClientFactory(f"ws://{sys.argv[3]}/echo")
        client.protocol = Visitor
        reactor.connectTCP(LOOPBACK, int(sys.argv[2]), client)
    reactor.run()


if __name__ == "__main__":
    main()
