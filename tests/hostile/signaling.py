"""A signaling server that limits nothing and believes everybody, and strangers who send offers through any server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from autobahn.asyncio.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.rtc import ID
from tests.process.services import LOOPBACK

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


class Loop:
    """An event loop in a thread of its own, for the time of the ``with`` block."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Any) -> Any:
        """Run a coroutine in it to its end."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def close(self, *lines: Any) -> None:
        """End these connections, and stop the loop."""

        async def end() -> None:
            for line in lines:
                line.dropConnection(True)
                await line.is_closed

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


class ForeignServer(Loop):
    """Sends every message to its target, as a reference server does, whoever it says it is from. A client too must
    have registered as a host to be one.

    :ivar answers: of the host, to senders that are not connected.
    """

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.answers = 0
        self._lines: dict[str, WebSocketServerProtocol] = {}
        server = self

        class Line(WebSocketServerProtocol):
            def onMessage(self, payload: bytes, isBinary: bool) -> None:
                signal = json.loads(payload)
                if signal["type"] == "register-host":
                    server._lines[signal["sender_id"]] = self
                elif signal.get("target_id") in server._lines:
                    server._lines[signal["target_id"]].sendMessage(payload)
                elif signal["type"] == "answer":
                    server.answers += 1

        async def listen() -> None:
            factory = WebSocketServerFactory(loop=self.loop)
            factory.protocol = Line
            self._server = await self.loop.create_server(factory, LOOPBACK, self.port)

        self.run(listen())

    def has(self, count: int) -> None:
        """Wait until so many are registered."""
        poll(lambda: len(self._lines) >= count, PATIENCE, f"{count} ends at the signaling server")

    def forge(self, messages: Sequence[bytes]) -> None:
        """Send these to the host."""
        for one in messages:
            self.loop.call_soon_threadsafe(self._lines[ID].sendMessage, one)

    def __enter__(self) -> ForeignServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._server.close)
        self.close(*self._lines.values())


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


class Strangers(Loop):
    """Clients of a signaling server.

    :param port: of the server.
    :ivar answers: of the host.
    """

    def __init__(self, port: int, count: int) -> None:
        super().__init__()
        self.answers = 0
        self.open: list[WebSocketClientProtocol] = []
        strangers = self

        class Stranger(WebSocketClientProtocol):
            def onOpen(self) -> None:
                strangers.open.append(self)

            def onMessage(self, payload: bytes, isBinary: bool) -> None:
                strangers.answers += json.loads(payload)["type"] == "answer"

        async def connect() -> None:
            for _ in range(count):
                factory = WebSocketClientFactory(f"ws://{LOOPBACK}:{port}", loop=self.loop)
                factory.protocol = Stranger
                await self.loop.create_connection(factory, LOOPBACK, port, local_addr=(ELSEWHERE, 0))

        self.run(connect())
        poll(lambda: len(self.open) == count, PATIENCE, f"{count} strangers at the signaling server")

    def send(self, payload: dict[str, object]) -> None:
        """Let each of them send an offer."""
        for number, one in enumerate(self.open):
            self.loop.call_soon_threadsafe(one.sendMessage, message(f"stranger {number}", payload))

    def __enter__(self) -> Strangers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(*self.open)
