"""What the reference client and the reference server share: one end of a link, and the sockets of its streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from struct import Struct
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

HEADER = Struct("!BII")
NEW_CONN, DATA, CLOSE_CONN, INIT = 1, 2, 3, 4
#: The Go programs read this many bytes from a socket at a time, so it is their largest DATA payload.
CHUNK = 4096


@implementer(IPushProducer)
class _Valve:
    """Reports when a transport is full and when it has room again: a Go program's ``Write`` blocks in between."""

    def __init__(self, blocked: Callable[[], None], unblocked: Callable[[], None]) -> None:
        self._blocked = blocked
        self._unblocked = unblocked

    def pauseProducing(self) -> None:
        self._blocked()

    def resumeProducing(self) -> None:
        self._unblocked()

    def stopProducing(self) -> None:
        """Do nothing: the connection is lost, and ``connectionLost`` follows."""


class ReferenceSocket(Protocol):
    """A visitor, or a connection to the local service. An end of file from either side closes it."""

    transport: Any

    def __init__(self, peer: ReferencePeer, conn_id: int) -> None:
        self._peer = peer
        self._conn_id = conn_id
        self._early: list[bytes] = []
        self._closing = False
        self._up = False

    def connectionMade(self) -> None:
        self._up = True
        self.transport.registerProducer(_Valve(self._slow, self._quick), True)
        self._peer.socket_made(self)
        for data in self._early:
            self.transport.write(data)
        if self._closing:
            self.close()

    def _slow(self) -> None:
        self._peer.slow.add(self._conn_id)
        self._peer.look()

    def _quick(self) -> None:
        self._peer.slow.discard(self._conn_id)
        self._peer.look()

    def write(self, data: bytes) -> None:
        if self._up:
            self.transport.write(data)
        else:
            self._early.append(data)

    def close(self) -> None:
        self._closing = True
        if self._up:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def abort(self) -> None:
        if self._up:
            self.transport.abortConnection()

    def pause(self, paused: bool) -> None:
        if self._up and not self._closing:
            (self.transport.pauseProducing if paused else self.transport.resumeProducing)()

    def dataReceived(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            self._peer.send(DATA, self._conn_id, data[start : start + CHUNK])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._up = False
        self._quick()
        self._peer.sockets.pop(self._conn_id, None)
        self._peer.send(CLOSE_CONN, self._conn_id)


class ReferencePeer(Protocol):
    """One end of a link in the reference protocol.

    :ivar sockets: the sockets of the streams, by conn_id.
    :ivar slow: the conn_ids of sockets that are full. While there is one, the link is not read.
    :ivar ignored: how many frames of each unknown type came.
    :ivar up: the link is connected.
    """

    transport: Any

    def __init__(self, sockets: dict[int, ReferenceSocket]) -> None:
        self.sockets = sockets
        self.slow: set[int] = set()
        self.ignored: Counter[int] = Counter()
        self.up = False
        self._held = bytearray()

    def connectionMade(self) -> None:
        self.up = True
        self.transport.registerProducer(_Valve(lambda: self._pause_all(True), lambda: self._pause_all(False)), True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.up = False

    def cut(self) -> None:
        """End the link at once."""
        if self.up:
            self.transport.abortConnection()

    def _pause_all(self, paused: bool) -> None:
        for socket in self.sockets.values():
            socket.pause(paused)

    def look(self) -> None:
        """Read the link only if no socket is full."""
        if self.up:
            (self.transport.pauseProducing if self.slow else self.transport.resumeProducing)()

    def socket_made(self, socket: ReferenceSocket) -> None:
        """Do nothing more when *socket* is connected."""

    def send(self, frame_type: int, conn_id: int, payload: bytes = b"") -> None:
        """Send one frame, if the link is connected."""
        if self.up:
            self.transport.write(HEADER.pack(frame_type, conn_id, len(payload)) + payload)

    def dataReceived(self, data: bytes) -> None:
        held = self._held
        held += data
        while len(held) >= HEADER.size:
            frame_type, conn_id, length = HEADER.unpack_from(held)
            end = HEADER.size + length
            if len(held) < end:
                break
            payload = bytes(held[HEADER.size : end])
            del held[:end]
            self.got_frame(frame_type, conn_id, payload)

    def got_frame(self, frame_type: int, conn_id: int, payload: bytes) -> None:
        """Handle a frame that means the same to client and server."""
        socket = self.sockets.get(conn_id)
        if frame_type == DATA and socket is not None:
            socket.write(payload)
        elif frame_type == CLOSE_CONN and socket is not None:
            self.send(CLOSE_CONN, conn_id)
            socket.close()
        elif frame_type not in (DATA, CLOSE_CONN):
            self.ignored[frame_type] += 1
