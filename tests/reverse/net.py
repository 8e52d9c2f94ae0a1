"""What the tests hold in their hands: a connection, a local service, a bounded wait, and a link spoken by hand."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import socket
from collections.abc import Callable
from struct import Struct
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.patience import PATIENCE

reactor: Any = _reactor
HOST = "127.0.0.1"
BOTH_PLANES = pytest.mark.parametrize("world", ["mux", "direct"], indirect=True)
HEADER = Struct("!BII")

NEW_CONN, DATA, CLOSE_CONN, INIT = 1, 2, 3, 4
HELLO, CREDIT, FIN, PING, PONG, READY, ERROR = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16
MOVE = 0x1A


async def until(condition: Callable[[], object], what: str = "", timeout: float = PATIENCE) -> None:
    """Let the reactor run until *condition* is true."""
    deadline = reactor.seconds() + timeout
    while not condition():
        assert reactor.seconds() < deadline, f"waited {timeout:g} s for {what or condition}"
        await deferLater(reactor, 0.002)


async def turns(count: int = 20) -> None:
    """Let everything that is on its way arrive, to see afterwards that something did *not*."""
    for _ in range(count):
        await deferLater(reactor, 0.001)


@implementer(IHalfCloseableProtocol)
class Peer(Protocol):
    """One connection, as seen by a test.

    :ivar received: every byte, where *keep* is set; else there is only ``count`` and ``sha``.
    :ivar eof: the other end sends no more.
    :ivar lost: why the connection is over.
    """

    transport: Any

    def __init__(self, *, echo: bool = False, keep: bool = True) -> None:
        self.received = bytearray()
        self.count = 0
        self.sha = hashlib.sha256()
        self.eof = False
        self.lost: Failure | None = None
        self.on_data: Callable[[bytes], None] | None = None
        self.name = ""
        self._echo = echo
        self._keep = keep

    @property
    def was_reset(self) -> bool:
        return self.lost is not None and not self.lost.check(type(connectionDone.value))

    @property
    def over(self) -> bool:
        return self.eof or self.lost is not None

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.name = f"{HOST}:{self.transport.getHost().port}"

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)
        self.sha.update(data)
        if self._keep:
            self.received += data
        if self._echo:
            self.transport.write(data)
        if self.on_data is not None:
            self.on_data(data)

    def readConnectionLost(self) -> None:
        self.eof = True
        if self._echo:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def half_close(self) -> None:
        self.transport.loseWriteConnection()

    def close(self) -> None:
        self.transport.loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()

    def stop_reading(self) -> None:
        """Read no more; the kernel still takes a few hundred kilobytes."""
        self.transport.pauseProducing()

    def read_on(self) -> None:
        self.transport.resumeProducing()

    async def has(self, data: bytes) -> None:
        """Wait for exactly these bytes."""
        await until(lambda: len(self.received) >= len(data) or self.over, f"{data[:60]!r}, got {self.received[:60]!r}")
        assert bytes(self.received) == data

    async def ends(self) -> None:
        """Wait for the end, clean or not."""
        await until(lambda: self.over, "the end of a connection")


class QuietFactory(Factory):
    noisy = False


class LocalService:
    """A local service.

    :ivar peers: its connections, in order.
    """

    def __init__(self, build: Callable[[], Peer]) -> None:
        self.peers: list[Peer] = []
        self.listening: Any = None
        self.port = 0
        self._build = build

    async def listen(self, port: int = 0) -> None:
        factory = QuietFactory()
        factory.buildProtocol = self._accept  # type: ignore[method-assign,assignment]
        self.listening = await TCP4ServerEndpoint(reactor, port, interface=HOST).listen(factory)
        self.port = self.listening.getHost().port

    def _accept(self, _address: Any) -> Peer:
        peer = self._build()
        self.peers.append(peer)
        return peer

    async def peer(self, number: int = 0) -> Peer:
        """The connection with this number, once it is there."""
        await until(lambda: len(self.peers) > number and self.peers[number].connected, f"connection {number}")
        return self.peers[number]

    async def stop(self) -> None:
        await self.listening.stopListening()


async def connect(port: int, peer: Peer, source: str = HOST, to: str = HOST) -> Any:
    """Connect to an address, from the address *source*. Who is turned away before our end has a look was reset."""
    try:
        await TCP4ClientEndpoint(reactor, to, port, bindAddress=(source, 0)).connect(
            QuietFactory.forProtocol(lambda: peer)
        )
    except ConnectError as error:
        if error.osError != errno.ECONNRESET:
            raise
        peer.lost = Failure()
    return peer


async def is_refused(port: int) -> None:
    """Who connects is refused by the system, as where nothing listens."""
    with pytest.raises(ConnectionRefusedError):
        await connect(port, Peer())


def can_bind(port: int) -> bool:
    """Another program could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def frame(frame_type: int, conn_id: int = 0, payload: bytes = b"") -> bytes:
    return HEADER.pack(frame_type, conn_id, len(payload)) + payload


def hello(*, session: str = "", credit: int = 65536, **more: object) -> bytes:
    """HELLO of an extended end that does not exist."""
    value = {
        "version": 1,
        "agent": "by hand",
        "capabilities": ["withdraw"],
        "session": session or f"{random.getrandbits(128):032x}",
        "initial_credit": credit,
    }
    return frame(HELLO, 0, json.dumps(value | more).encode())


class RawLink(Peer):
    """A link spoken by hand, at either end.

    :ivar frames: whole frames that came and were not taken yet.
    :ivar seen: all types that ever came.
    :ivar ratchet: where its tickets come from, once KEYS was read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ratchet: Any = None
        self.frames: list[tuple[int, int, bytes]] = []
        self.seen: list[int] = []

    def dataReceived(self, data: bytes) -> None:
        held = self.received
        held += data
        while len(held) >= HEADER.size:
            frame_type, conn_id, length = HEADER.unpack_from(held)
            end = HEADER.size + length
            if len(held) < end:
                return
            self.frames.append((frame_type, conn_id, bytes(held[HEADER.size : end])))
            self.seen.append(frame_type)
            del held[:end]

    def put(self, frame_type: int, conn_id: int = 0, payload: bytes = b"") -> None:
        self.send(frame(frame_type, conn_id, payload))

    def _index(self, frame_type: int, conn_id: int | None) -> int | None:
        for index, (kind, number, _payload) in enumerate(self.frames):
            if kind == frame_type and conn_id in (None, number):
                return index
        return None

    async def take(self, frame_type: int, conn_id: int | None = None) -> tuple[int, bytes]:
        """The next frame of this type, for this conn_id if one is given: its conn_id and payload. Others stay."""
        await until(
            lambda: self._index(frame_type, conn_id) is not None or self.over,
            f"a frame of type {frame_type:#x}; there are {[kind for kind, _, _ in self.frames]}",
        )
        index = self._index(frame_type, conn_id)
        assert index is not None, f"closed without a frame of type {frame_type:#x}"
        _, number, payload = self.frames.pop(index)
        return number, payload

    async def take_json(self, frame_type: int, conn_id: int | None = None) -> dict[str, Any]:
        _, payload = await self.take(frame_type, conn_id)
        value: dict[str, Any] = json.loads(payload)
        return value

    def data_of(self, conn_id: int) -> bytes:
        return b"".join(payload for kind, number, payload in self.frames if (kind, number) == (DATA, conn_id))

    async def has_data(self, conn_id: int, data: bytes) -> None:
        await until(lambda: len(self.data_of(conn_id)) >= len(data) or self.over, f"DATA {data[:60]!r}")
        assert self.data_of(conn_id) == data

    async def is_alive(self) -> None:
        """The other end still answers: everything sent before was taken."""
        mark = f"{random.getrandbits(60):016d}"[:16].encode()
        self.put(PING, 0, mark)
        while (await self.take(PONG))[1] != mark:
            pass
