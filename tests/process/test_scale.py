"""Many visitors, links and streams at once: what each costs is stated, and does not grow with their number.

The figures are printed (``pytest -s``) and stand in docs/operations.rst. What is asserted holds on any machine: that
all are served, and that the second half of them costs no more memory than the first, with room for what the allocator
does.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rtunnel.upkeep.descriptors import MOST_RESERVE
from tests.patience import PATIENCE
from tests.process.crowd import Crowd, echo_service, raise_limit
from tests.process.harness import Process, Twistds, poll
from tests.process.services import ANY_PORT, LOOPBACK, Tunnel

pytestmark = pytest.mark.cold

StartTunnel = Callable[..., Tunnel]

KIB = 1024
MIB = 1024 * KIB

VISITORS = 10_000
STREAMS = 5_000
LINKS = 1_000

FEW = 300
"""Visitors or links who come first, for all that there is only once."""
SLACK = 8 * MIB
"""By which a process may grow besides: the allocator takes memory in large pieces."""
SPARE = MOST_RESERVE + 500
"""Descriptors of a process besides those of visitors."""

PER_VISITOR = 16 * KIB
"""Memory of an idle visitor, in each process. Without bounds on what is made for one this is soon passed."""
PER_LINK = 128 * KIB

PATIENT = f"--dead-after={PATIENCE}"
"""A machine that has much else to do may be silent for longer than an end usually is."""
MANY = ["--max-streams=12000", "--link-buffer=2G", PATIENT]
"""Room for all in one link. It promises to each stream the initial credit."""


@pytest.fixture(autouse=True)
def limit() -> Iterator[int]:
    """How many descriptors each process may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield raise_limit(2 * VISITORS + SPARE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0], resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def affordable(wanted: int, descriptors_of_each: int, limit: int) -> int:
    """As many of *wanted* as there are descriptors for; the test is skipped if that is only a small part of them."""
    count = min(wanted, (limit - SPARE) // descriptors_of_each)
    if count < wanted / 4:
        pytest.skip(f"{descriptors_of_each * wanted + SPARE} file descriptors are needed, and {limit} allowed")
    return count


class Costs:
    """The memory, descriptors and time of the processes of a tunnel."""

    def __init__(self, **processes: Process) -> None:
        self._processes = processes
        self.memory: dict[str, list[int]] = {name: [] for name in processes}

    def look(self, what: str) -> None:
        """Take the memory, and print all of it."""
        for name, process in self._processes.items():
            self.memory[name].append(process.rss_bytes())
            print(
                f"{what}: {name} {self.memory[name][-1] / MIB:.1f} MiB, {process.descriptors()} descriptors, "
                f"{process.cpu_seconds():.2f} s"
            )

    def check(self, count: int, most: int, what: str) -> None:
        """See what the last *count* of them have cost, looked at before, in the middle, and behind.

        :param most: bytes that each may cost.
        """
        for name, (*_, before, middle, behind) in self.memory.items():
            print(f"{name}: {(behind - before) / count / KIB:.1f} KiB for each {what}")
            assert behind - middle <= 2 * (middle - before) + SLACK
            assert behind - before <= most * count


@pytest.mark.parametrize("plane", ["mux", "direct"])
def test_10000_idle_visitors(twistd: Twistds, start_tunnel: StartTunnel, limit: int, plane: str) -> None:
    """On a data connection a visitor takes two descriptors of each process, in the link one."""
    count = affordable(VISITORS, 1 if plane == "mux" else 2, limit)
    options = [*MANY, f"--data-plane={plane}"]
    tunnel = start_tunnel(echo_service(twistd), server=options, client=options)
    costs = Costs(server=tunnel.server, client=tunnel.client)
    with Crowd() as crowd:
        assert crowd.open(FEW, tunnel.public)["there"] == FEW
        costs.look(f"{FEW} visitors")
        half = (count - FEW) // 2
        for more in (half, count - FEW - half):
            assert crowd.open(more, tunnel.public)["there"] == more
            costs.look(f"{more} more")
        costs.check(count - FEW, PER_VISITOR, "visitor")
        assert crowd.echo() == count
        costs.look("all have sent again")
        time.sleep(1)
        costs.look("a second later")
        crowd.close()
        for process in (tunnel.server, tunnel.client):
            poll(lambda process=process: process.descriptors() < SPARE, PATIENCE, "all visitors are gone")  # type: ignore[misc]
        assert crowd.open(FEW, tunnel.public)["there"] == FEW


@pytest.mark.parametrize("plane", ["mux", "auto"])
def test_5000_streams_of_one_link_at_once(twistd: Twistds, start_tunnel: StartTunnel, limit: int, plane: str) -> None:
    """They come as a storm, all together: more than the queue of the public port holds."""
    count = affordable(STREAMS, 2, limit)
    options = [*MANY, f"--data-plane={plane}"]
    # A slow machine may need long for all of them.
    patient = [*options, f"--dial-timeout={PATIENCE}"]
    tunnel = start_tunnel(echo_service(twistd), server=options, client=patient)
    costs = Costs(server=tunnel.server, client=tunnel.client)
    with Crowd() as crowd:
        costs.look("before the storm")
        began = time.monotonic()
        missing = count
        while missing:
            came = crowd.open(missing, tunnel.public, at_once=missing)
            print(f"{came} in {time.monotonic() - began:.1f} s")
            assert came["late"] == 0
            assert came["there"]
            missing = came["failed"]
        costs.look("after the storm")
        # Linux resets some of those who wait for long while that queue is full. We have turned nobody away.
        for process in (tunnel.server, tunnel.client):
            assert "#warn" not in process.output, process
        assert crowd.echo() == count


CLIENTS = """
from twisted.application.service import Application
from twisted.internet import reactor

from rtunnel.options.plugins.rtunnel_client import Options
from rtunnel.reverse.client.service import TunnelClient

application = Application("clients")
options = Options()
options.parseOptions({arguments!r})
for number in range({count}):
    client = TunnelClient(reactor, options.settings)
    client.setName(f"client {{number}}")
    client.setServiceParent(application)
"""
"""Many clients in one process: one for each would only say what a Python costs."""


def test_1000_links(twistd: Twistds, tmp_path: Path, limit: int) -> None:
    """Each of them serves one visitor of the shared port, as it may have no more than one. They connect all at once."""
    # A link, four data connections that wait, and a visitor with the connection to the service.
    count = affordable(LINKS, 8, limit)
    one = ["--max-streams=1", PATIENT]
    ports = [f"--control-listen={ANY_PORT}", f"--public-listen={ANY_PORT}"]
    server = twistd("rtunnel-server", *ports, f"--handshake-timeout={PATIENCE}", *one)
    control = server.wait_for(rf"control port listening on {re.escape(LOOPBACK)}:(\d+)$")[1]
    public = int(server.wait_for(rf"shared public port {re.escape(LOOPBACK)}:(\d+) is closed until")[1])
    arguments = [f"--server={LOOPBACK}:{control}", f"--local={echo_service(twistd)}", *one]
    costs = Costs(server=server)
    there = 0
    half = (count - FEW) // 2
    for more in (FEW, half, count - FEW - half):
        tac = tmp_path / f"{more}-clients.tac"
        tac.write_text(CLIENTS.format(arguments=arguments, count=more))
        twistd(twistd_options=["-n", "--pidfile=", f"--python={tac}"])
        there += more
        # The log does not name all of them, as they have one address.
        poll(lambda there=there: server.descriptors() >= 5 * there, PATIENCE, "data connections")  # type: ignore[misc]
        costs.look(f"{there} links")
    costs.check(count - FEW, PER_LINK, "link with its data connections")
    time.sleep(2)
    costs.look("two seconds later")
    with Crowd() as crowd:
        assert crowd.open(count, public)["there"] == count
        costs.look("a visitor on each")
        assert crowd.open(1, public)["failed"] == 1
        assert crowd.echo() == count
