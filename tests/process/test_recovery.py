"""Either end is killed, or stops to answer, in the middle of traffic: how long until visitors are served again.

The promise is five seconds from the moment at which the process is back. That is when it logs its first line (client)
or listens (server): how long Python takes to start is the machine's affair.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from tests.patience import PATIENCE
from tests.process.harness import poll
from tests.process.services import (
    BOTH_PLANES,
    Background,
    Flood,
    Service,
    Tunnel,
    Visitor,
    fetch,
    fetch_or_none,
    page,
    wait_for_page,
)

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]

MIB = 1024 * 1024

RECOVERY = 5.0
"""Seconds that the client waits at most between two attempts, and so the longest that a server is back in vain."""
ATTEMPTS = 4
"""How often the client tries in vain before the server is back, so that it waits longer each time."""


def read_until_broken(visitor: Visitor) -> None:
    try:
        while visitor.recv(MIB):
            pass
    except ConnectionError:
        pass


class Traffic:
    """A visitor who downloads without end and one who waits for an answer, to be interrupted."""

    def __init__(self, tunnel: Tunnel, flood: Flood) -> None:
        self._flood = flood
        self._busy = tunnel.visit(b"flood")
        self._idle = tunnel.visit()
        self._reading = Background(lambda: read_until_broken(self._busy))
        poll(lambda: flood.sent > 16 * MIB, PATIENCE, "a download that runs")

    def wait_until_broken(self) -> None:
        """Both see that it is over, in a moment."""
        with self._busy, self._idle:
            self._reading.join()
            self._idle.settimeout(PATIENCE)
            read_until_broken(self._idle)


def report(what: str, since_start: float, since_return: float) -> None:
    print(
        f"{what}: in service {since_return:.2f} s after its return, {since_start:.2f} s after the process was started"
    )


@BOTH_PLANES
def test_killed_client(serve: Serve, start_tunnel: StartTunnel) -> None:
    flood = Flood()
    service = serve(GET=page("here"), flood=flood)
    tunnel = start_tunnel(service.address)
    assert fetch(tunnel.public) == "here"
    for _ in range(2):
        traffic = Traffic(tunnel, flood)
        tunnel.client.kill()
        traffic.wait_until_broken()
        started = time.monotonic()
        tunnel.start_client().wait_for("starting up")
        back = time.monotonic()
        wait_for_page(tunnel.public, "here", PATIENCE)
        recovered = time.monotonic()
        report("client killed", recovered - started, recovered - back)
    assert tunnel.server.terminate() == 0
    assert "Traceback" not in tunnel.server.output


@BOTH_PLANES
def test_killed_server(serve: Serve, start_tunnel: StartTunnel) -> None:
    flood = Flood()
    service = serve(GET=page("here"), flood=flood)
    tunnel = start_tunnel(service.address)
    assert fetch(tunnel.public) == "here"
    for _ in range(2):
        traffic = Traffic(tunnel, flood)
        seen = len(tunnel.client.output)
        tunnel.server.kill()
        traffic.wait_until_broken()
        poll(lambda: service.busy == 0, PATIENCE, "the client has dropped the service")
        tried = seen
        for _ in range(ATTEMPTS):
            wait = tunnel.client.wait_for(r"next attempt in ([\d.]+) s", after=tried)
            tried = wait.end()
            assert float(wait[1]) < RECOVERY
        started = time.monotonic()
        tunnel.start_server()
        tunnel.wait_for_server()
        back = time.monotonic()
        tunnel.wait_for_client(after=seen)
        wait_for_page(tunnel.public, "here", PATIENCE)
        recovered = time.monotonic()
        report("server killed", recovered - started, recovered - back)
    assert tunnel.client.terminate() == 0
    assert "Traceback" not in tunnel.client.output


def test_client_that_does_not_answer_loses_its_port(serve: Serve, start_tunnel: StartTunnel) -> None:
    """A stopped process keeps its connections: to the server it looks like a machine that has lost its network."""
    old, new = serve(GET=page("old")), serve(GET=page("new"))
    tunnel = start_tunnel(old.address)
    stopped = tunnel.client
    assert fetch(tunnel.public) == "old"
    stopped.send_signal(signal.SIGSTOP)
    tunnel.start_client(new.address).wait_for("starting up")
    began = time.monotonic()
    tunnel.wait_for_client()
    wait_for_page(tunnel.public, "new", PATIENCE)
    took = time.monotonic() - began
    print(f"port taken over from a client that does not answer: {took:.2f} s")
    # The old one comes to itself again, and must not get in the way of the new one.
    seen = len(stopped.output)
    stopped.send_signal(signal.SIGCONT)
    stopped.wait_for("port-in-use", after=seen)
    assert fetch(tunnel.public) == "new"
    assert stopped.terminate() == 0
    assert fetch(tunnel.public) == "new"


def test_server_that_does_not_answer_is_left(serve: Serve, start_tunnel: StartTunnel) -> None:
    """The client closes the link, and comes back when the server does."""
    service = serve(GET=page("here"), flood=Flood())
    impatient = ["--keepalive-interval=1", "--dead-after=3"]
    tunnel = start_tunnel(service.address, client=impatient)
    with tunnel.visit(b"flood"):
        poll(lambda: service.busy == 1, PATIENCE, "a visitor at the service")
        seen = len(tunnel.client.output)
        tunnel.server.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        tunnel.client.wait_for("next attempt in", after=seen)
        print(f"link to a server that does not answer dropped after {time.monotonic() - stopped:.2f} s")
        poll(lambda: service.busy == 0, PATIENCE, "the client has dropped the service")
        assert fetch_or_none(tunnel.public) is None
        tunnel.server.send_signal(signal.SIGCONT)
        took = wait_for_page(tunnel.public, "here", PATIENCE)
        print(f"in service {took:.2f} s after the server went on")
    assert tunnel.server.terminate() == 0
