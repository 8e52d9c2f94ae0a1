"""Measure aiortc's own data channel between two processes, as a yardstick for the WebRTC tunnel.

    python benchmarks/bare_channel.py SECONDS        prints Mbit/s, one way

The second process runs this file too. The two exchange their descriptions over its standard input and output.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aioice.ice
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

MESSAGE = b"x" * 16384
BUFFERED = 65536

# Use loopback only.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


async def send() -> None:
    """Answer an offer, and fill the channel that it opens."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    filling: list[asyncio.Future[None]] = []

    @connection.on("datachannel")
    def arrived(channel: RTCDataChannel) -> None:
        filling.append(asyncio.ensure_future(fill(channel)))

    async def fill(channel: RTCDataChannel) -> None:
        room = asyncio.Event()
        channel.bufferedAmountLowThreshold = BUFFERED // 2
        channel.on("bufferedamountlow", room.set)
        while channel.readyState == "open":
            while channel.bufferedAmount < BUFFERED:
                channel.send(MESSAGE)
            room.clear()
            await room.wait()

    offer = json.loads(sys.stdin.readline())
    await connection.setRemoteDescription(RTCSessionDescription(**offer))
    await connection.setLocalDescription(await connection.createAnswer())
    answer = connection.localDescription
    print(json.dumps({"type": answer.type, "sdp": answer.sdp}), flush=True)
    await asyncio.Event().wait()


async def receive(seconds: float) -> float:
    """Open a channel, and return the rate at which bytes come, in Mbit/s."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    channel = connection.createDataChannel("bare")
    received = 0

    @channel.on("message")
    def message(data: bytes) -> None:
        nonlocal received
        received += len(data)

    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        await connection.setLocalDescription(await connection.createOffer())
        offer = connection.localDescription
        child.stdin.write(json.dumps({"type": offer.type, "sdp": offer.sdp}).encode() + b"\n")
        answer = json.loads(await child.stdout.readline())
        await connection.setRemoteDescription(RTCSessionDescription(**answer))
        async with asyncio.timeout(20):
            while not received:
                await asyncio.sleep(0.05)
        began, before = time.monotonic(), received
        await asyncio.sleep(seconds)
        return (received - before) * 8 / 1e6 / (time.monotonic() - began)
    finally:
        child.kill()
        await child.wait()
        await connection.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(asyncio.run(receive(float(sys.argv[1]))))
    else:
        asyncio.run(send())
