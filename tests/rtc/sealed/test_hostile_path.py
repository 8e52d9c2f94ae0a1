"""A TURN server that reads, repeats, reorders, changes, cuts, loses and makes up what it relays."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted

from rtunnel.addresses import ListenAddress
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.settings import ForwardSettings, ServiceSettings
from tests.reverse.net import HOST, until
from tests.rtc.host_parts import forward
from tests.rtc.sealed.hostile_path import HostilePath
from tests.rtc.sealed.parts import Says
from tests.rtc.test_host import web
from tests.rtc.udp.parts import Echo, Program
from tests.rtc.world import World, udp

#: What nobody on the way should see.
SERVICE, UDP_SERVICE = "payroll-of-may", "timesheets-of-may"
SECRET = b"the director gets twice as much; "


class Relayed:
    """A host and a client whose path is the relay's."""

    def __init__(self, rtc: World, host: RtcHost, client: RtcClient, path: HostilePath, echo: Echo) -> None:
        self.rtc = rtc
        self.host, self.client = host, client
        self.path = path
        self.echo = echo

    @property
    def udp(self) -> tuple[str, int]:
        [flows] = self.client.forwards.udp
        return HOST, int(flows.listener.local_address.rpartition(":")[2])


@pytest_twisted.async_yield_fixture
async def relayed(rtc: World) -> AsyncIterator[Relayed]:
    service, echo = await rtc.echo(), Echo()
    server = rtc.signal()
    host = rtc.host(server, web(SERVICE, service.port), ServiceSettings(UDP_SERVICE, udp(echo.address[1])))
    await rtc.registered(host)
    client = rtc.client(server, forward(SERVICE), ForwardSettings(UDP_SERVICE, udp(0)))
    for end in (host, client):
        end.sealing.trust = Says()
    path = HostilePath(host, client, seed=20)
    await rtc.connected(client)
    yield Relayed(rtc, host, client, path, echo)
    await rtc.stop(client)
    await rtc.stop(host)
    await path.close()
    await echo.close()


def bulk(count: int) -> bytes:
    """So many bytes, of which no piece is like another."""
    return b"".join(SECRET + b"%d." % number for number in range(count // len(SECRET)))


@pytest_twisted.ensureDeferred
async def test_it_sees_nothing(relayed: Relayed) -> None:
    visitor = await relayed.rtc.visitor(relayed.client)
    visitor.send(SECRET * 100)
    await visitor.has(SECRET * 100)
    program = Program()
    try:
        program.send(SECRET, relayed.udp)
        assert (await program.gets())[0] == SECRET
    finally:
        program.close()
    seen = b"".join(relayed.path.seen)
    # It did pass there.
    assert len(seen) > 2 * 100 * len(SECRET)
    for plain in (SECRET, SECRET[:8], SERVICE.encode(), UDP_SERVICE.encode(), b"sealed", b"rtunnel-control"):
        assert plain not in seen


@pytest_twisted.ensureDeferred
async def test_whatever_it_does_nothing_is_carried_wrongly(relayed: Relayed) -> None:
    sent = bulk(600_000)
    visitor = await relayed.rtc.visitor(relayed.client)
    relayed.path.is_hostile = True
    for start in range(0, len(sent), 10_000):
        visitor.send(sent[start : start + 10_000])
        await visitor.has(sent[: start + 10_000])
    assert visitor.received == sent
    assert len(relayed.path.did) == 8
    # It was the same connection all the time, and nobody was thrown out.
    assert relayed.rtc.lines.text.count("connected to host") == 1
    assert " lost: " not in relayed.rtc.lines.text


@pytest_twisted.ensureDeferred
async def test_datagrams_come_once_or_not_at_all(relayed: Relayed) -> None:
    program, path = Program(), relayed.path
    got: list[bytes] = []

    def drain() -> None:
        while (datagram := program.poll()) is not None:
            got.append(datagram[0])

    asked: list[bytes] = []

    async def ask(question: bytes) -> None:
        """Ask, and wait until it is on its way: what is sent at once may be in one packet, and lost in one."""
        asked.append(question)
        before = len(path.seen)
        program.send(question, relayed.udp)
        await until(lambda: len(path.seen) > before, "its packet")
        drain()

    try:
        for number in range(400):
            path.is_hostile = number > 0
            await ask(b"%d " % number + SECRET)
        path.is_hostile = False
        while not any(each.startswith(b"last") for each in got):
            await ask(b"last %d" % len(asked))
    finally:
        program.close()
    assert set(got) <= set(asked)
    assert len(set(got)) == len(got)
    assert len(got) > 200
    assert len(path.did) == 8
    for end in (relayed.client.peer, *relayed.host.peers):
        assert end is not None
        assert end.sealed is not None
        # DTLS has let nothing through that the seal would have to catch.
        assert end.sealed.channels.datagrams_forged == 0


@pytest.mark.parametrize("seed", range(3))
@pytest_twisted.ensureDeferred
async def test_from_the_first_packet(rtc: World, seed: int) -> None:
    """Handshakes take longer, and come to their end."""
    service, server = await rtc.echo(), rtc.signal()
    host = rtc.host(server, web(SERVICE, service.port))
    await rtc.registered(host)
    client = rtc.client(server, ForwardSettings(SERVICE, ListenAddress.parse(f"{HOST}:0")))
    for end in (host, client):
        end.sealing.trust = Says()
    path = HostilePath(host, client, seed)
    path.is_hostile = True
    try:
        visitor = await rtc.visitor(client)
        visitor.send(SECRET)
        await until(lambda: visitor.received == SECRET, "an echo")
    finally:
        await rtc.stop(client)
        await rtc.stop(host)
        await path.close()
    assert SECRET not in b"".join(path.seen)
