"""UDP at the host: channels of a client that does what it likes, and services that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.logger import Logger

from rtunnel.addresses import UdpAddress
from rtunnel.relay.udp.flows import MAX_WAITING
from rtunnel.relay.udp.sockets import UdpSocket
from rtunnel.rtc.udp_host import HostFlows
from rtunnel.services.flow import TRY_AGAIN
from rtunnel.tls.server_names import is_ip_address
from rtunnel.traffic.accounts import Accounts
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter
from tests.leftovers import TestLog
from tests.needs import needs_ipv6
from tests.no_collector import Left, no_collector
from tests.reverse.net import HOST, reactor, turns, until
from tests.rtc.udp.parts import (
    MAX_MESSAGE,
    Echo,
    MemoryChannel,
    MemoryConnection,
    Program,
    ReactorByHand,
    udp_address,
)


class Names(ReactorByHand):
    """Stands for the reactor, with a resolver that answers when the test says so.

    :ivar asked: the names that were asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.nameResolver = self
        self._receivers: list[tuple[str, Any]] = []

    def resolveHostName(self, receiver: Any, name: str, port: int) -> None:
        assert port == 0
        self.asked.append(name)
        receiver.resolutionBegan(None)
        self._receivers.append((name, receiver))

    def answer(self, *hosts: str, name: str = "service.example") -> None:
        """Answer everybody who asks for this name."""
        receivers, self._receivers = self._receivers, [one for one in self._receivers if one[0] != name]
        for receiver in [receiver for asked, receiver in receivers if asked == name]:
            for host in hosts:
                receiver.addressResolved((IPv6Address if ":" in host else IPv4Address)("TCP", host, 0))
            receiver.resolutionComplete()


class Channel(MemoryChannel):
    """The client's end of a channel.

    :ivar answers: what came back.
    """

    def __init__(self, connection: MemoryConnection, label: str) -> None:
        super().__init__(connection, label, "", False)
        self.is_open = True
        self.answers: list[bytes] = []
        self.use(self)

    def message_received(self, data: bytes) -> None:
        self.answers.append(data)

    def channel_closed(self) -> None:
        pass


class Host:
    """A host's flows, of which the test is the client; and its service."""

    def __init__(self, log: TestLog) -> None:
        self.log = log
        self.names = Names()
        self.near, self.far = MemoryConnection.pair()
        lines = LogLimiter(Logger("host"), reactor, most=1)
        self.flows = HostFlows(self.names, self.far, 10, 60.0, lines, "client", Descriptors(reactor))
        self.account = Accounts(reactor).of("", "dns")
        self.service = Program()
        self.remote = udp_address(*self.service.address)

    def channel(self, remote: UdpAddress | None = None, label: str = "udp-127.0.0.1:5000") -> Channel:
        near, far = Channel(self.near, label), MemoryChannel(self.far, label, "", False)
        near.other, far.other, far.is_open = far, near, True
        self.flows.accept(far, remote or self.remote, self.account)
        return near

    def end(self) -> None:
        self.flows.close()
        self.service.close()


@pytest.fixture
def host(_nothing_left_behind: TestLog) -> Iterator[Host]:
    host = Host(_nothing_left_behind)
    yield host
    host.end()


@ensureDeferred
async def test_each_channel_is_a_source_for_the_service(host: Host) -> None:
    channels = [host.channel() for _ in range(5)]
    for number, channel in enumerate(channels):
        channel.send(b"%d" % number)
    got = [await host.service.gets() for _ in channels]
    assert sorted(data for data, _ in got) == [b"0", b"1", b"2", b"3", b"4"]
    assert len({source for _, source in got}) == 5
    for data, source in got:
        host.service.send(b"answer " + data, source)
    await until(lambda: all(channel.answers for channel in channels))
    assert [channel.answers for channel in channels] == [[b"answer %d" % number] for number in range(5)]


@ensureDeferred
async def test_nobody_else_can_answer(host: Host) -> None:
    channel, stranger = host.channel(), Program()
    channel.send(b"question")
    _, source = await host.service.gets()
    stranger.send(b"lie", source)
    await turns()
    host.service.send(b"truth", source)
    await until(lambda: channel.answers)
    assert channel.answers == [b"truth"]
    stranger.close()


@ensureDeferred
async def test_hostile_messages(host: Host) -> None:
    channel = host.channel(label="udp-\n\x1b[31m" + "x" * 10000)
    channel.send_text('{"credit": 1}')
    channel.send(bytes(MAX_MESSAGE))
    channel.send(b"")
    assert (await host.service.gets())[0] == b""
    assert host.flows.dropped == {"Message too long": 1}
    assert "UDP flow udp-??[31mxxx" in host.log.text()
    assert max(map(len, host.log.text().splitlines())) < 1000


@ensureDeferred
async def test_answer_larger_than_the_client_takes(host: Host) -> None:
    host.far.max_message = 1200
    channel = host.channel()
    channel.send(b"question")
    _, source = await host.service.gets()
    for size in (1201, 1200):
        host.service.send(bytes(size), source)
    await until(lambda: channel.answers)
    assert channel.answers == [bytes(1200)]
    assert host.flows.dropped == {"an answer is larger than the client takes": 1}


@ensureDeferred
async def test_nobody_at_the_port_is_counted(host: Host) -> None:
    channel = host.channel()
    host.service.close()
    for count in (1, 2, 3):
        channel.send(b"anybody?")
        await until(lambda count=count: host.flows.dropped["Connection refused"] == count)  # type: ignore[misc]
    host.service = Program(*host.service.address)
    channel.send(b"here?")
    assert (await host.service.gets())[0] == b"here?"
    assert not channel.closed
    text = host.log.text()
    assert text.count("Connection refused") == 1
    assert f"UDP datagrams for {host.remote} are dropped: Connection refused" in text


@ensureDeferred
async def test_unreachable_service_is_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_way(udp: object, address: str, port: int) -> None:
        raise OSError(101, "Network is unreachable")

    with monkeypatch.context() as patched:
        patched.setattr("rtunnel.relay.udp.sockets.UdpSocket.connect", no_way)
        channel = host.channel()
        channel.send(b"lost")
        await until(lambda: host.flows.dropped == {"Network is unreachable": 1})
    channel.send(b"lost too: it was tried just now")
    await until(lambda: host.flows.dropped == {"Network is unreachable": 2})
    another = host.channel(udp_address("", host.service.address[1]))
    another.send(b"an empty host is this machine")
    assert (await host.service.gets())[0] == b"an empty host is this machine"
    host.names.clock.advance(TRY_AGAIN)
    channel.send(b"there")
    assert (await host.service.gets())[0] == b"there"


@ensureDeferred
async def test_datagrams_wait_until_the_name_is_looked_up(host: Host) -> None:
    named = udp_address("service.example", host.service.address[1])
    channels = [host.channel(named) for _ in range(3)]
    for channel in channels:
        for number in range(MAX_WAITING + 1):
            channel.send(b"%d" % number)
    gone = host.channel(named)
    gone.close()
    await until(lambda: gone.closed)
    assert host.flows.dropped == {"too many before its name is looked up": 3}
    host.names.answer("::1", HOST, "127.0.0.2")
    got: dict[Any, list[bytes]] = {}
    for _ in range(3 * MAX_WAITING):
        data, source = await host.service.gets()
        got.setdefault(source, []).append(data)
    assert list(got.values()) == [[b"%d" % number for number in range(MAX_WAITING)]] * 3
    await turns()
    assert host.service.poll() is None


@ensureDeferred
async def test_the_answer_for_one_name_is_not_for_another(host: Host) -> None:
    port = host.service.address[1]
    one, other = (host.channel(udp_address(name, port)) for name in ("service.example", "other.example"))
    one.send(b"one")
    other.send(b"other")
    await turns()
    host.names.answer(HOST, name="other.example")
    assert (await host.service.gets())[0] == b"other"
    await turns()
    assert host.service.poll() is None
    host.names.answer(HOST)
    assert (await host.service.gets())[0] == b"one"


@ensureDeferred
async def test_name_that_is_none_is_asked_for_again_later(host: Host) -> None:
    channel = host.channel(udp_address("service.example", host.service.address[1]))
    channel.send(b"lost")
    await turns()
    host.names.answer()
    assert host.flows.dropped == {"its name cannot be looked up": 1}
    channel.send(b"lost")
    await until(lambda: host.flows.dropped.total() == 2)
    host.names.clock.advance(TRY_AGAIN)
    channel.send(b"kept")
    await until(lambda: len(host.names.asked) == 2)
    host.names.answer(HOST)
    assert (await host.service.gets())[0] == b"kept"


@ensureDeferred
async def test_look_up_that_ends_after_all_flows(host: Host) -> None:
    channel = host.channel(udp_address("service.example", 9))
    channel.send(b"x")
    await turns()
    host.flows.close()
    host.names.answer(HOST)
    await until(lambda: channel.closed)
    assert host.flows.dropped == {"the flow has ended": 1}


@needs_ipv6
@ensureDeferred
async def test_name_with_ipv6_only(host: Host) -> None:
    service = Program("::1")
    channel = host.channel(udp_address("service.example", service.address[1]))
    channel.send(b"six")
    host.names.answer("::1")
    assert (await service.gets())[0] == b"six"
    service.close()


NOBODY = "127.0.0.2"
"""Another address of this machine, where no service listens."""


@needs_ipv6
@ensureDeferred
async def test_service_on_ipv6_whose_name_has_both(host: Host) -> None:
    service = Program("::1")
    channel = host.channel(udp_address("localhost", service.address[1]))
    channel.send(b"six")
    host.names.answer("::1", HOST, name="localhost")
    assert (await service.gets())[0] == b"six"
    assert not host.flows.dropped
    service.close()


@ensureDeferred
async def test_service_at_the_second_address(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets all that the first address refused, and the next flow begins there."""
    connected: list[str] = []
    connect = UdpSocket.connect

    def noted(udp: UdpSocket, address: str, port: int) -> None:
        connected.append(address)
        connect(udp, address, port)

    monkeypatch.setattr(UdpSocket, "connect", noted)
    named = udp_address("service.example", host.service.address[1])
    channel = host.channel(named)
    for number in range(5):
        channel.send(b"%d" % number)
    await turns()
    host.names.answer(NOBODY, HOST)
    got = [await host.service.gets() for _ in range(5)]
    assert [data for data, _ in got] == [b"%d" % number for number in range(5)]
    host.service.send(b"answer", got[0][1])
    await until(lambda: channel.answers)
    another = host.channel(named)
    another.send(b"another")
    await turns()
    host.names.answer(NOBODY, HOST)
    assert (await host.service.gets())[0] == b"another"
    assert connected == [NOBODY, HOST, HOST]
    assert not host.flows.dropped


@ensureDeferred
async def test_service_at_none_of_its_addresses(host: Host) -> None:
    channel = host.channel(udp_address("service.example", host.service.address[1]))
    host.service.close()
    channel.send(b"lost")
    host.names.answer(NOBODY, HOST)
    await until(lambda: host.flows.dropped == {"Connection refused": 1})
    channel.send(b"lost too: it was tried just now")
    await until(lambda: host.flows.dropped == {"Connection refused": 2})
    host.service = Program(*host.service.address)
    host.names.clock.advance(TRY_AGAIN)
    channel.send(b"there")
    await until(lambda: len(host.names.asked) == 2)
    host.names.answer(NOBODY, HOST)
    assert (await host.service.gets())[0] == b"there"


@pytest.mark.parametrize("answers", [False, True])
@ensureDeferred
async def test_service_that_moves_to_another_address(host: Host, answers: bool) -> None:
    """What it got before it moved is not sent again."""
    channel = host.channel(udp_address("service.example", host.service.address[1]))
    channel.send(b"before")
    host.names.answer(HOST, NOBODY)
    _, source = await host.service.gets()
    if answers:
        host.service.send(b"answer", source)
        await until(lambda: channel.answers)
    else:
        host.names.clock.advance(TRY_AGAIN)
        channel.send(b"later")
        await host.service.gets()
    host.service.close()
    host.service = Program(NOBODY, host.service.address[1])
    channel.send(b"lost")
    await until(lambda: host.flows.dropped == {"Connection refused": 1})
    host.names.clock.advance(TRY_AGAIN)
    channel.send(b"after")
    await until(lambda: len(host.names.asked) == 2)
    host.names.answer(HOST, NOBODY)
    assert (await host.service.gets())[0] == b"after"


@ensureDeferred
async def test_address_without_a_route_is_passed_over(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = UdpSocket.connect

    def no_way(udp: UdpSocket, address: str, port: int) -> None:
        if address == NOBODY:
            raise OSError(101, "Network is unreachable")
        connect(udp, address, port)

    monkeypatch.setattr(UdpSocket, "connect", no_way)
    channel = host.channel(udp_address("service.example", host.service.address[1]))
    channel.send(b"there")
    host.names.answer(NOBODY, HOST)
    assert (await host.service.gets())[0] == b"there"


@ensureDeferred
async def test_flood_of_channels_is_bounded(host: Host) -> None:
    channels = [host.channel() for _ in range(200)]
    assert len(host.flows) == 10
    await until(lambda: sum(channel.closed for channel in channels) == 190)
    for channel in channels:
        channel.send(b"%d" % channels.index(channel))
    got = [(await host.service.gets())[0] for _ in range(10)]
    assert got == [b"%d" % number for number in range(190, 200)]


@ensureDeferred
async def test_idle_flow_closes_its_channel_and_text_is_no_use_of_it(host: Host) -> None:
    channel = host.channel()
    host.names.clock.advance(40)
    channel.send_text("still here")
    await turns()
    host.names.clock.advance(19)
    assert len(host.flows) == 1
    host.names.clock.advance(1)
    assert len(host.flows) == 0
    await until(lambda: channel.closed)


@ensureDeferred
async def test_datagrams_either_way_keep_a_flow(host: Host) -> None:
    channel = host.channel()
    host.names.clock.advance(40)
    channel.send(b"subscribe")
    _, source = await host.service.gets()
    for count in (1, 2, 3):
        host.names.clock.advance(40)
        host.service.send(b"news", source)
        await until(lambda count=count: len(channel.answers) == count)  # type: ignore[misc]
    host.names.clock.advance(59)
    assert len(host.flows) == 1
    host.names.clock.advance(1)
    assert len(host.flows) == 0
    await until(lambda: channel.closed)


@ensureDeferred
async def test_closed_channel_closes_the_socket(host: Host) -> None:
    channel = host.channel()
    channel.send(b"x")
    _, source = await host.service.gets()
    channel.close()
    await until(lambda: not host.flows)
    # Its port is free.
    Program(*source).close()


@pytest.mark.parametrize("name", [HOST, "service.example"])
@ensureDeferred
async def test_a_flow_that_is_over_goes_at_once(name: str, host: Host) -> None:
    """What it refers to, the peer connection above all, must not wait for the garbage collector."""
    with no_collector():
        channel = host.channel(udp_address(name, host.service.address[1]))
        channel.send(b"x")
        if name != HOST:
            await until(lambda: host.names.asked)
            host.names.answer(HOST, "::1")
        await host.service.gets()
        left = Left(host.flows.table)
        channel.close()
        await until(lambda: channel.closed and channel.other.closed)
        del channel.other.user  # as a channel of a peer connection does
        await turns()
        assert not left()


@ensureDeferred
async def test_one_silent_service_does_not_disturb_another(host: Host) -> None:
    echo = Echo()
    silent, talking = host.channel(), host.channel(udp_address(*echo.address))
    for _ in range(50):
        silent.send(bytes(1000))
        talking.send(b"x")
    await until(lambda: len(talking.answers) == 50)
    assert silent.answers == []
    await echo.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1", True), ("::1", True), ("fe80::1%lo", True), ("localhost", False), ("1.2.3", False), ("", False)],
)
def test_what_is_no_address_is_looked_up(text: str, expected: bool) -> None:
    assert is_ip_address(text) is expected
