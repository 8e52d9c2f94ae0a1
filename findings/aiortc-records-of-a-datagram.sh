#!/usr/bin/env bash
# aiortc 1.16.0 reads one DTLS record of each datagram. The others wait for later datagrams, each of which reads one.
#
# A datagram may hold several records (RFC 6347, section 4.1.1), so a peer may send small messages together. aiortc
# gives the whole datagram to OpenSSL and then reads once. The second record is read when the next datagram comes, in
# place of that one's. Nothing is lost, but from then on whatever the peer says is late by one record, by two after the
# next such datagram, and so on: its last message is seen only when it sends another.
#
# Expected: both messages of each datagram. Seen: behind three datagrams with two each, three of the six.
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

from aiortc import RTCCertificate, RTCDtlsTransport

PAIRS = ((b"a", b"b"), (b"c", b"d"), (b"e", b"f"))


class Path:
    """What stands for ICE: datagrams to the other end, where those that were held go out as one."""

    def __init__(self, role):
        self.role, self.state = role, "completed"
        self.other = None
        self.held = None
        self.arrived = asyncio.Queue()

    async def _send(self, datagram):
        if self.held is None:
            self.other.arrived.put_nowait(datagram)
        else:
            self.held += datagram

    async def _recv(self):
        datagram = await self.arrived.get()
        if datagram is None:
            raise ConnectionError
        return datagram

    async def stop(self):
        self.arrived.put_nowait(None)


class Messages:
    """What an end has received."""

    def __init__(self):
        self.text = ""

    async def _handle_data(self, data):
        self.text += data.decode()


async def received():
    """What has arrived behind each datagram, and what OpenSSL has beside."""
    path, other = Path("controlling"), Path("controlled")
    path.other, other.other = other, path
    sender, receiver = (RTCDtlsTransport(each, [RTCCertificate.generateCertificate()]) for each in (path, other))
    await asyncio.gather(sender.start(receiver.getLocalParameters()), receiver.start(sender.getLocalParameters()))
    messages, seen = Messages(), []
    receiver._register_data_receiver(messages)
    for pair in PAIRS:
        path.held = b""
        for message in pair:
            await sender._send_data(message)
        datagram, path.held = path.held, None
        await path._send(datagram)
        await asyncio.sleep(0.3)
        seen.append(messages.text)
    kept = "".join(receiver._ssl.recv(1500).decode() for _ in range(2 * len(PAIRS) - len(messages.text)))
    await asyncio.gather(sender.stop(), receiver.stop())
    return seen, kept


print("aiortc", importlib.metadata.version("aiortc"))
seen, kept = asyncio.run(received())
print("sent:", *(b"".join(pair).decode() for pair in PAIRS))
print("received behind each datagram:", *seen)
print("OpenSSL has it all, for it goes on with:", kept)
sys.exit(0 if seen == ["a", "ab", "abc"] and kept == "def" else "changed: see what is new")
PYTHON
