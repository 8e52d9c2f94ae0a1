"""A real reactor that the test turns, and far ends of real connections that it controls."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet.defer import ensureDeferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.task import deferLater

from rtunnel.relay.pipes import PIPES, Pipes
from rtunnel.relay.poller import Poller, ReactorPoller
from rtunnel.relay.sockets import QuietFactory
from tests.patience import PATIENCE


class Turns:
    """A reactor that the test turns.

    :param which: words: ``running`` (the reactor of pytest-twisted, asyncio) or ``epoll`` (a separate one); ``watch``:
        relays use a :class:`Poller` over it; ``sealed``: records are sealed.
    :ivar relays: what relays use as their reactor.
    """

    def __init__(self, which: str) -> None:
        words = which.split()
        self._own = "epoll" in words
        self.sealed = "sealed" in words
        self.reactor: Any
        if self._own:
            self.reactor = EPollReactor()
        else:
            from twisted.internet import reactor

            self.reactor = reactor
        self.poller = Poller(self.reactor) if "watch" in words else None
        self.relays: Any = ReactorPoller(self.reactor) if self.poller is None else self.poller

    async def turn(self, pause: float = 0) -> None:
        """Let the reactor do what is to be done, and wait for up to *pause* seconds if there is nothing."""
        if self._own:
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(pause)
        else:
            await deferLater(self.reactor, pause)

    async def until(self, condition: Callable[[], object], *fars: Far) -> None:
        """Turn, and let *fars* send and receive, until *condition* holds."""
        deadline = time.monotonic() + PATIENCE
        still = 0
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            before = [far.moved for far in fars]
            for far in fars:
                far.step()
            # Nothing moves for long while the kernel waits for a timer of its own. That costs no processor time.
            await self.turn(0.001 if still > 100 else 0)
            still = still + 1 if before == [far.moved for far in fars] else 0

    async def settle(self, *fars: Far) -> None:
        """Turn until no more bytes move.

        A busy system keeps what is sent for a while before the other end may read it. So in each turn a byte goes the
        same way, behind all others.
        """
        still = 0
        with Marks() as marks:
            while still < 20:
                before = [far.moved for far in fars]
                for far in fars:
                    far.step()
                await self.turn()
                marks.wait()
                still = still + 1 if before == [far.moved for far in fars] else 0

    def watched(self) -> int:
        """Return how many descriptors the reactor watches, without its own."""
        known = {*self.reactor._internalReaders, self.poller}
        watched = len({*self.reactor.getReaders(), *self.reactor.getWriters()} - known)
        return watched + (len(self.poller) if self.poller is not None else 0)

    def close(self) -> None:
        if self.poller is not None:
            assert len(self.poller) == 0
            self.poller._epoll.close()
        if self._own:
            left = [thing for thing in self.reactor.removeAll() if thing is not self.reactor.waker]
            self.reactor.waker.connectionLost(None)
            self.reactor._poller.close()
            assert not left


class Marks:
    """A connection through loopback. That delivers in order: what was sent before a byte of this one is there first."""

    def __init__(self) -> None:
        self._ends = connected("tcp")
        for sock in self._ends:
            # The port is free again at once.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def wait(self) -> None:
        """Wait until what was sent so far has arrived."""
        one, other = self._ends
        one.send(b"m")
        other.recv(1)

    def __enter__(self) -> Marks:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._ends:
            sock.close()


class Far:
    """The far end of a connection: what it is to send, and what it has received.

    :ivar reads: how many bytes to read in one step; 0: none.
    :ivar ended: the end has come.
    :ivar error: the error that came in place of the end.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.reads = 1 << 18
        self.to_send = memoryview(b"")
        self.end_behind = False
        self.sent = 0
        self.received = 0
        self.checksum = 0
        self.kept = bytearray()
        self.ended = False
        self.error: OSError | None = None

    @property
    def moved(self) -> int:
        return self.sent + self.received + self.ended + (self.error is not None)

    @property
    def is_over(self) -> bool:
        return self.ended or self.error is not None

    def send(self, data: bytes, end: bool = False) -> None:
        self.to_send = memoryview(bytes(self.to_send) + data)
        self.end_behind |= end

    def step(self) -> None:
        """Send and receive what is possible now."""
        if self.socket.fileno() < 0 or self.error is not None:
            return
        with contextlib.suppress(BlockingIOError):
            try:
                self._send_some()
            except BrokenPipeError:
                self.to_send = memoryview(b"")
            except ConnectionError as error:
                self.error = error
                return
        with contextlib.suppress(BlockingIOError):
            try:
                self._receive_some()
            except OSError as error:
                if isinstance(error, BlockingIOError):
                    raise
                self.error = error

    def _send_some(self) -> None:
        if self.to_send:
            count = self.socket.send(self.to_send[: 1 << 20])
            self.sent += count
            self.to_send = self.to_send[count:]
        if self.end_behind and not self.to_send:
            self.end_behind = False
            self.socket.shutdown(socket.SHUT_WR)

    def _receive_some(self) -> None:
        if self.reads and not self.ended:
            data = self.socket.recv(self.reads)
            self.ended = not data
            self.received += len(data)
            self.checksum = zlib.crc32(data, self.checksum)
            if self.received <= 1 << 20:
                self.kept += data

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def got(self, data: bytes) -> bool:
        return self.received == len(data) and self.checksum == zlib.crc32(data)


def connected(kind: str, buffers: int = 0) -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new connection.

    :param kind: ``tcp`` or ``unix``.
    :param buffers: the size of each of the kernel's buffers, in bytes; 0: the system's default.
    """
    if kind == "unix":
        one, other = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            one = socket.create_connection(listening.getsockname())
            other, _ = listening.accept()
        for sock in (one, other):
            # As ours have. Else a small piece waits until the one before is acknowledged, which takes up to 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    if buffers:
        for sock in (one, other):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
    return one, other


@lru_cache(maxsize=8)
def _piece(seed: int) -> bytes:
    return random.Random(seed).randbytes(1_000_003)


def random_bytes(count: int, seed: int = 1) -> bytes:
    """Return bytes that repeat themselves only after so many that no piece in a wrong place looks right."""
    piece = _piece(seed)
    return (piece * (count // len(piece) + 1))[:count]


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def close_idle(pool: Pipes) -> None:
    """Close the pipes that *pool* keeps open."""
    while pool:
        pool._idle.pop().close()


@contextlib.contextmanager
def no_descriptor_left(turns: Turns) -> Iterator[None]:
    """Check that the same descriptors are open and watched after the block as before; idle pipes do not count."""
    close_idle(PIPES)
    # What tests before this one left to the garbage collector must not go in the middle of it.
    gc.disable()
    try:
        before = open_descriptors(), turns.watched()
        yield
        assert PIPES.in_use == 0
        close_idle(PIPES)
        after = open_descriptors(), turns.watched()
    finally:
        gc.enable()
    assert after == before, f"{after} descriptors are open and watched, not {before}"


@contextlib.contextmanager
def checked_turns(which: str) -> Iterator[Turns]:
    """Return what the test turns, and check that nothing stays open.

    :param which: see :class:`Turns`.
    """
    turns = Turns(which)
    # Twisted opens descriptors of its own when a reactor first runs, and when a port is first opened.
    pytest_twisted.blockon(ensureDeferred(Turns("running").turn()))
    pytest_twisted.blockon(ensureDeferred(turns.turn()))
    stopped: list[object] = []
    turns.reactor.listenTCP(0, QuietFactory(), interface="127.0.0.1").stopListening().addBoth(stopped.append)
    pytest_twisted.blockon(ensureDeferred(turns.until(lambda: stopped)))
    with no_descriptor_left(turns):
        yield turns
    turns.close()
