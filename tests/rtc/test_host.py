"""``rtc-host`` in this process: what clients of all kinds can ask of it, and that it forgets them."""

from __future__ import annotations

from functools import partial

import pytest
import pytest_twisted

from rtunnel.addresses import DialAddress
from rtunnel.errors import Code
from rtunnel.rtc.settings import ForwardSettings, ServiceSettings
from rtunnel.wire.webrtc.channel_messages import decode_control
from rtunnel.wire.webrtc.signaling import (
    OFFER,
    Description,
    description_payload,
)
from tests.ports import free_port
from tests.reverse.net import HOST, Peer, turns, until
from tests.rtc.fakes import FakeChannelUser
from tests.rtc.host_parts import ByHand, forward
from tests.rtc.udp.parts import Echo, Program
from tests.rtc.world import ID, World, udp


def web(name: str, port: int) -> ServiceSettings:
    return ServiceSettings(name, DialAddress.parse(f"{HOST}:{port}"))


@pytest_twisted.ensureDeferred
async def test_several_services(rtc: World) -> None:
    server, one, two = rtc.signal(), await rtc.echo(), await rtc.service()
    host = rtc.host(server, one.port, web("other", two.port))
    client = rtc.client(server, forward(""), forward("other"))
    await rtc.connected(client)
    first, second = await rtc.visitor(client, 0), await rtc.visitor(client, 1)
    first.send(b"one")
    await first.has(b"one")
    second.send(b"two")
    await (await two.peer()).has(b"two")
    await rtc.lines.wait_for(f"host '{ID}' offers tcp {HOST}:{two.port} as service 'other'")
    assert len(host._peers) == 1
    assert host.streams_left() == 2


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest_twisted.ensureDeferred
async def test_a_service_that_does_not_exist_or_is_of_the_other_kind(rtc: World, kind: str) -> None:
    server, echo = rtc.signal(), Echo()
    service = await rtc.echo()
    host = rtc.host(server, service.port, ServiceSettings("dns", udp(echo.address[1])))
    await rtc.registered(host)
    peer = await ByHand(host).connect()
    reliable = kind == "tcp"
    try:
        for name in ("none", "dns" if reliable else ""):
            _, user = await peer.open(f"{kind}-x", name, reliable=reliable)
            await until(partial(user.told.__contains__, "closed"), "a refusal")
            resets = [decode_control(text.encode()).reset for text in user.told[1:-1]]
            assert resets == [Code.UNKNOWN_SERVICE]
        assert host.streams_left() == 0
        assert not service.peers
        await rtc.lines.wait_for(f"client by hand asks for the service 'none' over {kind}, which is not offered")
    finally:
        await peer.connection.close()
        await echo.close()


@pytest_twisted.ensureDeferred
async def test_a_control_channel_is_never_forwarded(rtc: World) -> None:
    service = await rtc.echo()
    host = rtc.host(rtc.signal(), service.port)
    await rtc.registered(host)
    peer = await ByHand(host).connect()
    try:
        _, user = await peer.open("rtunnel-control")
        await until(partial(user.told.__contains__, "closed"), "its end")
        _, user = await peer.open("tcp-x")
        await until(lambda: service.peers, "the channel behind it")
        assert len(service.peers) == 1
    finally:
        await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_a_name_that_is_no_name_is_cleaned_before_it_is_logged(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    peer = await ByHand(host, "evil\nname").connect()
    _, user = await peer.open("tcp-\n\x1b[31m", "line one\nline two\x1b")
    await until(lambda: user.told[-1] == "closed", "a refusal")
    await peer.connection.close()
    assert "line one\nline" not in rtc.lines.text
    assert "evil\nname" not in rtc.lines.text
    assert "\x1b" not in rtc.lines.text


@pytest_twisted.ensureDeferred
async def test_a_service_that_is_down(rtc: World) -> None:
    port = free_port()
    server = rtc.signal()
    host = rtc.host(server, port)
    client = rtc.client(server)
    await rtc.connected(client)
    for _ in range(3):
        visitor = await rtc.visitor(client)
        await visitor.ends()
        assert visitor.was_reset
    await rtc.lines.wait_for(rf"offers tcp {HOST}:{port}; it does not answer \(connection refused\)")
    await rtc.service(lambda: Peer(echo=True), port)
    visitor = await rtc.visitor(client)
    visitor.send(b"x")
    await visitor.has(b"x")
    await rtc.lines.wait_for(f"offers tcp {HOST}:{port}; it answers")
    assert rtc.lines.text.count("does not answer") == 1
    visitor.close()
    await until(lambda: not host.streams_left() and not host.visitors, "nothing to be left")


@pytest_twisted.ensureDeferred
async def test_a_client_of_the_reference_protocol(rtc: World) -> None:
    echo = await rtc.echo()
    host = rtc.host(rtc.signal(), echo.port)
    await rtc.registered(host)
    peer = await ByHand(host, extended=False).connect()
    assert peer.answers[0].extension is None
    channel, user = await peer.open()
    channel.send(b"bytes")
    channel.send_text("and text")
    await until(lambda: len(b"".join(user.told[1:])) == 13, "an echo")
    channel.close()
    await until(lambda: user.told[-1] == "closed", "the end")
    await until(lambda: echo.peers[0].lost, "the service to know")
    await peer.connection.close()
    await rtc.lines.wait_for(r"client by hand connected: direct, .* \(reference protocol\)")


@pytest_twisted.ensureDeferred
async def test_udp_through_both(rtc: World) -> None:
    server, echo, programs = rtc.signal(), Echo(prefix=b"> "), [Program() for _ in range(3)]
    host = rtc.host(server, ServiceSettings("", udp(echo.address[1])))
    client = rtc.client(server, ForwardSettings("", udp(0)))
    try:
        await rtc.connected(client)
        where = int(client.forwards.udp[0].listener.local_address.rpartition(":")[2])
        for number, program in enumerate(programs):
            program.send(b"%d" % number, (HOST, where))
        for number, program in enumerate(programs):
            assert (await program.gets())[0] == b"> %d" % number
        assert host.streams_left() == 0
    finally:
        await echo.close()
        for program in programs:
            program.close()


@pytest_twisted.ensureDeferred
async def test_datagrams_that_come_too_fast_are_said_to_be_dropped(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    peer = await ByHand(host).connect()
    channel = host._peers[peer.name].connection.open_channel("udp-x", reliable=False)
    channel.use(FakeChannelUser())
    await until(lambda: channel.is_open, "a channel")
    for _ in range(1000):
        channel.send(bytes(1000))
    await rtc.lines.wait_for("UDP datagrams for by hand are dropped: they come faster")
    host._watch()
    assert rtc.log.text().count("they come faster") == 1
    await peer.connection.close()


@pytest_twisted.ensureDeferred
async def test_more_clients_than_there_may_be(rtc: World) -> None:
    host = rtc.host(rtc.signal(), (await rtc.echo()).port, max_clients=1)
    await rtc.registered(host)
    one = await ByHand(host, "one").connect()
    two = ByHand(host, "two")
    two.connection.offer()
    await until(lambda: two.told, "an offer")
    await turns(20)
    assert not two.answers
    await rtc.lines.wait_for("1 clients, the limit .--max-clients.")
    await one.connection.close()
    await until(lambda: not host._peers, "the first to be forgotten")
    two.tell(OFFER, description_payload(OFFER, Description(str(two.told[0][1]), two.extension)))
    await until(lambda: ("connected",) in two.told, "the second")
    await two.connection.close()
