"""A signaling server on loopback, and those who connect to it: Autobahn's clients, and bytes sent by hand."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.testing import StringTransport
from twisted.logger import formatEvent
from twisted.python.failure import Failure
from txaio import tx

from rtunnel.addresses import ListenAddress
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.limits import Times
from rtunnel.rtc.signaling.server import SignalServer
from tests.leftovers import TestLog
from tests.reverse.net import HOST, Peer, connect, reactor, until

#: Long enough for nothing to time out by accident.
TIMES = Times(look_every=0.02)


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(payload: bytes, opcode: int = TEXT, fin: bool = True, length: int | None = None) -> bytes:
    """A frame of a client, masked by zeros."""
    length = len(payload) if length is None else length
    first = bytes([(0x80 if fin else 0) | opcode])
    if length < 126:
        return first + bytes([0x80 | length]) + bytes(4) + payload
    if length < 65536:
        return first + b"\xfe" + struct.pack("!H", length) + bytes(4) + payload
    return first + b"\xff" + struct.pack("!Q", length) + bytes(4) + payload


def frames(received: bytes) -> list[tuple[int, bytes]]:
    """The server's frames: opcode and payload of each."""
    _, _, rest = received.partition(b"\r\n\r\n")
    found = []
    while len(rest) >= 2:
        begin, length = 2, rest[1]
        if length == 126:
            begin, (length,) = 4, struct.unpack_from("!H", rest, 2)
        elif length == 127:
            begin, (length,) = 10, struct.unpack_from("!Q", rest, 2)
        found.append((rest[0] & 15, rest[begin : begin + length]))
        rest = rest[begin + length :]
    return found


def close_code(received: bytes) -> int | None:
    """What is in the server's close frame."""
    for opcode, payload in frames(received):
        if opcode == CLOSE:
            return int.from_bytes(payload[:2], "big")
    return None


class WebSocketPeer(WebSocketClientProtocol):
    """One WebSocket, as seen by a test.

    :ivar messages: those that came and were not taken yet.
    :ivar closed: code and reason of the close frame that came; None: there was none.
    :ivar refused: the HTTP status line, where there is no WebSocket.
    :ivar pings: how many came.
    """

    log = tx.make_logger(level="none")
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []
        self.opened = False
        self.lost: Failure | None = None
        self.closed: tuple[int | None, str | None] | None = None
        self.pings = 0
        self.answers_pings = True

    def onOpen(self) -> None:
        self.opened = True

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert not isBinary
        self.messages.append(json.loads(payload))

    def onPing(self, payload: bytes) -> None:
        self.pings += 1
        if self.answers_pings:
            super().onPing(payload)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        self.lost = reason
        if self.remoteCloseCode is not None:
            self.closed = self.remoteCloseCode, self.remoteCloseReason

    @property
    def over(self) -> bool:
        return self.lost is not None

    @property
    def refused(self) -> str:
        return getattr(self, "http_status_line", "")

    def put(self, kind: str, target: str = "", sender: str = "", payload: object = None) -> None:
        value = {"type": kind, "payload": payload, "target_id": target, "sender_id": sender}
        self.put_text(json.dumps({key: each for key, each in value.items() if each not in ("", None)}))

    def put_text(self, text: str) -> None:
        self.sendMessage(text.encode())

    async def take(self) -> dict[str, Any]:
        """The next message."""
        await until(lambda: self.messages or self.over, "a message")
        assert self.messages, f"closed without a message: {self.closed}"
        return self.messages.pop(0)

    async def take_error(self, about: str = "") -> str:
        """The next message, which is an error about this ID."""
        message = await self.take()
        assert message["type"] == "error"
        assert message.get("sender_id", "") == about
        assert "target_id" not in message
        assert isinstance(message["payload"], str)
        return message["payload"]

    async def is_alive(self) -> None:
        """Everything that was sent before is processed, and the connection stands."""
        self.put("offer", target="nobody at all")
        assert "nobody at all" in await self.take_error(about="nobody at all")

    async def ends(self, code: int | None = None) -> str | None:
        """Wait for the end, with this code in the close frame; the reason."""
        await until(lambda: self.over, "the end of a WebSocket")
        assert (self.closed[0] if self.closed else None) == code
        return self.closed[1] if self.closed else None


class SignalWorld:
    """The server, and its peers; all end with the test."""

    def __init__(self, log: TestLog) -> None:
        self.log = log
        self.server: SignalServer
        self._servers: list[SignalServer] = []
        self._peers: list[Any] = []

    async def start(
        self, times: Times = TIMES, addr: str = "127.0.0.1:0", directory: Any = None, **settings: Any
    ) -> SignalServer:
        self.server = SignalServer(reactor, SignalSettings(ListenAddress.parse(addr), **settings), times, directory)
        self._servers.append(self.server)
        self.server.startService()
        return self.server

    @property
    def port(self) -> int:
        return int(self.server.listener.local_address.rpartition(":")[2])

    async def open(
        self,
        *,
        path: str = "/",
        headers: dict[str, str] | None = None,
        origin: str | None = None,
        protocols: list[str] | None = None,
        tls: Any = None,
        wait: bool = True,
    ) -> WebSocketPeer:
        """A WebSocket, or what came of the attempt."""
        url = f"{'wss' if tls else 'ws'}://{HOST}:{self.port}{path}"
        factory = WebSocketClientFactory(url, origin, protocols, headers=headers, reactor=reactor)
        factory.noisy = False
        factory.protocol = WebSocketPeer
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0)
        endpoint: Any = TCP4ClientEndpoint(reactor, HOST, self.port)
        if tls is not None:
            endpoint = wrapClientTLS(tls, endpoint)
        peer: WebSocketPeer = await endpoint.connect(factory)
        self._peers.append(peer)
        if wait:
            await until(lambda: peer.opened or peer.over, "a WebSocket")
        return peer

    async def raw(self, data: bytes = b"") -> Peer:
        """A connection that speaks no WebSocket by itself."""
        peer: Peer = await connect(self.port, Peer())
        self._peers.append(peer)
        peer.send(data)
        return peer

    async def get(self, request: bytes) -> bytes:
        """What the server answers, until it closes."""
        peer = await self.raw(request)
        await peer.ends()
        return bytes(peer.received)

    async def host(self, name: str = "host", **how: Any) -> WebSocketPeer:
        """A host that is registered."""
        peer = await self.open(**how)
        peer.put("register-host", sender=name)
        await peer.is_alive()
        return peer

    def lines(self, level: str) -> list[str]:
        """What was logged by us at this level."""
        return [
            formatEvent(event)
            for event in self.log.events
            if event["log_level"].name == level and event["log_namespace"].startswith("rtunnel")
        ]

    async def end(self) -> None:
        for peer in self._peers:
            if not peer.lost:
                peer.transport.abortConnection()
        for server in self._servers:
            if server.running:
                await server.stopService()
        await until(lambda: all(peer.lost for peer in self._peers), "the end of all peers")


def short(**times: float) -> Times:
    """Times of which some are short."""
    return replace(TIMES, **times)


class FakeTransport(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def unregisterProducer(self) -> None:
        self.producer = None


async def websocket(signaling: SignalWorld, data: bytes = b"") -> Peer:
    """A peer that has shaken hands, and sends *data* behind that at once."""
    peer = await signaling.raw(UPGRADE + b"\r\n" + data)
    await until(lambda: b"\r\n\r\n" in peer.received)
    return peer
