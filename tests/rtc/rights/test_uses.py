"""What a client uses at a host is counted, and is no more than it may, whatever the connection is doing."""

from __future__ import annotations

import gc
from datetime import UTC, datetime
from typing import Any

import pytest_twisted
from twisted.internet.task import Clock

from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.peers.rights import EVERYTHING, ClientRights, ServiceRights
from rtunnel.access.trust import Verdict
from rtunnel.control.rtc.host import look
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.rights.uses import ANY, TOO_FAST, Uses
from rtunnel.rtc.settings import ForwardSettings, ServiceSettings
from rtunnel.shaping.ends import MeteredEnd, MeteredPromptEnd
from rtunnel.shaping.shaper import LEAST_BURST
from tests.reverse.net import HOST, until
from tests.rtc.host_parts import forward
from tests.rtc.sealed.parts import Says
from tests.rtc.udp.parts import Echo, Program
from tests.rtc.world import World, udp

KB = 1000


def nothing(_end: Any) -> None:
    pass


def let(host: RtcHost, rights: ClientRights) -> None:
    """Let all clients of a host have these rights, and no others a second later."""
    trust = host.sealing.trust = Says()
    trust.verdict = Verdict(name="laptop", rights=rights)
    for peer in host.peers:
        peer.use.name = "laptop"
        peer.use.change(rights)


class Relay:
    """Something that counts."""

    def __init__(self, sent: int = 0, received: int = 0) -> None:
        self.bytes_sent = sent
        self.bytes_received = received


class TestCounts:
    def test_streams_and_bytes(self) -> None:
        use = Uses(Clock()).of("laptop", "laptop")
        one, other, third = Relay(1, 2), Relay(10, 20), Relay(100, 200)
        web, dns = use.flow("web"), use.flow("dns")
        web.begin(one)
        web.begin(other)
        dns.begin(third)
        assert (use.streams, use.streams_of("web"), use.streams_of("dns"), use.streams_of("ssh")) == (3, 2, 1, 0)
        web.over(one)
        web.over(one)
        other.bytes_sent += 5
        found = {each.name: (len(each.live), each.streams, *each.totals) for each in use}
        assert found == {"web": (1, 2, 16, 22), "dns": (1, 1, 100, 200)}

    def test_a_client_with_two_connections_is_one(self) -> None:
        uses = Uses(Clock())
        one = uses.of("laptop", "laptop", ClientRights(streams=1))
        assert uses.of("laptop", "laptop", ClientRights(streams=2)) is one
        assert one.rights.streams == 2
        assert uses.of("phone", "phone") is not one
        # A name is not who somebody is, and can change.
        assert uses.of("certificate laptop", "laptop") is not one
        assert uses.of("laptop", "anna's laptop") is one
        assert one.name == "anna's laptop"

    def test_strangers_leave_nothing(self) -> None:
        uses = Uses(Clock())
        uses.of("a", "a")
        gc.collect()
        assert len(uses._clients) == 0

    def test_an_end_that_is_lost(self) -> None:
        use = Uses(Clock()).of("laptop", "laptop", ClientRights(rate=KB))
        end = SocketEnd(nothing, nothing)
        use.serve(end, "web")
        assert isinstance(end, MeteredEnd)
        assert use.streams_of("web") == 1
        end.connectionLost()
        assert use.streams_of("web") == 0


class TestDatagrams:
    def test_both_directions_by_the_clock(self) -> None:
        clock = Clock()
        flow = Uses(clock).of("laptop", "laptop", ClientRights(rate=10 * KB)).flow("dns")
        passed = {True: 0, False: 0}
        for _ in range(1000):
            clock.advance(0.01)
            for down in passed:
                passed[down] += 500 * flow.passes(500, down=down)
        for count in passed.values():
            assert 100 * KB <= count <= 100 * KB + LEAST_BURST + 500

    def test_the_service_has_a_bound_of_its_own(self) -> None:
        clock = Clock()
        use = Uses(clock).of("laptop", "laptop", ClientRights(of_service={"dns": ServiceRights(rate=10 * KB)}))
        dns, web = use.flow("dns"), use.flow("web")
        count = 0
        for _ in range(1000):
            clock.advance(0.01)
            count += 500 * dns.passes(500, down=True)
            assert web.passes(10**9, down=True)
        assert 100 * KB <= count <= 100 * KB + LEAST_BURST + 500

    def test_without_a_limit_everything_passes(self) -> None:
        flow = Uses(Clock()).of("laptop", "laptop").flow("dns")
        assert all(flow.passes(10**9, down=down) for down in (True, False))

    def test_a_limit_comes_and_goes(self) -> None:
        clock = Clock()
        use = Uses(clock).of("laptop", "laptop")
        flow = use.flow("dns")
        use.change(ClientRights(rate=KB))
        while flow.passes(10 * KB, down=True):
            pass
        assert not flow.passes(1, down=True)
        use.change(EVERYTHING)
        assert use._bandwidth is not None
        assert use._bandwidth.rate == ANY
        clock.advance(1)
        assert flow.passes(10**6, down=True)
        assert flow.passes(10**6, down=True)


@pytest_twisted.ensureDeferred
async def test_a_limit_that_comes_while_bytes_pass(rtc: World) -> None:
    """It holds for the connection that there is, loses nothing, and goes again."""
    server, service = rtc.signal(), await rtc.service()
    host = rtc.host(server, service.port)
    client = rtc.client(server)
    await rtc.connected(client)
    await until(lambda: all(peer.is_connected for peer in host.peers), "the host")
    visitor = await rtc.visitor(client)
    visitor.send(b"hello")
    peer = await service.peer()
    await peer.has(b"hello")
    [end] = host.visitors._ends
    [at_host] = host.peers
    assert not isinstance(end, MeteredEnd)
    let(host, ClientRights(rate=100 * KB))
    assert isinstance(end, MeteredPromptEnd)
    began = host.reactor.seconds()
    sent = bytes(range(256)) * 400
    visitor.send(sent)
    peer.send(sent)
    await until(lambda: len(peer.received) == len(sent) + 5 and len(visitor.received) == len(sent), "all of it")
    # What it may save up is the only thing that may come at once.
    assert host.reactor.seconds() - began >= (len(sent) - LEAST_BURST - 2 * end.meter.piece) / (100 * KB)
    assert peer.received == b"hello" + sent
    assert visitor.received == sent
    let(host, ClientRights(rate=100 * KB, of_service={"": ServiceRights(rate=50 * KB)}))
    visitor.send(sent)
    peer.send(sent)
    let(host, EVERYTHING)
    await until(lambda: len(peer.received) == 2 * len(sent) + 5 and len(visitor.received) == 2 * len(sent), "the rest")
    assert visitor.received == 2 * sent
    visitor.close()
    peer.close()
    await until(lambda: at_host.use.streams == 0, "the end")


@pytest_twisted.ensureDeferred
async def test_two_connections_share_it(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.service()
    host = rtc.host(server, service.port)
    client = rtc.client(server)
    await rtc.connected(client)
    await until(lambda: all(peer.is_connected for peer in host.peers), "the host")
    let(host, ClientRights(rate=100 * KB))
    visitors = [await rtc.visitor(client) for _ in range(2)]
    began = host.reactor.seconds()
    for visitor in visitors:
        visitor.send(bytes(50 * KB))
    await until(lambda: sum(len(peer.received) for peer in service.peers) == 100 * KB, "all of it")
    pieces = sum(end.meter.piece for end in host.visitors._ends if isinstance(end, MeteredEnd))
    assert host.reactor.seconds() - began >= (100 * KB - LEAST_BURST - 2 * pieces) / (100 * KB)


@pytest_twisted.ensureDeferred
async def test_status(rtc: World) -> None:
    server, service, echo = rtc.signal(), await rtc.echo(), Echo()
    host = rtc.host(server, service.port, ServiceSettings("dns", udp(echo.address[1])))
    client = rtc.client(server, forward(""), ForwardSettings("dns", udp(0)))
    await rtc.connected(client)
    await until(lambda: all(peer.is_connected for peer in host.peers), "the host")
    [at_host] = host.peers
    until_then = datetime(2030, 1, 1, tzinfo=UTC)
    let(host, ClientRights(frozenset({"", "dns"}), 7, 10**6, until_then))
    visitor = await rtc.visitor(client)
    visitor.send(b"12345")
    await visitor.has(b"12345")
    program = Program()
    try:
        program.send(b"123", (HOST, int(client.forwards.udp[0].listener.local_address.rpartition(":")[2])))
        assert (await program.gets())[0] == b"123"
        assert look(host)["identity"] == {
            "fingerprint": show_fingerprint(host.sealing.identity.fingerprint),
            "signature": "ML-DSA-65",
            "closed": False,
        }
        [peer] = look(host)["peers"]
        assert peer["client"] == "laptop"
        assert peer["may"] == {
            "services": ["(default)", "dns"],
            "streams": 7,
            "bytes_per_second": 10**6,
            "until": "2030-01-01T00:00:00+00:00",
        }
        assert peer["uses"] == [
            {"service": "(default)", "streams": 1, "streams_total": 1, "from_client": 5, "to_client": 5},
            {"service": "dns", "streams": 1, "streams_total": 1, "from_client": 3, "to_client": 3},
        ]
        let(host, ClientRights(rate=KB))

        def is_dropped() -> bool:
            program.send(bytes(1000), (HOST, int(client.forwards.udp[0].listener.local_address.rpartition(":")[2])))
            return at_host._flows.dropped[TOO_FAST] > 0

        await until(is_dropped, "a datagram that is too many")
    finally:
        program.close()
        await echo.close()
