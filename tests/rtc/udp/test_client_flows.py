"""UDP at the client: what is kept, what is dropped, and a flood of sources; channels opened and closed by hand."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.application.service import MultiService

from rtunnel.addresses import ListenAddress
from rtunnel.errors import StartupError
from rtunnel.relay.udp.flows import MAX_WAITING, FlowTable
from rtunnel.rtc.settings import ForwardSettings
from rtunnel.rtc.udp_client import EARLY_SECONDS, MAX_CLOSING, MAX_EARLY, ClientFlows
from rtunnel.traffic.accounts import Accounts
from tests.leftovers import TestLog
from tests.reverse.net import HOST, reactor, turns, until
from tests.rtc.fakes import log_limiter
from tests.rtc.udp.parts import MAX_MESSAGE, MemoryConnection, Program, ReactorByHand, udp_address


class Client:
    """A client's forward, a connection of which the test is the other end, and one program.

    :ivar heard: what came through channels: label, and data or None for the end of the channel.
    """

    def __init__(self, log: TestLog) -> None:
        self.log = log
        self.reactor = ReactorByHand()
        self.table = FlowTable(self.reactor.clock, 10, 60.0)
        self.account = Accounts(self.reactor.clock).of("", "dns")
        forward = ForwardSettings("dns", udp_address(HOST, 0))
        self.flows = ClientFlows(self.reactor, forward, self.table, log_limiter(most=1), self.account)
        self.flows.listener.startService()
        self.local = (HOST, int(self.flows.listener.local_address.rpartition(":")[2]))
        self.near, self.far = MemoryConnection.pair()
        self.far.accept = lambda channel: channel.use(OtherEnd(self, channel))
        self.heard: list[tuple[str, bytes | None]] = []
        self.programs: list[Program] = []
        (self.program,) = self.more_programs(1)

    def more_programs(self, count: int) -> list[Program]:
        programs = [Program() for _ in range(count)]
        self.programs += programs
        return programs

    def end(self) -> None:
        self.flows.disconnected()
        self.flows.listener.stopService()
        for program in self.programs:
            program.close()

    def label(self, program: Program) -> str:
        return f"udp-{HOST}:{program.address[1]}"


class OtherEnd:
    """Writes down what a channel brings to the host."""

    def __init__(self, client: Client, channel: Any) -> None:
        self.client = client
        self.channel = channel

    def message_received(self, data: bytes) -> None:
        self.client.heard.append((self.channel.label, data))

    def channel_closed(self) -> None:
        self.client.heard.append((self.channel.label, None))


@pytest.fixture
def client(_nothing_left_behind: TestLog) -> Iterator[Client]:
    client = Client(_nothing_left_behind)
    yield client
    client.end()


@ensureDeferred
async def test_kept_until_the_channel_is_open_and_sent_in_order(client: Client) -> None:
    client.near.opens = False
    client.flows.connected(client.near)
    for number in range(MAX_WAITING + 3):
        client.program.send(b"%d" % number, client.local)
    await until(lambda: client.flows.dropped.total() == 3)
    (channel,) = client.near.channels
    assert (channel.protocol, channel.reliable) == ("dns", False)
    assert client.heard == []
    client.near.open_now(channel)
    client.program.send(b"last", client.local)
    await until(lambda: len(client.heard) == MAX_WAITING + 1)
    label = client.label(client.program)
    assert client.heard == [(label, b"%d" % number) for number in range(MAX_WAITING)] + [(label, b"last")]


@ensureDeferred
async def test_what_is_kept_is_bounded_in_bytes(client: Client) -> None:
    client.near.opens = False
    client.flows.connected(client.near)
    for _ in range(3):
        client.program.send(bytes(30000), client.local)
    await until(lambda: client.flows.dropped)
    assert client.flows.dropped == {"too many before the host has answered": 1}


@ensureDeferred
async def test_larger_than_the_host_takes(client: Client) -> None:
    client.near.max_message = 1200
    client.flows.connected(client.near)
    for size in (1201, 1200):
        client.program.send(bytes(size), client.local)
    await until(lambda: client.heard)
    assert client.heard == [(client.label(client.program), bytes(1200))]
    assert client.flows.dropped == {"larger than the host takes": 1}


@ensureDeferred
async def test_not_connected_keeps_the_last_few(client: Client) -> None:
    for number in range(MAX_EARLY + 5):
        client.program.send(b"%d" % number, client.local)
        if number % 16 == 0:
            await turns(2)
    await until(lambda: client.flows.dropped.total() == 5)
    assert client.flows.dropped == {"the host is not connected": 5}
    client.flows.connected(client.near)
    await until(lambda: client.heard)
    assert client.heard[0] == (client.label(client.program), b"5")
    assert len(client.near.channels) == 1


@ensureDeferred
async def test_not_connected_for_long_drops(client: Client) -> None:
    client.program.send(b"old", client.local)
    await turns()
    client.reactor.clock.advance(EARLY_SECONDS + 0.1)
    client.program.send(b"new", client.local)
    await turns()
    client.flows.connected(client.near)
    await until(lambda: client.heard)
    assert client.heard == [(client.label(client.program), b"new")]
    assert client.flows.dropped == {"the host is not connected": 1}


@ensureDeferred
async def test_answers_go_to_nobody_else(client: Client) -> None:
    client.flows.connected(client.near)
    one, other = client.more_programs(2)
    one.send(b"1", client.local)
    other.send(b"2", client.local)
    await until(lambda: len(client.heard) == 2)
    by_label = {channel.label: channel for channel in client.far.accepted}
    for _ in range(5):
        by_label[client.label(other)].send(b"for the other")
    assert await other.gets() == (b"for the other", client.local)
    await turns()
    assert one.poll() is None


@ensureDeferred
async def test_hostile_answers(client: Client) -> None:
    client.flows.connected(client.near)
    client.program.send(b"", client.local)
    await until(lambda: client.heard)
    assert client.heard == [(client.label(client.program), b"")]
    (channel,) = client.far.accepted
    for text in ('{"reset": "unknown"}', "x", "[]", '{"fin": 1}'):
        channel.send_text(text)
    channel.send(bytes(MAX_MESSAGE))
    channel.send(b"")
    channel.send(b"fine")
    assert [(await client.program.gets())[0] for _ in range(2)] == [b"", b"fine"]
    assert client.flows.dropped == {"Message too long": 1}


@ensureDeferred
async def test_channel_closed_by_the_host(client: Client) -> None:
    client.flows.connected(client.near)
    client.program.send(b"1", client.local)
    await until(lambda: client.heard)
    client.far.accepted[0].close()
    await until(lambda: not client.flows)
    assert len(client.table) == 0
    client.program.send(b"2", client.local)
    await until(lambda: client.heard[-1][1] == b"2")
    assert len(client.near.channels) == 2


@ensureDeferred
async def test_answer_behind_the_end_of_its_flow_is_dropped(client: Client) -> None:
    client.flows.connected(client.near)
    client.program.send(b"1", client.local)
    await until(lambda: client.heard)
    (channel,) = client.near.channels
    client.flows.disconnected()
    channel.user.message_received(b"late")
    channel.user.channel_opened()
    channel.user.channel_closed()
    await turns()
    assert client.program.poll() is None


@ensureDeferred
async def test_flood_of_sources_is_bounded(client: Client) -> None:
    client.near.opens = False
    client.flows.connected(client.near)
    sources = client.more_programs(300)
    for source in sources:
        source.send(b"x", client.local)
        await turns(1)
        # The memory channels answer a close in the next turn: so fast is no network, and nothing piles up.
        assert len(client.flows) <= 10
    await until(lambda: len(client.near.channels) == 300)
    # The last one that had to make room is closed in the next turn.
    await until(lambda: len(client.near.open_channels) == 10)
    assert len(client.table) == 10


@ensureDeferred
async def test_flood_with_a_host_that_never_closes_is_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.rtc.udp.parts.MemoryChannel.close", lambda channel: None)
    client.flows.connected(client.near)
    sources = client.more_programs(100)
    for source in sources:
        source.send(b"x", client.local)
    await until(lambda: client.flows.dropped["too many sources"] == 100 - 10 - MAX_CLOSING)
    assert len(client.near.channels) == 10 + MAX_CLOSING
    client.flows.disconnected()
    near, _ = MemoryConnection.pair()
    near.opens = False
    client.flows.connected(near)
    sources[0].send(b"x", client.local)
    await until(lambda: near.channels)


@ensureDeferred
async def test_a_client_that_goes_down_begins_no_flow(client: Client) -> None:
    client.flows.connected(client.near)
    (other,) = client.more_programs(1)
    client.program.send(b"before", client.local)
    await until(lambda: client.heard)
    client.flows.take_no_more()
    other.send(b"late", client.local)
    await until(lambda: client.flows.dropped)
    assert client.flows.dropped == {"the client is going down": 1}
    client.program.send(b"after", client.local)
    await until(lambda: len(client.heard) == 2)
    assert [data for _, data in client.heard] == [b"before", b"after"]


@ensureDeferred
async def test_one_warning_for_many_drops(client: Client) -> None:
    client.near.max_message = 10
    client.flows.connected(client.near)
    for _ in range(20):
        client.program.send(bytes(11), client.local)
    await until(lambda: client.flows.dropped.total() == 20)
    text = client.log.text()
    assert text.count("larger than the host takes") == 1
    assert f"UDP datagrams at {HOST}:0 are dropped" in text
    client.flows.disconnected()
    line = f"UDP flow {HOST}:{client.program.address[1]} ends (the host is not connected)"
    assert f"{line}; sent 0, received 0, dropped 20" in client.log.text()


def test_busy_port_ends_the_process_with_one_line(client: Client) -> None:
    forward = ForwardSettings("", udp_address(*client.local))
    tree = MultiService()
    ClientFlows(reactor, forward, client.table, log_limiter(), client.account).listener.setServiceParent(tree)
    with pytest.raises(StartupError) as caught:
        tree.privilegedStartService()
    assert str(caught.value) == (
        f"cannot listen on {HOST}:{client.local[1]} (forward, UDP): Address already in use; "
        "stop what holds it, or choose another address with --local"
    )


def test_name_that_is_none_ends_the_process_with_one_line(client: Client) -> None:
    forward = ForwardSettings("", udp_address("no-such-name.invalid", 5000))
    with pytest.raises(StartupError, match=r"cannot listen on no-such-name\.invalid:5000"):
        ClientFlows(reactor, forward, client.table, log_limiter(), client.account).listener.startService()


def test_listener_says_where_it_listens(client: Client) -> None:
    listener = client.flows.listener
    line = f"forward to service 'dns' listening on {listener.local_address} (UDP)"
    assert line in client.log.text()
    listener.stopService()
    assert listener.local_address == f"{HOST}:0"
    # The port is free again at once.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(client.local)


def test_a_forward_of_tcp_is_none_of_ours(client: Client) -> None:
    forward = ForwardSettings("", ListenAddress.parse("127.0.0.1:0"))
    with pytest.raises(TypeError):
        ClientFlows(reactor, forward, client.table, log_limiter(), client.account)
