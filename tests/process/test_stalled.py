"""Somebody does not read at either end: others go on, and memory does not grow.

What a stalled stream may hold in the process that cannot deliver it is its window (at most 8 MiB, ``--max-window``); in
the process at its other end, what was read before its source was told to pause (64 KiB and one read of at most
64 KiB). A stream that moves may hold the same for a moment. The sockets of both streams have Twisted's buffers of
64 KiB and one frame each, and so has the link. That is 16.7 MiB for the stalled and the moving streams of this test, in
each process. The bound is twice that, for what the allocator does not give back.

With data connections all of this is in the kernel, and the processes hold next to nothing; the same bound holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Process, poll
from tests.process.services import (
    BOTH_PLANES,
    Flood,
    Hold,
    Service,
    Tunnel,
    expected,
    get,
    read_all,
    read_bytes,
)

pytestmark = pytest.mark.cold

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]

KIB = 1024
MIB = 1024 * KIB

WINDOW = 8 * MIB
BOUND = 2 * (2 * WINDOW + 6 * 128 * KIB)
"""Bytes by which either process may grow."""
ONE_TRANSFER = 4 * MIB
TRANSFERS = 40
"""How many of these another stream brings about during the stall. Blocked, it would bring about none."""


class MemoryWatch:
    """Samples the resident memory of processes each half second, in the background."""

    def __init__(self, **processes: Process) -> None:
        self._processes = processes
        self._over = threading.Event()
        self.before = {name: process.rss_bytes() for name, process in processes.items()}
        self.most = dict(self.before)
        self.samples = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        # A test that has failed has ended its processes.
        while not self._over.wait(0.5) and all(process.running for process in self._processes.values()):
            self.samples += 1
            for name, process in self._processes.items():
                self.most[name] = max(self.most[name], process.rss_bytes())

    def stop(self) -> dict[str, int]:
        """By how much each of them grew at most."""
        self._over.set()
        self._thread.join(PATIENCE)
        for name, before in self.before.items():
            print(f"{name}: {before / MIB:.1f} MiB before, {self.most[name] / MIB:.1f} MiB at most")
        return {name: self.most[name] - before for name, before in self.before.items()}


def transfer(tunnel: Tunnel) -> None:
    """One more visitor, whose download comes as a whole."""
    with tunnel.visit(f"get {ONE_TRANSFER} 6".encode()) as visitor:
        assert read_all(visitor) == expected(ONE_TRANSFER, 6)


def wait_until_stuck(what: str, moved: Callable[[], int]) -> int:
    """Wait until a counter stands still for two seconds; where it stands."""
    deadline = time.monotonic() + PATIENCE
    before = -1
    while (now := moved()) != before:
        assert time.monotonic() < deadline, f"{what} never comes to rest: {now} bytes"
        before = now
        time.sleep(2)
    return now


def send_until_stuck(tunnel: Tunnel, line: bytes) -> tuple[Flood, threading.Thread]:
    """A visitor that sends without end, in a thread."""
    flood = Flood()

    def send() -> None:
        with tunnel.visit(line) as visitor:
            try:
                flood(visitor)
            except ConnectionError:
                pass  # The service is ended at the end.

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return flood, thread


@BOTH_PLANES
def test_stalled_readers(serve: Serve, start_tunnel: StartTunnel) -> None:
    """A visitor that does not read an endless download, and a service that does not read an endless upload."""
    down, hold = Flood(), Hold()
    service = serve(get=get, flood=down, hold=hold)
    # The whole window from the start: otherwise it grows only as far as this machine's speed asks for.
    window = [f"--initial-credit={WINDOW}", f"--max-window={WINDOW}"]
    tunnel = start_tunnel(service.address, server=window, client=window)
    for _ in range(3):
        transfer(tunnel)
    watch = MemoryWatch(server=tunnel.server, client=tunnel.client)
    with ExitStack() as stack:
        # Nobody waits for it when something fails.
        stack.callback(hold.read_now.set)
        stalled = stack.enter_context(tunnel.visit(b"flood"))
        up, uploading = send_until_stuck(tunnel, b"hold")
        began = time.monotonic()
        for _ in range(TRANSFERS):
            transfer(tunnel)
        print(f"{TRANSFERS} transfers of {ONE_TRANSFER // MIB} MiB in {time.monotonic() - began:.1f} s")

        # Both are still stalled, with a window in memory and what the system's sockets hold.
        taken = [wait_until_stuck("the download", lambda: down.sent), wait_until_stuck("the upload", lambda: up.sent)]
        print(f"taken from who sends: download {taken[0] / MIB:.1f} MiB, upload {taken[1] / MIB:.1f} MiB")
        assert all(count >= WINDOW for count in taken)
        grown = watch.stop()
        assert watch.samples
        assert all(growth < BOUND for growth in grown.values()), f"grew by {grown}, the bound is {BOUND}"

        # Who reads again gets everything that was taken, and more.
        more = taken[0] + 16 * MIB
        assert read_bytes(stalled, more)[0] == more
        hold.read_now.set()
        poll(lambda: up.sent > taken[1] + 16 * MIB, PATIENCE, "the upload goes on")
    tunnel.client.kill()
    uploading.join(PATIENCE)
    assert not uploading.is_alive()
