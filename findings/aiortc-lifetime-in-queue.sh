#!/usr/bin/env bash
# aiortc 1.16.0: a message with a lifetime (maxPacketLifeTime) that waits to be sent does not expire, but arrives late.
#
# Data channels with maxPacketLifeTime are for what is worthless later: positions, speech, datagrams. The lifetime
# starts when the message is handed to the stack, and none is to be sent behind its end (RFC 8832, section 5.1). aiortc
# sends all channels from one queue, where a message waits behind whatever the others have queued, and looks at the
# lifetime only when a chunk that was sent before is to be sent again. So a message is late by as much as the queue is
# long, and so are all that follow it.
#
# Expected: behind 10 MB of another channel, the message of 50 ms is dropped. Seen: it arrives, seconds old.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install aiortc==1.16.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import importlib.metadata
import sys
import time

from aiortc import RTCPeerConnection

LIFETIME = 0.05


async def ages():
    """How old such a message is when it arrives: on an idle connection, and behind 10 MB of another channel."""
    one, other = RTCPeerConnection(), RTCPeerConnection()
    live = one.createDataChannel("live", ordered=False, maxPacketLifeTime=round(1000 * LIFETIME))
    bulk = one.createDataChannel("bulk")
    opened, arrived = asyncio.Event(), asyncio.Queue()

    @other.on("datachannel")
    def announced(channel):
        if channel.label == "live":
            channel.on("message", lambda sent: arrived.put_nowait(time.monotonic() - float(sent)))

    bulk.on("open", opened.set)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)
    await asyncio.wait_for(opened.wait(), 20)
    seen = []
    for waiting in (0, 100):
        for _ in range(waiting):
            bulk.send(bytes(100_000))
        live.send(str(time.monotonic()))
        seen.append(await asyncio.wait_for(arrived.get(), 30))
    await asyncio.gather(one.close(), other.close())
    return seen


print("aiortc", importlib.metadata.version("aiortc"))
idle, behind = asyncio.run(ages())
print(f"lifetime {LIFETIME} s; age at arrival {idle:.3f} s; behind another channel {behind:.3f} s")
sys.exit(0 if behind > 5 * LIFETIME else "changed: see what is new")
PYTHON
