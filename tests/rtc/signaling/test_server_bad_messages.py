"""What a peer of the signaling server may do wrong in its messages, each over a real socket."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
import pytest_twisted

from rtunnel.rtc.signaling import limits, pace
from rtunnel.rtc.signaling.switchboard import MAX_MISTAKES
from tests.reverse.net import reactor, turns, until
from tests.rtc.signaling.server_parts import (
    CLOSE,
    PING,
    PONG,
    SignalWorld,
    close_code,
    frame,
    short,
    websocket,
)


@pytest.fixture
def much_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One address may send a lot before it is read slowly, and make many offers."""
    monkeypatch.setattr(pace, "ADDRESS_BURST", 1e6)
    monkeypatch.setattr(pace, "BURST", 1e9)
    monkeypatch.setattr(limits, "OFFERS_BURST", 1000)
    monkeypatch.setattr(limits, "ALL_OFFERS_BURST", 1_000_000)


@pytest_twisted.ensureDeferred
async def test_not_json(signaling: SignalWorld) -> None:
    await signaling.start()
    peer = await signaling.host()
    peer.put_text("{")
    assert "not JSON" in await peer.take_error()
    await peer.is_alive()
    assert "not JSON" in str(signaling.lines("warn"))
    for _ in range(MAX_MISTAKES):
        peer.put_text("{")
    await peer.ends(1008)


@pytest.mark.parametrize("text", ["{}", '{"type": "shout"}', '{"type": 1}', '{"type": "error", "target_id": "host"}'])
@pytest_twisted.ensureDeferred
async def test_a_wrong_or_missing_type(signaling: SignalWorld, text: str) -> None:
    await signaling.start()
    host = await signaling.host()
    peer = await signaling.open()
    peer.put_text(text)
    await peer.take_error()
    peer.put("offer", "host", "client")
    assert (await host.take())["type"] == "offer"
    assert host.messages == []


@pytest_twisted.ensureDeferred
async def test_a_binary_message(signaling: SignalWorld) -> None:
    await signaling.start()
    peer = await signaling.host()
    peer.sendMessage(json.dumps({"type": "offer"}).encode(), isBinary=True)
    assert "binary" in await peer.take_error()
    await peer.ends(1003)
    await signaling.host()


@pytest_twisted.ensureDeferred
async def test_a_forged_sender(signaling: SignalWorld) -> None:
    await signaling.start()
    host = await signaling.host()
    victim = await signaling.host("victim")
    peer = await signaling.host("peer")
    peer.put("offer", "host", "victim")
    assert "victim" in await peer.take_error(about="peer")
    await peer.ends(1008)
    await victim.is_alive()
    await host.is_alive()


@pytest_twisted.ensureDeferred
async def test_the_largest_message(signaling: SignalWorld) -> None:
    await signaling.start(short(close=0.1), max_message=2000)
    host = await signaling.host()
    peer = await signaling.host("peer")
    empty = json.dumps({"type": "offer", "target_id": "host", "payload": ""})
    peer.put_text(json.dumps({"type": "offer", "target_id": "host", "payload": "x" * 1900}))
    assert (await host.take())["payload"] == "x" * 1900
    peer.put_text(json.dumps({"type": "offer", "target_id": "host", "payload": "x" * (2000 - len(empty))}))
    # It has no sender_id, with which it is too large.
    assert "too large" in await peer.take_error()
    peer.put_text("x" * 2001)
    await peer.ends(1009)
    assert "2001" in str(signaling.lines("warn"))
    assert "gone" in await host.take_error(about="peer")


@pytest.mark.parametrize(
    "data",
    [
        frame(b"x", length=2**20),
        frame(b"x", length=2**62),
        frame(b"x" * 60000, fin=False) + frame(b"x" * 6000, opcode=0),
        frame(b"x", length=65537) + b"x" * 300000,
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_message_that_is_too_large(signaling: SignalWorld, data: bytes) -> None:
    await signaling.start(short(close=0.1))
    peer = await websocket(signaling, data)
    await peer.ends()
    assert close_code(bytes(peer.received)) == 1009


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"{}")[:1] + b"\x02{}", 1002),
        (frame(b"", opcode=3), 1002),
        (frame(b"", opcode=11), 1002),
        (frame(b"x" * 126, opcode=PING), 1002),
        (frame(b"", opcode=PING, fin=False), 1002),
        (frame(b"", opcode=0), 1002),
        (frame(b"a", fin=False) + frame(b"b"), 1002),
        (frame(b"x", opcode=CLOSE), 1002),
        (frame(b"\x03\xec", opcode=CLOSE), 1002),
        (bytes([0xC1]) + frame(b"{}")[1:], 1002),
        (frame(b"\xff\xff"), 1007),
        (frame(b"\xc3"), 1007),
        (frame(b"\x03\xe8\xff", opcode=CLOSE), 1007),
    ],
)
@pytest_twisted.ensureDeferred
async def test_frames_that_break_the_protocol(signaling: SignalWorld, data: bytes, code: int) -> None:
    await signaling.start(short(close=0.1))
    host = await signaling.host()
    peer = await websocket(signaling, data + frame(b'{"type":"offer","sender_id":"x","target_id":"host"}') * 3)
    await peer.ends()
    assert close_code(bytes(peer.received)) == code
    await host.is_alive()


@pytest.mark.parametrize(
    "data",
    [
        frame(b'{"type":"candidate","sender_id":"peer","target_id":"host"}'),
        frame(b"", opcode=PING),
        frame(b"", opcode=PONG),
        frame(b"[", fin=False) + frame(b"", opcode=0, fin=False) * 100,
    ],
)
@pytest_twisted.ensureDeferred
async def test_too_many_messages(signaling: SignalWorld, data: bytes) -> None:
    await signaling.start(short(close=0.1), max_rate=2)
    host = await signaling.host()
    peer = await websocket(signaling, data * 19 if len(data) > 100 else data * 1000)
    await peer.ends()
    assert close_code(bytes(peer.received)) == 1008
    assert b"too many" in peer.received
    assert len(host.messages) <= 20
    host.messages.clear()
    await host.is_alive()


@pytest_twisted.ensureDeferred
async def test_a_burst_is_all_right(signaling: SignalWorld) -> None:
    await signaling.start(max_rate=10)
    host = await signaling.host()
    peer = await signaling.host("peer")
    for number in range(90):
        peer.put("candidate", "host", payload=number)
    for number in range(90):
        assert (await host.take())["payload"] == number


@pytest.mark.usefixtures("much_is_allowed")
@pytest_twisted.ensureDeferred
async def test_clients_cannot_make_a_host_say_too_much(signaling: SignalWorld) -> None:
    await signaling.start(max_rate=10)
    host = await signaling.host()
    clients = [await signaling.host(f"client {number}") for number in range(3)]
    for _ in range(60):
        for number, client in enumerate(clients):
            client.put("offer", "host")
            await host.take()
            for kind in "answer", "candidate", "candidate":
                host.put(kind, f"client {number}")
    for client in clients:
        for _ in range(60):
            assert [(await client.take())["type"] for _ in range(3)] == ["answer", "candidate", "candidate"]
    await host.is_alive()


@pytest_twisted.ensureDeferred
async def test_an_offer_too_many_is_refused(signaling: SignalWorld) -> None:
    await signaling.start(max_rate=10_000)
    host = await signaling.host()
    peer = await signaling.host("peer")
    for _ in range(limits.OFFERS_BURST + 50):
        peer.put("offer", "host")
    assert "too many offers" in await peer.take_error(about="host")
    await until(lambda: len(host.messages) + len(peer.messages) == limits.OFFERS_BURST + 49)
    assert len(host.messages) >= limits.OFFERS_BURST
    assert not peer.over
    assert "makes too many offers to 'host'" in str(signaling.lines("warn"))


@pytest_twisted.ensureDeferred
async def test_who_keeps_the_server_busy_is_read_slowly(
    signaling: SignalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that it has sent is lost, and it is not taken for dead meanwhile."""
    monkeypatch.setattr(pace, "ADDRESS_BURST", 0.001)
    await signaling.start(max_rate=10_000, max_per_address=0)
    host = await signaling.host()
    peer = await signaling.host("peer")
    for number in range(100):
        peer.put("candidate", "host", payload=[number, "x" * 3000])

    def waiting() -> list[Any]:
        return [each for each in cast(Any, signaling.server.connections) if each.pace.is_waiting]

    await until(waiting)
    for connection in waiting():
        connection.tick(reactor.seconds() + 3600, False)
    await until(lambda: "is read slowly" in str(signaling.lines("warn")))
    for number in range(100):
        assert (await host.take())["payload"][0] == number
    await peer.is_alive()


@pytest.mark.usefixtures("much_is_allowed")
@pytest_twisted.ensureDeferred
async def test_others_cannot_have_a_peer_dropped_that_reads_slowly(signaling: SignalWorld) -> None:
    await signaling.start(max_rate=1000)
    host = await signaling.host()
    peer = await signaling.host("peer")
    host.transport.pauseProducing()
    for _ in range(400):
        peer.put("candidate", "host", payload="x" * 60000)
    assert "reads too slowly" in await peer.take_error(about="host")
    assert "reads slowly" in str(signaling.lines("warn"))
    host.transport.resumeProducing()
    host.put("offer", "nobody at all")
    while (message := await host.take())["type"] == "candidate":
        pass
    assert (message["type"], message["sender_id"]) == ("error", "nobody at all")


@pytest.mark.usefixtures("much_is_allowed")
@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_not_read_the_errors_it_causes(signaling: SignalWorld) -> None:
    await signaling.start(max_rate=100_000)
    peer = await websocket(signaling, frame(b'{"type":"register-host","sender_id":"peer"}'))
    peer.stop_reading()
    nobody = b"x" * 120
    for _ in range(300):
        peer.send(frame(b'{"type":"offer","target_id":"%s"}' % nobody) * 100)
    await until(lambda: not signaling.server.connections)
    assert "does not read" in str(signaling.lines("warn"))


@pytest_twisted.ensureDeferred
async def test_a_peer_that_holds_too_much_of_the_memory(signaling: SignalWorld) -> None:
    """It has begun a message, and does not end it. That is more than there is."""
    await signaling.start()
    signaling.server.factory.memory.total = 40_000
    modest = await websocket(signaling, frame(bytes(10_000), fin=False))
    peer = await websocket(signaling, frame(bytes(1000), fin=False, length=60_000))
    await until(lambda: len(signaling.server.connections) == 2)
    while not peer.over:
        signaling.server.factory.memory.look()
        await turns(1)
    assert not modest.over
    assert "memory is used up: 127.0.0.1 held 0 MiB" in str(signaling.lines("warn"))
