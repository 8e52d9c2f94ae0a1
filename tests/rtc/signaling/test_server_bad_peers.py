"""What a peer of the signaling server may do wrong, each over a real socket."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from hypothesis import given, strategies as st

from rtunnel.addresses import ListenAddress
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.server import SignalServer
from tests.reverse.net import reactor, turns, until
from tests.rtc.signaling.server_parts import (
    PING,
    UPGRADE,
    FakeTransport,
    SignalWorld,
    close_code,
    frame,
    short,
    websocket,
)

# HTTP


@pytest.mark.parametrize("path", ["/healthz", "/healthz?a=b"])
@pytest_twisted.ensureDeferred
async def test_health(signaling: SignalWorld, path: str) -> None:
    await signaling.start(valid_tokens=("token",))
    answer = await signaling.get(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 3" in head
    assert body == b"ok\n"
    assert signaling.lines("warn") == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"POST /healthz HTTP/1.1\r\n\r\n", 405),
        (b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /healthz/more HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET //healthz HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (UPGRADE.replace(b"GET / ", b"GET /other ") + b"\r\n", 404),
        (UPGRADE.replace(b"GET / ", b"GET /? ") + b"\r\n", 101),
        (UPGRADE.replace(b"GET / ", b"GET /?token=x ") + b"\r\n", 101),
        (UPGRADE.replace(b"GET / ", b"GET /# ") + b"\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\x04\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\x04abcd", 400),
        (b"\x16\x03\x01\xff\xff" + b"x" * 20000, 431),
        (b"\xff \xff \xff\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + UPGRADE.partition(b"Host: x\r\n")[2] + b"\r\n", 400),
        (UPGRADE.replace(b"Host: x", b"Host: x:port") + b"\r\n", 400),
        (UPGRADE.replace(b"Key: d", b"Key: \xff") + b"\r\n", 400),
        (UPGRADE.replace(b"13", b"9" * 5000) + b"\r\n", 400),
        (UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99\r\n\r\n", 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_requests(signaling: SignalWorld, request_: bytes, status: int) -> None:
    await signaling.start()
    peer = await signaling.raw(request_)
    await until(lambda: b"\r\n\r\n" in peer.received)
    assert peer.received.startswith(b"HTTP/1.1 %d " % status)
    if status != 101:
        await peer.ends()
    if request_.startswith(b"HEAD"):
        assert peer.received.endswith(b"\r\n\r\n")


@pytest_twisted.ensureDeferred
async def test_lines_that_are_no_headers(signaling: SignalWorld) -> None:
    """Autobahn refuses them since 26.11; older ones pass over them."""
    await signaling.start()
    peer = await signaling.raw(UPGRADE + b"no colon\r\n : \r\n\x00: \x00\r\n\r\n")
    await until(lambda: b"\r\n\r\n" in peer.received)
    assert peer.received.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 400 "))


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
@pytest_twisted.ensureDeferred
async def test_a_head_without_end(signaling: SignalWorld, end: bytes) -> None:
    await signaling.start()
    peer = await signaling.raw(UPGRADE + b"X: " + b"x" * 20000 + end)
    await peer.ends()
    assert peer.received.startswith(b"HTTP/1.1 431 ")


@pytest_twisted.ensureDeferred
async def test_a_request_in_pieces(signaling: SignalWorld) -> None:
    await signaling.start()
    peer = await signaling.raw()
    for byte in UPGRADE + b"\r\n" + frame(b"{}"):
        peer.send(bytes([byte]))
        await turns(1)
    await until(lambda: b"error" in peer.received)


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\r\n\r\n"])
@pytest_twisted.ensureDeferred
async def test_a_connection_that_does_not_become_a_websocket(signaling: SignalWorld, data: bytes) -> None:
    await signaling.start(short(upgrade=0.1))
    peer = await signaling.raw(data)
    await peer.ends()
    assert peer.received == b""


@pytest_twisted.ensureDeferred
async def test_a_page_that_is_not_read_to_its_end(signaling: SignalWorld) -> None:
    await signaling.start(short(close=0.1))
    peer = await signaling.raw()
    peer.stop_reading()
    peer.send(b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 1_000_000)
    await until(lambda: not signaling.server.connections)


# Time


@pytest.mark.parametrize("data", [b"", frame(b"{}"), frame(b"", opcode=PING)])
@pytest_twisted.ensureDeferred
async def test_nothing_that_registers(signaling: SignalWorld, data: bytes) -> None:
    await signaling.start(short(first_message=0.1, close=0.1))
    peer = await websocket(signaling, data)
    await peer.ends()
    assert close_code(bytes(peer.received)) == 1008
    assert "did not register" in str(signaling.lines("warn"))


@pytest_twisted.ensureDeferred
async def test_who_is_registered_may_be_silent(signaling: SignalWorld) -> None:
    await signaling.start(short(first_message=1.0, ping_every=0.1, silent=2.0))
    peer = await signaling.host()
    await until(lambda: peer.pings >= 25)
    await peer.is_alive()


@pytest_twisted.ensureDeferred
async def test_who_answers_no_ping_is_dropped(signaling: SignalWorld) -> None:
    await signaling.start(short(ping_every=0.1, silent=1.0))
    peer = await signaling.host()
    peer.answers_pings = False
    await peer.ends()
    assert peer.pings >= 3
    assert signaling.server.switchboard.hosts == 0


@pytest_twisted.ensureDeferred
async def test_an_id_whose_holder_answers(signaling: SignalWorld) -> None:
    await signaling.start()
    host = await signaling.host()
    for kind in ("register-host", "offer"):
        newcomer = await signaling.open()
        newcomer.put(kind, "" if kind == "register-host" else "other", "host")
        assert "in use" in await newcomer.take_error(about="host")
        await newcomer.ends(1008)
    await host.is_alive()


@pytest_twisted.ensureDeferred
async def test_an_id_whose_holder_is_dead(signaling: SignalWorld) -> None:
    await signaling.start(short(answer=0.2))
    old = await signaling.host()
    old.transport.pauseProducing()
    client = await signaling.open()
    new = await signaling.open()
    new.put("register-host", sender="host")
    await until(lambda: len([line for line in signaling.lines("info") if "registered" in line]) == 2)
    client.put("offer", "host", "client")
    assert (await new.take())["sender_id"] == "client"
    old.transport.resumeProducing()
    await old.ends()
    await new.is_alive()


@pytest_twisted.ensureDeferred
async def test_an_id_whose_holder_talks_but_answers_no_ping(signaling: SignalWorld) -> None:
    await signaling.start(short(answer=1.0))
    old = await signaling.host()
    old.answers_pings = False
    new = await signaling.open()
    new.put("register-host", sender="host")
    await until(lambda: old.pings)
    old.sendPong(b"a guess!")
    await old.is_alive()
    await old.ends()
    await new.is_alive()


# Anything


def anything() -> Any:
    token = st.sampled_from(
        [
            b"GET / HTTP/1.1\r\n",
            b"\r\n",
            b"\r\n\r\n",
            b"Host: x\r\n",
            b"Origin: ",
            b"http://[",
            b"://",
            b"Upgrade: websocket\r\n",
            b"Connection: upgrade\r\n",
            b"Sec-WebSocket-Version: 13\r\n",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            b"Sec-WebSocket-Protocol: a, a\r\n",
            b"Sec-WebSocket-Extensions: ;;=,permessage-deflate;x\r\n",
            UPGRADE,
            UPGRADE + b"\r\n",
        ]
    )
    piece = st.builds(
        frame, st.binary(max_size=130), st.integers(0, 15), st.booleans(), st.none() | st.integers(0, 2**63)
    )
    return st.lists(token | piece | st.binary(max_size=30), max_size=12)


@given(anything(), st.booleans())
def test_no_bytes_raise(pieces: list[bytes], upgraded: bool) -> None:
    server = SignalServer(reactor, SignalSettings(ListenAddress.parse("127.0.0.1:0")))
    protocol = server.factory.buildProtocol(None)
    transport = FakeTransport()
    protocol.makeConnection(transport)
    if upgraded:
        protocol.dataReceived(UPGRADE + b"\r\n")
    for piece in pieces:
        protocol.dataReceived(piece)
    assert b" 500 " not in transport.value()
    protocol.connectionLost()
