"""UDP at the host: channels of a client that does what it likes, and services that are not there."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.services.flow import TRY_AGAIN
from rtunnel.tls.server_names import is_ip_address
from tests.no_collector import Left, no_collector
from tests.reverse.net import HOST, turns, until
from tests.rtc.udp.host_parts import Host
from tests.rtc.udp.parts import MAX_MESSAGE, Echo, Program, udp_address


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
