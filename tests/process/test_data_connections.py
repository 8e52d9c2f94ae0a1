"""Data connections between processes: who has one, what they cost when nobody needs them, and what goes wrong."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.harness import poll
from tests.process.proc import descriptors
from tests.process.services import (
    LOOPBACK,
    Background,
    Flood,
    Service,
    Tunnel,
    count,
    expected,
    fetch,
    get,
    page,
    read_all,
    read_bytes,
    wait_for_page,
)

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]

MIB = 1024 * 1024
DEBUG = ["--log-level=debug"]
OWN = r"has a connection of its own$"


def connections(pid: int) -> int:
    """Established TCP connections of a process."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", str(fd.readlink()))
        except OSError:
            continue
        if found:
            inodes.add(found[1])
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[9] in inodes and line.split()[3] == "01" for line in lines)


def wait_for_pool(tunnel: Tunnel, count: int = 4) -> None:
    """Wait until so many data connections are there, besides the link."""
    poll(lambda: connections(tunnel.client.pid) >= 1 + count, PATIENCE, f"{count} data connections")


def test_visitors_have_connections_of_their_own(serve: Serve, start_tunnel: StartTunnel) -> None:
    tunnel = start_tunnel(serve(get=get, GET=page("here")).address, server=DEBUG, client=DEBUG)
    wait_for_pool(tunnel)
    with tunnel.visit(b"get 5000000 3") as visitor:
        assert read_all(visitor) == expected(5_000_000, 3)
    for end in (tunnel.server, tunnel.client):
        end.wait_for(OWN)
    for _ in range(50):
        assert fetch(tunnel.public) == "here"
    for end in (tunnel.server, tunnel.client):
        assert end.terminate() == 0
        assert "Traceback" not in end.output
    assert len(re.findall(OWN, tunnel.server.output, re.MULTILINE)) == 51


@pytest.mark.parametrize("quick_ends", ["both", "server", "client"])
def test_idle_tunnel_keeps_a_few(serve: Serve, start_tunnel: StartTunnel, quick_ends: str) -> None:
    """They show life now and then, as often as the less patient end wants, and stay; so does an idle visitor."""
    quick = ["--keepalive-interval=1", "--dead-after=3"]
    times = {end: quick for end in ("server", "client") if quick_ends in (end, "both")}
    tunnel = start_tunnel(serve(GET=page("here"), count=count).address, **times)
    wait_for_pool(tunnel)
    with tunnel.visit(b"count") as visitor:
        time.sleep(5)
        visitor.shutdown(socket.SHUT_WR)
        assert visitor.recv(100).startswith(b"0 ")
    poll(
        lambda: connections(tunnel.client.pid) == connections(tunnel.server.pid) == 1 + 4,
        PATIENCE,
        "as many as before",
    )
    assert "cannot be made" not in tunnel.client.output
    assert fetch(tunnel.public) == "here"


def test_killed_client_takes_its_visitors_with_it(serve: Serve, start_tunnel: StartTunnel) -> None:
    tunnel = start_tunnel(serve(GET=page("here"), flood=Flood()).address, server=DEBUG)
    wait_for_pool(tunnel)
    with tunnel.visit(b"flood") as visitor:
        assert read_bytes(visitor, MIB)[0] == MIB
        tunnel.server.wait_for(OWN)
        tunnel.client.kill()

        def is_over() -> bool:
            try:
                return not visitor.recv(MIB)
            except ConnectionError:
                return True

        poll(is_over, PATIENCE, "the visitor is cut off")
    poll(lambda: connections(tunnel.server.pid) == 0, PATIENCE, "no connection is left at the server")
    tunnel.start_client()
    wait_for_page(tunnel.public, "here", PATIENCE)


def test_client_that_is_killed_is_no_end_of_a_download(serve: Serve, start_tunnel: StartTunnel) -> None:
    """The kernel closes its connections: nobody may take what came for the whole."""

    def half_of_it(connection: socket.socket) -> None:
        connection.sendall(bytes(MIB))
        connection.recv(1)

    tunnel = start_tunnel(serve(half_of_it=half_of_it).address, server=DEBUG)
    wait_for_pool(tunnel)
    with tunnel.visit(b"half_of_it") as visitor:
        assert read_bytes(visitor, MIB)[0] == MIB
        tunnel.server.wait_for(OWN)
        tunnel.client.kill()
        with pytest.raises(ConnectionResetError):
            read_all(visitor)


def test_server_that_is_killed_is_no_end_of_an_upload(serve: Serve, start_tunnel: StartTunnel) -> None:
    seen: list[str] = []

    def store(connection: socket.socket) -> None:
        try:
            while connection.recv(MIB):
                seen.append("bytes")
        except ConnectionResetError:
            seen.append("reset")
        else:
            seen.append("end")

    tunnel = start_tunnel(serve(store=store).address, server=DEBUG)
    wait_for_pool(tunnel)
    with tunnel.visit(b"store") as visitor:
        visitor.sendall(bytes(MIB))
        tunnel.server.wait_for(OWN)
        poll(lambda: seen, PATIENCE, "the service has some of it")
        tunnel.server.kill()
        poll(lambda: seen[-1] != "bytes", PATIENCE, "the service sees what has happened")
        assert seen[-1] == "reset"


def test_link_that_dies_takes_its_data_connections_with_it(serve: Serve, start_tunnel: StartTunnel) -> None:
    """The client stops: its kernel keeps everything up."""
    service = serve(GET=page("here"), flood=Flood())
    tunnel = start_tunnel(service.address, server=["--keepalive-interval=1", "--dead-after=3", *DEBUG])
    wait_for_pool(tunnel)
    with tunnel.visit(b"flood") as visitor:
        assert read_bytes(visitor, MIB)[0] == MIB
        tunnel.server.wait_for(OWN)
        tunnel.client.send_signal(signal.SIGSTOP)
        # Who does not read keeps his connection for longer, because of the last bytes.
        with suppress(ConnectionError):
            read_bytes(visitor, 1 << 40)
        poll(lambda: connections(tunnel.server.pid) == 0, PATIENCE, "the server has let go of all of it")
        tunnel.client.send_signal(signal.SIGCONT)
    poll(lambda: service.busy == 0, PATIENCE, "so has the client")
    wait_for_page(tunnel.public, "here", PATIENCE)


def test_drain_waits_for_visitors_on_data_connections(serve: Serve, start_tunnel: StartTunnel) -> None:
    for who in ("client", "server"):
        tunnel = start_tunnel(serve(get=get).address, server=DEBUG)
        wait_for_pool(tunnel)
        with tunnel.visit(b"get 100000000 4") as visitor:
            head = read_bytes(visitor, MIB)
            assert head == expected(MIB, 4)
            tunnel.server.wait_for(OWN)
            end = getattr(tunnel, who)
            with Background(end.terminate) as stopping:
                end.wait_for("waiting up to 10 s for 1 visitors")
                assert stopping.running
                assert read_bytes(visitor, 100_000_000 - MIB)[0] == 100_000_000 - MIB
                visitor.close()
                assert stopping.join() == 0
        assert "did not finish" not in end.output


def test_data_connections_that_cannot_be_made(serve: Serve, start_tunnel: StartTunnel) -> None:
    """A way to the server that lets one connection through: visitors go by the link, and one line says why."""
    service = serve(GET=page("here"))
    tunnel = start_tunnel(service.address)
    with ExitStack() as stack:
        way = stack.enter_context(socket.create_server((LOOPBACK, 0)))
        there = stack.enter_context(Background(lambda: _one_way(way, tunnel.control)))
        client = tunnel._twistd(
            "rtunnel-client",
            f"--server={LOOPBACK}:{way.getsockname()[1]}",
            f"--local={service.address}",
            f"--remote-port={(other := tunnel.public + 1 if tunnel.public < 60000 else tunnel.public - 1)}",
        )
        client.wait_for("answers$")
        client.wait_for("data connections cannot be made: .*; visitors go by the link$")
        for _ in range(3):
            assert fetch(other) == "here"
        assert client.output.count("cannot be made") == 1
        assert client.terminate() == 0
        there.join()


def _one_way(way: socket.socket, control: int) -> None:
    """Hand the first connection on, and close all others."""
    first, _ = way.accept()
    with first, socket.create_connection((LOOPBACK, control)) as server:
        first.settimeout(0.02)
        server.settimeout(0.02)
        way.settimeout(0.001)
        while True:
            try:
                way.accept()[0].close()
            except TimeoutError:
                pass
            for one, other in ((first, server), (server, first)):
                try:
                    data = one.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    return
                other.sendall(data)


def test_descriptors_are_given_back(serve: Serve, start_tunnel: StartTunnel) -> None:
    pool = ["--pool=4"]
    tunnel = start_tunnel(serve(GET=page("here")).address, server=pool, client=pool)
    wait_for_pool(tunnel)
    ends = [tunnel.server.pid, tunnel.client.pid]
    before = [descriptors(pid) for pid in ends]
    for _ in range(300):
        assert fetch(tunnel.public) == "here"

    def are_given_back() -> bool:
        # The pool may have been incomplete then, or a check of the service under way.
        return all(descriptors(pid) <= count + 4 for pid, count in zip(ends, before, strict=True))

    poll(are_given_back, PATIENCE, f"about {before} descriptors again")
