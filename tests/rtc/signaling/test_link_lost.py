"""The signaling link, over loopback, when the server is away, wrong or dead."""

from __future__ import annotations

import gc
import json
import re
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater
from twisted.logger import LogLevel

from rtunnel.rtc.signaling import client_protocol, link as signal_link
from rtunnel.rtc.signaling.client_protocol import ClientProtocol
from rtunnel.wire.webrtc.signaling import Signal, encode_signal
from tests.ports import free_port
from tests.rtc.signaling.link_parts import TOKEN, Peer, RawServer, World, own, reference


@pytest_twisted.ensureDeferred
async def test_back_after_a_restart_of_the_server(world: World) -> None:
    server = own(world)
    link, user = await world.up(server.port)
    await world.stop(server)
    await world.until(lambda: len(world.attempts()) >= 4, "attempts in vain")
    assert (link.up, len(user.downs)) == (False, 1)
    lost, refused = world.attempts(LogLevel.warn)
    assert re.fullmatch("signaling lost: .*", lost["why"])
    assert re.fullmatch(r"cannot reach signaling server ws://\S+: .*refused.*", refused["why"])
    world.start(server)
    await world.until(lambda: user.ups == 2, "up again")
    assert link.up
    assert server.identities == ["cottage"]


@pytest_twisted.ensureDeferred
async def test_why_the_server_closed(world: World) -> None:
    server = own(world)
    _, user = await world.up(server.port)
    server.peers[0].sendClose(3001, "going\nhome")
    await world.until(lambda: user.ups == 2, "up again")
    assert user.downs == ["it closed the connection (3001 going?home)"]


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ("", "the server says: so?it is"),
        ("cottage", "the server says: so?it is"),
        ("7a1c", "it closed the connection (1000)"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_only_an_error_about_us_is_why(world: World, about: str, why: str) -> None:
    server = own(world)
    _, user = await world.up(server.port)
    server.peers[0].sendMessage(encode_signal(Signal("error", "so\nit is", "", about)))
    server.peers[0].sendClose(1000)
    await world.until(lambda: user.ups == 2, "up again")
    assert user.downs == [why]


@pytest_twisted.ensureDeferred
async def test_an_old_error_is_not_why(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_protocol, "PING_EVERY", 0.05)
    server = own(world)
    _, user = await world.up(server.port)
    server.peers[0].sendMessage(encode_signal(Signal("error", "a mistake")))
    await world.until(lambda: user.signals, "the error")
    pings = server.pings
    await world.until(lambda: server.pings >= pings + 2, "a ping after it")
    server.peers[0].sendClose(1000)
    await world.until(lambda: user.ups == 2, "up again")
    assert user.downs == ["it closed the connection (1000)"]


@pytest_twisted.ensureDeferred
async def test_a_server_that_closes_and_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_protocol, "GOODBYE", 0.1)
    server = own(world)
    _, user = await world.up(server.port)
    # A close frame, and then nothing: no answer to ours, no end of TCP.
    server.peers[0].dropConnection = lambda abort=False: None
    server.peers[0].sendClose(1000)
    await world.until(lambda: user.ups == 2, "up again")
    assert user.downs == ["it does not close"]


@pytest.mark.parametrize("build", [own, reference])
@pytest_twisted.ensureDeferred
async def test_a_taken_id_backs_off_and_is_said_once(world: World, build: Any) -> None:
    server = build(world)
    holder, _ = await world.up(server.port)
    link, user = world.link(server.port, reconnect_max=5.0)
    world.start(link)
    await world.until(lambda: len(world.attempts()) >= 6, "six attempts")
    assert not user.ups
    assert len(world.attempts(LogLevel.warn)) == 1
    assert re.fullmatch(r"cannot use signaling server \S+: the server says: .* in use", world.attempts()[0]["why"])
    assert world.waits == sorted(world.waits)
    assert world.waits[5] > 2 * 0.02
    assert user.signals
    assert all(signal.type == "error" for signal in user.signals)
    await world.stop(holder)
    await world.until(lambda: user.ups, "the ID is free")


@pytest_twisted.ensureDeferred
async def test_a_link_that_does_not_last_backs_off(world: World) -> None:
    server = own(world)
    link, user = world.link(server.port, reconnect_max=5.0)
    world.start(link)
    await world.cut_off_often(server, user)
    assert world.waits[5] > 2 * 0.02
    assert len(world.attempts(LogLevel.warn)) == 1


@pytest_twisted.ensureDeferred
async def test_a_link_that_was_useful_is_dialled_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_link, "USEFUL_AFTER", 0.0)
    server = own(world)
    link, user = world.link(server.port, reconnect_max=5.0)
    world.start(link)
    await world.cut_off_often(server, user)
    assert max(world.waits) <= 1.4 * 0.02
    assert len(world.attempts(LogLevel.warn)) == 6


@pytest_twisted.ensureDeferred
async def test_a_dead_server_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # An answer takes longer than 0.1 s on a busy machine.
    monkeypatch.setattr(client_protocol, "PING_EVERY", 1.0)
    server = own(world)
    link, user = await world.up(server.port)
    await world.until(lambda: server.pings == 3, "the first ping, and two more")
    assert (link.up, user.downs) == (True, [])
    server.answers_pings = False
    await world.until(lambda: user.downs, "it is down")
    assert user.downs == ["nothing was heard from it for 1 s, not even the answer to a ping"]


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_asked_in_between_has_as_long_to_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_protocol, "PING_EVERY", 2.0)
    server = own(world)
    link, user = await world.up(server.port)
    server.answers_pings = False
    await deferLater(world.reactor, 1.0)
    asked_at = world.reactor.seconds()
    link.prove()
    await world.until(lambda: user.downs, "it is down")
    assert world.reactor.seconds() - asked_at >= 2.0
    assert user.downs == ["nothing was heard from it for 2 s, not even the answer to a ping"]


@pytest_twisted.ensureDeferred
async def test_pings_of_the_server_are_answered(world: World) -> None:
    server = own(world)
    await world.up(server.port)
    pongs: list[bytes] = []
    server.peers[0].onPong = pongs.append
    server.peers[0].sendPing(b"who")
    await world.until(lambda: pongs, "a pong")
    assert pongs == [b"who"]


@pytest_twisted.ensureDeferred
async def test_many_connections_leave_nothing(world: World) -> None:
    server = own(world)

    def drop(peer: Peer) -> None:
        peer.transport.abortConnection()

    server.opened = drop
    link, _ = world.link(server.port, reconnect_min=0.001, reconnect_max=0.001)
    world.start(link)
    await world.until(lambda: len(server.requests) >= 20, "twenty attempts")
    timers = len(world.reactor.getDelayedCalls())
    await world.lines.until(lambda: len(server.requests) >= 150, "a hundred and fifty attempts")
    assert len(world.reactor.getDelayedCalls()) <= timers + 2
    server.gone.clear()
    gc.collect()
    assert sum(isinstance(thing, ClientProtocol) for thing in gc.get_objects()) <= 2


# Wrong servers


@pytest.mark.parametrize(
    ("answer", "token", "why"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", TOKEN, r"it does not accept the token \(401\); see --token"),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", None, r"it asks for a token \(401\); see --token"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", TOKEN, r"it does not let us in \(403\).*--token.*"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", TOKEN, r"there is no signaling at this path \(404\).*"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", TOKEN, r"it redirects us \(302\).*"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", TOKEN, r"there is no signaling at this path \(404\).*"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", TOKEN, "it answers 'HTTP/1.1 200 OK' and opens no WebSocket"),
        # The second, since Autobahn 26.11.
        (b"HTTP/1.1 503 \x07\r\n\r\n", TOKEN, "(it answers 'HTTP/1.1 503 .*' and opens .*|its answer is not HTTP)"),
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", TOKEN, "it speaks WebSocket wrongly: .*Connection.*"),
        (
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            TOKEN,
            "it speaks WebSocket wrongly: .*bogus.*",
        ),
        (b"220 mail.example ESMTP\r\n\r\n", TOKEN, "it speaks WebSocket wrongly: .*"),
        (b"\r\n\r\n", TOKEN, "(it speaks WebSocket wrongly: .*|its answer is no HTTP)"),
        (b"HTTP/1.1 101 \xff\xfe\r\n\r\n", TOKEN, "its answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30000, TOKEN, "its answer is not HTTP, or has too many headers"),
        (b"\x15\x03\x03\x00\x02\x02\x46", TOKEN, r"it speaks TLS; did you mean wss://\?"),
        (b"HTTP/1.1 200", TOKEN, "it closed the connection in the handshake"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_server_of_another_kind(world: World, answer: bytes, token: str | None, why: str) -> None:
    server = world.start(RawServer(world.reactor, answer))
    link, user = world.link(server.port, token=token)
    world.start(link)
    found = await world.refusal()
    assert re.fullmatch(rf"cannot use signaling server ws://127\.0\.0\.1:\d+/signal: {why}", found)
    assert not user.ups
    assert not user.downs
    assert server.connections >= 2
    # The token goes to the server, and nowhere else.
    assert (TOKEN.encode() in server.received) == (token is not None)
    shown = world.lines.text + repr(link) + repr(vars(link)) + repr(link._settings)
    assert TOKEN not in shown


@pytest_twisted.ensureDeferred
async def test_the_token_is_in_no_log_line(world: World) -> None:
    server = own(world, token="another")
    link, user = world.link(server.port, token=TOKEN)
    world.start(link)
    assert "it does not accept the token (401)" in await world.refusal()
    server.token = TOKEN
    await world.until(lambda: user.ups, "up")
    assert server.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"
    assert not [event for event in world.log.events if TOKEN in repr(event)]


@pytest_twisted.ensureDeferred
async def test_a_server_that_says_nothing(world: World) -> None:
    server = world.start(RawServer(world.reactor))
    link, _ = world.link(server.port, connect_timeout=0.1)
    world.start(link)
    assert (await world.refusal()).endswith(": it was not ready within 0.1 s")


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_register_us(world: World) -> None:
    server = own(world)
    server.answers_pings = False
    link, user = world.link(server.port, connect_timeout=0.1)
    world.start(link)
    assert (await world.refusal()).endswith(": it was not ready within 0.1 s")
    assert not user.ups


@pytest_twisted.ensureDeferred
async def test_a_name_that_does_not_exist(world: World) -> None:
    link, _ = world.link(80, host="no-such-host.invalid", connect_timeout=2.0)
    world.start(link)
    assert "cannot reach signaling server ws://no-such-host.invalid:80/signal: " in await world.refusal()


@pytest_twisted.ensureDeferred
async def test_nobody_listens(world: World) -> None:
    link, _ = world.link(free_port())
    world.start(link)
    assert "refused" in await world.refusal()


@pytest_twisted.ensureDeferred
async def test_the_registration_is_what_the_wire_document_says(world: World) -> None:
    link, _ = world.link(80, "cottage")
    said = {"type": "register-host", "payload": None, "sender_id": "cottage"}
    registration = json.loads(link.registration(is_reference=False))
    assert len(registration.pop("key")) == 32
    assert registration == said
    assert json.loads(link.registration(is_reference=True)) == said
