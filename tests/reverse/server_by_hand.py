"""A server by hand, for a client of ours."""

from __future__ import annotations

import json
from typing import Any

from rtunnel.wire.data.keys import Ratchet
from tests.reverse.data import (
    CAPABILITIES,
    KEYS,
    R_ALIVE,
    TICKETS,
    RawData,
)
from tests.reverse.net import HELLO, INIT, READY, RawLink, hello, until
from tests.reverse.world import World

ROOT = bytes(range(32))


class ServerByHand:
    """A server by hand, to which our client has connected: the first connection is the link."""

    link: Any
    capabilities = CAPABILITIES

    async def start(self, world: World, *tunnels: tuple[int, int], **settings: Any) -> ServerByHand:
        self.ratchet = Ratchet(ROOT)
        self.listening = await world.service(RawLink)
        self.client = world.client(self.listening.port, *tunnels, **settings)
        self.link = await self.listening.peer()
        said = await self.link.take_json(HELLO, 0)
        assert set(CAPABILITIES) <= set(said["capabilities"])
        # What comes from now on is a data connection.
        self.listening._build = lambda: RawData(is_server=True)
        self.link.send(hello(capabilities=self.capabilities))
        self.link.put(KEYS, 0, b"\0" + ROOT)
        for number, (port, _local) in enumerate(tunnels):
            await self.link.take(INIT, number)
            self.link.put(READY, number, b'{"address": "127.0.0.1:%d"}' % port)
        return self

    def send_tickets(self, count: int, expires: float = 30) -> list[bytes]:
        first = self.ratchet.index
        self.link.put(TICKETS, 0, json.dumps({"first": first, "count": count, "expires": expires}).encode())
        return [self.ratchet.next().id for _ in range(count)]

    @property
    def connections(self) -> Any:
        """Those of our client."""
        return self.client.link.session.data._connections

    async def data(self, number: int = 0, *, takes: bool = True) -> RawData:
        """The data connection with this number, once its ticket was shown.

        :param takes: the server takes the ticket, and says so.
        """
        data: Any = await self.listening.peer(1 + number)
        await until(lambda: data.attached is not None or data.over, "ATTACH")
        assert data.attached is not None
        if takes:
            data.say(R_ALIVE)
        return data  # type: ignore[no-any-return]
