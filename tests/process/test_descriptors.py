"""A flood of visitors takes what the server, or the client, can spare of its descriptors: the first make room for the
last.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import pytest

from tests.patience import PATIENCE
from tests.process.crowd import Crowd, echo_service
from tests.process.harness import Process, Twistds, poll
from tests.process.services import Tunnel

StartTunnel = Callable[..., Tunnel]

LIMIT = 128
"""Descriptors that the process under test may have."""
POOL = 4
"""Data connections that may wait for visitors."""
FLOOD = 400
"""Visitors, all together: more than that on either plane."""
QUIET = 2.0
"""Seconds in which it must have nothing to do."""
MOST_LINES = 60
"""Of the log, for 1,200 visitors ..."""
MORE_LINES = 20
"""... and for each ten seconds beyond the first, as the log limits its lines by time."""

SAYS = r"#warn\] there are too few file descriptors for all: .* allow more with LimitNOFILE= or ulimit -n"
"""The line that tells the operator what to do."""


def limit_descriptors(process: Process) -> None:
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))


def those_who_stay(crowd: Crowd) -> int:
    """How many there are, once nobody is left of whom the end is still under way."""
    there = crowd.echo()
    for _ in range(FLOOD):
        if (now := crowd.echo()) == there:
            return there
        there = now
    raise AssertionError("somebody goes each time")


@pytest.mark.parametrize("plane", ["mux", "auto", "direct"])
@pytest.mark.parametrize("end", ["server", "client"])
def test_no_descriptor_is_left(twistd: Twistds, start_tunnel: StartTunnel, end: str, plane: str) -> None:
    options = [f"--data-plane={plane}", f"--pool={POOL}"]
    tunnel = start_tunnel(echo_service(twistd), server=options, client=options)
    exhausted = tunnel.server if end == "server" else tunnel.client
    limit_descriptors(exhausted)
    began = time.monotonic()
    with Crowd() as crowd:
        for _ in range(3):
            came = crowd.open(FLOOD, tunnel.public, at_once=FLOOD)
            print(came)
            # Each wave finds room, and nobody is left to wait for nothing.
            assert came["there"] > LIMIT / 4
            assert came["late"] == 0
        there = those_who_stay(crowd)
        assert LIMIT / 4 < there < LIMIT
        assert LIMIT / 2 < exhausted.descriptors() < LIMIT

        # Those who are there do not notice, and the process does not run in circles.
        assert crowd.echo() == there
        before = exhausted.cpu_seconds()
        time.sleep(QUIET)
        used = exhausted.cpu_seconds() - before
        print(f"{used:.2f} s of {QUIET:.0f} s")
        assert used < QUIET / 4

        # When they have left, all is as before.
        crowd.close()
        poll(lambda: crowd.open(1, tunnel.public)["there"], PATIENCE, "a visitor is served")
        assert crowd.open(LIMIT // 4, tunnel.public, at_once=1)["there"] == LIMIT // 4
    exhausted.wait_for(SAYS)
    # One who gives way is gone before the next is accepted. (Data connections may come faster than that.)
    assert plane != "mux" or "no file descriptor is left" not in exhausted.output
    most_lines = MOST_LINES + MORE_LINES * ((time.monotonic() - began) // 10)
    for process in (tunnel.client, tunnel.server):
        assert "Traceback" not in process.output
        assert process.output.count("\n") < most_lines
        assert process.terminate() == 0


def test_client_that_cannot_dial(twistd: Twistds, start_tunnel: StartTunnel) -> None:
    """The server is gone, and there is no descriptor to look for it with: the client goes on trying."""
    tunnel = start_tunnel(echo_service(twistd), client=["--reconnect-max=1"])
    tunnel.server.kill()
    lost = tunnel.client.wait_for("next attempt in")
    # Descriptors that it has are left to it.
    resource.prlimit(tunnel.client.pid, resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    seen = tunnel.client.wait_for("too many open files.*; next attempt in", after=lost.end())
    tunnel.start_server()
    tunnel.wait_for_server()
    tunnel.client.wait_for("too many open files.*; next attempt in", after=seen.end())
    resource.prlimit(tunnel.client.pid, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
    tunnel.wait_for_client(after=seen.end())
    with Crowd() as crowd:
        poll(lambda: crowd.open(1, tunnel.public)["there"], PATIENCE, "a visitor is served")
    assert "Traceback" not in tunnel.client.output
