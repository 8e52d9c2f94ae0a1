"""Data connections spoken by hand, at either end, and what one may see of those of our services."""

from __future__ import annotations

import errno
from collections.abc import Callable
from struct import Struct
from typing import Any

import pytest

from rtunnel.relay.local_socket import LocalSocket
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.wire.data.keys import Ratchet, Ticket
from rtunnel.wire.data.seal import Seal
from tests.reverse.net import HEADER, RawLink, until
from tests.reverse.world import World

ATTACH, TICKETS, KEYS = 0x17, 0x18, 0x19

#: Kinds of records.
R_DATA, R_END, R_RESET, R_ALIVE, R_OPEN, R_DONE = 1, 2, 3, 4, 5, 6
RECORD = Struct("!II")
_OPENING = Struct("!II")
#: How much longer a sealed payload is.
_TAG = 16
#: The length of a random number, in bytes.
RANDOM = 32

#: Of which no chance decides how a visitor travels.
DIRECT = pytest.mark.parametrize("world", ["direct"], indirect=True)
#: As our users have it.
AUTO = pytest.mark.parametrize("world", ["auto"], indirect=True)

CAPABILITIES = ["direct", "withdraw"]
FULL = "No space left on device"


def record(kind: int, number: int = 0, payload: bytes = b"") -> bytes:
    """A plain record."""
    return RECORD.pack(kind << 24 | len(payload), number) + payload


def opening(tunnel: int = 0, visitor: str = "192.0.2.1:5000", moved: int = 0) -> bytes:
    """The payload of OPEN."""
    return _OPENING.pack(tunnel, moved) + visitor.encode()


class RawData(RawLink):
    """One end of a data connection: its first frame, and then its records.

    :ivar number: of the present stream, or of the last one.
    :ivar visitor: the tunnel and the address in OPEN, once it has come; the stream's bytes are in ``stream``.
    :ivar moved: the link's stream that goes on here.
    :ivar ended: END has come for the present stream.
    :ivar kinds: the kinds of all records that ever came.
    :ivar resets: the codes of all RESETs.
    :ivar attached: at the server, the payload of ATTACH; records follow.
    """

    def __init__(self, *, is_server: bool = False) -> None:
        super().__init__()
        self.number = 0
        self.visitor: tuple[int, str] | None = None
        self.moved = 0
        self.stream = b""
        self.ended = False
        self.kinds: list[int] = []
        self.resets: list[str] = []
        self.attached: bytes | None = None if is_server else b""
        #: At a client whose records are sealed: makes the seals of the server's random number.
        self.agree: Callable[[bytes], tuple[Seal, Seal]] | None = None
        self.seals: tuple[Seal, Seal] | None = None

    def dataReceived(self, data: bytes) -> None:
        held = self.received
        held += data
        if self.attached is None:
            if len(held) < HEADER.size or len(held) < (end := HEADER.size + HEADER.unpack_from(held)[2]):
                return
            if held[0] != ATTACH:
                return  # the client is back with another link
            self.attached = bytes(held[HEADER.size : end])
            del held[:end]
        if self.agree is not None and self.seals is None:
            if len(held) < RANDOM:
                return
            self.seals = self.agree(bytes(held[:RANDOM]))
            del held[:RANDOM]
        while len(held) >= RECORD.size:
            first, number = RECORD.unpack_from(held)
            end = RECORD.size + (first & 0xFFFFFF)
            if len(held) < end:
                return
            header, payload = bytes(held[: RECORD.size]), bytes(held[RECORD.size : end])
            del held[:end]
            if self.seals is not None:
                opened = bytearray(len(payload) - _TAG)
                self.seals[1].unseal(header, payload, memoryview(opened))
                payload = bytes(opened)
            self._record_received(first >> 24, number, payload)

    def _record_received(self, kind: int, number: int, payload: bytes) -> None:
        self.kinds.append(kind)
        if kind == R_OPEN:
            assert number == self.number + 1
            self.number = number
            tunnel, self.moved = _OPENING.unpack_from(payload)
            self.visitor = tunnel, payload[_OPENING.size :].decode()
            self.stream, self.ended = b"", False
        elif kind == R_DATA:
            self.stream += payload
        elif kind in (R_END, R_DONE):
            self.ended = True
        elif kind == R_RESET:
            self.resets.append(payload.partition(b"\0")[0].decode())

    def attach(self, id: bytes, random: bytes = b"") -> None:
        """Show a ticket."""
        self.put(ATTACH, 0, id + random)

    def say(self, kind: int, payload: bytes = b"", *, number: int | None = None) -> None:
        """Send a record of the present stream."""
        number = self.number if number is None else number
        if self.seals is None:
            self.send(record(kind, number, payload))
            return
        header = RECORD.pack(kind << 24 | len(payload) + _TAG, number)
        sealed = bytearray(len(payload) + _TAG)
        self.seals[0].seal(header, payload, memoryview(sealed))
        self.send(header + sealed)

    def open(self, tunnel: int = 0, visitor: str = "192.0.2.1:5000") -> None:
        """At the server: bring a visitor."""
        self.number += 1
        self.stream, self.ended = b"", False
        self.say(R_OPEN, opening(tunnel, visitor))

    async def is_taken(self) -> None:
        """Wait for the other end's first sign of life."""
        await until(lambda: R_ALIVE in self.kinds or self.over, "ALIVE")
        assert not self.over

    async def is_used(self, number: int = 1) -> tuple[int, str]:
        """Wait for a visitor: the tunnel, and the address."""
        await until(lambda: self.number >= number or self.over, "OPEN on a data connection")
        assert self.number == number
        assert self.visitor is not None
        return self.visitor

    async def has_stream(self, data: bytes) -> None:
        """Wait for exactly these bytes of the visitor."""
        await until(lambda: len(self.stream) >= len(data) or self.over, f"{data[:60]!r}, got {self.stream[:60]!r}")
        assert self.stream == data

    async def is_reset(self, count: int = 1) -> str:
        """Wait for a RESET, or the last of several: its code."""
        await until(lambda: len(self.resets) >= count or self.over, "RESET")
        assert len(self.resets) == count
        return self.resets[-1]


async def tickets_of(link: RawLink) -> list[Ticket]:
    """The next tickets that the server sends."""
    if link.ratchet is None:
        _, keys = await link.take(KEYS, 0)
        assert keys[0] == 0
        link.ratchet = Ratchet(keys[1:])
    said = await link.take_json(TICKETS, 0)
    assert said["first"] == link.ratchet.index
    return [link.ratchet.next() for _ in range(said["count"])]


async def attach(world: World, server: TunnelServer, ticket: Ticket | bytes) -> RawData:
    """A data connection that shows this ticket."""
    data: RawData = await world.join(world.control_port(server), RawData())
    data.attach(ticket if isinstance(ticket, bytes) else ticket.id)
    return data


def session_of(server: TunnelServer) -> Any:
    """The only link that has data connections; others may be about to become some."""
    (session,) = (session for session in server.sessions if len(session.carriers) > 1)
    return session


async def pool_of(world: World, server: TunnelServer, count: int = 1) -> Any:
    """The data connections of the server's only client, once so many wait."""
    (session,) = await world.sessions(server, 1)
    carriers: Any = session.carriers
    await until(lambda: len(carriers) > 1 and len(carriers[0]._idle) >= count, f"{count} data connections that wait")
    return carriers[0]


def relays(service: Any) -> list[Any]:
    """The visitors that have connections of their own."""
    return [each for each in service.visitors._ends if isinstance(each, LocalSocket)]


class Full:
    """A reactor, or what watches sockets in its place, once the user has as many as the system lets him (epoll_ctl)."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller

    def addReader(self, descriptor: Any) -> None:
        raise OSError(errno.ENOSPC, FULL)

    addWriter = add_stream = addReader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)
