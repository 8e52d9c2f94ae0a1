"""A tunnel under TLS whose data connections a test can look at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rtunnel.reverse.carriers import pool_size
from rtunnel.wire.data.keys import Ticket, connection_seals
from tests.ports import free_port
from tests.reverse.data import RANDOM, RawData
from tests.reverse.net import LocalService, Peer, connect, until
from tests.tls.parts import Authority, Ends, Holder

MIB = 1024 * 1024


class Tunnel:
    """A server and a client over TLS, whose visitors wait for data connections."""

    def __init__(self, ends: Ends, authority: Authority) -> None:
        self.ends = ends
        self.authority = authority
        self.holder = authority.client()
        self.port = free_port()
        self.service = LocalService(Peer)
        self.visitors: list[Peer] = []
        self.server: Any = None
        self.client: Any = None

    async def start(
        self,
        at_server: Mapping[str, Any] | None = None,
        at_client: Mapping[str, Any] | None = None,
        *,
        by_hand: bool = False,
        server: Holder | None = None,
        **more: Any,
    ) -> Tunnel:
        """Wait until there are data connections; if they are made *by hand*, until there are tickets for them."""
        await self.service.listen(self.service.port)
        authority = self.authority
        there = {"data_plane": "direct", **more, **(at_server or {})}
        self.server = self.ends.start_server(authority.trusts(server or authority.server()), **there)
        settings: dict[str, Any] = {"remote_port": self.port, "local": self.service.port, "data_plane": "direct"}
        self.client = self.ends.start_client(authority.trusts(self.holder), **(settings | more | dict(at_client or {})))
        await self.ends.lines.wait_for("is published")
        if by_hand:
            await until(lambda: len(self.server.tickets) == pool_size.AT_FIRST, "tickets")
        else:
            await until(lambda: self.pool is not None and self.pool._idle, "a data connection that waits")
        return self

    @property
    def tickets(self) -> list[Ticket]:
        """Those that are out, from the oldest."""
        return [issued.ticket for issued in self.server.tickets._issued.values()]

    async def attach(self, ticket: Ticket, random: bytes = b"") -> RawData:
        """A data connection by hand."""
        data = RawData()
        random = random or os.urandom(RANDOM)
        cipher = self.pool._cipher
        data.agree = lambda theirs: connection_seals(ticket.key, random, theirs, cipher, is_client=True)
        self.visitors.append(data)
        await connect(self.ends.control, data)
        data.attach(ticket.id, random)
        return data

    async def stranger(self, said: bytes) -> Peer:
        """Somebody who says something on the control port."""
        peer = Peer()
        self.visitors.append(peer)
        await connect(self.ends.control, peer)
        peer.send(said)
        return peer

    @property
    def pool(self) -> Any:
        return next((session.carriers[0] for session in self.server.sessions if len(session.carriers) > 1), None)

    async def visit(self, **options: Any) -> tuple[Peer, Peer]:
        """A visitor, and its connection to the service."""
        count = len(self.service.peers)
        visitor = Peer(**options)
        self.visitors.append(visitor)
        await connect(self.port, visitor)
        return visitor, await self.service.peer(count)

    async def is_empty(self) -> None:
        """Nobody is relayed any more, and nothing is kept of those who were."""
        await until(lambda: not self.server.visitors and not self.client.visitors)
        await until(lambda: all(not session.link.stream_count for session in self.server.sessions))
        session = self.client.link.session
        await until(lambda: session is None or not session.link.stream_count)

    async def stop(self) -> None:
        for peer in (*self.service.peers, *self.visitors):
            if peer.connected:
                peer.abort()
        if self.service.listening is not None:
            await self.service.stop()
