"""Somebody does not read, at either end: others go on, and memory does not grow.

What a stalled stream may hold in the process that cannot deliver it is its window (at most 4 MiB, ``--max-window``); in
the process at its other end, what was read before its source was told to pause (64 KiB and one read of at most
64 KiB). A stream that moves may hold the same for a moment. SCTP has its receive window of 1 MiB on the way, each way
and at both ends; its small packets cost a multiple of their bytes, as Python's objects. The bound is twice what these
are in all, for what the allocator does not give back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.patience import PATIENCE
from tests.process.harness import poll
from tests.process.rtc import RtcTunnel
from tests.process.services import Flood, Hold, Service, expected, get, read_all, read_bytes
from tests.process.test_stalled import MemoryWatch, wait_until_stuck

pytestmark = pytest.mark.cold

Serve = Callable[..., Service]
StartRtc = Callable[..., RtcTunnel]

KIB = 1024
MIB = 1024 * KIB

WINDOW = 4 * MIB
FLIGHT = 4 * MIB
"""1,160 bytes of a packet are about 4 KiB as objects while they are in flight, each way."""
BOUND = 2 * (2 * WINDOW + 2 * FLIGHT)
"""Bytes by which either process may grow. Without a bound it would be all that passes in this time."""
ONE_TRANSFER = 256 * KIB
TRANSFERS = 20
"""How many of these another stream brings about during the stall. Blocked, it would bring about none."""


def transfer(tunnel: RtcTunnel) -> None:
    """One more visitor, whose download comes as a whole."""
    with tunnel.visit(f"get {ONE_TRANSFER} 6".encode()) as visitor:
        assert read_all(visitor) == expected(ONE_TRANSFER, 6)


def test_stalled_readers(serve: Serve, start_rtc: StartRtc) -> None:
    """A visitor that does not read an endless download, and a service that does not read an endless upload."""
    down, up, hold = Flood(), Flood(), Hold()
    service = serve(get=get, flood=down, hold=hold)
    # The whole window from the start: otherwise it grows only as far as this machine's speed asks for.
    window = f"--initial-credit={WINDOW}"
    tunnel = start_rtc(service.address, host=[window], client=[window])

    def upload() -> None:
        with tunnel.visit(b"hold") as visitor:
            try:
                up(visitor)
            except ConnectionError:
                pass  # The client is ended at the end.

    uploading = threading.Thread(target=upload, daemon=True)
    for _ in range(5):
        transfer(tunnel)
    watch = MemoryWatch(host=tunnel.host, client=tunnel.client)
    with ExitStack() as stack:
        # Nobody waits for it when something fails.
        stack.callback(hold.read_now.set)
        stalled = stack.enter_context(tunnel.visit(b"flood"))
        uploading.start()
        began = time.monotonic()
        for _ in range(TRANSFERS):
            transfer(tunnel)
        print(f"{TRANSFERS} transfers of {ONE_TRANSFER // KIB} KiB in {time.monotonic() - began:.1f} s")

        # Both are still stalled, with a window in memory and what the system's sockets hold.
        taken = [wait_until_stuck("the download", lambda: down.sent), wait_until_stuck("the upload", lambda: up.sent)]
        print(f"taken from who sends: download {taken[0] / MIB:.1f} MiB, upload {taken[1] / MIB:.1f} MiB")
        assert all(count >= WINDOW for count in taken)
        grown = watch.stop()
        assert watch.samples
        assert all(growth < BOUND for growth in grown.values()), f"grew by {grown}, the bound is {BOUND}"

        # Who reads again gets everything that was taken, and more.
        more = taken[0] + 4 * MIB
        assert read_bytes(stalled, more)[0] == more
        hold.read_now.set()
        poll(lambda: up.sent > taken[1] + 4 * MIB, PATIENCE, "the upload goes on")
    tunnel.client.kill()
    uploading.join(PATIENCE)
    assert not uploading.is_alive()
