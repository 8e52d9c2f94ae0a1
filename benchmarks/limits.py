"""What ``bandwidth:`` lets through, as a ratio to what was asked for: ``python -m benchmarks.limits [SECONDS]``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.parts import HOST, attempt, find, free_ports, running, throughput, twistd, wait_for

#: Mbit/s that a tunnel may have.
RATES = (10, 100, 1000)
PLANES = ("auto", "mux")
#: UDP offers this many times the rate, in datagrams of so many bytes.
OFFERED = 1.3
SIZE = 1200
#: The rates of UDP end here: iperf3 takes a core for more.
MOST_OF_UDP = 100
WAYS = {"from the visitor": (), "to the visitor": ("-R",)}

CLIENT = """
server: {server}
data_plane: {plane}
tunnels:
  - {{publish: "tcp:{port}={service}", bandwidth: {rate}Mbit}}
  - {{publish: "udp:{port}={service}", bandwidth: {rate}Mbit}}
  - {{publish: "tcp:{ready}=files:{directory}"}}
"""


@contextmanager
def limited(rate: int, plane: str, directory: Path) -> Iterator[int]:
    """Run iperf3's server behind a tunnel that may have *rate* Mbit/s, and yield its public port."""
    control, public, service, ready = free_ports(4)
    conf, logs = directory / "client.yaml", [directory / f"{name}.log" for name in ("iperf3", "server", "client")]
    server, to = f"{HOST}:{control}", f"{HOST}:{service}"
    conf.write_text(
        CLIENT.format(server=server, plane=plane, port=public, service=to, rate=rate, ready=ready, directory=directory)
    )
    with ExitStack() as stack:
        stack.enter_context(running([find("iperf3"), "-s", "-B", HOST, "-p", str(service)], logs[0]))
        argv = [*twistd(), "rtunnel-server", "--control-listen", server, "--data-plane", plane]
        stack.enter_context(running([*argv, "--public-interface", HOST], logs[1]))
        wait_for(control, logs[1])
        stack.enter_context(running([*twistd(), "rtunnel-client", "--config", str(conf)], logs[2]))
        # Of a connection that only looks, iperf3 would take a while to recover.
        wait_for(ready, logs[2])
        yield public


def share(rate: int, plane: str, seconds: float, *options: str) -> float:
    """Return the ratio of what comes through a tunnel that may have *rate* Mbit/s to that rate.

    :param options: of iperf3.
    :raises Failed: see :func:`~benchmarks.parts.throughput`.
    """
    with tempfile.TemporaryDirectory() as directory, limited(rate, plane, Path(directory)) as port:
        # The first second is that of the bucket, and of TCP's slow start.
        return throughput(seconds, "-O", "1", *options)(port).gigabits * 1000 / rate


def main() -> None:
    """Print a line for each rate, carrier, protocol and direction."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    for rate, plane, protocol, way in product(RATES, PLANES, ("TCP", "UDP"), WAYS):
        if protocol == "UDP" and rate > MOST_OF_UDP:
            continue
        offered = ["-u", "-l", str(SIZE), "-b", f"{rate * OFFERED:g}M"] if protocol == "UDP" else []
        what = f"{rate} Mbit/s, {plane}, {protocol} {way}"
        found = attempt(what, partial(share, rate, plane, seconds, *offered, *WAYS[way]))
        print(f"{what:44} {'-' if found is None else f'{found:.3f}'}", flush=True)


if __name__ == "__main__":
    main()
