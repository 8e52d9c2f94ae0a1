"""UDP from a local program through client and host to a service and back, over channels in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.logger import Logger

from rtunnel.addresses import UdpAddress
from rtunnel.relay.udp.flows import BRIEF_IDLE, LASTING_IDLE, FlowTable
from rtunnel.rtc.settings import ForwardSettings
from rtunnel.rtc.udp_client import ClientFlows
from rtunnel.rtc.udp_host import HostFlows
from rtunnel.traffic.accounts import Accounts
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter
from tests.needs import needs_ipv6
from tests.reverse.net import HOST, reactor, turns, until
from tests.rtc.fakes import log_limiter
from tests.rtc.udp.parts import Echo, MemoryChannel, MemoryConnection, Program, ReactorByHand, udp_address

IDLE = 60.0


class Tunnel:
    """A client with forwards to services, and the host that serves them.

    :ivar remotes: the host's services by name.
    """

    def __init__(self) -> None:
        self.remotes: dict[str, UdpAddress] = {}
        self.forwards: list[ClientFlows] = []
        self.programs: list[Program] = []
        self.echoes: list[Echo] = []
        self.hosts: list[HostFlows] = []
        self.reactor = ReactorByHand()
        self.table: FlowTable
        self.near: MemoryConnection
        self.far: MemoryConnection
        self.host: HostFlows

    def start(
        self,
        *names: str,
        max_flows: int = 100,
        host_flows: int = 100,
        idle: float | None = IDLE,
        where: str = HOST,
    ) -> list[Any]:
        """Listen for each service, and connect; where the client listens."""
        self._idle = idle
        self.account = Accounts(self.reactor.clock).of("", "dns")
        self.table = FlowTable(self.reactor.clock, max_flows, idle)
        for name in names:
            forward = ForwardSettings(name, udp_address(where, 0))
            flows = ClientFlows(self.reactor, forward, self.table, log_limiter(), self.account)
            flows.listener.privilegedStartService()
            flows.listener.startService()
            self.forwards.append(flows)
        self.connect(host_flows)
        return [self.local(flows) for flows in self.forwards]

    def local(self, flows: ClientFlows) -> tuple[str, int]:
        host, _, port = flows.listener.local_address.rpartition(":")
        return host, int(port)

    def connect(self, host_flows: int = 100) -> None:
        self.near, self.far = MemoryConnection.pair()
        lines = LogLimiter(Logger("host"), reactor)
        self.host = HostFlows(self.reactor, self.far, host_flows, self._idle, lines, "client", Descriptors(reactor))
        self.hosts.append(self.host)
        self.far.accept = self._accept
        for flows in self.forwards:
            flows.connected(self.near)

    def _accept(self, channel: MemoryChannel) -> None:
        self.host.accept(channel, self.remotes[channel.protocol], self.account)

    def lose(self) -> None:
        self.near.lose()
        self.far.lose()
        for flows in self.forwards:
            flows.disconnected()
        self.host.close()

    def echo(self, name: str = "", prefix: bytes = b"", host: str = HOST) -> Echo:
        echo = Echo(host, prefix=prefix)
        self.echoes.append(echo)
        self.remotes[name] = udp_address(*echo.address)
        return echo

    def program(self, host: str = HOST) -> Program:
        program = Program(host)
        self.programs.append(program)
        return program

    async def end(self) -> None:
        for flows in self.forwards:
            flows.disconnected()
            flows.listener.stopService()
            assert len(flows) == 0
        for host in self.hosts:
            host.close()
            assert len(host) == 0
        for program in self.programs:
            program.close()
        for echo in self.echoes:
            await echo.close()


@pytest_twisted.async_yield_fixture
async def tunnel(_nothing_left_behind: object) -> AsyncIterator[Tunnel]:
    tunnel = Tunnel()
    yield tunnel
    await tunnel.end()


@ensureDeferred
async def test_twenty_sources_at_once_each_get_their_own_answers(tunnel: Tunnel) -> None:
    echo = tunnel.echo()
    (local,) = tunnel.start("")
    programs = [tunnel.program() for _ in range(20)]
    for question in range(10):
        for number, program in enumerate(programs):
            program.send(b"%d of %d" % (question, number), local)
    for number, program in enumerate(programs):
        got = [(await program.gets()) for _ in range(10)]
        assert got == [(b"%d of %d" % (question, number), local) for question in range(10)]
    await turns()
    assert all(program.poll() is None for program in programs)
    assert len(echo.sources) == 20
    assert len(tunnel.near.channels) == 20
    labels = {f"udp-{HOST}:{program.address[1]}" for program in programs}
    assert {channel.label for channel in tunnel.near.channels} == labels
    assert not any(channel.reliable for channel in tunnel.near.channels)


@ensureDeferred
async def test_one_program_and_two_addresses_of_the_machine(tunnel: Tunnel) -> None:
    """To a program these are two servers: each answers its own questions, in a flow of its own."""
    echo = tunnel.echo()
    ((_, port),) = tunnel.start("", where="0.0.0.0")
    program, asked = tunnel.program(), ["127.0.0.2", "127.0.0.1", "127.0.0.2"]
    for host in asked:
        program.send(host.encode(), (host, port))
        assert await program.gets() == (host.encode(), (host, port))
    assert len(echo.sources) == 2
    assert len(tunnel.near.channels) == 2


@pytest.mark.parametrize("size", [0, 1, 1200, 16384, 60000])
@ensureDeferred
async def test_every_size_there_and_back(tunnel: Tunnel, size: int) -> None:
    tunnel.echo()
    (local,) = tunnel.start("")
    program, data = tunnel.program(), bytes(range(250)) * 240
    for _ in range(2):
        program.send(data[:size], local)
        assert await program.gets() == (data[:size], local)


@ensureDeferred
async def test_each_forward_reaches_its_own_service(tunnel: Tunnel) -> None:
    tunnel.echo("dns", b"dns ")
    tunnel.echo("ntp", b"ntp ")
    dns, ntp = tunnel.start("dns", "ntp")
    # The same source asks both.
    program = tunnel.program()
    program.send(b"1", dns)
    assert await program.gets() == (b"dns 1", dns)
    program.send(b"2", ntp)
    assert await program.gets() == (b"ntp 2", ntp)
    assert {channel.protocol for channel in tunnel.near.channels} == {"dns", "ntp"}


@ensureDeferred
async def test_idle_flow_closes_and_the_next_datagram_opens_a_new_one(tunnel: Tunnel) -> None:
    echo = tunnel.echo()
    (local,) = tunnel.start("")
    program = tunnel.program()
    program.send(b"1", local)
    await program.gets()
    tunnel.reactor.clock.advance(IDLE - 1)
    assert (len(tunnel.forwards[0]), len(tunnel.host)) == (1, 1)
    tunnel.reactor.clock.advance(1)
    await until(lambda: not tunnel.near.open_channels)
    assert (len(tunnel.forwards[0]), len(tunnel.host)) == (0, 0)
    program.send(b"2", local)
    assert (await program.gets())[0] == b"2"
    assert len(tunnel.near.channels) == 2
    assert len(echo.sources) == 2


@ensureDeferred
async def test_a_flow_without_answers_is_not_idle(tunnel: Tunnel) -> None:
    silent = tunnel.program()
    tunnel.remotes[""] = udp_address(*silent.address)
    (local,) = tunnel.start("")
    program = tunnel.program()
    for _ in range(3):
        program.send(b"news", local)
        await silent.gets()
        tunnel.reactor.clock.advance(IDLE - 1)
    assert [channel.is_open for channel in tunnel.near.channels] == [True]
    assert (len(tunnel.forwards[0]), len(tunnel.host)) == (1, 1)


@ensureDeferred
async def test_flows_that_went_both_ways_twice_outlive_silence_at_both_ends(tunnel: Tunnel) -> None:
    tunnel.echo()
    (local,) = tunnel.start("", idle=None)
    asker, peer = tunnel.program(), tunnel.program()
    asker.send(b"a name?", local)
    await asker.gets()
    for _ in range(2):
        peer.send(b"to and fro", local)
        await peer.gets()
    tunnel.reactor.clock.advance(BRIEF_IDLE)
    await until(lambda: len(tunnel.near.open_channels) == 1)
    assert (len(tunnel.forwards[0]), len(tunnel.host)) == (1, 1)
    tunnel.reactor.clock.advance(LASTING_IDLE - BRIEF_IDLE - 1)
    peer.send(b"again", local)
    assert (await peer.gets())[0] == b"again"
    assert len(tunnel.near.channels) == 2
    tunnel.reactor.clock.advance(LASTING_IDLE)
    assert (len(tunnel.forwards[0]), len(tunnel.host)) == (0, 0)


@ensureDeferred
async def test_room_is_made_for_a_new_source(tunnel: Tunnel) -> None:
    tunnel.echo("a")
    tunnel.echo("b")
    a, b = tunnel.start("a", "b", max_flows=3)
    programs = [tunnel.program() for _ in range(5)]
    for number, program in enumerate(programs):
        # The bound is of both forwards together.
        program.send(b"%d" % number, (a, b)[number % 2])
        assert (await program.gets())[0] == b"%d" % number
    await turns()
    labels = [f"udp-{HOST}:{program.address[1]}" for program in programs]
    assert [channel.label for channel in tunnel.near.open_channels] == labels[2:]
    assert len(tunnel.host) == 3
    programs[0].send(b"again", a)
    assert (await programs[0].gets())[0] == b"again"


@ensureDeferred
async def test_host_makes_room_for_a_new_flow(tunnel: Tunnel) -> None:
    tunnel.echo()
    (local,) = tunnel.start("", host_flows=2)
    programs = [tunnel.program() for _ in range(4)]
    for program in programs:
        program.send(b"x", local)
        await program.gets()
    await until(lambda: len(tunnel.near.open_channels) == 2)
    assert (len(tunnel.host), len(tunnel.forwards[0])) == (2, 2)
    programs[0].send(b"again", local)
    assert (await programs[0].gets())[0] == b"again"


@ensureDeferred
async def test_service_that_goes_and_comes_back(tunnel: Tunnel) -> None:
    echo = tunnel.echo()
    (local,) = tunnel.start("")
    program = tunnel.program()
    program.send(b"1", local)
    await program.gets()
    tunnel.echoes.remove(echo)
    await echo.close()
    program.send(b"2", local)
    await until(lambda: tunnel.host.dropped["Connection refused"])
    tunnel.echoes.append(Echo(*echo.address))
    program.send(b"3", local)
    assert (await program.gets())[0] == b"3"
    assert len(tunnel.near.channels) == 1


@ensureDeferred
async def test_a_new_connection_takes_the_flows_up_again(tunnel: Tunnel) -> None:
    tunnel.echo()
    (local,) = tunnel.start("")
    program = tunnel.program()
    program.send(b"1", local)
    await program.gets()
    tunnel.lose()
    assert (len(tunnel.forwards[0]), len(tunnel.host)) == (0, 0)
    # What comes shortly before it is connected waits.
    program.send(b"2", local)
    program.send(b"3", local)
    await turns()
    tunnel.connect()
    assert [(await program.gets())[0] for _ in range(2)] == [b"2", b"3"]
    assert tunnel.forwards[0].dropped == {}


@needs_ipv6
@ensureDeferred
async def test_ipv6_at_both_ends(tunnel: Tunnel) -> None:
    tunnel.echo(host="::1")
    tunnel.start()
    flows = ClientFlows(
        tunnel.reactor, ForwardSettings("", udp_address("::1", 0)), tunnel.table, log_limiter(), tunnel.account
    )
    tunnel.forwards.append(flows)
    flows.listener.startService()
    flows.connected(tunnel.near)
    program = tunnel.program("::1")
    local = ("::1", int(flows.listener.local_address.removeprefix("[::1]:")))
    program.send(b"six", local)
    assert (await program.gets())[0] == b"six"
    assert tunnel.near.channels[0].label == f"udp-[::1]:{program.address[1]}"


@ensureDeferred
async def test_names_at_both_ends(tunnel: Tunnel) -> None:
    echo = tunnel.echo()
    tunnel.remotes[""] = udp_address("localhost", echo.address[1])
    tunnel.start()
    flows = ClientFlows(
        tunnel.reactor, ForwardSettings("", udp_address("localhost", 0)), tunnel.table, log_limiter(), tunnel.account
    )
    tunnel.forwards.append(flows)
    flows.listener.startService()
    flows.connected(tunnel.near)
    local, program = tunnel.local(flows), tunnel.program()
    assert local[0] == HOST
    for number in range(5):
        program.send(b"%d" % number, local)
    assert [(await program.gets())[0] for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


@ensureDeferred
async def test_channel_without_the_extension_serves_one_flow(tunnel: Tunnel) -> None:
    """A reference client: one channel, another label, no service named."""
    tunnel.echo()
    tunnel.start()
    answers: list[bytes] = []
    tunnel.near.open_channel("tunnel-udp", reliable=False).use(Collector(answers.append))
    await until(lambda: tunnel.near.channels[0].is_open)
    tunnel.near.channels[0].send(b"hello")
    await until(lambda: answers)
    assert answers == [b"hello"]


class Collector:
    """Uses a channel by hand."""

    def __init__(self, received: Callable[[bytes], object]) -> None:
        self.message_received = received
        self.closed = False

    def channel_opened(self) -> None:
        pass

    def text_received(self, text: bytes) -> None:
        raise AssertionError(text)

    def channel_closed(self) -> None:
        self.closed = True
