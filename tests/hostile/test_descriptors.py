"""One who opens connection after connection and keeps them: others are served, as many as there are descriptors.

Each process may have :data:`LIMIT` descriptors, and each attack asks for more.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from tests.hostile.harness import LOOPBACK, Honest, Used, connect, gauge, is_closed, limit_descriptors
from tests.ports import free_port
from tests.process.harness import Twistds
from tests.process.rtc import Asker, RtcTunnel, UdpService
from tests.process.services import Tunnel

LIMIT = 256
"""Descriptors that the process under attack may have."""
FLOOD = 300
"""Connections of the one who attacks."""
FREE = 16
"""Descriptors that are always left to links, files and ICE."""
HOSTILE = "127.6.6.6"
CPU = 0.01
"""Seconds of a process for each connection beyond the limit, five times what was seen."""
LOG = 4000
"""Bytes of log for all of it."""


def flood(stack: ExitStack, port: int, used: Used, count: int = FLOOD, source: str = HOSTILE) -> list[socket.socket]:
    """Connect so often, wait for an answer or for the end each time, and let the connection lie."""
    idle = []
    for number in range(count):
        with suppress(ConnectionError):
            connection = connect(port, source, data=b"x")
            idle.append(stack.enter_context(connection))
            connection.recv(1)
        if number % 20 == 0:
            used.look()
    return idle


def look_at(used: Used, idle: list[socket.socket]) -> None:
    """The first have given way, the last are there, and it has cost little."""
    alive = [not is_closed(connection) for connection in idle]
    print(f"{sum(alive)} of {len(alive)} are there")
    assert all(alive[-50:])
    assert not any(alive[:50])
    check(used)


def check(used: Used) -> None:
    """It has used what it has, left some to others, and done little."""
    assert LIMIT / 2 < used.most_descriptors <= LIMIT - FREE
    assert used.cpu_seconds < FLOOD * CPU
    assert used.log_bytes < LOG


@pytest.mark.parametrize("plane", ["mux", "direct"])
def test_visitors_of_one_address_at_the_server(
    echo: str, twistd: Twistds, start_tunnel: Callable[..., Tunnel], plane: str
) -> None:
    tunnel = start_tunnel(echo, data_plane=plane)
    other = free_port()
    more = [f"--server={LOOPBACK}:{tunnel.control}", f"--local={echo}", f"--data-plane={plane}"]
    twistd("rtunnel-client", *more, f"--remote-port={other}").wait_for("is published; ")
    limit_descriptors(tunnel.server, LIMIT)
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(tunnel.public, "127.0.0.2"))
        elsewhere = stack.enter_context(Honest(other, "127.0.0.3"))
        used = stack.enter_context(gauge(tunnel.server))
        idle = flood(stack, tunnel.public, used)
        honest.go_on()
        elsewhere.go_on()
        # A client that was not there before.
        new = free_port()
        twistd("rtunnel-client", *more, f"--remote-port={new}").wait_for("is published; ")
        with Honest(new, "127.0.0.4") as late:
            late.go_on()
        look_at(used, idle)
    assert "no file descriptor is left" not in tunnel.server.output


def test_visitors_of_one_address_at_the_client(echo: str, start_tunnel: Callable[..., Tunnel]) -> None:
    tunnel = start_tunnel(echo)
    limit_descriptors(tunnel.client, LIMIT)
    with Honest(tunnel.public, "127.0.0.2") as honest, ExitStack() as stack:
        used = stack.enter_context(gauge(tunnel.client))
        idle = flood(stack, tunnel.public, used)
        honest.go_on()
        look_at(used, idle)
    assert "too many open files" not in tunnel.client.output


def test_channels_of_one_peer_at_the_host(echo: str, start_rtc: Callable[..., RtcTunnel]) -> None:
    hostile = start_rtc(echo)
    other = start_rtc(echo, start=())
    other.port = hostile.port
    other.start_client()
    other.wait_for_client()
    limit_descriptors(hostile.host, LIMIT)
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(other.local))
        used = stack.enter_context(gauge(hostile.host))
        idle = flood(stack, hostile.local, used)
        honest.go_on()
        look_at(used, idle)


def test_connections_of_one_address_at_a_local_port(echo: str, start_rtc: Callable[..., RtcTunnel]) -> None:
    tunnel = start_rtc(echo)
    limit_descriptors(tunnel.client, LIMIT)
    with Honest(tunnel.local) as honest, ExitStack() as stack:
        used = stack.enter_context(gauge(tunnel.client))
        idle = flood(stack, tunnel.local, used)
        honest.go_on()
        look_at(used, idle)


def test_flows_of_one_peer_at_the_host(start_rtc: Callable[..., RtcTunnel], udp_service: UdpService) -> None:
    """Each program that sends datagrams has a flow, and each flow a socket at the host."""
    many = ["--protocol=udp", "--max-flows=1000"]
    hostile = start_rtc(udp_service.address, host=many, client=many)
    other = start_rtc("", client=many, start=())
    other.port = hostile.port
    other.start_client()
    other.wait_for_client()
    limit_descriptors(hostile.host, LIMIT)
    with ExitStack() as stack:
        used = stack.enter_context(gauge(hostile.host))
        stays = stack.enter_context(Asker(other.local))
        for number in range(FLOOD):
            stack.enter_context(Asker(hostile.local)).ask(b"x%d" % number)
            if number % 20 == 0:
                used.look()
                stays.ask(b"question %d" % number)
        sources = len(udp_service.sources)
        stays.ask(b"another one")
        # It still has the flow that it had.
        assert len(udp_service.sources) == sources
    check(used)


def test_connections_of_one_address_at_the_signaling_server(
    echo: str, twistd: Twistds, start_rtc: Callable[..., RtcTunnel]
) -> None:
    tunnel = start_rtc(echo, signal=["--max-per-address=0"], start=("signal", "host"))
    limit_descriptors(tunnel.signal, LIMIT)
    with ExitStack() as stack:
        used = stack.enter_context(gauge(tunnel.signal))
        for number in range(FLOOD):
            with suppress(ConnectionError):
                stack.enter_context(connect(tunnel.port, HOSTILE, data=b"GET"))
            if number % 20 == 0:
                used.look()
        used.look()
        tunnel.start_client()
        tunnel.wait_for_client()
        assert "cannot use signaling server" not in tunnel.client.output
    check(used)
    assert "no file descriptor is left" not in tunnel.signal.output
