"""One who floods the signaling server, beside a host and others who come and go."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rtunnel.rtc.signaling.connections import MAX_UNREGISTERED
from tests.hostile.harness import connect, gauge
from tests.patience import PATIENCE
from tests.process.harness import Twistd, Twistds, poll
from tests.rtc.signaling.server_parts import PING, UPGRADE, frame, frames

FLOODER, HONEST = "127.0.0.9", "127.0.0.2"
#: What is dear to parse: nothing but brackets.
BRACKETS = frame(b'{"type":"candidate","target_id":"host","payload":[' + b"[]," * 20_000 + b"0]}")


def message(**fields: object) -> bytes:
    return frame(json.dumps(fields).encode())


def start(twistd: Twistds) -> tuple[Twistd, int]:
    server = twistd("rtc-signal", "--addr=127.0.0.1:0")
    return server, port_of(server)


def port_of(server: Twistd) -> int:
    return int(server.wait_for(r"signaling port listening on \S+:(\d+)")[1])


def websocket(port: int, source: str, name: str = "") -> socket.socket:
    """A WebSocket; with a name, of a host that has registered."""
    connection = connect(port, source, data=UPGRADE + b"\r\n")
    while not connection.recv(4096).endswith(b"\r\n\r\n"):
        pass
    if name:
        connection.sendall(message(type="register-host", sender_id=name) + frame(b"", PING))
        assert connection.recv(2)[0] & 15 == 10, "an answer to a ping"
    return connection


def ask(port: int, name: str, host: socket.socket) -> bytes:
    """An honest client comes, makes an offer to the host, and goes; what the host receives up to that offer."""
    with websocket(port, HONEST) as client:
        client.sendall(message(type="offer", sender_id=name, target_id="host", payload={"sdp": name}))
        received = b"\r\n\r\n"
        host.settimeout(PATIENCE)
        while f'"sender_id":"{name}"'.encode() not in received:
            data = host.recv(65536)
            assert data, "the host is still there"
            received += data
    return received


@contextmanager
def flood(port: int, data: bytes, name: str = "") -> Iterator[list[int]]:
    """Somebody who sends as much as is read; how many bytes that were."""
    sent = [0]
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            with suppress(OSError), websocket(port, FLOODER, name and f"{name} {sent[0]}") as connection:
                connection.settimeout(0.1)
                while not over.is_set():
                    try:
                        sent[0] += connection.send(data)
                    except TimeoutError:
                        continue

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield sent
    over.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_brackets_to_a_host(twistd: Twistds) -> None:
    server, port = start(twistd)
    with websocket(port, HONEST, "host") as host, flood(port, BRACKETS, "flooder") as sent, gauge(server) as used:
        poll(lambda: sent[0] > 20 * len(BRACKETS), PATIENCE, "a flood")
        for number in range(5):
            ask(port, f"client {number}", host)
    # 2 to 3 ms for each message of 60,000 bytes, as long as there is some left of the burst.
    assert used.cpu_seconds < 0.3 + sent[0] / len(BRACKETS) * 0.015


def test_offers_to_a_host(twistd: Twistds) -> None:
    server, port = start(twistd)
    offer = message(type="offer", target_id="host", payload={"sdp": "x"})
    with websocket(port, HONEST, "host") as host:
        with gauge(server) as used, websocket(port, FLOODER, "flooder") as flooder:
            flooder.sendall(offer * 450)
            received = ask(port, "honest", host)
            flooder.sendall(message(type="candidate", target_id="host", payload="the last"))
            while b"the last" not in received:
                received += host.recv(65536)
        kinds = [json.loads(payload).get("type") for opcode, payload in frames(received) if opcode == 1]
        # A burst, and a few more as time goes by.
        assert kinds.count("offer") < 225
    assert used.cpu_seconds < 450 * 0.001
    assert used.log_bytes < 25 * 200


PATIENT = f"""
from twisted.application.service import Application
from twisted.internet import reactor

from rtunnel.options.plugins.rtc_signal import Options
from rtunnel.rtc.signaling.limits import Times
from rtunnel.rtc.signaling.server import SignalServer

options = Options()
options.parseOptions(["--addr=127.0.0.1:0", "--max-per-address=0"])
application = Application("patient")
SignalServer(reactor, options.settings, Times(upgrade={PATIENCE})).setServiceParent(application)
"""
"""A server that waits for a WebSocket for as long as a flood may take on a busy machine."""


def test_connections_without_end(twistd: Twistds, tmp_path: Path) -> None:
    """None that floods takes the place of another address, not even of one that came before."""
    tac = tmp_path / "patient.tac"
    tac.write_text(PATIENT)
    server = twistd(twistd_options=["-n", "--pidfile=", f"--python={tac}"])
    port = port_of(server)
    with websocket(port, HONEST, "host") as host, gauge(server) as used, ExitStack() as stack:
        first = stack.enter_context(connect(port, HONEST))
        for _ in range(MAX_UNREGISTERED + 10):
            stack.enter_context(connect(port, FLOODER))
        ask(port, "honest", host)
        first.sendall(UPGRADE + b"\r\n")
        assert b"101" in first.recv(4096)
    assert used.cpu_seconds < MAX_UNREGISTERED * 0.005
    assert used.log_bytes < 25 * 250
