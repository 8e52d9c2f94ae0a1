"""What the tests of groups share: members by hand, and how they join."""

from __future__ import annotations

import json
from typing import Any

from rtunnel.addresses import ListenAddress
from rtunnel.reverse.server.service import TunnelServer
from tests.reverse.net import ERROR, HELLO, HOST, INIT, NEW_CONN, PING, PONG, READY, RawLink, hello
from tests.reverse.world import World

CAPABILITIES = ["withdraw", "udp", "hosts", "rules"]
LOCAL = ListenAddress.parse(f"{HOST}:0")
KEY = "0123456789abcdef"
GROUP: dict[str, object] = {"group": "web", "group-key": KEY}
WITHDRAWAL = b'{"scope": "tunnel", "code": "shutting-down", "message": ""}'
STATE = 0x1C
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DOWN = b'{"ready": false, "why": "connection refused"}'
UP = b'{"ready": true}'


class Member(RawLink):
    """A client by hand that answers PINGs."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        for kind, _, payload in self.frames:
            if kind == PING:
                self.put(PONG, 0, payload)
        self.frames = [frame for frame in self.frames if frame[0] != PING]


async def join(world: World, server: TunnelServer, **values: Any) -> RawLink:
    """A client of a server."""
    link = await world.join(world.control_port(server), Member())
    return await greet(link, **values)


async def dead(world: World, server: TunnelServer, **values: Any) -> RawLink:
    """A client that answers nothing."""
    return await greet(await world.raw(server), **values)


async def greet(link: RawLink, **values: Any) -> RawLink:
    link.send(hello(capabilities=CAPABILITIES, **values))
    await link.take(HELLO)
    return link


def ask(link: RawLink, what: object, rules: dict[str, object], number: int = 0) -> None:
    second = f"\n{json.dumps(rules)}" if rules else ""
    link.put(INIT, number, f"{what}:local{second}".encode())


async def publish(link: RawLink, what: object, rules: dict[str, object] = GROUP, number: int = 0) -> None:
    ask(link, what, rules, number)
    await link.take(READY, number)


async def refusal(link: RawLink, what: object, rules: dict[str, object] = GROUP, number: int = 0) -> tuple[str, str]:
    """Ask for a place in vain; return the code and the text."""
    ask(link, what, rules, number)
    error = await link.take_json(ERROR, number)
    return error["code"], error["message"]


async def visit(world: World, port: int, *links: RawLink) -> None:
    """So many visitors of *port* reach one of these links each."""
    for _ in links:
        await world.visitor(port)
    for link in links:
        await link.take(NEW_CONN)


async def group_of(world: World, server: TunnelServer, count: int, what: object, **rules: object) -> list[RawLink]:
    """Members by hand."""
    links = [await join(world, server) for _ in range(count)]
    for link in links:
        await publish(link, what, {**GROUP, **rules})
    return links


def visitors(link: RawLink) -> int:
    """How many visitors came to it."""
    return link.seen.count(NEW_CONN)
