"""Many ends in one light process: clients of the reverse tunnel, or hosts at signaling servers, that only are there.

They speak their protocols by hand, as they would take too much memory otherwise, and come from many addresses of
loopback. Commands; HOST:PORT is where a server listens::

    python -m benchmarks.crowd links HOST:PORT FIRST COUNT TUNNELS     each with so many host names, no data connections
    python -m benchmarks.crowd hosts HOST:PORT FIRST COUNT
    python -m benchmarks.crowd offers HOST:PORT HOST:PORT SECONDS AT_ONCE [PID ...]

The first of ``offers`` is where clients are, the second where hosts are; the CPU of these processes is counted.

The first two print what is there as soon as all have come, again for each line of standard input, and end with it.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import statistics
import struct
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from benchmarks.costs import cpu_seconds

#: How many of a process come at once.
AT_ONCE = 32
#: How many have one address: a signaling server lets in 64 by default.
OF_ONE_ADDRESS = 50
#: Seconds before one that was sent away, or a tunnel while the directory is away, comes again.
AGAIN = 0.5
#: Seconds that one has to be let in.
PATIENCE = 60.0
#: Seconds between two pings of a host, as rtunnel's own send them.
PING_EVERY = 10.0
#: How many hosts get offers, and how many clients make them. A host takes 20 a second, and 512 in a burst.
HOSTS, CLIENTS = 200, 100
#: As much as a real description of a session, in bytes.
SDP = "v=0\r\n" + "a=candidate:" * 60

INIT, HELLO, PING, PONG, READY, ERROR = 0x04, 0x10, 0x13, 0x14, 0x15, 0x16
_HEADER = struct.Struct("!BII")
_TEXT, _CLOSE, _WS_PING, _WS_PONG = 1, 8, 9, 10
_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: rtunnel.signaling.v1\r\n\r\n"
)


Some = TypeVar("Some", bound="End")


class End(asyncio.Protocol):
    """One of the crowd.

    :ivar there: done when the server has let it in; fails if it has not.
    :ivar is_lost: the connection is lost.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.there: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_lost = False
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        """See :class:`asyncio.Protocol`."""
        self.transport = transport
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self.is_lost = True
        self.fails(f"the server has closed the connection: {exc}")

    def fails(self, why: str) -> None:
        """It is not let in."""
        if not self.there.done():
            self.there.set_exception(ConnectionError(why))

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        self._data = self.take(self._data + data)

    def begin(self) -> None:
        """Say the first words."""
        raise NotImplementedError

    def take(self, data: bytes) -> bytes:
        """Take what has come, and return what is left of it."""
        raise NotImplementedError


class Link(End):
    """A client of the reverse tunnel, with one link.

    :param names: the host names that it asks for.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names
        self._unanswered = len(names)

    def begin(self) -> None:
        """See :class:`End`."""
        said = {"version": 1, "agent": "crowd", "capabilities": ["withdraw", "hosts"]}
        said |= {"session": secrets.token_hex(16), "initial_credit": 65536}
        self._send(HELLO, 0, json.dumps(said).encode())

    def _send(self, kind: int, number: int, payload: bytes) -> None:
        self.transport.write(_HEADER.pack(kind, number, len(payload)) + payload)

    def take(self, data: bytes) -> bytes:
        """See :class:`End`."""
        while len(data) >= _HEADER.size:
            kind, number, length = _HEADER.unpack_from(data)
            end = _HEADER.size + length
            if len(data) < end:
                break
            self._handle(kind, number, data[_HEADER.size : end])
            data = data[end:]
        return data

    def _handle(self, kind: int, number: int, payload: bytes) -> None:
        if kind == PING:
            self._send(PONG, number, payload)
        elif kind == HELLO:
            for each in range(len(self._names)):
                self._ask(each)
        elif kind == READY:
            self._unanswered -= 1
            if not self._unanswered:
                self.there.set_result(None)
        elif kind == ERROR and json.loads(payload)["code"] == "cluster-away":
            # As clients do.
            asyncio.get_running_loop().call_later(AGAIN, self._ask, number)
        elif kind == ERROR:
            self.fails(payload.decode())

    def _ask(self, number: int) -> None:
        self._send(INIT, number, f"http/{self._names[number]}:127.0.0.1:1".encode())


class Peer(End):
    """A host or a client at a signaling server.

    :param heard: gets each message, and the peer.
    """

    def __init__(self, name: str, heard: Callable[[Peer, dict[str, Any]], None], payload: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.answer: asyncio.Future[None] | None = None
        self._heard = heard
        self._payload = payload
        self._is_open = False

    def begin(self) -> None:
        """See :class:`End`."""
        self.transport.write(_UPGRADE)

    def say(self, **message: object) -> None:
        """Send a message."""
        self._send(_TEXT, json.dumps(message).encode())

    def _ping(self) -> None:
        if not self.is_lost:
            self._send(_WS_PING, b"there?")

    def _send(self, opcode: int, payload: bytes) -> None:
        # Masked by zeros.
        length = len(payload)
        size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
        self.transport.write(bytes([0x80 | opcode]) + size + bytes(4) + payload)

    def take(self, data: bytes) -> bytes:
        """See :class:`End`."""
        if not self._is_open:
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                return data
            data = rest
            self._is_open = True
            if not head.startswith(b"HTTP/1.1 101"):
                self.fails(str(head))
            self.say(type="register-host", sender_id=self.name, key=secrets.token_hex(16), payload=self._payload)
            # It is answered when the server has accepted the ID.
            self._ping()
        while len(data) >= 2:
            begin, length = 2, data[1]
            if length == 126:
                begin, length = 4, int.from_bytes(data[2:4], "big")
            if len(data) < begin + length:
                break
            self._handle(data[0] & 15, data[begin : begin + length])
            data = data[begin + length :]
        return data

    def _handle(self, opcode: int, payload: bytes) -> None:
        if opcode == _WS_PING:
            self._send(_WS_PONG, payload)
        elif opcode == _WS_PONG:
            if not self.there.done():
                self.there.set_result(None)
            asyncio.get_running_loop().call_later(PING_EVERY, self._ping)
        elif opcode == _CLOSE:
            self.fails(str(payload))
        elif opcode == _TEXT:
            self._heard(self, json.loads(payload))


def _address(number: int) -> str:
    """Return one address of loopback for each :data:`OF_ONE_ADDRESS`, from 127.1.0.1 on."""
    group = number // OF_ONE_ADDRESS
    return f"127.{1 + group // 50_000}.{group // 250 % 200}.{group % 250 + 1}"


async def come(builders: Sequence[Callable[[], Some]], where: str, first: int) -> tuple[list[Some], int]:
    """Let all of them come, :data:`AT_ONCE` at a time. Who is sent away comes again, as rtunnel's own ends do.

    :param builders: make them.
    :param first: the number of the first one, by which they have their addresses.
    :return: all of them, and how often one was sent away.
    :raises OSError: one could not come in :data:`PATIENCE` seconds.
    """
    host, _, port = where.rpartition(":")
    turns = asyncio.Semaphore(AT_ONCE)
    loop = asyncio.get_running_loop()
    sent_away = 0

    async def one(number: int, build: Callable[[], Some]) -> Some:
        nonlocal sent_away
        async with turns:
            began = loop.time()
            while True:
                try:
                    _, end = await loop.create_connection(build, host, int(port), local_addr=(_address(number), 0))
                    await asyncio.wait_for(end.there, PATIENCE)
                    return end
                except OSError:
                    if loop.time() - began > PATIENCE:
                        raise
                    sent_away += 1
                    await asyncio.sleep(AGAIN)

    ends = await asyncio.gather(*(one(first + number, build) for number, build in enumerate(builders)))
    return ends, sent_away


async def stay(builders: Sequence[Callable[[], End]], where: str, first: int) -> None:
    """Let them come, say how many there are, again whenever somebody asks, and end when nobody does any more."""
    began = time.monotonic()
    ends, sent_away = await come(builders, where, first)
    seconds = time.monotonic() - began
    loop = asyncio.get_running_loop()
    while True:
        there = sum(not end.is_lost for end in ends)
        print(json.dumps({"there": there, "seconds": seconds, "sent_away": sent_away}), flush=True)
        if not await loop.run_in_executor(None, sys.stdin.readline):
            return


def _answer(host: Peer, message: dict[str, Any]) -> None:
    if message["type"] == "offer":
        payload = {"sdp": {"type": "answer", "sdp": SDP}}
        host.say(type="answer", target_id=message["sender_id"], payload=payload)


def _answered(client: Peer, message: dict[str, Any]) -> None:
    if client.answer is not None and not client.answer.done():
        if message["type"] == "answer":
            client.answer.set_result(None)
        else:
            client.answer.set_exception(ConnectionError(str(message["payload"])))


async def offers(
    clients_at: str, hosts_at: str, seconds: float, at_once: int, pids: Sequence[int] = ()
) -> dict[str, float]:
    """Make offers, each of which is answered at once.

    :param at_once: how many are on their way at a time.
    :param pids: processes whose CPU time is counted.
    :return: how many were answered in a second (``rate``), two shares of their times in ms (``p50``, ``p99``), and CPU
        seconds for each (``cpu``).
    """
    hosts = [f"host {number}" for number in range(HOSTS)]
    await come([partial(Peer, name, _answer) for name in hosts], hosts_at, 0)
    names = [secrets.token_hex(16) for _ in range(CLIENTS)]
    clients, _ = await come([partial(Peer, name, _answered, "client") for name in names], clients_at, HOSTS)
    times: list[float] = []
    free = asyncio.Queue[Peer]()
    for client in clients:
        free.put_nowait(client)
    began, spent = time.monotonic(), cpu_seconds(pids)

    async def work() -> None:
        while time.monotonic() - began < seconds:
            client = await free.get()
            sent = time.perf_counter()
            client.answer = asyncio.get_running_loop().create_future()
            target = random.choice(hosts)
            client.say(type="offer", target_id=target, payload={"sdp": {"type": "offer", "sdp": SDP}})
            await client.answer
            times.append((time.perf_counter() - sent) * 1000)
            free.put_nowait(client)

    await asyncio.gather(*(work() for _ in range(at_once)))
    took, spent = time.monotonic() - began, cpu_seconds(pids) - spent
    shares = statistics.quantiles(times, n=100)
    return {"rate": len(times) / took, "p50": shares[49], "p99": shares[98], "cpu": spent / len(times)}


async def _main(what: str, *arguments: str) -> None:
    if what == "offers":
        pids = [int(pid) for pid in arguments[4:]]
        print(json.dumps(await offers(arguments[0], arguments[1], float(arguments[2]), int(arguments[3]), pids)))
        return
    where, first, count = arguments[0], int(arguments[1]), int(arguments[2])
    builders: list[Callable[[], End]] = []
    for number in range(first, first + count):
        if what == "links":
            names = [f"h{number}x{each}.example.org" for each in range(int(arguments[3]))]
            builders.append(partial(Link, names))
        else:
            builders.append(partial(Peer, f"host {number}", _answer))
    await stay(builders, where, first)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
