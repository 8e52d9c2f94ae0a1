"""One end of a data channel without a tunnel around it: stock aiortc, or libwebrtc by PyPI's ``wrtc``.

    python -P benchmarks/bare_channel.py receive aiortc              opens a channel, and counts what comes
    python -P benchmarks/bare_channel.py send webrtc.aiortc          fills the channel that the other end opens

Each prints its description, one line of JSON, and reads the other's. Then the receiver prints how many bytes have come,
and when, in seconds, for each line that it reads. ``bare_channel.js`` does the same with libdatachannel.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from importlib import import_module
from typing import Any

import aioice.ice

MESSAGE = b"x" * 16384
#: How many bytes wait in a channel. aiortc is the slower the more there are.
BUFFERED = {"aiortc": 1 << 16, "webrtc.aiortc": 1 << 20}

os.environ["WRTC_ALLOW_LOOPBACK"] = "1"  # Read when `webrtc` is imported.
# Of the interfaces that there are the last will do: loopback, or the cable of benchmarks/lossy.py.
_addresses = aioice.ice.get_host_addresses
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: _addresses(True, False)[-1:] or ["127.0.0.1"]


class End:
    """One end, and the lines by which it meets the other."""

    def __init__(self, module: str) -> None:
        self.module: Any = import_module(module)
        self._buffered = BUFFERED[module]
        self.connection = self.module.RTCPeerConnection(self.module.RTCConfiguration(iceServers=[]))

    async def _describe(self, description: Any) -> None:
        await self.connection.setLocalDescription(description)
        while self.connection.iceGatheringState != "complete":
            await asyncio.sleep(0.01)
        described = self.connection.localDescription
        print(json.dumps({"type": described.type, "sdp": described.sdp}), flush=True)

    async def _read(self) -> str:
        return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

    async def _take(self) -> None:
        description = self.module.RTCSessionDescription(**json.loads(await self._read()))
        await self.connection.setRemoteDescription(description)

    async def send(self) -> None:
        """Answer an offer, and fill the channel that it opens."""
        filling: list[asyncio.Future[None]] = []
        self.connection.on("datachannel", lambda channel: filling.append(asyncio.ensure_future(self._fill(channel))))
        await self._take()
        await self._describe(await self.connection.createAnswer())
        await asyncio.Event().wait()

    async def _fill(self, channel: Any) -> None:
        room = asyncio.Event()
        channel.bufferedAmountLowThreshold = self._buffered // 2
        channel.on("bufferedamountlow", room.set)
        while channel.readyState == "open":
            while channel.bufferedAmount < self._buffered:
                channel.send(MESSAGE)
            room.clear()
            await room.wait()

    async def receive(self) -> None:
        """Open a channel, and count the bytes that come."""
        channel = self.connection.createDataChannel("bare")
        received = 0

        def message(data: bytes) -> None:
            nonlocal received
            received += len(data)

        channel.on("message", message)
        await self._describe(await self.connection.createOffer())
        await self._take()
        while await self._read():
            print(json.dumps([received, time.monotonic()]), flush=True)


def main() -> None:
    """Be the end that the command names, until it is ended."""
    _, role, module = sys.argv

    async def run() -> None:
        end = End(module)
        await (end.send() if role == "send" else end.receive())

    asyncio.run(run())


if __name__ == "__main__":
    main()
