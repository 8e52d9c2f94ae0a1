"""Load balancers of others in front of the server: haproxy and nginx pass on connections, each with a PROXY header."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.process.harness import Process, Twistds, need, wait_until_open
from tests.process.rtc import lines_with
from tests.process.services import LOOPBACK, Service, Visitor, expected, get, read_all
from tests.tls.parts import Authority

BALANCER = "127.0.0.77"
"""Where the balancers' own connections come from, so that they are told from those that they pass on."""
AMOUNT = 1_000_000
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

HAPROXY_CONF = """
global
    maxconn 200
defaults
    mode tcp
    timeout connect 10s
    timeout client 1m
    timeout server 1m
"""
HAPROXY_PORT = """
listen {name}
    bind 127.0.0.1:{port}
    server s 127.0.0.1:{behind} {how} check inter 200ms source {balancer}
"""
NGINX_CONF = """
load_module {module};
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 200; }}
stream {{
    proxy_protocol on;
    proxy_bind {balancer};
    {servers}
}}
"""

Balancer = tuple[Process, dict[int, int]]


def start_haproxy(twistd: Twistds, how: str, *behind: int) -> Balancer:
    """haproxy in front of these ports, which it also looks at now and then; its own port for each."""
    ports = {each: free_port() for each in behind}
    conf = twistd.directory / f"haproxy-{min(ports)}.cfg"
    conf.write_text(
        HAPROXY_CONF
        + "".join(
            HAPROXY_PORT.format(name=f"port{each}", port=port, behind=each, how=how, balancer=BALANCER)
            for each, port in ports.items()
        )
    )
    process = twistd.program(need("haproxy"), "-db", "-f", str(conf))
    for port in ports.values():
        wait_until_open(port)
    return process, ports


def start_nginx(twistd: Twistds, how: str, *behind: int) -> Balancer:
    """nginx in front of these ports; its own port for each."""
    program = need("nginx")
    if not STREAM_MODULE.exists():
        pytest.skip("nginx has no stream module")
    ports = {each: free_port() for each in behind}
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{each}; }} " for each, port in ports.items()
    )
    directory = twistd.directory
    conf = directory / "nginx-stream.conf"
    conf.write_text(NGINX_CONF.format(module=STREAM_MODULE, directory=directory, balancer=BALANCER, servers=servers))
    process = twistd.program(program, "-e", "stderr", "-p", str(directory), "-c", str(conf))
    for port in ports.values():
        wait_until_open(port)
    return process, ports


BALANCERS = [
    pytest.param(start_haproxy, "send-proxy", id="haproxy-v1"),
    pytest.param(start_haproxy, "send-proxy-v2 proxy-v2-options crc32c,unique-id", id="haproxy-v2"),
    pytest.param(start_nginx, "", id="nginx-v1"),
]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("start", "how"), BALANCERS)
def test_clients_and_visitors_by_way_of_a_balancer(
    twistd: Twistds, serve: Callable[..., Service], start: Callable[..., Balancer], how: str, tls: bool
) -> None:
    """Links, data connections and visitors work, and the log shows where they come from. A balancer that looks whether
    the shared port is open sees whether a client serves it."""
    ours: dict[str, Any] = {}
    if tls:
        authority = Authority(twistd.directory / "pki")
        authority.server()
        authority.client("laptop", file="client")
        ours["env"] = {"RTUNNEL_PKI_DIR": str(authority.directory)}
    options = ["--tls"] if tls else []
    control, public = free_port(), free_port()
    server = twistd(
        "rtunnel-server",
        f"--control-listen=haproxy:tcp:{control}:interface={LOOPBACK}",
        f"--public-listen=haproxy:tcp:{public}:interface={LOOPBACK}",
        "--data-plane=direct",
        "--log-level=debug",
        *options,
        **ours,
    )
    server.wait_for(r"control port listening on ")
    balancer, ports = start(twistd, how, control, public)
    looks = start is start_haproxy
    if looks:
        balancer.wait_for(rf"Server port{public}/s is DOWN")
    client = twistd(
        "rtunnel-client",
        f"--server={LOOPBACK}:{ports[control]}",
        f"--local={serve(get=get).address}",
        "--data-plane=direct",
        *options,
        **ours,
    )
    client.wait_for(r" is published")
    if looks:
        balancer.wait_for(rf"Server port{public}/s is UP")
    with Visitor(ports[public], b"get %d 7" % AMOUNT) as visitor:
        source = ":".join(map(str, visitor.getsockname()))
        assert read_all(visitor) == expected(AMOUNT, 7)
    server.wait_for(rf"visitor {re.escape(source)} of .*client 127\.0\.0\.1:\d+.*has a connection of its own")
    server.wait_for(r"client 127\.0\.0\.1:\d+( \(.*\))? connected")
    # It looks whether the ports are open, which is nothing to be warned of.
    assert not lines_with(server, "#warn")
    before = len(balancer.output)
    assert client.terminate() == 0
    if looks:
        balancer.wait_for(rf"Server port{public}/s is DOWN", after=before)
