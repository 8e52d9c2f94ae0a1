"""The columns of the table that are this package's own: ways by which the load reaches the services.

Each is made of processes on this machine, with files and ports of its own.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.parts import Failed, Program, find, free_ports, running, twistd, wait_for
from rtunnel.pki.authority import issue, make_ca
from rtunnel.pki.certificates import Kind

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Way:
    """A way to the two services.

    :ivar iperf: the port that leads to iperf3's server.
    :ivar web: the port that leads to the web server.
    :ivar programs: the programs in between; none for ``direct``.
    :ivar server: the one of them that may be killed and started again, after which the others must come back by
        themselves; None if they do not.
    """

    iperf: int
    web: int
    programs: tuple[Program, ...] = ()
    server: Program | None = None

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
    server, client = issue(ca, Kind.SERVER, "server", hosts=["127.0.0.1"]), issue(ca, Kind.CLIENT, "client")
    for name, holder in (("ca", ca), ("server", server), ("client", client)):
        (directory / f"{name}.crt").write_bytes(holder.certificate_pem)
        (directory / f"{name}.key").write_bytes(holder.key_pem)
        (directory / f"{name}.key").chmod(0o600)


def rtunnel(*options: str, env: Mapping[str, str] | None = None) -> Callable[[Path, Way], AbstractContextManager[Way]]:
    """Return a function that runs this package's server and client, both with *options*.

    :param env: variables that are set for both.
    """

    @contextmanager
    def opened(directory: Path, services: Way) -> Iterator[Way]:
        control, iperf, web = free_ports(3)
        server_log, client_log = directory / "server.log", directory / "client.log"
        argv = [*twistd(), "rtunnel-server", "--control-listen", f"127.0.0.1:{control}", *options]
        client = [*twistd(), "rtunnel-client", "--server", f"127.0.0.1:{control}", *options]
        client += ["--tunnel", f"{iperf}:127.0.0.1:{services.iperf}", "--tunnel", f"{web}:127.0.0.1:{services.web}"]
        with running([*argv, "--public-interface", "127.0.0.1"], server_log, env) as server:
            wait_for(control, server_log)
            with running(client, client_log, env) as other:
                wait_for(web, client_log)
                yield Way(iperf, web, (server, other), server)

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
def baseline(revision: str, directory: Path) -> Iterator[tuple[Column, ...]]:
    """Check out a revision of this package, and yield the columns of its defaults, without and with TLS.

    It runs in the same virtual environment. No columns if *revision* is empty.

    :raises Failed: git is missing, or does not know the revision.
    """
    if not revision:
        yield ()
        return
    git, folder = [find("git"), "-C", str(ROOT)], directory / "baseline"

    def run(*arguments: str) -> str:
        result = subprocess.run([*git, *arguments], capture_output=True, text=True, check=False)
        if result.returncode:
            raise Failed(f"the baseline {revision}: {result.stderr.strip()}")
        return result.stdout.strip()

    name = run("rev-parse", "--short", "--verify", f"{revision}^{{commit}}")
    run("worktree", "add", "--detach", str(folder), name)
    # It comes before this checkout, which the environment may have as an editable install.
    env = {"PYTHONPATH": str(folder)}
    try:
        yield (
            Column("baseline", f"rtunnel {name}", f"as it was at {name}", rtunnel(env=env)),
            Column(
                "baseline-tls", f"rtunnel --tls {name}", f"as it was at {name}, with TLS", rtunnel("--tls", env=env)
            ),
        )
    finally:
        run("worktree", "remove", "--force", str(folder))
