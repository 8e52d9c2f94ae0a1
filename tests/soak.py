"""Mixed traffic through both tunnels for a while, with kills and returns: ``make soak``.

Four tunnels run at once: two reverse tunnels, one of them under TLS, and two WebRTC tunnels. Visitors ask, download,
upload, hold connections open for long, and break them off; datagrams go through a WebRTC tunnel. Every few seconds one
process is killed, or stopped in good order, and started again. It is always the same end of a tunnel, so that the other
end lives through all of it. In the warm-up this comes four times as often: memory has its high-water marks, and a
process whose other end was killed only a few times has not seen them all.

The memory and the descriptors of the processes that live on are sampled. What they grow by in a minute is the slope of
a line through the samples (least squares), without those of the first half, or of the first five minutes. A line says
nothing of steps, so the memory at the end of each tenth of the time is shown too. What a process has allocated counts
(anonymous memory); its resident memory is shown beside that, and has pages of files too, which it gets and loses as
the machine pleases. The exit code is 1 if one of them is not flat in ten minutes or more, if bytes were wrong, or if a
tunnel did not come back.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from statistics import linear_regression
from typing import Any

from tests.needs import take_descriptors
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process import proc
from tests.process.harness import Process, Twistds
from tests.process.rtc import Asker, RtcTunnel, UdpService
from tests.process.services import LOOPBACK, Service, Tunnel, count, expected, get, read_all, send_bytes
from tests.process.tls_services import UnderTls
from tests.tls.parts import Authority

LEAST_MINUTES = 10.0
"""Whoever runs for less still grows, and that says nothing."""
WARM_UP = 300.0
"""Seconds at the beginning that do not count, or half of the time if that is less."""
WARM_UP_PACE = 4
"""How many times as often processes are restarted in that time."""
SAMPLE_EVERY = 2.0
MOST_KIB = 20.0
"""KiB by which a process may grow in a minute."""
MOST_DESCRIPTORS = 1.0
"""Descriptors by which it may grow in a minute."""
PAUSE = 0.05
"""Seconds between two visits of a visitor."""


def echo(connection: Any, *_: str) -> None:
    """A talent: brings back what comes."""
    while data := connection.recv(65536):
        connection.sendall(data)


@dataclass
class Load:
    """What visitors do at some ports, and how it went.

    :ivar done: how often each kind of visit went well.
    :ivar lost: how often one was broken off, as happens when an end is killed.
    :ivar wrong: what must not happen.
    """

    over: threading.Event = field(default_factory=threading.Event)
    done: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def repeat(self, name: str, visit: Callable[[], None], pause: float = PAUSE) -> None:
        """Do *visit* again and again, in a thread."""

        def run() -> None:
            while not self.over.wait(pause * random.uniform(0.5, 1.5)):
                try:
                    visit()
                    self.done[name] += 1
                except (OSError, EOFError):
                    self.lost[name] += 1
                except BaseException as error:
                    self.wrong.append(f"{name}: {error!r}")

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)


def ask(connection: Any, question: bytes) -> None:
    """Send, and read the same back."""
    connection.sendall(question)
    answer = b""
    while len(answer) < len(question):
        if not (data := connection.recv(65536)):
            raise EOFError
        answer += data
    assert answer == question


def visits(load: Load, name: str, visit: Callable[[bytes], Any]) -> None:
    """Visitors of all kinds at one port."""

    def asks() -> None:
        with visit(b"echo") as connection:
            ask(connection, b"short")

    def stays() -> None:
        with visit(b"echo") as connection:
            until = time.monotonic() + 20
            while time.monotonic() < until and not load.over.wait(0.2):
                ask(connection, bytes(random.randrange(1, 5000)))

    def downloads() -> None:
        total = random.randrange(1_000_000)
        with visit(b"get %d 7" % total) as connection:
            if read_all(connection) != expected(total, 7):
                raise EOFError  # it was cut; that this is a reset and not an end is tested elsewhere

    def uploads() -> None:
        total = random.randrange(1_000_000)
        with visit(b"count") as connection:
            send_bytes(connection, total, 3)
            connection.shutdown(1)
            answer = b""
            while data := connection.recv(4096):
                answer += data
        if not answer:
            raise EOFError
        assert answer.decode().split() == [str(expected(total, 3)[0]), expected(total, 3)[1]]

    def breaks_off() -> None:
        with visit(b"get 10000000 1") as connection:
            connection.recv(1000)

    for kind, pause in ((asks, PAUSE), (stays, 1), (downloads, 0.5), (uploads, 0.5), (breaks_off, 1)):
        load.repeat(f"{name} {kind.__name__}", kind, pause)


def restart(process: Process, start: Callable[[], object]) -> None:
    """End a process, in one of two ways, and start it again."""
    if random.random() < 0.5:
        process.kill()
    else:
        process.send_signal(signal.SIGTERM)
        process.wait()
    start()


@contextmanager
def tunnels(directory: Path, load: Load) -> Iterator[tuple[dict[str, Process], Sequence[Callable[[], None]]]]:
    """Four tunnels under load; yields the processes that live on, and what ends and starts the others."""
    authority = Authority(directory / "pki")
    authority.server()
    authority.client("laptop", file="client")

    started = Twistds(directory)
    twistd = UnderTls(started, authority.directory)
    service = Service({"echo": echo, "get": get, "count": count})
    datagrams = UdpService()
    quick = ["--drain=0"]
    back = [*quick, "--reconnect-max=2"]
    udp = free_port()
    try:
        secure = twistd.tunnel(service.address, quick, back)
        plain = Tunnel(twistd, service.address, server=quick, client=back)
        hosts = [f"--service=mirror=udp:{datagrams.address}"]
        users = [f"--forward=udp:{LOOPBACK}:{udp}=mirror"]
        first = RtcTunnel(twistd, service.address, host=hosts, client=users)
        second = RtcTunnel(twistd, service.address)
        for name, tunnel in {"TLS": secure, "plain": plain, "WebRTC 1": first, "WebRTC 2": second}.items():
            visits(load, name, tunnel.visit)  # type: ignore[attr-defined]

        def asks_by_udp() -> None:
            # The host keeps a flow for half a minute. How many there are must not depend on the machine's speed.
            with Asker(udp) as asker:
                until = time.monotonic() + 5
                while time.monotonic() < until and not load.over.wait(0.2):
                    try:
                        asker.ask(b"datagram", 1)
                    except AssertionError as error:
                        raise EOFError from error

        load.repeat("WebRTC 1 datagrams", asks_by_udp, 1)

        def end_secure_server() -> None:
            restart(secure.server, secure.start_server)
            secure.wait_for_server()

        def end_plain_client() -> None:
            restart(plain.client, plain.start_client)
            plain.wait_for_client()

        def end_first_client() -> None:
            restart(first.client, first.start_client)
            first.wait_for_client()

        def end_second_host() -> None:
            restart(second.host, second.start_host)
            second.wait_for_host()

        def end_second_signal() -> None:
            restart(second.signal, second.start_signal)
            second.wait_for_signal()

        yield (
            {
                "rtunnel-client --tls": secure.client,
                "rtunnel-server": plain.server,
                "rtc-signal": first.signal,
                "rtc-host": first.host,
                "rtc-client": second.client,
            },
            (end_secure_server, end_plain_client, end_first_client, end_second_host, end_second_signal),
        )
    finally:
        load.stop()
        with redirect_stdout(StringIO()):  # what all of them logged
            started.end_all()
        datagrams.close()
        service.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=LEAST_MINUTES, help="how long (default 10)")
    parser.add_argument("--restart-every", type=float, default=10.0, help="seconds between two restarts (default 10)")
    options = parser.parse_args()
    take_descriptors()
    load = Load()
    samples: dict[str, list[tuple[float, float, float, float]]] = {}
    warm_up = min(WARM_UP / 60, options.minutes / 2)
    with tempfile.TemporaryDirectory() as directory, tunnels(Path(directory), load) as (living, restarts):
        began = time.monotonic()
        end = began + 60 * options.minutes
        due = began + options.restart_every
        number = 0
        while (now := time.monotonic()) < end:
            for name, process in living.items():
                at = (now - began) / 60
                kib = proc.anonymous_bytes(process.pid) / 1024, proc.rss_bytes(process.pid) / 1024
                samples.setdefault(name, []).append((at, *kib, process.descriptors()))
            if now >= due:
                restarts[number % len(restarts)]()
                number += 1
                pace = WARM_UP_PACE if now - began < 60 * warm_up else 1
                due = time.monotonic() + options.restart_every / pace
            time.sleep(SAMPLE_EVERY)
        before = load.done.copy()
        time.sleep(30)
        stuck = [name for name in load.done if load.done[name] == before[name]]
        tracebacks = [name for name, process in living.items() if "Traceback" in process.output]
    print(f"{number} restarts in {options.minutes:g} minutes")
    for name in sorted(load.done | load.lost):
        print(f"{name:24} {load.done[name]:8} done {load.lost[name]:8} lost")
    print(f"\n{'grows by, in a minute':24} {'KiB':>8} {'resident':>9} {'descriptors':>12}", end="   ")
    print("MiB at the end of each tenth of the time")
    is_flat = True
    for name, taken in samples.items():
        counted = [each for each in taken if each[0] >= warm_up]
        times = [each[0] for each in counted]
        slopes = [linear_regression(times, [each[i] for each in counted]).slope for i in (1, 2, 3)]
        is_flat = is_flat and slopes[0] < MOST_KIB and slopes[2] < MOST_DESCRIPTORS
        tenths = " ".join(f"{taken[len(taken) * tenth // 10 - 1][1] / 1024:.2f}" for tenth in range(1, 11))
        print(f"{name:24} {slopes[0]:8.1f} {slopes[1]:9.1f} {slopes[2]:12.2f}   {tenths}")
    is_short = options.minutes < LEAST_MINUTES
    verdict = f"too short to tell, take {LEAST_MINUTES:g} minutes" if is_short else "yes" if is_flat else "NO"
    print(f"flat is below {MOST_KIB:g} KiB and {MOST_DESCRIPTORS:g} descriptors: {verdict}")
    for what, found in (("wrong", load.wrong[:10]), ("does not come back", stuck), ("traceback", tracebacks)):
        if found:
            print(f"{what}: {found}")
    return 0 if (is_flat or is_short) and not (load.wrong or stuck or tracebacks) else 1


if __name__ == "__main__":
    sys.exit(main())
