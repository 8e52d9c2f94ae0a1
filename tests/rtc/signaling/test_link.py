"""The signaling link, over loopback: registration, messages, what it does when the server is away, wrong or dead."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from rtunnel.rtc.signaling.client_protocol import ClientProtocol
from rtunnel.upkeep import AGENT
from rtunnel.wire.webrtc.signaling import MAX_MESSAGE, REFERENCE_MAX_MESSAGE, SUBPROTOCOL, Signal, encode_signal
from tests.rtc.signaling.link_parts import TOKEN, World, own, reference

# Registration


@pytest_twisted.ensureDeferred
async def test_host_registers_at_our_server(world: World) -> None:
    server = own(world)
    link, user = await world.up(server.port)
    assert link.up
    assert server.received == [Signal("register-host", None, "", "cottage")]
    assert (user.ups, user.downs) == (1, [])
    await world.lines.wait_for(r"connected to signaling server ws://127\.0\.0\.1:\d+/signal\n")


@pytest_twisted.ensureDeferred
async def test_client_registers_at_our_server(world: World) -> None:
    server = own(world)
    link, _ = await world.up(server.port, "7a1c", is_host=False)
    assert link.send(Signal("offer", {"a": 1}, "cottage"))
    await world.until(lambda: len(server.received) == 2, "a message at the server")
    assert server.received == [
        Signal("register-host", "client", "", "7a1c"),
        Signal("offer", {"a": 1}, "cottage", "7a1c"),
    ]


@pytest.mark.parametrize("is_host", [True, False], ids=["host", "client"])
@pytest_twisted.ensureDeferred
async def test_both_register_at_a_reference_server(world: World, is_host: bool) -> None:
    server = reference(world)
    await world.up(server.port, "cottage", is_host=is_host)
    # When the user is told, the server knows us already: nothing that is sent to us can be lost.
    assert list(server.hosts) == ["cottage"]
    assert server.received == [{"type": "register-host", "payload": None, "sender_id": "cottage"}]
    await world.lines.wait_for(r"connected to signaling server \S+ \(reference protocol\)")


@pytest_twisted.ensureDeferred
async def test_both_ways_through_a_reference_server(world: World) -> None:
    server = reference(world)
    host, host_user = await world.up(server.port, "cottage")
    client, client_user = await world.up(server.port, "7a1c", is_host=False)
    assert client.send(Signal("offer", {"sdp": 1}, "cottage"))
    await world.until(lambda: host_user.signals, "an offer at the host")
    assert host.send(Signal("answer", {"sdp": 2}, "7a1c"))
    await world.until(lambda: client_user.signals, "an answer at the client")
    assert host_user.signals == [Signal("offer", {"sdp": 1}, "cottage", "7a1c")]
    assert client_user.signals == [Signal("answer", {"sdp": 2}, "7a1c", "cottage")]


@pytest_twisted.ensureDeferred
async def test_the_request(world: World) -> None:
    server = own(world, token=TOKEN)
    await world.up(server.port, token=TOKEN)
    [request] = server.requests
    assert request.path == "/signal"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["user-agent"] == AGENT
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.protocols == [SUBPROTOCOL]
    assert not request.extensions


@pytest_twisted.ensureDeferred
async def test_no_token_no_header(world: World) -> None:
    server = own(world)
    await world.up(server.port)
    assert "authorization" not in server.requests[0].headers


@pytest_twisted.ensureDeferred
async def test_the_host_header_of_an_ipv6_address_and_of_an_international_name(world: World) -> None:
    for host, shown in (("::1", "[::1]:80"), ("münchen.example", "xn--mnchen-3ya.example:80")):
        link, _ = world.link(80, host=host)
        connection = ClientProtocol(world.reactor, link._factory, link, link._settings, 0.0, None)
        request = connection.onConnecting(None)
        assert f"{request.host}:{request.port}" == shown


# Messages


@pytest_twisted.ensureDeferred
async def test_nobody_speaks_in_anothers_name(world: World) -> None:
    server = own(world)
    link, _ = await world.up(server.port)
    assert link.send(Signal("answer", None, "7a1c", sender_id="somebody else"))
    await world.until(lambda: len(server.received) == 2, "two messages")
    assert server.received[1].sender_id == "cottage"


@pytest_twisted.ensureDeferred
async def test_nothing_is_sent_while_it_is_down(world: World) -> None:
    server = own(world)
    link, user = world.link(server.port)
    assert not link.send(Signal("answer", None, "7a1c"))
    await world.stop(world.start(link))
    assert not link.send(Signal("answer", None, "7a1c"))
    assert not user.ups
    assert not server.received


@pytest_twisted.ensureDeferred
async def test_an_offer_that_is_here_before_the_link_is_up_can_be_answered(world: World) -> None:
    server = own(world)
    server.answers_pings = False
    link, user = world.link(server.port)
    world.start(link)
    await world.until(lambda: server.received, "a registration")
    server.peers[0].sendMessage(encode_signal(Signal("offer", None, "cottage", "7a1c")))
    await world.until(lambda: user.signals, "the offer")
    assert not link.up
    assert link.send(Signal("answer", None, "7a1c"))
    await world.until(lambda: len(server.received) == 2, "the answer")
    assert [signal.type for signal in server.received] == ["register-host", "answer"]


def filled(size: int) -> Signal:
    """A message that has so many bytes when ``cottage`` has sent it."""
    empty = len(encode_signal(Signal("answer", "", "7a1c", "cottage")))
    return Signal("answer", "x" * (size - empty), "7a1c")


@pytest.mark.parametrize(("build", "most"), [(reference, REFERENCE_MAX_MESSAGE), (own, MAX_MESSAGE)])
@pytest_twisted.ensureDeferred
async def test_messages_are_as_large_as_the_server_takes(world: World, build: Any, most: int) -> None:
    server = build(world)
    link, user = await world.up(server.port)
    assert not link.send(filled(most + 1))
    await world.lines.wait_for(rf"a message of type answer is too large .* {most + 1} bytes, {most} are allowed")
    assert link.send(filled(most))
    assert link.send(Signal("answer", "last", "7a1c"))
    await world.until(lambda: len(server.received) == 3, "three messages")
    assert (link.up, user.downs) == (True, [])


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_understood_is_ignored(world: World) -> None:
    server = own(world)
    link, user = await world.up(server.port)
    [peer] = server.peers
    peer.sendMessage(b"\x00\xff", isBinary=True)
    for text in (
        b"hello",
        b"[]",
        b"{}",
        b'{"type": "connect-client"}',
        b"[" * 30000,
        b'{"type": "offer", "sender_id": 1}',
    ):
        peer.sendMessage(text)
    good = Signal("offer", {"unknown": [1, None]}, "cottage", "7a1c")
    peer.sendMessage(encode_signal(good))
    error = Signal("error", "'7a1c' is gone", "", "7a1c")
    peer.sendMessage(encode_signal(error))
    await world.until(lambda: len(user.signals) == 2, "two messages")
    assert user.signals == [good, error]
    assert link.up
    await world.lines.wait_for("sent a binary message; ignored")
    await world.lines.wait_for("sent an invalid message; ignored: ", count=6)


@pytest_twisted.ensureDeferred
async def test_a_flood_of_nonsense_is_few_lines(world: World) -> None:
    server = own(world)
    _, user = await world.up(server.port)
    for _number in range(500):
        server.peers[0].sendMessage(b"nonsense")
    server.peers[0].sendMessage(encode_signal(Signal("error", "the end")))
    await world.until(lambda: user.signals, "the last message")
    assert world.lines.text.count("sent an invalid message") == 20


@pytest.mark.parametrize("piece", [None, 1000], ids=["whole", "in pieces"])
@pytest_twisted.ensureDeferred
async def test_a_message_that_is_too_large_ends_the_connection(world: World, piece: int | None) -> None:
    server = own(world)
    _, user = await world.up(server.port)
    server.peers[0].sendMessage(b"x" * (MAX_MESSAGE + 1), fragmentSize=piece)
    await world.until(lambda: user.ups == 2, "up again")
    assert "exceeds payload limit" in user.downs[0]


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_read(world: World) -> None:
    server = own(world)
    link, user = await world.up(server.port)
    [transport] = server.transports
    transport.pauseProducing()
    for _number in range(1000):
        if not link.send(filled(MAX_MESSAGE)):
            break
        await deferLater(world.reactor, 0)
    else:
        pytest.fail("there is no bound")
    assert link.up
    # Nor are more answers heaped up for it.
    pongs: list[bytes] = []
    server.peers[0].onPong = pongs.append
    for _number in range(100):
        server.peers[0].sendPing(b"unanswered")
    error = Signal("error", "the last of these", "", "7a1c")
    server.peers[0].sendMessage(encode_signal(error))
    await world.until(lambda: user.signals == [error], "all of them came")
    transport.resumeProducing()
    await world.until(lambda: link.send(Signal("answer", "small", "7a1c")), "room again")
    await world.until(lambda: server.received[-1].payload == "small", "all of it read")
    server.peers[0].sendPing(b"answered")
    await world.until(lambda: pongs, "a pong")
    assert pongs == [b"answered"]
