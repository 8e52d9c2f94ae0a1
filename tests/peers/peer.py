"""An engine with aiortc's interface as a peer: ``python peer.py aiortc``, or ``webrtc.aiortc``, which is libwebrtc.

Commands and answers are lines of JSON; they are those of ``peer.js``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

os.environ["WRTC_ALLOW_LOOPBACK"] = "1"  # Read when `webrtc` is imported.

HIGH_WATER = 1 << 20


@cache
def pattern() -> bytes:
    """What all messages are cut from: twice the same mebibyte."""
    return bytes((i * i * 31 + i * 7 + (i >> 8) * 13) & 255 for i in range(1 << 20)) * 2


def content(number: int, size: int) -> bytes:
    """Message *number* of any stream."""
    begin = number * 7919 % (len(pattern()) // 2)
    message = pattern()[begin : begin + size]
    return number.to_bytes(4, "big") + message[4:] if size >= 4 else message


async def until(look: Callable[[], object]) -> None:
    while not look():
        await asyncio.sleep(0.005)


class Books:
    """What came in a channel."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.digest = hashlib.sha256()
        self.count = self.bytes = self.texts = 0
        self.numbers: list[int] = []
        channel.on("message", self.take)

    def take(self, data: str | bytes) -> None:
        content = data.encode() if isinstance(data, str) else data
        self.count += 1
        self.bytes += len(content)
        self.texts += isinstance(data, str)
        if len(content) >= 4 and len(self.numbers) < 10_000:
            self.numbers.append(int.from_bytes(content[:4], "big"))
        self.digest.update(content)
        if self.channel.label.startswith("echo"):
            self.channel.send(data)

    def report(self) -> dict[str, Any]:
        names = ("ordered", "maxRetransmits", "maxPacketLifeTime", "protocol")
        return {
            "count": self.count,
            "bytes": self.bytes,
            "texts": self.texts,
            "numbers": self.numbers,
            "sha256": self.digest.hexdigest(),
            **{name: getattr(self.channel, name) for name in names},
        }


class Peer:
    def __init__(self, module: Any) -> None:
        self.module = module
        self.connection = module.RTCPeerConnection(module.RTCConfiguration(iceServers=[]))
        self.books: dict[str, Books] = {}
        self.connection.on("datachannel", self.add)

    def add(self, channel: Any) -> Any:
        self.books[channel.label] = Books(channel)
        return channel

    async def find(self, label: str) -> Books:
        await until(lambda: label in self.books)
        return self.books[label]

    async def describe(self, description: Any) -> str:
        await self.connection.setLocalDescription(description)
        await until(lambda: self.connection.iceGatheringState == "complete")
        return str(self.connection.localDescription.sdp)

    async def do_offer(self, label: str) -> str:
        self.add(self.connection.createDataChannel(label))
        return await self.describe(await self.connection.createOffer())

    async def do_answer(self, sdp: str) -> str:
        await self.connection.setRemoteDescription(self.module.RTCSessionDescription(sdp, "offer"))
        return await self.describe(await self.connection.createAnswer())

    async def do_take(self, sdp: str) -> None:
        await self.connection.setRemoteDescription(self.module.RTCSessionDescription(sdp, "answer"))

    async def do_open(self, label: str, options: dict[str, Any]) -> None:
        channel = self.add(self.connection.createDataChannel(label, **options))
        await until(lambda: channel.readyState == "open")

    async def do_send(self, label: str, sizes: list[int], times: int, text: bool) -> int:
        channel = (await self.find(label)).channel
        await until(lambda: channel.readyState == "open")
        number = 0
        for _ in range(times):
            for size in sizes:
                if channel.bufferedAmount > HIGH_WATER:
                    await until(lambda: channel.bufferedAmount < HIGH_WATER // 2)
                channel.send("ü" + "x" * size if text else content(number, size))
                number += 1
        return number

    async def do_close(self, label: str) -> None:
        (await self.find(label)).channel.close()

    async def do_received(self, label: str, count: int) -> dict[str, Any]:
        books = await self.find(label)
        await until(lambda: books.count >= count)
        return books.report()

    async def do_closed(self, label: str) -> dict[str, Any]:
        books = await self.find(label)
        await until(lambda: books.channel.readyState == "closed")
        return books.report()

    async def do_bye(self) -> None:
        await self.connection.close()


async def main() -> None:
    """Do what is said until there is no more."""
    peer = Peer(import_module(sys.argv[1]))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()

    async def work(id: int, do: str, **arguments: Any) -> None:
        answer: dict[str, Any]
        try:
            answer = {"id": id, "value": await getattr(peer, f"do_{do}")(**arguments)}
        except Exception as error:
            answer = {"id": id, "error": repr(error)}
        print(json.dumps(answer), flush=True)

    while line := await reader.readline():
        tasks.add(asyncio.create_task(work(**json.loads(line))))
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
