"""Two networks, one for the server and visitors, one for the client, and a cable between them, as on the internet.

The cable takes its time, carries only so much, and loses packets. It is a thread of this process that passes packets
between two TUN interfaces, as not every kernel has ``netem``. Without a delay, TCP would send again what was lost
before anybody noticed.

The networks are namespaces of the Linux kernel without a name: each is gone when nothing refers to it any more, so
nothing is left behind. A thread enters one, and what it starts there stays there.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf
from threading import Thread

from benchmarks.parts import Failed, find
from benchmarks.ways import FAR, NEAR

#: How many seconds the cable takes in each direction, unless a measurement says otherwise.
DELAY = 0.01
#: How many packets the cable holds in each direction.
QUEUE = 10_000
#: How many packets are read at once.
BATCH = 32
_NEW = 0x40000000  # CLONE_NEWNET
_HERE = "/proc/thread-self/ns/net"
_TUNSETIFF = 0x400454CA
_TUN, _NO_HEADER = 1, 0x1000  # IFF_TUN, IFF_NO_PI
_COMMANDS = """\
link set lo up
addr add {address}/24 dev cable
link set cable up
"""
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise Failed(f"no network namespace can be made here: {os.strerror(number)}")


@contextmanager
def _inside(namespace: int) -> Iterator[None]:
    """Run the block, and all that it starts, in a network."""
    before = os.open(_HERE, os.O_RDONLY)
    try:
        # os.setns is there from Python 3.12 on.
        _checked(_libc.setns(namespace, _NEW))
        try:
            yield
        finally:
            _checked(_libc.setns(before, _NEW))
    finally:
        os.close(before)


class _End:
    """A network with its end of the cable.

    :ivar network: the descriptor of the network.
    :ivar cable: the descriptor of the cable's end.
    :raises Failed: this process may not make it.
    """

    def __init__(self, ip: str, address: str) -> None:
        before = os.open(_HERE, os.O_RDONLY)
        try:
            _checked(_libc.unshare(_NEW))
            try:
                self.network = os.open(_HERE, os.O_RDONLY)
                self.cable = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                fcntl.ioctl(self.cable, _TUNSETIFF, struct.pack("16sH22x", b"cable", _TUN | _NO_HEADER))
                commands = _COMMANDS.format(address=address)
                subprocess.run([ip, "-batch", "-"], input=commands, text=True, check=True, capture_output=True)
            finally:
                _checked(_libc.setns(before, _NEW))
        except (OSError, subprocess.CalledProcessError) as error:
            raise Failed(f"no network with a TUN interface can be made here: {error}") from None
        finally:
            os.close(before)


class _Direction:
    """One direction of the cable, to the end with this descriptor. Packets wait in the order in which they leave."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.held: deque[tuple[float, bytes]] = deque()
        self.free_at = 0.0


class LossyNetwork:
    """The two networks and the cable.

    :ivar percent: how many of a hundred packets are lost in each direction, whatever they carry.
    :ivar delay: the seconds that the cable takes in each direction.
    :ivar rate: the bytes that it carries in a second, in each direction.
    :ivar queue: how many bytes wait for that. More are dropped.
    :raises Failed: this process may not make them, or ``ip`` is missing.
    """

    def __init__(self) -> None:
        self.percent, self.delay = 0.0, DELAY
        self.rate, self.queue = inf, inf
        ip = find("ip")
        if os.geteuid():
            raise Failed("network namespaces need root")
        self._near, self._far = _End(ip, NEAR), _End(ip, FAR)
        self._stopped, self._stop = os.pipe()
        self._thread = Thread(target=self._carry)
        self._thread.start()

    def _carry(self) -> None:
        near, far = self._near.cable, self._far.cable
        directions = {near: _Direction(far), far: _Direction(near)}
        while True:
            first = min((each.held[0][0] for each in directions.values() if each.held), default=None)
            timeout = None if first is None else max(0.0, first - time.monotonic())
            ready = select.select([near, far, self._stopped], [], [], timeout)[0]
            if self._stopped in ready:
                return
            for end in ready:
                self._read(end, directions[end])
            now = time.monotonic()
            for each in directions.values():
                while each.held and each.held[0][0] <= now:
                    os.write(each.to, each.held.popleft()[1])

    def _read(self, end: int, direction: _Direction) -> None:
        now, rate = time.monotonic(), self.rate
        for _ in range(BATCH):
            try:
                packet = os.read(end, 65536)
            except BlockingIOError:
                return
            begins = max(now, direction.free_at)
            waiting = (begins - now) * rate if begins > now else 0
            is_full = len(direction.held) >= QUEUE or waiting + len(packet) > self.queue
            if not is_full and random.random() * 100 >= self.percent:
                direction.free_at = begins + len(packet) / rate
                direction.held.append((direction.free_at + self.delay, packet))

    def at_server(self) -> AbstractContextManager[None]:
        """Run the block, and all that it starts, where the server and visitors are."""
        return _inside(self._near.network)

    def at_client(self) -> AbstractContextManager[None]:
        """Run the block, and all that it starts, where the client and the services are."""
        return _inside(self._far.network)

    def close(self) -> None:
        """Cut the cable, and let go of both networks. They are gone when the processes inside are."""
        os.close(self._stop)
        self._thread.join()
        for end in (self._near, self._far):
            os.close(end.cable)
            os.close(end.network)
        os.close(self._stopped)
