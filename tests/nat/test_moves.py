"""Streams go on when the network changes under them: another path is found within three seconds."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable

import pytest

from tests.nat.lab import Lab, long_term
from tests.nat.test_tunnel import STUN, Tunnel, turn
from tests.process.harness import Process, Twistds
from tests.process.services import Digest, Service, expected, pieces

Serve = Callable[..., Service]

#: A download of 12 s.
TOTAL, PIECE, PAUSE = 12_000_000, 20_000, 0.02
MOST = 3.0 + 2.0
"""Seconds for which a download may stand still: three, and some for a machine that is busy."""


def paced(connection: socket.socket, total: str, seed: str) -> None:
    """Sends so many bytes at a megabyte a second."""
    for piece in pieces(int(total), int(seed)):
        for start in range(0, len(piece), PIECE):
            connection.sendall(piece[start : start + PIECE])
            time.sleep(PAUSE)


def download(tunnel: Tunnel, change: Callable[[], None]) -> tuple[Digest, float]:
    """Fetch everything, with a change of the network on the way; return how long nothing came at most."""
    digest, count, longest, changed = hashlib.sha256(), 0, 0.0, False
    with tunnel.visit(f"paced {TOTAL} 5".encode()) as visitor:
        last = time.monotonic()
        while data := visitor.recv(256 * 1024):
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            digest.update(data)
            count += len(data)
            if count > TOTAL // 6 and not changed:
                changed = True
                change()
                last = time.monotonic()
    return (count, digest.hexdigest()), longest


def leave_no_trace(end: Process) -> None:
    """Nothing was lost at this end."""
    assert " lost: " not in end.output.replace("signaling lost: ", "")


@pytest.mark.parametrize("who", ["client", "host"])
@pytest.mark.parametrize("what", ["router", "router that says nothing", "machine"])
def test_a_download_goes_on_when_an_address_changes(
    lab: Lab, twistd: Twistds, serve: Serve, who: str, what: str
) -> None:
    lab.start_turn(twistd)
    tunnel = Tunnel(lab, twistd, serve(paced=paced).address, *STUN)
    nat, machine = (lab.nat2, lab.lan2) if who == "client" else (lab.nat1, lab.lan1)

    if what == "router that says nothing":
        lab.lose_resets()

    def change() -> None:
        if what != "machine":
            nat.change_address(nat.address.rpartition(".")[0] + ".77")
        else:
            nat.move_machine(machine, 77)

    assert tunnel.path.startswith("direct")
    found, longest = download(tunnel, change)
    print(f"the {what} of the {who}: {longest:.2f} s")
    assert found == expected(TOTAL, 5)
    assert longest < MOST
    tunnel.client.wait_for("the path to host 'myhost' has changed: direct, ")
    for end in (tunnel.client, tunnel.host):
        leave_no_trace(end)


@pytest.mark.parametrize("mtu", [1280, 1000])
def test_a_download_goes_on_when_the_path_becomes_narrow(lab: Lab, twistd: Twistds, serve: Serve, mtu: int) -> None:
    """Even narrower than the packets that every path should take."""
    lab.start_turn(twistd)
    tunnel = Tunnel(lab, twistd, serve(paced=paced).address, *STUN)
    assert tunnel.path.startswith("direct")
    found, longest = download(tunnel, lambda: lab.set_mtu(mtu))
    print(f"{mtu}: {longest:.2f} s")
    assert found == expected(TOTAL, 5)
    for end in (tunnel.client, tunnel.host):
        leave_no_trace(end)


def test_a_relayed_path_gives_way_to_a_direct_one(lab: Lab, twistd: Twistds, serve: Serve) -> None:
    lab.start_turn(twistd, *long_term("user", "password"))
    lab.part()
    credentials = ("--turn-user", "user", "--turn-credential", "password")
    tunnel = Tunnel(lab, twistd, serve(paced=paced).address, *STUN, *turn(*credentials))
    assert tunnel.path.startswith("relayed")
    found, longest = download(tunnel, lab.join)
    print(f"from the relay: {longest:.2f} s")
    assert found == expected(TOTAL, 5)
    for end in (tunnel.client, tunnel.host):
        end.wait_for("has changed: direct, ")
        leave_no_trace(end)
    assert longest < MOST
