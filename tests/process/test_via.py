"""The client through the proxies of others: tinyproxy, with and without a password, and ``ssh -D``."""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.others import SSHD_CONF, SSHD_DIRECTORY
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistds, need, poll, wait_until_closed, wait_until_open
from tests.process.rtc import Asker, UdpService
from tests.process.services import (
    LOOPBACK,
    Background,
    Service,
    Tunnel,
    count,
    expected,
    fetch,
    get,
    page,
    read_all,
    send_bytes,
    wait_for_page,
)
from tests.process.tls_services import UnderTls
from tests.tls.parts import Authority

Serve = Callable[..., Service]
Start = Callable[..., Tunnel]
StartProxy = Callable[[Twistds, int], Process]

BULK = 50_000_000
DEBUG = "--log-level=debug"
OWN = r"has a connection of its own$"
PASSWORD = "s3cret"

TINYPROXY_CONF = """
Port {port}
Listen 127.0.0.1
Timeout 600
MaxClients 100
LogLevel Connect
"""


def start_tinyproxy(twistd: Twistds, port: int, more: str = "") -> Process:
    conf = twistd.directory / f"tinyproxy-{port}.conf"
    conf.write_text(TINYPROXY_CONF.format(port=port) + more)
    process = twistd.program(need("tinyproxy"), "-d", "-c", str(conf))
    wait_until_open(port)
    return process


def start_tinyproxy_with_password(twistd: Twistds, port: int) -> Process:
    return start_tinyproxy(twistd, port, f"BasicAuth me {PASSWORD}\n")


def start_ssh(twistd: Twistds, port: int) -> Process:
    """``ssh -D`` and an sshd."""
    sshd, ssh, keygen = need("sshd"), need("ssh"), need("ssh-keygen")
    behind = free_port()
    directory = twistd.directory / f"ssh-{port}"
    directory.mkdir()
    if os.geteuid() == 0:
        SSHD_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True)
    (directory / "known").write_text(f"[{LOOPBACK}]:{behind} {(directory / 'host.pub').read_text()}")
    (directory / "sshd_config").write_text(SSHD_CONF.format(port=behind, directory=directory))
    server = twistd.program(sshd, "-D", "-e", "-f", str(directory / "sshd_config"))
    wait_until_open(behind)
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "ExitOnForwardFailure=yes"]
    options.append(f"UserKnownHostsFile={directory / 'known'}")
    process = twistd.program(
        *(ssh, "-F", "none", "-N", "-p", str(behind), "-i", str(directory / "user")),
        *(word for option in options for word in ("-o", option)),
        *("-D", f"{LOOPBACK}:{port}", f"{pwd.getpwuid(os.geteuid()).pw_name}@{LOOPBACK}"),
    )
    said = server.wait_for(r"Accepted publickey|not allowed because account is locked")
    if "locked" in said[0]:
        pytest.skip("the account of this user is locked, so sshd lets nobody in")
    wait_until_open(port)
    return process


PROXIES = [
    pytest.param(start_tinyproxy, "http://{}", id="tinyproxy"),
    pytest.param(start_tinyproxy_with_password, "http://me:s3cret@{}", id="tinyproxy-password"),
    pytest.param(start_ssh, "socks5://{}", id="ssh"),
]


@pytest.fixture(params=["plain", "tls"])
def start(request: pytest.FixtureRequest, twistd: Twistds, start_tunnel: Start, tmp_path: Path) -> Start:
    """``start(local, client=[...])``: a server and a client that work, without TLS and with it."""
    if request.param == "plain":
        return start_tunnel
    authority = Authority(tmp_path / "pki")
    authority.server()
    authority.client("laptop", file="client")
    return UnderTls(twistd, authority.directory).tunnel


def ports_at_the_other_end(pid: int) -> list[int]:
    """Where the established TCP connections of a process lead to."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", str(fd.readlink()))
        except OSError:
            continue
        if found:
            inodes.add(found[1])
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return [int(line[2].partition(":")[2], 16) for line in lines if line[9] in inodes and line[3] == "01"]


def bulk(tunnel: Tunnel, seed: int) -> None:
    """50 MB each way at the same time, each on a connection of its own."""

    def send() -> str:
        with tunnel.visit(b"count") as visitor:
            send_bytes(visitor, BULK, seed)
            visitor.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: visitor.recv(1000), b"")).decode()

    with Background(send) as sending, tunnel.visit(b"get %d %d" % (BULK, seed + 1)) as visitor:
        assert read_all(visitor) == expected(BULK, seed + 1)
        sent = sending.join()
    assert sent == "{} {}".format(*expected(BULK, seed))


@pytest.mark.parametrize(("start_proxy", "url"), PROXIES)
def test_visitors_by_way_of_a_proxy(
    twistd: Twistds, serve: Serve, start: Start, start_proxy: StartProxy, url: str
) -> None:
    port = free_port()
    start_proxy(twistd, port)
    tunnel = start(
        serve(get=get, count=count, GET=page("here")).address,
        server=[DEBUG],
        client=[DEBUG, "--via", url.format(f"{LOOPBACK}:{port}")],
        data_plane="direct",
    )
    tunnel.client.wait_for(rf"connected to {LOOPBACK}:{tunnel.control} ")

    def pool() -> bool:
        return ports_at_the_other_end(tunnel.client.pid).count(port) >= 1 + 4

    poll(pool, PATIENCE, "a link and data connections by way of the proxy")
    assert tunnel.control not in ports_at_the_other_end(tunnel.client.pid)
    assert fetch(tunnel.public) == "here"
    bulk(tunnel, port)
    poll(lambda: len(re.findall(OWN, tunnel.server.output, re.MULTILINE)) == 3, PATIENCE, "a line for each visitor")
    for end in (tunnel.client, tunnel.server):
        assert end.terminate() == 0
        assert "Traceback" not in end.output
    assert "s3cret" not in tunnel.client.output


@pytest.mark.parametrize(("start_proxy", "url"), PROXIES)
def test_proxy_is_killed_and_comes_back(
    twistd: Twistds, serve: Serve, start: Start, start_proxy: StartProxy, url: str
) -> None:
    port = free_port()
    proxy = start_proxy(twistd, port)
    place = url.format(f"{LOOPBACK}:{port}")
    waits = ["--reconnect-max=1", "--via", place]
    tunnel = start(serve(GET=page("here")).address, client=waits, server=["--dead-after=12"])
    assert fetch(tunnel.public) == "here"
    seen = len(tunnel.client.output)
    proxy.kill()
    wait_until_closed(port)
    tunnel.client.wait_for(
        rf"cannot reach server \S+ through the proxy \S+:{port}: the proxy cannot be reached: connection refused",
        after=seen,
    )
    directory = twistd.directory / f"ssh-{port}"
    if directory.exists():
        directory.rename(directory.with_suffix(".before"))
    start_proxy(twistd, port)
    tunnel.wait_for_client(after=seen)
    wait_for_page(tunnel.public, "here", PATIENCE)
    assert tunnel.client.terminate() == 0
    assert "Traceback" not in tunnel.client.output


@pytest.mark.parametrize(("start_proxy", "url"), PROXIES)
def test_datagrams_by_way_of_a_proxy(
    twistd: Twistds, serve: Serve, start: Start, udp_service: UdpService, start_proxy: StartProxy, url: str
) -> None:
    port, public = free_port(), free_port()
    start_proxy(twistd, port)
    options = ["--via", url.format(f"{LOOPBACK}:{port}"), f"--publish=udp:{public}={udp_service.address}"]
    tunnel = start(serve(GET=page("here")).address, client=options)
    said = r"datagrams to and from \S+.* go by data connections: UDP does not pass the proxy$"
    tunnel.client.wait_for(said)
    tunnel.client.wait_for(rf":{public} is published for UDP$")
    with Asker(public) as asker:
        for number in range(20):
            asker.ask(b"question %d" % number)
    assert fetch(tunnel.public) == "here"
    assert tunnel.client.terminate() == 0
    assert len(re.findall("go by ", tunnel.client.output)) == 1
    assert "Traceback" not in tunnel.client.output + tunnel.server.output


@pytest.mark.parametrize(
    ("login", "text"),
    [
        ("", r"the proxy wants a user and a password \(407\); write them in --via: http://USER:PASSWORD@HOST:PORT"),
        ("me:wr0ng@", r"the proxy does not accept this user and password \(40[17]\); are they right in --via\?"),
    ],
)
def test_tinyproxy_without_the_right_password(twistd: Twistds, login: str, text: str) -> None:
    port = free_port()
    start_tinyproxy_with_password(twistd, port)
    client = twistd(
        *("rtunnel-client", f"--server={LOOPBACK}:7000", "--local=:80", f"--via=http://{login}{LOOPBACK}:{port}")
    )
    client.wait_for(rf"cannot reach server {LOOPBACK}:7000 through the proxy http://{LOOPBACK}:{port}: {text}; next")
    assert client.terminate() == 0
    assert "wr0ng" not in client.output


@pytest.mark.parametrize(
    ("start_proxy", "kind", "text"),
    [
        (start_tinyproxy, "http", r"the proxy refuses: 500 Unable to connect"),
        (
            start_ssh,
            "socks5",
            r"the proxy closed the connection in the middle of its answer; can it reach the server\?",
        ),
    ],
    ids=["tinyproxy", "ssh"],
)
def test_server_that_the_proxy_cannot_reach(twistd: Twistds, start_proxy: StartProxy, kind: str, text: str) -> None:
    port = free_port()
    start_proxy(twistd, port)
    server, via = f"--server={LOOPBACK}:{free_port()}", f"--via={kind}://{LOOPBACK}:{port}"
    client = twistd("rtunnel-client", server, "--local=:80", via)
    client.wait_for(rf"cannot reach server \S+ through the proxy \S+: {text}; next attempt in", timeout=20)
    assert client.terminate() == 0


def test_tinyproxy_does_not_allow_the_port(twistd: Twistds) -> None:
    port = free_port()
    start_tinyproxy(twistd, port, "ConnectPort 443\n")
    client = twistd(
        "rtunnel-client",
        *(f"--server={LOOPBACK}:7000", "--local=:80", "--via=env"),
        env={"HTTPS_PROXY": f"http://{LOOPBACK}:{port}", "NO_PROXY": "", "no_proxy": "", "https_proxy": ""},
    )
    client.wait_for(r"the proxy refuses: 403 .*; does it allow CONNECT to port 7000\?; next attempt in")
    assert client.terminate() == 0
