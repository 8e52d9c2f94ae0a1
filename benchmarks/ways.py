"""The columns of the table that are this package's own: ways by which the load reaches the services.

Each is made of processes on this machine, with files and ports of its own.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.hello import NAME, wait_for_service
from benchmarks.nodes import HOSTS
from benchmarks.parts import (
    HOST,
    Failed,
    Program,
    find,
    free_ports,
    running,
    twistd,
    wait_for,
    wait_for_echo,
    wait_for_page,
)
from rtunnel.pki.authority import issue, make_ca
from rtunnel.pki.certificates import Kind

ROOT = Path(__file__).parent.parent
#: The addresses of the server and of the client where they are in networks of their own.
NEAR, FAR = "192.0.2.1", "192.0.2.2"


@dataclass(frozen=True)
class Network:
    """Where the two ends of a tunnel are.

    :ivar server: the IP address at which the client finds the server.
    :ivar at_client: what is started in this block runs beside the services, where the client belongs.
    """

    server: str = HOST
    at_client: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class Way:
    """A way to the services.

    :ivar iperf: the port that leads to iperf3's server.
    :ivar web: the port that leads to the web server.
    :ivar echo: the UDP port that leads to the echo, which a way has if ``iperf`` leads to iperf3 by UDP too; None if
        it does not carry UDP.
    :ivar hello: the port that leads to the service of :mod:`benchmarks.hello`; None: the way does not have it.
    :ivar by_name: the port that leads there by the name in a ClientHello; None: the way knows no names.
    :ivar by_host: the port that leads to the web server by the Host of each request; None: the way reads no requests.
    :ivar host: the IP address of these ports.
    :ivar programs: the programs in between; none for ``direct``.
    :ivar server: the one of them that may be killed and started again, after which the others must come back by
        themselves; None if they do not.
    :ivar network: where the ends of a tunnel to these services belong.
    """

    iperf: int
    web: int
    programs: tuple[Program, ...] = ()
    server: Program | None = None
    echo: int | None = None
    host: str = HOST
    network: Network = Network()
    hello: int | None = None
    by_name: int | None = None
    by_host: int | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of the processes in between."""
        return tuple(program.pid for program in self.programs)


@dataclass(frozen=True)
class Column:
    """A column of the table.

    :ivar key: its name in the report.
    :ivar title: its name in the table.
    :ivar about: what it is, for the legend.
    :ivar open: starts the way to some services, with a directory for its files.
    :ivar is_ours: whether it is this package's own.
    """

    key: str
    title: str
    about: str
    open: Callable[[Path, Way], AbstractContextManager[Way]]
    is_ours: bool = True


def make_certificates(directory: Path) -> None:
    """Make the certificates of both ends where ``--tls`` looks for them."""
    ca = make_ca()
    server, client = issue(ca, Kind.SERVER, "server", hosts=[*HOSTS, NEAR]), issue(ca, Kind.CLIENT, "client")
    for name, holder in (("ca", ca), ("server", server), ("client", client)):
        (directory / f"{name}.crt").write_bytes(holder.certificate_pem)
        (directory / f"{name}.key").write_bytes(holder.key_pem)
        (directory / f"{name}.key").chmod(0o600)


def rtunnel(
    *options: str, env: Mapping[str, str] | None = None, udp: bool = True, names: bool = True
) -> Callable[[Path, Way], AbstractContextManager[Way]]:
    """Return a function that runs this package's server and client, both with *options*.

    :param env: variables that are set for both.
    :param udp: whether they can carry UDP.
    :param names: whether they can route by host name.
    """

    @contextmanager
    def opened(directory: Path, services: Way) -> Iterator[Way]:
        control, iperf, web, echo, hello, https, http = free_ports(7)
        network, to = services.network, services.host
        server_log, client_log = directory / "server.log", directory / "client.log"
        argv = [*twistd(), "rtunnel-server", "--control-listen", f"{network.server}:{control}", *options]
        client = [*twistd(), "rtunnel-client", "--server", f"{network.server}:{control}", *options]
        client += ["--tunnel", f"{iperf}:{to}:{services.iperf}", "--tunnel", f"{web}:{to}:{services.web}"]
        if udp:
            for port, service in ((iperf, services.iperf), (echo, services.echo)):
                client += ["--publish", f"udp:{port}={to}:{service}"]
        has_names = names and services.hello is not None
        if has_names:
            argv += ["--https-listen", f"{HOST}:{https}"]
            client += ["--tunnel", f"{hello}:{to}:{services.hello}"]
            client += ["--publish", f"https:{NAME}={to}:{services.hello}"]
            argv += ["--http-listen", f"{HOST}:{http}"]
            client += ["--publish", f"http:{NAME}={to}:{services.web}"]
        with ExitStack() as stack:
            server = stack.enter_context(running([*argv, "--public-interface", HOST], server_log, env))
            wait_for(control, server_log, network.server)
            with network.at_client():
                other = stack.enter_context(running(client, client_log, env))
            wait_for(web, client_log)
            if udp:
                wait_for_echo(echo, client_log)
            if has_names:
                wait_for_service(https, client_log)
                wait_for_page(http, NAME, client_log)
            way = Way(iperf, web, (server, other), server, echo if udp else None)
            yield replace(way, hello=hello, by_name=https, by_host=http) if has_names else way

    return opened


@contextmanager
def fresh(column: Column, directory: Path, services: Way) -> Iterator[Way]:
    """Start a new way in its own directory."""
    with column.open(Path(tempfile.mkdtemp(prefix=f"{column.key}-", dir=directory)), services) as way:
        yield way


DIRECT = Column("direct", "direct", "no tunnel", lambda directory, services: nullcontext(services))
OURS = (
    Column("rtunnel", "rtunnel", "its defaults, no TLS", rtunnel()),
    Column("rtunnel-tls", "rtunnel --tls", "its defaults, post-quantum TLS", rtunnel("--tls")),
    Column(
        "mux-tls",
        "mux --tls",
        "the same, all visitors on the link",
        rtunnel("--tls", "--data-plane", "mux"),
    ),
)


@contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[str]:
    """Check a revision of this package out into *folder*, and yield its short name. It goes with the block.

    :raises Failed: git is missing, or does not know the revision.
    """
    git = [find("git"), "-C", str(ROOT)]

    def run(*arguments: str) -> str:
        result = subprocess.run([*git, *arguments], capture_output=True, text=True, check=False)
        if result.returncode:
            raise Failed(f"the baseline {revision}: {result.stderr.strip()}")
        return result.stdout.strip()

    name = run("rev-parse", "--short", "--verify", f"{revision}^{{commit}}")
    run("worktree", "add", "--detach", str(folder), name)
    try:
        yield name
    finally:
        run("worktree", "remove", "--force", str(folder))


@contextmanager
def baseline(revision: str, directory: Path) -> Iterator[tuple[Column, ...]]:
    """Yield the columns of a revision of this package with its defaults, without and with TLS.

    It runs in the same virtual environment. No columns if *revision* is empty.

    :raises Failed: git is missing, or does not know the revision.
    """
    if not revision:
        yield ()
        return
    folder = directory / "baseline"
    with checked_out(revision, folder) as name:
        # It comes before this checkout, which the environment may have as an editable install.
        env = {"PYTHONPATH": str(folder)}
        udp = (folder / "rtunnel/reverse/datagrams").exists()
        names = (folder / "rtunnel/reverse/fronts/sni.py").exists()
        plain, tls = (rtunnel(*options, env=env, udp=udp, names=names) for options in ((), ("--tls",)))
        yield (
            Column("baseline", f"rtunnel {name}", f"as it was at {name}", plain),
            Column("baseline-tls", f"rtunnel --tls {name}", f"as it was at {name}, with TLS", tls),
        )
