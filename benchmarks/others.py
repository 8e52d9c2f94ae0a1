"""The columns of other programs that every system has: nginx as a stream proxy, and ``ssh -R``.

Both have two hops, like a reverse tunnel: two nginx in a chain, or client and server of ssh. Neither touches the
system's configuration: each gets its own configuration, keys and ports.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.hello import NAME
from benchmarks.parts import Failed, Program, find, free_ports, running, wait_for
from benchmarks.ways import Column, Way

STREAM_CONF = """
{module}
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 8192; }}
stream {{ {servers} }}
http {{
    access_log off; keepalive_requests 100000000;
    client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
    uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
    {web}
}}
"""
#: By the Host of each request, at the near one only, over connections that are kept.
WEB_SERVER = """
upstream far {{ server 127.0.0.1:{to}; keepalive 128; keepalive_requests 100000000; }}
server {{
    listen 127.0.0.1:{port} backlog=1024; server_name {name};
    location / {{
        proxy_pass http://far; proxy_http_version 1.1;
        proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;
    }}
}}
"""
#: By the name in its ClientHello, at the near one only.
NAMED_SERVER = """
map $ssl_preread_server_name $by_name {{ {name} 127.0.0.1:{to}; }}
server {{ listen 127.0.0.1:{port} backlog=1024; ssl_preread on; proxy_pass $by_name; }}
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
    to = services
    programs: list[Program] = []
    with ExitStack() as stack:
        for name in ("near", "far"):
            folder = directory / name
            folder.mkdir()
            iperf, web, hello, by_name, by_host = free_ports(5)
            targets = {iperf: to.iperf, web: to.web, hello: to.hello}
            servers = "\n".join(
                STREAM_SERVER.format(port=port, to=target) for port, target in targets.items() if target
            )
            if to.hello is not None:
                servers += NAMED_SERVER.format(name=NAME, port=by_name, to=to.hello)
            web_server = WEB_SERVER.format(to=to.web, port=by_host, name=NAME)
            (folder / "nginx.conf").write_text(
                STREAM_CONF.format(module=module, directory=folder, servers=servers, web=web_server)
            )
            argv = [find("nginx"), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
            programs.append(stack.enter_context(running(argv, folder / "log")))
            wait_for(web, folder / "log")
            there = to.hello is not None
            to = Way(
                *(iperf, web, tuple(programs)),
                hello=hello if there else None,
                by_name=by_name if there else None,
                by_host=by_host,
            )
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
    with sshd_directory(), running(server, directory / "sshd.log") as server_program:
        wait_for(port, directory / "sshd.log")
        with running(client, directory / "ssh.log") as client_program:
            wait_for(web, directory / "ssh.log")
            yield Way(iperf, web, (server_program, client_program))


OTHERS = (
    Column("nginx", "nginx", "its stream proxy, twice in a chain", nginx_stream, is_ours=False),
    Column("ssh", "ssh -R", "OpenSSH, its own choice of cipher", ssh, is_ours=False),
)
