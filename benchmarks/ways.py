"""The columns of the table: ways by which the load reaches the services, each made of processes on this machine.

All but ``direct`` have two hops, like a reverse tunnel: two nginx in a chain, or client and server of ``ssh -R``.
None of them touches the system's configuration: each gets its own configuration, keys and ports.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.parts import Failed, find, free_ports, running, twistd, wait_for
from rtunnel.pki.authority import issue, make_ca
from rtunnel.pki.certificates import Kind

STREAM_CONF = """
{module}
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 8192; }}
stream {{ {servers} }}
"""
STREAM_SERVER = "server {{ listen 127.0.0.1:{port} backlog=1024; proxy_pass 127.0.0.1:{to}; }}"
SSHD_CONF = """
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
"""
#: sshd needs this directory when it runs as root. A system that runs sshd makes it at each start.
SSHD_DIRECTORY = Path("/run/sshd")


@dataclass(frozen=True)
class Way:
    """A way to the two services.

    :ivar iperf: the port that leads to iperf3's server.
    :ivar web: the port that leads to the web server.
    :ivar pids: the processes in between; none for ``direct``.
    :ivar control: the control port of an ``rtunnel-server``; 0 if there is none.
    """

    iperf: int
    web: int
    pids: tuple[int, ...] = ()
    control: int = 0


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


def rtunnel(*options: str) -> Callable[[Path, Way], AbstractContextManager[Way]]:
    """Return a function that runs this package's server and client, both with *options*."""

    @contextmanager
    def opened(directory: Path, services: Way) -> Iterator[Way]:
        control, iperf, web = free_ports(3)
        server_log, client_log = directory / "server.log", directory / "client.log"
        server = [*twistd(), "rtunnel-server", "--control-listen", f"127.0.0.1:{control}", *options]
        client = [*twistd(), "rtunnel-client", "--server", f"127.0.0.1:{control}", *options]
        client += ["--tunnel", f"{iperf}:127.0.0.1:{services.iperf}", "--tunnel", f"{web}:127.0.0.1:{services.web}"]
        with running([*server, "--public-interface", "127.0.0.1"], server_log) as server_pid:
            wait_for(control, server_log)
            with running(client, client_log) as client_pid:
                wait_for(web, client_log)
                yield Way(iperf, web, (server_pid, client_pid), control)

    return opened


def stream_module() -> str:
    """Return the line that loads nginx's ``stream`` module; empty if the module is built in.

    :raises Failed: this nginx has no such module.
    """
    report = subprocess.run([find("nginx"), "-V"], capture_output=True, text=True, check=False).stderr
    if re.search(r"--with-stream(\s|$)", report):
        return ""
    folder = re.search(r"--modules-path=(\S+)", report)
    module = Path(folder[1] if folder else "/usr/lib/nginx/modules") / "ngx_stream_module.so"
    if not module.exists():
        raise Failed("nginx has no stream module; Debian's is in libnginx-mod-stream")
    return f"load_module {module};"


@contextmanager
def nginx_stream(directory: Path, services: Way) -> Iterator[Way]:
    """Run two nginx in a chain, each one process; the last passes on to the services."""
    module = stream_module()
    to, pids = services, []
    with ExitStack() as stack:
        for name in ("near", "far"):
            folder = directory / name
            folder.mkdir()
            iperf, web = free_ports(2)
            servers = "\n".join(
                STREAM_SERVER.format(port=port, to=target) for port, target in ((iperf, to.iperf), (web, to.web))
            )
            (folder / "nginx.conf").write_text(STREAM_CONF.format(module=module, directory=folder, servers=servers))
            argv = [find("nginx"), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
            pids.append(stack.enter_context(running(argv, folder / "log")))
            wait_for(web, folder / "log")
            to = Way(iperf, web, tuple(pids))
        yield to


@contextmanager
def sshd_directory() -> Iterator[None]:
    """Provide :data:`SSHD_DIRECTORY` for root's sshd while the block runs."""
    if os.geteuid() or SSHD_DIRECTORY.exists():
        yield
        return
    SSHD_DIRECTORY.mkdir(mode=0o755)
    try:
        yield
    finally:
        SSHD_DIRECTORY.rmdir()


@contextmanager
def ssh(directory: Path, services: Way) -> Iterator[Way]:
    """Run ``ssh -R`` and a separate sshd, with the ciphers that the two choose by default."""
    sshd, keygen = find("sshd"), find("ssh-keygen")
    port, iperf, web = free_ports(3)
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True)
    (directory / "known").write_text(f"[127.0.0.1]:{port} {(directory / 'host.pub').read_text()}")
    (directory / "sshd_config").write_text(SSHD_CONF.format(port=port, directory=directory))
    client = [find("ssh"), "-F", "none", "-N", "-p", str(port), "-i", str(directory / "user")]
    for option in (
        f"UserKnownHostsFile={directory / 'known'}",
        *("BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "ExitOnForwardFailure=yes"),
    ):
        client += ["-o", option]
    client += ["-R", f"127.0.0.1:{iperf}:127.0.0.1:{services.iperf}"]
    client += ["-R", f"127.0.0.1:{web}:127.0.0.1:{services.web}"]
    client.append(f"{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1")
    server = [sshd, "-D", "-e", "-f", str(directory / "sshd_config")]
    with sshd_directory(), running(server, directory / "sshd.log") as server_pid:
        wait_for(port, directory / "sshd.log")
        with running(client, directory / "ssh.log") as client_pid:
            wait_for(web, directory / "ssh.log")
            yield Way(iperf, web, (server_pid, client_pid))


COLUMNS = (
    Column("direct", "direct", "no tunnel", lambda directory, services: nullcontext(services)),
    Column("rtunnel", "rtunnel", "a connection for each visitor", rtunnel("--data-plane", "direct")),
    Column("mux", "mux", "rtunnel, all visitors over one link", rtunnel("--data-plane", "mux")),
    Column("rtunnel-tls", "rtunnel TLS", "post-quantum TLS", rtunnel("--data-plane", "direct", "--tls")),
    Column("mux-tls", "mux TLS", "one link, post-quantum TLS", rtunnel("--data-plane", "mux", "--tls")),
    Column("nginx", "nginx", "its stream proxy, twice in a chain", nginx_stream, is_ours=False),
    Column("ssh", "ssh -R", "OpenSSH, its own choice of cipher", ssh, is_ours=False),
)


@contextmanager
def fresh(column: Column, directory: Path, services: Way) -> Iterator[Way]:
    """Start a new way in its own directory."""
    with column.open(Path(tempfile.mkdtemp(prefix=f"{column.key}-", dir=directory)), services) as way:
        yield way
