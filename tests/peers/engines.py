"""The other WebRTC stacks, each a process that does what a test says, and our end beside it."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from tests.patience import PATIENCE
from tests.peers.peer import content
from tests.process.harness import clean_environment, need
from tests.reverse.net import reactor, until
from tests.rtc.aiortc.peer_connection_parts import End, Ends

HERE = Path(__file__).parent
MODULES = {"aiortc": "aiortc", "libwebrtc": "webrtc.aiortc"}
PACKAGES = {"libdatachannel": "node-datachannel", "werift": "werift"}
PROGRAMS = {"chromium": "chromium", "firefox": "firefox-esr"}
ENGINES = [*MODULES, *PACKAGES, *PROGRAMS]


def command(engine: str, directory: Path) -> list[str]:
    """The command that starts an engine; skips the test where it is not installed."""
    if engine in MODULES:
        if find_spec(MODULES[engine].partition(".")[0]) is None:
            pytest.skip(f"{engine} is not installed")
        return [sys.executable, str(HERE / "peer.py"), MODULES[engine]]
    if engine in PACKAGES:
        node, package = need("node"), PACKAGES[engine]
        if not (HERE / "node/node_modules" / package).exists():
            pytest.skip(f"{package} is not installed; `npm ci --prefix {HERE.name}/node` in tests/ does it")
        return [node, str(HERE / "node/run.js"), package]
    return [sys.executable, str(HERE / "browser.py"), engine, need(PROGRAMS[engine]), str(directory)]


class Engine(ProcessProtocol):
    """A peer in a process of its own."""

    transport: Any

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.errors = b""
        self._answers: dict[int, Deferred[Any]] = {}
        self._count = 0
        self._ended: Deferred[None] = Deferred()
        self._lines = LineReceiver()
        self._lines.delimiter, self._lines.MAX_LENGTH = b"\n", 1 << 20
        self._lines.lineReceived = self._answered  # type: ignore[method-assign]
        argv = command(name, directory)
        reactor.spawnProcess(self, argv[0], argv, env=clean_environment({"TMPDIR": str(directory)}))

    def outReceived(self, data: bytes) -> None:
        self._lines.dataReceived(data)

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.errback(AssertionError(f"{self.name} has ended: {self.errors.decode(errors='replace')}"))
        self._ended.callback(None)

    def _answered(self, line: bytes) -> None:
        found = json.loads(line)
        answer = self._answers.pop(found["id"])
        if "error" in found:
            answer.errback(AssertionError(f"{self.name}: {found['error']}"))
        else:
            answer.callback(found["value"])

    def __call__(self, do: str, **arguments: object) -> Deferred[Any]:
        """Do something, and return its value."""
        self._count += 1
        answer = self._answers[self._count] = Deferred()
        line = json.dumps({"id": self._count, "do": do, **arguments})
        self.transport.write(line.encode() + b"\n")
        return answer.addTimeout(
            *(PATIENCE, reactor),
            onTimeoutCancel=lambda *_: Failure(AssertionError(f"{self.name} does not answer {line}: {self.errors!r}")),
        )

    async def end(self) -> None:
        self.transport.closeStdin()
        await self._ended


class User:
    """The user of a channel of ours.

    :ivar opened, closed: whether the channel is.
    :ivar numbers: those of the messages that came, by their first four bytes.
    """

    def __init__(self, channel: Any, keep: bool = False) -> None:
        self.channel = channel
        self.opened = self.closed = False
        self.count = self.bytes = self.texts = 0
        self.numbers: list[int] = []
        self.messages: list[bytes] = []
        self._keep = keep
        self.digest = hashlib.sha256()
        channel.use(self)

    def channel_opened(self) -> None:
        self.opened = True

    def channel_closed(self) -> None:
        self.closed = True

    def message_received(self, data: bytes) -> None:
        self.count += 1
        self.bytes += len(data)
        self.digest.update(data)
        if len(data) >= 4 and len(self.numbers) < 10_000:
            self.numbers.append(int.from_bytes(data[:4], "big"))
        if self._keep:
            self.messages.append(data)

    def text_received(self, text: bytes) -> None:
        self.texts += 1
        self.message_received(text)


class Match:
    """An engine and our end, connected to each other.

    :ivar arrived: users of the channels that the engine opened, by label.
    """

    def __init__(self, engine: Engine, ends: Ends) -> None:
        self.engine = engine
        self.end: End = ends.make()
        self.connection = self.end.connection
        self.arrived: dict[str, User] = {}
        self.end.peer.on_channel = self._channel_arrived
        self._waiting: list[tuple[Any, bytes]] = []

    def _channel_arrived(self, channel: Any) -> None:
        self.arrived[channel.label] = User(channel, keep=channel.label.startswith("keep"))

    async def connect(self, *, we_offer: bool, change: Callable[..., str] = lambda sdp, is_ours: sdp) -> None:
        """Connect the two.

        :param change: what becomes of a description on its way.
        """
        connection = self.connection
        if we_offer:
            connection.offer()
            answer = await self.engine("answer", sdp=change(await self.end.description(), is_ours=True))
            connection.take_answer(change(answer, is_ours=False))
        else:
            connection.take_offer(change(await self.engine("offer", label="first"), is_ours=False))
            await self.engine("take", sdp=change(await self.end.description(), is_ours=True))
        await Ends.connected(self.end)
        if not we_offer:
            await self.channel("first")

    async def channel(self, label: str) -> User:
        """The user of a channel that the engine opens, or has opened."""
        await until(lambda: label in self.arrived or self.end.lost, f"channel {label}")
        assert not self.end.lost
        return self.arrived[label]

    async def open(self, label: str, *, reliable: bool = True, keep: bool = False) -> User:
        """A channel of ours that is open."""
        user = User(self.connection.open_channel(label, "", reliable), keep)
        await until(lambda: user.opened or self.end.lost, f"our channel {label}")
        assert not self.end.lost
        return user

    async def send(self, user: User, sizes: list[int], times: int = 1, text: bool = False) -> str:
        """Send messages in a channel of ours as the engine does it, and return the digest of all."""
        digest, number = hashlib.sha256(), 0
        for _ in range(times):
            for size in sizes:
                if self.connection.buffered > 1 << 20:
                    await until(lambda: self.connection.buffered < 1 << 19)
                message = ("ü" + "x" * size).encode() if text else content(number, size)
                digest.update(message)
                if text:
                    user.channel.send_text(message.decode())
                else:
                    user.channel.send(message)
                number += 1
        return digest.hexdigest()


def sent(sizes: list[int], times: int = 1) -> str:
    """The digest of what an engine sends."""
    digest = hashlib.sha256()
    for number, size in enumerate(sizes * times):
        digest.update(content(number, size))
    return digest.hexdigest()


def max_message(sdp: str) -> int:
    """The largest message that a description allows."""
    found = re.search(r"a=max-message-size:(\d+)", sdp)
    return int(found[1]) if found else 65_536
