"""Measure a cluster: claims, offers, visitors who cross, the death of a node, and thousands of idle ends.

    python -m benchmarks.cluster [--quick] [--only crossing] [--links 20000] [--hosts 20000] [--json FILE]

It needs redis-server, iperf3, wrk and nginx. Everything runs on this machine, at three addresses of loopback, so that
the load, Redis and all nodes share its cores: look at CPU seconds and at ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.costs import ask, cpu_seconds
from benchmarks.nodes import Node, Redis, crowds, nodes, redis, use
from benchmarks.parts import (
    Failed,
    attempt,
    free_ports,
    load,
    median,
    ratio,
    requests,
    running,
    throughput,
    twistd,
)
from benchmarks.run import machine
from benchmarks.stage import services
from benchmarks.ways import Way, make_certificates

#: Room for all at one node, from however many addresses.
MANY_LINKS = ("--max-links=30000", "--drain=0")
MANY_HOSTS = ("--max-hosts=30000", "--max-rate=2000")
#: How many idle ends are measured without a cluster.
FEW = 2000
#: Seconds for which idle ends are watched.
REST = 10.0
#: Seconds that a visitor has to be served after the death of a node.
PATIENCE = 20.0
KIB = 1024

#: What a measurement has found: names with units, and figures.
Figures = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    :ivar seconds: how long each load lasts.
    :ivar claims: how many keys are claimed.
    """

    seconds: float
    rounds: int
    claims: int
    links: int
    hosts: int


def program(module: str, *arguments: str, seconds: float) -> dict[str, float]:
    """Run one of this package's load programs, and return what it prints.

    :raises Failed: it prints no figures.
    """
    output = load([sys.executable, "-m", f"benchmarks.{module}", *arguments], seconds + PATIENCE)
    try:
        found: dict[str, float] = json.loads(output)
    except ValueError:
        raise Failed(f"{module} said: {output.strip()[-500:]}") from None
    return found


def claims(plan: Plan) -> Figures:
    """Measure claims of the bare directory, and tunnels of one client at a node of 1, 2 and 3."""
    figures: Figures = {}
    for at_once in (1, 64):
        with redis() as database:
            before = use(database.program)
            found = program("claims", database.url, str(plan.claims), str(at_once), seconds=60)
            spent = use(database.program).cpu - before.cpu
        figures[f"claims of the bare directory, {at_once} at once, 1/s"] = found["rate"]
        figures[f"CPU of the node, a claim, {at_once} at once, us"] = found["cpu"] * 1e6
        figures[f"CPU of Redis, a claim, {at_once} at once, us"] = spent / plan.claims * 1e6
    tunnels = min(1000, plan.claims)
    for count in (0, 1, 2, 3):
        with with_redis() as (directory, database):
            url = database.url if count else ""
            with nodes("rtunnel-server", max(count, 1), directory, url, *MANY_LINKS) as servers:
                before = use(*(node.program for node in servers))
                with crowds("links", servers[:1], 1, str(tunnels)) as [crowd]:
                    _, took = crowd.look()
                    # The other nodes are told last.
                    time.sleep(1)
                    spent = use(*(node.program for node in servers)).cpu - before.cpu
        where = f"{count} nodes" if count else "no cluster"
        figures[f"tunnels of one client, {where}, 1/s"] = tunnels / took
        figures[f"CPU of all nodes, a tunnel, {where}, ms"] = spent / tunnels * 1000
    return figures


@contextmanager
def with_redis() -> Iterator[tuple[Path, Redis]]:
    """Yield a directory for files, and a Redis."""
    with tempfile.TemporaryDirectory(prefix="rtunnel-bench-") as name, redis() as database:
        yield Path(name), database


def offers(plan: Plan) -> Figures:
    """Measure offers that are answered at once, at one node and across two, in rounds."""
    figures: Figures = {}
    found: dict[str, list[float]] = {}
    with with_redis() as (directory, database), nodes("rtc-signal", 2, directory, database.url, *MANY_HOSTS) as both:
        for _ in range(plan.rounds):
            for name, other in (("at one node", both[0]), ("across two", both[1])):
                at = both[0].where, other.where
                lasts, pids = f"{plan.seconds:g}", [str(node.program.pid) for node in both]
                alone = program("crowd", "offers", *at, lasts, "1", seconds=plan.seconds)
                many = program("crowd", "offers", *at, lasts, "32", *pids, seconds=plan.seconds)
                for what, figure in (
                    ("round trip of an offer, {}, ms", alone["p50"]),
                    ("offers, 32 at once, {}, 1/s", many["rate"]),
                    ("CPU of both nodes, an offer, {}, us", many["cpu"] * 1e6),
                ):
                    found.setdefault(what.format(name), []).append(figure)
    figures |= {name: median(each) or 0.0 for name, each in found.items()}
    return figures


@contextmanager
def client_of(
    servers: list[Node], links: int, ends: Way, directory: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[tuple[Way, int]]:
    """Run a client of these nodes, and yield the ports at every node, and the id of its process."""
    iperf, web = free_ports(2)
    argv = [*twistd(), "rtunnel-client", f"--links={links}", "--drain=0", *options]
    argv += [f"--server={node.where}" for node in servers]
    argv += ["--tunnel", f"{iperf}:{ends.host}:{ends.iperf}", "--tunnel", f"{web}:{ends.host}:{ends.web}"]
    with running(argv, directory / "client.log", env) as found:
        yield Way(iperf, web), found.pid


def served(host: str, port: int) -> bool:
    """Whether a visitor at that address gets the page."""
    try:
        with socket.create_connection((host, port), 1) as connection:
            ask(connection)
    except (OSError, Failed):
        return False
    return True


def until_served(host: str, port: int) -> float:
    """Return after how many seconds a visitor is served.

    :raises Failed: none is within :data:`PATIENCE`.
    """
    began = time.monotonic()
    while not served(host, port):
        if time.monotonic() - began > PATIENCE:
            raise Failed(f"no visitor is served at {host}:{port}")
        time.sleep(0.005)
    return time.monotonic() - began


def crossing(plan: Plan) -> Figures:
    """Measure a visitor at the node of his client, and one at another node, in turns: without TLS, and with it."""
    return _crossing(plan) | {f"{name}, TLS": figure for name, figure in _crossing(plan, "--tls").items()}


def _crossing(plan: Plan, *options: str) -> Figures:
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        directory, database = stack.enter_context(with_redis())
        make_certificates(directory)
        env = {"RTUNNEL_PKI_DIR": str(directory)}
        close = directory / "close.lua"
        close.write_text('wrk.headers["Connection"] = "close"\n')
        ends = stack.enter_context(services(directory))
        both = stack.enter_context(nodes("rtunnel-server", 2, directory, database.url, *MANY_LINKS, *options, env=env))
        way, client = stack.enter_context(client_of(both[:1], 1, ends, directory, *options, env=env))
        for node in both:
            until_served(node.host, way.web)
        pids = [*(node.program.pid for node in both), client]
        for _ in range(plan.rounds):
            for node, where in zip(both, ("near", "across"), strict=True):
                loads: list[tuple[str, str, Callable[[], tuple[float, float]]]] = [
                    ("throughput, {}, Gbit/s", "CPU, {}, s/GB", lambda node=node: _bulk(plan, node.host, way.iperf)),  # type: ignore[misc]
                    ("requests, {}, 1/s", "CPU, a request, {}, us", lambda node=node: _web(plan, node.host, way.web)),  # type: ignore[misc]
                    (
                        "new connections, {}, 1/s",
                        "CPU, a new connection, {}, us",
                        lambda node=node: _web(plan, node.host, way.web, close),  # type: ignore[misc]
                    ),
                ]
                for rate_name, cpu_name, measure in loads:
                    before = cpu_seconds(pids)
                    rate, amount = measure()
                    found.setdefault(rate_name.format(where), []).append(rate)
                    found.setdefault(cpu_name.format(where), []).append((cpu_seconds(pids) - before) / amount)
    figures = {name: median(each) or 0.0 for name, each in found.items()}
    for name, each in found.items():
        if "across" in name:
            near = found[name.replace("across", "near")]
            figures[f"ratio: {name.replace(', across', '').rpartition(',')[0]}"] = ratio(each, near) or 0.0
    return figures


def _bulk(plan: Plan, host: str, port: int) -> tuple[float, float]:
    transfer = throughput(plan.seconds, host=host)(port)
    return transfer.gigabits, transfer.received / 1e9


def _web(plan: Plan, host: str, port: int, script: Path | None = None) -> tuple[float, float]:
    answers = requests(plan.seconds, 32, script, host)(port)
    return answers.per_second, answers.count / 1e6


def death(plan: Plan) -> Figures:
    """Measure the time from ``kill -9`` of one node to the first visitor whom the other one serves."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="rtunnel-bench-") as name, services(Path(name)) as ends:
        for links in (2, 1):
            taken = []
            for _ in range(plan.rounds):
                with (
                    with_redis() as (directory, database),
                    nodes("rtunnel-server", 2, directory, database.url, *MANY_LINKS) as both,
                    client_of(both, links, ends, directory) as (way, _),
                ):
                    for node in both:
                        until_served(node.host, way.web)
                    os.kill(both[0].program.pid, signal.SIGKILL)
                    taken.append(until_served(both[1].host, way.web))
            figures[f"served by the other node after kill -9, {links} links, s"] = median(taken) or 0.0
    return figures


def idle(
    plugin: str, crowd_kind: str, count: int, options: tuple[str, ...], *more: str, alone: bool = False
) -> Figures:
    """Measure what idle ends at two nodes cost.

    :param alone: the two know nothing of each other.
    """
    figures: Figures = {}
    kind = f"{crowd_kind} of no cluster" if alone else crowd_kind
    with (
        with_redis() as (directory, database),
        nodes(plugin, 2, directory, "" if alone else database.url, *options) as both,
    ):
        programs = [node.program for node in both]
        before, memory, of_redis = use(*programs), database.memory, use(database.program).cpu
        with crowds(crowd_kind, both, count, *more) as found:
            there, took = 0, 0.0
            for crowd in found:
                some, seconds = crowd.look()
                there, took = there + some, max(took, seconds)
            came = use(*programs)
            figures[f"{kind} sent away for a while"] = sum(crowd.sent_away for crowd in found)
            figures[f"{kind} that came to two nodes"] = there
            figures[f"{kind} that came, 1/s"] = there / took
            figures[f"CPU of both nodes, one of the {kind}, ms"] = (came.cpu - before.cpu) / there * 1000
            figures[f"CPU of Redis, one of the {kind}, us"] = (use(database.program).cpu - of_redis) / there * 1e6
            figures[f"memory of its node, one of the {kind}, KiB"] = (came.memory - before.memory) / there / KIB
            figures[f"memory of Redis, one of the {kind}, B"] = (database.memory - memory) / there
            rested, commands, spent = use(*programs), database.commands, use(database.program)
            time.sleep(REST)
            now = use(*programs)
            figures[f"CPU of both nodes, {kind} idle, % of a core"] = (now.cpu - rested.cpu) / REST * 100
            figures[f"CPU of Redis, {kind} idle, % of a core"] = (use(database.program).cpu - spent.cpu) / REST * 100
            figures[f"commands of Redis, {kind} idle, 1/s"] = (database.commands - commands) / REST
            figures[f"{kind} that are there still"] = sum(crowd.look()[0] for crowd in found)
    return figures


def links(plan: Plan) -> Figures:
    """Measure idle links, each with one host name, and no data connections."""
    alone = idle("rtunnel-server", "links", min(plan.links, FEW), MANY_LINKS, "1", alone=True)
    return alone | idle("rtunnel-server", "links", plan.links, MANY_LINKS, "1")


def hosts(plan: Plan) -> Figures:
    """Measure idle hosts at signaling servers."""
    alone = idle("rtc-signal", "hosts", min(plan.hosts, FEW), MANY_HOSTS, alone=True)
    return alone | idle("rtc-signal", "hosts", plan.hosts, MANY_HOSTS)


MEASUREMENTS: dict[str, Callable[[Plan], Figures]] = {
    each.__name__: each for each in (claims, offers, crossing, death, hosts, links)
}


def main() -> None:
    """Measure, and print each figure as soon as it is there."""
    parser = argparse.ArgumentParser(description="Measure a cluster on this machine.")
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--only", choices=MEASUREMENTS, help="one measurement")
    parser.add_argument("--links", type=int, default=0)
    parser.add_argument("--hosts", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    plan = Plan(1.0, 1, 500, 400, 400) if wanted.quick else Plan(3.0, 3, 5000, 20_000, 20_000)
    plan = Plan(
        plan.seconds,
        wanted.rounds or plan.rounds,
        plan.claims,
        wanted.links or plan.links,
        wanted.hosts or plan.hosts,
    )
    print(machine(), flush=True)
    figures: Figures = {}
    for name, measure in MEASUREMENTS.items():
        if wanted.only in (None, name):
            found = attempt(name, lambda measure=measure: measure(plan)) or {}  # type: ignore[misc]
            for what, figure in found.items():
                print(f"  {what:60} {figure:12,.3f}", flush=True)
            figures |= found
    if wanted.json:
        wanted.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
