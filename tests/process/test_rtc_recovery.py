"""Each of the three processes is killed, or stops to answer, amid traffic; the others go on, and it returns.

A dead peer is noticed within 10 seconds; twice that is allowed here, for the sake of slow machines.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.rtc import ID, RtcTunnel, lines_with
from tests.process.services import (
    Background,
    Flood,
    Service,
    Visitor,
    count,
    expected,
    fetch,
    page,
    read_bytes,
    send_bytes,
    wait_for_page,
)

Serve = Callable[..., Service]
StartRtc = Callable[..., RtcTunnel]

KIB = 1024
MIB = 1024 * KIB

SOONEST = 6.0
"""Seconds before which nobody can know that the other end is dead: six of its answers are missing then."""
PATIENT = ["--wait-timeout=1000"]
"""Visitors wait for the host for as long as tests wait for anything."""


class Traffic:
    """A visitor who downloads without end and one who waits for an answer, to be interrupted."""

    def __init__(self, tunnel: RtcTunnel, flood: Flood) -> None:
        self._busy = tunnel.visit(b"flood")
        self._idle = tunnel.visit()
        self.received = 0
        self.was_reset = False
        self._reading = Background(self._read)
        poll(lambda: self.received > 2 * MIB, PATIENCE, "a download that runs")

    def _read(self) -> None:
        try:
            while data := self._busy.recv(MIB):
                self.received += len(data)
        except ConnectionResetError:
            self.was_reset = True

    def goes_on(self) -> None:
        """It is not broken, nor stands still."""
        before = self.received
        poll(lambda: self.received > before + MIB, PATIENCE, "the download goes on")
        assert self._reading.running

    def wait_until_reset(self) -> float:
        """Both are reset; how many seconds that took."""
        began = time.monotonic()
        with self:
            self._reading.join()
            assert self.was_reset, "the download has come to a proper end"
            self._idle.settimeout(PATIENCE)
            with pytest.raises(ConnectionResetError):
                self._idle.recv(1)
        return time.monotonic() - began

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that reads is not woken by close alone.
        for visitor in (self._busy, self._idle):
            with suppress(OSError):
                visitor.shutdown(socket.SHUT_RDWR)
            visitor.close()


def unread_bytes(local: int, remote: int) -> int:
    """What waits in the kernel for the end *local* of a connection on loopback (Linux)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, _, queues = line.split()[:5]
        if (int(here.split(":")[1], 16), int(there.split(":")[1], 16)) == (local, remote):
            return int(queues.split(":")[1], 16)
    return 0


def fetch_in_background(tunnel: RtcTunnel) -> Background:
    """Somebody who came while the host was not there."""
    return Background(lambda: fetch(tunnel.local))


def test_killed_signaling_server(serve: Serve, start_rtc: StartRtc) -> None:
    """Streams go on, and new ones begin; whoever is new has to wait for its return."""
    flood = Flood()
    service = serve(GET=page("here"), flood=flood)
    tunnel = start_rtc(service.address, host=["--reconnect-max=2"], client=["--reconnect-max=2"])
    with Traffic(tunnel, flood) as traffic:
        tunnel.signal.kill()
        for end in (tunnel.host, tunnel.client):
            end.wait_for("signaling lost: ")
        traffic.goes_on()
        assert fetch(tunnel.local) == "here"
        seen = {end: len(end.output) for end in (tunnel.host, tunnel.client)}
        old, tunnel.local = (tunnel.client, tunnel.local), free_port()
        tunnel.start_client("--reconnect-max=2").wait_for("cannot reach signaling server")
        tunnel.start_signal()
        tunnel.wait_for_signal()
        for end, after in seen.items():
            end.wait_for("connected to signaling server", after=after)
        tunnel.wait_for_client()
        assert fetch(tunnel.local) == "here"
        traffic.goes_on()
        assert fetch(old[1]) == "here"
        # It was the same peer connection all the time.
        assert len(lines_with(old[0], f"connected to host '{ID}'")) == 1


def test_killed_host(serve: Serve, start_rtc: StartRtc) -> None:
    """Its visitors are reset; who comes while it is away waits, and is served when it is back."""
    flood = Flood()
    service = serve(GET=page("here"), flood=flood)
    tunnel = start_rtc(service.address, client=PATIENT)
    traffic = Traffic(tunnel, flood)
    seen = len(tunnel.client.output)
    tunnel.host.kill()
    took = traffic.wait_until_reset()
    print(f"death of the host noticed after {took:.2f} s")
    tunnel.client.wait_for(f"host '{ID}' lost: ", after=seen)
    poll(lambda: service.busy == 0, PATIENCE, "the service has lost its visitors")
    waiting = fetch_in_background(tunnel)
    # The server says that there is no such host.
    tunnel.client.wait_for(f"host '{ID}' cannot be reached: there is no '{ID}'", after=seen)
    started = time.monotonic()
    tunnel.start_host()
    tunnel.wait_for_host()
    assert waiting.join() == "here"
    print(f"served {time.monotonic() - started:.2f} s after the host was started again")
    tunnel.wait_for_client(after=seen)
    assert fetch(tunnel.local) == "here"


def test_killed_host_that_returns_at_once(serve: Serve, start_rtc: StartRtc) -> None:
    """Before its client notices. Its ID is free, so that it can register, and the client finds its new self."""
    old, new = serve(GET=page("old")), serve(GET=page("new"))
    tunnel = start_rtc(old.address, client=PATIENT)
    assert fetch(tunnel.local) == "old"
    seen = len(tunnel.client.output)
    tunnel.host.kill()
    tunnel.start_host(new.address)
    tunnel.wait_for_host()
    assert "in use" not in tunnel.host.output
    took = wait_for_page(tunnel.local, "new", PATIENCE)
    print(f"served by the new host after {took:.2f} s")
    tunnel.wait_for_client(after=seen)
    assert len(lines_with(tunnel.client, f"connected to host '{ID}'")) == 2


def test_killed_client(serve: Serve, start_rtc: StartRtc) -> None:
    """The host lets go of the service; a new client does not have to wait for that."""
    flood = Flood()
    service = serve(GET=page("here"), flood=flood)
    tunnel = start_rtc(service.address)
    with Traffic(tunnel, flood):
        tunnel.client.kill()
    killed = time.monotonic()
    tunnel.start_client()
    tunnel.wait_for_client()
    assert fetch(tunnel.local) == "here"
    said, took = tunnel.host.output, time.monotonic() - killed
    # A machine that is slower than the host in noticing shows nothing here.
    assert took > SOONEST or "lost: " not in said
    tunnel.host.wait_for(r"client \S+ lost: ")
    print(f"death of the client noticed after {time.monotonic() - killed:.2f} s")
    poll(lambda: service.busy == 0, PATIENCE, "the service has lost its visitors")
    assert fetch(tunnel.local) == "here"


def test_host_that_does_not_answer(serve: Serve, start_rtc: StartRtc) -> None:
    """A stopped process keeps its sockets: it is known by its silence only. When it goes on, it serves again."""
    flood = Flood()
    service = serve(GET=page("here"), flood=flood)
    tunnel = start_rtc(service.address, client=PATIENT)
    traffic = Traffic(tunnel, flood)
    seen = len(tunnel.client.output)
    tunnel.host.send_signal(signal.SIGSTOP)
    took = traffic.wait_until_reset()
    print(f"host that does not answer was given up after {took:.2f} s")
    tunnel.client.wait_for(f"host '{ID}' lost: the peer no longer answers; next attempt in", after=seen)
    waiting = fetch_in_background(tunnel)
    tunnel.host.send_signal(signal.SIGCONT)
    assert waiting.join() == "here"
    tunnel.wait_for_client(after=seen)
    poll(lambda: service.busy == 0, PATIENCE, "the service has lost its visitors")


def test_visitors_come_before_the_host(serve: Serve, start_rtc: StartRtc) -> None:
    """What they send, and their end, is not lost; others do not wait for longer than they are told to."""
    total = 300 * KIB
    service = serve(count=count)
    tunnel = start_rtc(service.address, client=PATIENT, start=["signal"])
    tunnel.start_client().wait_for(f"there is no '{ID}'")
    with tunnel.visit(b"count") as visitor:

        def send() -> None:
            send_bytes(visitor, total, 5)
            visitor.shutdown(socket.SHUT_WR)

        sending = Background(send)
        impatient = free_port()
        other = tunnel.client
        tunnel.local, mine = impatient, tunnel.local
        tunnel.start_client("--wait-timeout=1").wait_for(f"there is no '{ID}'")
        with Visitor(impatient, b"count") as early, pytest.raises(ConnectionResetError):
            read_bytes(early, 1)
        tunnel.client.wait_for(f"a local connection is closed: host '{ID}' is not connected")
        assert tunnel.client.terminate() == 0
        tunnel.client, tunnel.local = other, mine
        tunnel.start_host()
        sending.join()
        answer = b"".join(iter(lambda: visitor.recv(1000), b""))
    length, digest = answer.decode().split()
    assert (int(length), digest) == expected(total, 5)


def test_offer_that_is_never_answered(serve: Serve, start_rtc: StartRtc) -> None:
    """The host has it, but loses its signaling before it can answer: the client does not wait for ever."""
    service = serve(GET=page("here"))
    tunnel = start_rtc(service.address, host=["--reconnect-max=1"], start=["signal", "host"])
    tunnel.host.send_signal(signal.SIGSTOP)
    tunnel.start_client("--reconnect-max=1", *PATIENT)
    port = int(tunnel.signal.wait_for(rf"host '{ID}' at \S+:(\d+) registered")[1])
    poll(lambda: unread_bytes(port, tunnel.port) > 0, PATIENCE, "the offer is at the host")
    waiting = fetch_in_background(tunnel)
    tunnel.signal.kill()
    tunnel.client.wait_for("signaling lost: ")
    tunnel.start_signal()
    tunnel.wait_for_signal()
    tunnel.host.send_signal(signal.SIGCONT)
    tunnel.wait_for_client(timeout=PATIENCE)
    assert waiting.join() == "here"
