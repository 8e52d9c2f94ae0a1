"""The signaling server over real sockets: what works, who is let in, how it starts and stops."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import pytest_twisted

from rtunnel.addresses import ListenAddress
from rtunnel.errors import ConfigError, StartupError
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.server import SignalServer
from rtunnel.wire.webrtc.signaling import SUBPROTOCOL
from tests.ports import free_port
from tests.reverse.net import HOST, can_bind, reactor, until
from tests.rtc.signaling.server_parts import UPGRADE, SignalWorld, short

SDP = {"sdp": {"type": "offer", "sdp": "v=0\r\n"}, "rtunnel": {"version": 1, "initial_credit": 65536}}


@pytest_twisted.ensureDeferred
async def test_host_and_client_find_each_other(signaling: SignalWorld) -> None:
    await signaling.start()
    host = await signaling.host()
    client = await signaling.open()
    client.put("offer", "host", "client", SDP)
    assert await host.take() == {"type": "offer", "payload": SDP, "target_id": "host", "sender_id": "client"}
    host.put("answer", "client", "host", SDP)
    client.put("candidate", "host", "client", {"candidate": {"candidate": "", "sdpMid": ""}})
    assert (await client.take())["type"] == "answer"
    assert (await host.take())["payload"] == {"candidate": {"candidate": "", "sdpMid": ""}}


@pytest_twisted.ensureDeferred
async def test_a_client_that_is_gone_before_its_answer(signaling: SignalWorld) -> None:
    await signaling.start()
    host = await signaling.host()
    clients = [await signaling.open() for _ in range(20)]
    for number, client in enumerate(clients):
        client.put("offer", "host", f"client {number}", SDP)
    for _ in clients:
        await host.take()
    for client in clients:
        client.transport.abortConnection()
    for number in range(20):
        assert "gone" in await host.take_error(about=f"client {number}")
    host.put("answer", "client 7", "host", SDP)
    await host.take_error(about="client 7")


@pytest_twisted.ensureDeferred
async def test_an_id_is_free_as_soon_as_its_holder_goes(signaling: SignalWorld) -> None:
    await signaling.start()
    for _ in range(3):
        host = await signaling.host()
        host.sendClose(1000)
        await host.ends(1000)
    assert "host" in str(signaling.lines("info"))
    assert len([line for line in signaling.lines("info") if "registered" in line]) == 3
    assert len([line for line in signaling.lines("info") if "gone" in line]) == 3


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(None, None), (["other"], None), ([SUBPROTOCOL], SUBPROTOCOL), (["other", SUBPROTOCOL, "third"], SUBPROTOCOL)],
)
@pytest_twisted.ensureDeferred
async def test_subprotocol(signaling: SignalWorld, offered: list[str] | None, agreed: str | None) -> None:
    await signaling.start()
    peer = await signaling.host(protocols=offered)
    assert peer.websocket_protocol_in_use == agreed


@pytest_twisted.ensureDeferred
async def test_no_compression(signaling: SignalWorld) -> None:
    await signaling.start()
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    peer = await signaling.raw(UPGRADE + offer)
    await until(lambda: b"\r\n\r\n" in peer.received)
    assert peer.received.startswith(b"HTTP/1.1 101 ")
    assert b"extensions" not in peer.received.lower()


@pytest_twisted.ensureDeferred
async def test_over_a_unix_socket(signaling: SignalWorld, tmp_path: Path) -> None:
    await signaling.start(addr=f"unix:{tmp_path}/signal", max_per_address=1)
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/signal")
            client.setblocking(False)
            client.send(UPGRADE + b"\r\n")
            answer = bytearray()

            def has_answer(client: socket.socket = client, answer: bytearray = answer) -> bool:
                try:
                    answer += client.recv(4096)
                except BlockingIOError:
                    pass
                return b"\r\n\r\n" in answer

            await until(has_answer, "an answer")
            assert answer.startswith(b"HTTP/1.1 101 ")


# Who is let in

TOKENS = ("first-token", "second-töken")


@pytest.mark.parametrize("value", ["Bearer first-token", "bearer  first-token ", "Bearer second-töken"])
@pytest_twisted.ensureDeferred
async def test_a_valid_token(signaling: SignalWorld, value: str) -> None:
    await signaling.start(valid_tokens=TOKENS)
    answer = await signaling.raw(UPGRADE + f"Authorization: {value}\r\n\r\n".encode())
    await until(lambda: b"\r\n\r\n" in answer.received)
    assert answer.received.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Authorization: Bearer wrong\r\n",
        b"Authorization: Bearer\r\n",
        b"Authorization: Bearer \r\n",
        b"Authorization: \r\n",
        b"Authorization: first-token\r\n",
        b"Authorization: Basic first-token\r\n",
        b"Authorization: Bearer first-toke\r\n",
        b"Authorization: Bearer first-token2\r\n",
        b"Authorization: Bearer first-token second-token\r\n",
        b"Authorization: Bearer wrong\r\nAuthorization: Bearer first-token\r\n",
        b"Authorization: Bearer \xff\r\n",
        b"X-Authorization: Bearer first-token\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_token_that_is_missing_or_wrong(signaling: SignalWorld, header: bytes) -> None:
    await signaling.start(valid_tokens=TOKENS)
    answer = await signaling.get(UPGRADE + header + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"\r\nWWW-Authenticate: Bearer\r\n" in answer
    assert "(401)" in str(signaling.lines("warn"))


@pytest_twisted.ensureDeferred
async def test_no_token_is_asked_for_where_there_is_none(signaling: SignalWorld) -> None:
    await signaling.start()
    await signaling.host(headers={"Authorization": "Bearer whatever"})


@pytest.mark.parametrize(
    ("rules", "origin", "allowed"),
    [
        (("*",), "https://anything.example:1234", True),
        (("*",), "null", True),
        (("*",), "file://", True),
        (("https://my-app.com",), "https://my-app.com", True),
        (("https://my-app.com",), "https://MY-APP.com:443", True),
        (("https://my-app.com:443/",), "https://my-app.com", True),
        (("https://my-app.com",), "https://my-app.com.evil.example", False),
        (("https://my-app.com",), "https://my-app.com:8443", False),
        (("https://my-app.com",), "https://evilmy-app.com", False),
        (("https://my-app.com",), "https://my-appxcom", False),
        (("https://my-app.com",), "https://evil.example/https://my-app.com", False),
        (("https://my-app.com",), "https://my-app.com@evil.example", False),
        (("https://my-app.com",), "http://my-app.com", False),
        (("https://my-app.com",), "http://my-app.com:443", False),
        (("https://my-app.com",), "null", False),
        (("https://my-app.com",), "file://", False),
        (("https://my-app.com",), "https://*", False),
        (("https://a.example", "http://localhost:3000"), "http://localhost:3000", True),
        (("https://a.example", "http://localhost:3000"), "http://localhost", False),
        (("https://*.example.com",), "https://a.b.example.com", True),
        (("https://*.example.com",), "https://example.com", False),
        (("https://*.example.com",), "https://example.com.evil.example", False),
        (("https://*.example.com",), "https://a.example.com:8443", False),
        (("https://*.example.com:*",), "https://a.example.com:8443", True),
        (("http://localhost:*",), "http://localhost:3000", True),
        (("http://localhost:*",), "http://localhost", True),
        (("*://my-app.com",), "http://my-app.com", True),
        (("*://my-app.com",), "https://my-app.com:444", False),
        (("http://[::1]:3000",), "http://[::1]:3000", True),
        (("capacitor://localhost",), "capacitor://localhost", True),
        ((), "https://my-app.com", False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_origin(signaling: SignalWorld, rules: tuple[str, ...], origin: str, allowed: bool) -> None:
    await signaling.start(allowed_origins=rules)
    answer = await signaling.raw(UPGRADE + f"Origin: {origin}\r\n\r\n".encode())
    await until(lambda: b"\r\n\r\n" in answer.received)
    assert answer.received.startswith(b"HTTP/1.1 101 " if allowed else b"HTTP/1.1 403 Forbidden\r\n")


@pytest_twisted.ensureDeferred
async def test_a_program_sends_no_origin(signaling: SignalWorld) -> None:
    await signaling.start(allowed_origins=("https://my-app.com",))
    await signaling.host()


@pytest.mark.parametrize(
    "extra",
    [
        b"Origin: https://my-app.com\r\nOrigin: https://evil.example\r\n",
        b"Origin: \r\n",
        b"Origin: https://\r\n",
        b"Origin: my-app.com\r\n",
        b"Origin: https://my-app.com:99999\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_origin_that_is_none(signaling: SignalWorld, extra: bytes) -> None:
    await signaling.start(allowed_origins=("https://my-app.com",))
    answer = await signaling.get(UPGRADE + extra + b"\r\n")
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))


@pytest.mark.parametrize("version", [b"0", b"7", b"8"])
@pytest_twisted.ensureDeferred
async def test_the_origin_cannot_hide_in_an_old_version(signaling: SignalWorld, version: bytes) -> None:
    await signaling.start(allowed_origins=("https://my-app.com",))
    request = UPGRADE.replace(b"Version: 13", b"Version: " + version) + b"Origin: https://evil.example\r\n\r\n"
    assert (await signaling.get(request)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("rule", ["my-app.com", "", "https://my-app.com/page", "https://", "https://a b", "**"])
def test_a_rule_that_is_no_origin(rule: str) -> None:
    with pytest.raises(ConfigError, match="is not an origin"):
        SignalServer(reactor, SignalSettings(ListenAddress.parse("127.0.0.1:0"), allowed_origins=(rule,)))


@pytest_twisted.ensureDeferred
async def test_connections_of_one_address(signaling: SignalWorld) -> None:
    await signaling.start(max_per_address=3)
    peers = [await signaling.host(f"host {number}") for number in range(3)]
    refused = await signaling.raw(UPGRADE + b"\r\n")
    await refused.ends()
    assert refused.received == b""
    assert "--max-per-address" in str(signaling.lines("warn"))
    peers[0].transport.abortConnection()
    await until(lambda: signaling.server.switchboard.hosts == 2)
    await signaling.host("one more")


@pytest_twisted.ensureDeferred
async def test_any_number_of_connections_of_one_address(signaling: SignalWorld) -> None:
    await signaling.start(max_per_address=0)
    for number in range(70):
        await signaling.host(f"host {number}")


@pytest_twisted.ensureDeferred
async def test_many_strangers_give_way(signaling: SignalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtunnel.rtc.signaling.connections.MAX_UNREGISTERED", 3)
    await signaling.start()
    host = await signaling.host()
    strangers = [await signaling.raw() for _ in range(3)]
    newest = await signaling.raw()
    await strangers[0].ends()
    await host.is_alive()
    assert not any(stranger.over for stranger in (*strangers[1:], newest))


# Start and stop


@pytest_twisted.ensureDeferred
async def test_its_children_have_names(signaling: SignalWorld) -> None:
    server = await signaling.start()
    assert server.name == "rtc-signal"
    assert [child.name for child in server] == ["directory", "signaling port", "descriptors", "watch"]


@pytest_twisted.ensureDeferred
async def test_a_busy_port_is_one_line(signaling: SignalWorld) -> None:
    await signaling.start()
    other = SignalServer(reactor, SignalSettings(ListenAddress.parse(f"127.0.0.1:{signaling.port}")))
    with pytest.raises(StartupError, match=r"cannot listen on 127\.0\.0\.1:\d+ \(signaling port\).*--addr"):
        other.privilegedStartService()


@pytest.mark.parametrize(
    ("addr", "tokens", "warning"),
    [
        ("127.0.0.1:0", (), None),
        ("127.0.0.1:0", TOKENS, None),
        ("0.0.0.0:0", (), "ANYBODY WHO REACHES"),
        ("0.0.0.0:0", TOKENS, "TOKENS COME TO"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_warnings_at_start(
    signaling: SignalWorld, addr: str, tokens: tuple[str, ...], warning: str | None
) -> None:
    await signaling.start(addr=addr, valid_tokens=tokens)
    assert len(signaling.lines("warn")) == (warning is not None)
    assert (warning or "") in str(signaling.lines("warn"))
    assert "first-token" not in signaling.log.text()


@pytest_twisted.ensureDeferred
async def test_stop_tells_everybody_and_frees_the_port(signaling: SignalWorld) -> None:
    # No port of the system's choice: once it is free, the system may give it to any process.
    port = free_port()
    server = await signaling.start(addr=f"127.0.0.1:{port}")
    peers = [await signaling.host("host"), await signaling.open()]
    silent = await signaling.raw()
    await server.stopService()
    for peer in peers:
        assert await peer.ends(1001) == "the server is going down"
    await silent.ends()
    assert can_bind(port)
    await signaling.start(addr=f"127.0.0.1:{port}")
    await signaling.host("host")


@pytest_twisted.ensureDeferred
async def test_stop_does_not_wait_for_peers_that_do_not_answer(signaling: SignalWorld) -> None:
    server = await signaling.start(short(close=0.2))
    host = await signaling.host()
    host.transport.pauseProducing()
    await server.stopService()
    host.transport.resumeProducing()
    await until(lambda: host.over)


@pytest_twisted.ensureDeferred
async def test_addresses_behind_a_load_balancer(signaling: SignalWorld) -> None:
    """Those that the PROXY headers name are counted, and not the balancer's."""
    await signaling.start(addr=f"haproxy:tcp:0:interface={HOST}", max_per_address=1)
    question = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

    def header(number: int) -> bytes:
        return b"PROXY TCP4 192.0.2.%d 198.51.100.1 1000 80\r\n" % number

    held = [await signaling.raw(header(number)) for number in (1, 2)]
    await until(lambda: len(signaling.server.connections) == 2)
    refused = await signaling.raw(header(1) + question)
    await refused.ends()
    assert not refused.received
    served = await signaling.raw(header(3) + question)
    await until(lambda: served.received)
    assert served.received.startswith(b"HTTP/1.1 200")
    assert "a connection from 192.0.2.1:1000 is closed: there are 1 (--max-per-address)" in str(signaling.lines("warn"))
    assert not any(peer.over for peer in held)
