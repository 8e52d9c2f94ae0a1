"""A signaling server that limits nothing and believes everybody, and strangers who send offers through any server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

from tests.hostile.harness import connect
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.rtc import ID
from tests.process.services import LOOPBACK
from tests.rtc.signaling.server_parts import CLOSE, PING, PONG, TEXT, UPGRADE, frame, frames

ELSEWHERE = "127.0.0.9"
"""Where strangers come from."""
PRINT = ":".join(["AB"] * 32)


def offer(candidates: Sequence[str] = (), fragment: str = "EsAw") -> dict[str, object]:
    """The payload of an offer by somebody who says nothing more.

    :param candidates: ``candidate:`` lines.
    :param fragment: the username fragment.
    """
    lines = ["v=0", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"]
    lines += [f"a=ice-ufrag:{fragment}", f"a=ice-pwd:{'p' * 22}", f"a=fingerprint:sha-256 {PRINT}"]
    lines += ["a=setup:actpass", "a=mid:0", "a=sctp-port:5000", *(f"a={line}" for line in candidates)]
    return {"sdp": {"type": "offer", "sdp": "\r\n".join(lines)}}


def message(sender: str, payload: dict[str, object]) -> bytes:
    """An offer to the host."""
    return json.dumps({"type": "offer", "payload": payload, "target_id": ID, "sender_id": sender}).encode()


def server_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A frame of a server, which is not masked."""
    size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + struct.pack("!H", len(payload))
    return bytes([0x80 | opcode]) + size + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """A frame of a client: opcode and payload."""
    first, length = await reader.readexactly(2)
    length &= 127
    if length > 125:
        length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8))
    mask, data = await reader.readexactly(4), await reader.readexactly(length)
    return first & 15, bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))


class ForeignServer:
    """Sends every message to its target, as a reference server does, whoever it says it is from. A client too must
    have registered as a host to be one. It runs in a thread, for the time of the ``with`` block.

    :ivar answers: of the host, to senders that are not connected.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.answers = 0
        self._lines: dict[str, asyncio.StreamWriter] = {}
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()), daemon=True)
        self._thread.start()
        assert self._listens.wait(PATIENCE)

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self._listens.set()
        await self._over.wait()
        server.close()
        # Each ends its task.
        for line in self._lines.values():
            line.transport.abort()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            request = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"(?i)sec-websocket-key: *(\S+)", request)
            assert found is not None
            accept = base64.b64encode(hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            writer.write(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            while True:
                opcode, payload = await read_frame(reader)
                if opcode == TEXT:
                    self._route(payload, writer)
                elif opcode == PING:
                    writer.write(server_frame(payload, PONG))
                elif opcode == CLOSE:
                    writer.write(server_frame(payload, CLOSE))
                    break
        writer.close()

    def _route(self, payload: bytes, writer: asyncio.StreamWriter) -> None:
        signal = json.loads(payload)
        if signal["type"] == "register-host":
            self._lines[signal["sender_id"]] = writer
        elif signal.get("target_id") in self._lines:
            self._lines[signal["target_id"]].write(server_frame(payload))
        elif signal["type"] == "answer":
            self.answers += 1

    def forge(self, messages: Sequence[bytes]) -> None:
        """Send these to the host."""
        data = b"".join(server_frame(one) for one in messages)
        self._loop.call_soon_threadsafe(self._lines[ID].write, data)

    def __enter__(self) -> ForeignServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE)
        self._loop.close()


class Flood:
    """Calls *send* again and again, in a thread, for the time of the ``with`` block.

    :param per_second: how often.
    :ivar times: how often it has done so.
    """

    def __init__(self, send: Callable[[], None], per_second: float) -> None:
        self._send = send
        self._wait = 1 / per_second
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.times = 0

    def _run(self) -> None:
        start = time.monotonic()
        while not self._over.wait(max(0.0, start + self.times * self._wait - time.monotonic())):
            self._send()
            self.times += 1

    def has(self, times: int) -> None:
        """Wait until it has done so that often."""
        poll(lambda: self.times >= times or not self._thread.is_alive(), PATIENCE, f"{times} times of {self.times}")

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert kind is not None or self._thread.is_alive(), "the flood has ended early"
        self._over.set()
        self._thread.join(PATIENCE)


class Strangers:
    """Clients of a signaling server, for the time of the ``with`` block.

    :param port: of the server.
    """

    def __init__(self, port: int, count: int) -> None:
        self._sockets = [connect(port, ELSEWHERE, data=UPGRADE + b"\r\n") for _ in range(count)]

    def send(self, payload: dict[str, object]) -> None:
        """Let each of them send an offer."""
        for number, one in enumerate(self._sockets):
            one.sendall(frame(message(f"stranger {number}", payload)))

    @property
    def answers(self) -> int:
        """How many answers of the host have come; ask once."""
        found = 0
        for one in self._sockets:
            one.setblocking(False)
            received = b""
            with suppress(BlockingIOError):
                while data := one.recv(65536):
                    received += data
            found += sum(b'"type":"answer"' in payload for _, payload in frames(received))
        return found

    def __enter__(self) -> Strangers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._sockets:
            one.close()
