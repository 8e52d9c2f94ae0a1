"""UDP at the host: services by name, with several addresses, and what is not there at first."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.relay.udp.flows import MAX_WAITING
from rtunnel.relay.udp.sockets import UdpSocket
from rtunnel.services.flow import TRY_AGAIN
from tests.needs import needs_ipv6
from tests.reverse.net import HOST, turns, until
from tests.rtc.udp.host_parts import Host
from tests.rtc.udp.parts import Program, udp_address


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
