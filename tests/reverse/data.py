"""Data connections spoken by hand, at either end, and what one may see of those of our services."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from rtunnel.relay.direct import DirectRelay
from rtunnel.reverse.server.service import TunnelServer
from tests.reverse.net import HEADER, NEW_CONN, PING, PONG, RawLink, until
from tests.reverse.world import World

ATTACH, TICKETS = 0x17, 0x18

#: Of which no chance decides how a visitor travels.
DIRECT = pytest.mark.parametrize("world", ["direct"], indirect=True)
#: As our users have it.
AUTO = pytest.mark.parametrize("world", ["auto"], indirect=True)

CAPABILITIES = ["direct", "withdraw"]
FULL = "No space left on device"


class RawData(RawLink):
    """One end of a data connection.

    :ivar visitor: NEW_CONN's payload, once it has come; what follows is in ``stream``.
    :ivar answers: whether it answers PING.
    """

    def __init__(self) -> None:
        super().__init__()
        self.visitor: dict[str, Any] | None = None
        self.stream = b""
        self.answers = False

    def dataReceived(self, data: bytes) -> None:
        if self.visitor is not None:
            self.stream += data
            return
        held = self.received
        held += data
        while len(held) >= HEADER.size and self.visitor is None:
            frame_type, conn_id, length = HEADER.unpack_from(held)
            end = HEADER.size + length
            if len(held) < end:
                return
            payload = bytes(held[HEADER.size : end])
            del held[:end]
            self.frames.append((frame_type, conn_id, payload))
            self.seen.append(frame_type)
            if frame_type == PING and self.answers:
                self.put(PONG, conn_id, payload)
            if frame_type == NEW_CONN:
                assert conn_id
                self.visitor = json.loads(payload)
                self.stream = bytes(held)

    async def is_used(self) -> dict[str, Any]:
        """Wait for a visitor."""
        await until(lambda: self.visitor is not None or self.over, "NEW_CONN on a data connection")
        assert self.visitor is not None
        return self.visitor

    async def has_stream(self, data: bytes) -> None:
        """Wait for exactly these bytes of the visitor."""
        await until(lambda: len(self.stream) >= len(data) or self.over, f"{data[:60]!r}, got {self.stream[:60]!r}")
        assert self.stream == data


async def tickets_of(link: RawLink) -> list[str]:
    """The next tickets that the server sends."""
    tickets: list[str] = (await link.take_json(TICKETS, 0))["tickets"]
    return tickets


async def attach(world: World, server: TunnelServer, ticket: str) -> RawData:
    """A data connection that shows this ticket."""
    data: RawData = await world.join(world.control_port(server), RawData())
    data.put(ATTACH, 0, ticket.encode())
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
    return [each for each in service.visitors._ends if isinstance(each, DirectRelay)]


class Full:
    """A reactor, or what watches sockets in its place, once the user has as many as the system lets him (epoll_ctl)."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller

    def addReader(self, descriptor: Any) -> None:
        raise OSError(errno.ENOSPC, FULL)

    addWriter = addReader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)
