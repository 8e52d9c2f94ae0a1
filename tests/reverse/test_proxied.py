"""A control port and public ports behind a load balancer that sends PROXY headers."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.addresses import ListenAddress
from rtunnel.relay.proxy_header import SIGNATURE
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ServerSettings
from tests.ports import free_port
from tests.reverse.data import AUTO, CAPABILITIES, R_DATA, RawData, session_of, tickets_of
from tests.reverse.net import HELLO, HOST, INIT, READY, RawLink, hello, reactor, until
from tests.reverse.world import World

V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 %d 7000\r\n"
#: With a TLV behind the addresses.
V2 = SIGNATURE + b"\x21\x11\x00\x13\xc0\x00\x02\x07\xc6\x33\x64\x01%c%c\x1b\x58\x02\x00\x04name"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


def v1(port: int) -> bytes:
    return V1 % port


def v2(port: int) -> bytes:
    return V2 % divmod(port, 256)


def behind_a_balancer(world: World, **more: Any) -> TunnelServer:
    control = ListenAddress.parse(f"haproxy:tcp:0:interface={HOST}")
    server: TunnelServer = world.start(TunnelServer(reactor, ServerSettings(control, public_interface=HOST, **more)))
    return server


@AUTO
@pytest.mark.parametrize("header", [v1, v2])
@ensureDeferred
async def test_link_and_data_connections(world: World, header: Any) -> None:
    """The log shows the client, and a data connection's socket can be taken."""
    server, port = behind_a_balancer(world), free_port()
    link = await world.raw(server)
    link.send(header(1111) + hello(capabilities=CAPABILITIES))
    await link.take(HELLO)
    link.put(INIT, 0, b"%d:local" % port)
    await link.take(READY, 0)
    await world.logged("client 192.0.2.7:1111 connected (by hand)")
    assert session_of(server).peer_name == "192.0.2.7:1111"
    data: RawData = await world.join(world.control_port(server), RawData())
    data.send(header(2222))
    data.attach((await tickets_of(link))[0].id)
    await until(lambda: session_of(server).carriers[0]._idle or data.over)
    assert not data.over
    visitor = await world.visitor(port)
    visitor.send(b"GET /")
    await data.is_used()
    await data.has_stream(b"GET /")
    data.say(R_DATA, b"200 OK")
    await visitor.has(b"200 OK")
    await link.is_alive()


@ensureDeferred
async def test_what_the_log_says_of_whom(world: World) -> None:
    server = behind_a_balancer(world)
    for header, said in ((v1(3333), "192.0.2.7:3333"), (LOCAL, None)):
        stranger: RawLink = await world.raw(server)
        stranger.send(header + b"GET / HTTP/1.1\r\n")
        await stranger.ends()
        assert (await world.logged(f"connection from {said or stranger.name} closed: ", LogLevel.warn)).count("HTTP")
