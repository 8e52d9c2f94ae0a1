"""The tunnel under TLS, as it is used: real processes, certificates in files, much traffic, and what goes wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Twistds, poll, wait_until_closed
from tests.process.services import (
    Background,
    Service,
    Tunnel,
    Visitor,
    count,
    expected,
    fetch,
    fetch_or_none,
    get,
    page,
    read_all,
    send_bytes,
    wait_for_page,
)
from tests.process.tls_services import UnderTls
from tests.tls.parts import Authority, Holder

MEGABYTE = 1024 * 1024
AMOUNT = 200 * MEGABYTE

Start = Callable[..., Tunnel]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def server_holder(authority: Authority) -> Holder:
    return authority.server()


@pytest.fixture
def client_holder(authority: Authority) -> Holder:
    return authority.client("laptop", file="client")


@pytest.fixture
def start_tls(
    twistd: Twistds, authority: Authority, server_holder: Holder, client_holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> Start:
    """A tunnel under TLS, whose files are where ``--tls`` alone looks for them."""
    return UnderTls(twistd, authority.directory).tunnel


def test_200_megabytes_each_way(start_tls: Start, serve: Callable[..., Service]) -> None:
    tunnel = start_tls(serve(get=get, count=count).address)
    tunnel.server.wait_for(r"key exchange X25519MLKEM768, certificate of 'laptop' \(ML-DSA-65\)")
    with tunnel.visit(b"get %d 7" % AMOUNT) as down:
        assert read_all(down) == expected(AMOUNT, 7)
    with tunnel.visit(b"count") as up:
        send_bytes(up, AMOUNT, 8)
        up.shutdown(socket.SHUT_WR)
        total, digest = up.makefile().read().split()
        assert (int(total), digest) == expected(AMOUNT, 8)


def test_many_streams_at_once(start_tls: Start, serve: Callable[..., Service]) -> None:
    tunnel = start_tls(serve(get=get).address)

    def fetch_some(seed: int) -> Any:
        with tunnel.visit(b"get %d %d" % (5 * MEGABYTE, seed)) as visitor:
            return read_all(visitor)

    loads = [Background(lambda seed=seed: fetch_some(seed)) for seed in range(20)]  # type: ignore[misc]
    for seed, load in enumerate(loads):
        assert load.join() == expected(5 * MEGABYTE, seed)


@pytest.mark.parametrize("end", ["server", "client"])
def test_kill_9(end: str, start_tls: Start, serve: Callable[..., Service]) -> None:
    tunnel = start_tls(serve(GET=page("still here")).address, client=["--reconnect-min=0.1", "--reconnect-max=0.5"])
    assert fetch(tunnel.public) == "still here"
    if end == "server":
        tunnel.server.kill()
        tunnel.client.wait_for("link to server .* lost: the connection was cut; next attempt")
        tunnel.start_server()
    else:
        tunnel.client.kill()
        tunnel.server.wait_for(r"client 127.0.0.1:\d+ \(laptop\) gone; visitors wait 10 s for it: \d+")
        tunnel.start_client()
    wait_for_page(tunnel.public, "still here", PATIENCE)


def test_terminated_with_goodbyes(start_tls: Start, serve: Callable[..., Service]) -> None:
    tunnel = start_tls(serve(GET=page("here")).address)
    assert fetch(tunnel.public) == "here"
    assert tunnel.client.terminate() == 0
    tunnel.server.wait_for(r"client 127.0.0.1:\d+ \(laptop\) gone")
    assert tunnel.server.terminate() == 0
    for process in (tunnel.server, tunnel.client):
        assert "Traceback" not in process.output
        assert "cut" not in process.output


def test_500_peers_that_never_finish_the_handshake(start_tls: Start, serve: Callable[..., Service]) -> None:
    tunnel = start_tls(serve(get=get).address, server=["--handshake-timeout=3"])
    load = Background(lambda: _read(tunnel, AMOUNT // 2))
    with ExitStack() as stack:
        for number in range(500):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", tunnel.control), timeout=PATIENCE))
            if number % 2:
                peer.sendall(b"\x16\x03\x01\x07\x00\x01")
        assert _read(tunnel, MEGABYTE) == expected(MEGABYTE, 3)
        assert load.join() == expected(AMOUNT // 2, 3)
        tunnel.server.wait_for("closed: no TLS handshake within 3 s")
    assert tunnel.server.running
    assert "link to server" not in tunnel.client.output


def _read(tunnel: Tunnel, amount: int) -> Any:
    with tunnel.visit(b"get %d 3" % amount) as visitor:
        return read_all(visitor)


def test_replaced_and_revoked_under_traffic(
    start_tls: Start, serve: Callable[..., Service], authority: Authority, client_holder: Holder
) -> None:
    tunnel = start_tls(serve(get=get, GET=page("here")).address, client=["--reconnect-min=0.1", "--reconnect-max=0.5"])
    load = Background(lambda: _read(tunnel, AMOUNT))
    authority.server("fresh server", file="server")
    tunnel.server.wait_for("the TLS files have changed; new links use them")
    assert load.join() == expected(AMOUNT, 3)
    assert "link to server" not in tunnel.client.output

    authority.revoke(client_holder)
    tunnel.server.wait_for(r"link .* \(laptop\): closed by us: unauthorized: the certificate of 'laptop' is revoked")
    tunnel.client.wait_for("lost: unauthorized: the certificate of 'laptop' is revoked")
    tunnel.client.wait_for("lost: the server refuses our certificate: it is revoked")
    wait_until_closed(tunnel.public)

    # A new certificate for the same client, and nobody restarts anything.
    authority.client("laptop", file="client")
    wait_for_page(tunnel.public, "here", PATIENCE)
    tunnel.client.wait_for("certificate of 'fresh server'")


def test_client_with_a_new_certificate_is_served_as_before(
    start_tls: Start, serve: Callable[..., Service], authority: Authority
) -> None:
    """Its data connections are still those of its link. The next link shows the new one."""
    direct = ["--data-plane=direct", "--log-level=debug", "--reconnect-min=0.1", "--reconnect-max=0.5"]
    tunnel = start_tls(serve(GET=page("here")).address, server=direct[:2], client=direct)
    assert fetch(tunnel.public) == "here"
    authority.client("renewed laptop", file="client")
    for _ in range(30):
        assert fetch(tunnel.public) == "here"
    tunnel.client.wait_for("the TLS files have changed, and are in use now")
    assert "cannot be made" not in tunnel.client.output
    assert "given to another client" not in tunnel.server.output
    assert "renewed laptop" not in tunnel.server.output
    tunnel.server.kill()
    tunnel.start_server()
    tunnel.server.wait_for(r"client 127.0.0.1:\d+ \(renewed laptop\) connected")
    wait_for_page(tunnel.public, "here", PATIENCE)


def test_certificate_of_a_link_ends_and_another_is_there(
    start_tls: Start, serve: Callable[..., Service], authority: Authority
) -> None:
    """Nobody is cut off: as soon as no visitor is there, there is a new link."""
    authority.client("laptop", file="client", end=timedelta(days=20))
    auto = ["--data-plane=auto", "--log-level=debug", "--reconnect-min=0.1", "--reconnect-max=0.5"]
    tunnel = start_tls(serve(count=count, GET=page("here")).address, server=auto[:2], client=auto)
    with tunnel.visit(b"count") as visitor:
        send_bytes(visitor, MEGABYTE, 8)
        authority.client("renewed laptop", file="client")
        tunnel.client.wait_for("the TLS files have changed, and are in use now")
        assert fetch(tunnel.public) == "here"
        assert "(renewed laptop)" not in tunnel.server.output
        visitor.shutdown(socket.SHUT_WR)
        assert int(visitor.makefile().read().split()[0]) == MEGABYTE
    tunnel.client.wait_for("lost: its certificate expires soon, and the files have another; next attempt in")
    tunnel.server.wait_for(r"client 127.0.0.1:\d+ \(renewed laptop\) connected")
    wait_for_page(tunnel.public, "here", PATIENCE)
    assert "Traceback" not in tunnel.client.output + tunnel.server.output


def test_stopped_in_the_middle_of_much(start_tls: Start, serve: Callable[..., Service]) -> None:
    """A client that hangs, holding a link under load, is given up and let in again."""
    tunnel = start_tls(
        serve(get=get, GET=page("here")).address,
        server=["--keepalive-interval=0.5", "--dead-after=1.5"],
        client=["--reconnect-min=0.1", "--reconnect-max=0.5"],
    )
    visitor: Visitor
    with tunnel.visit(b"get %d 3" % AMOUNT) as visitor:
        visitor.recv(1000)
        tunnel.client.send_signal(signal.SIGSTOP)
        try:
            tunnel.server.wait_for("timeout: nothing heard for 1.5 s")
        finally:
            tunnel.client.send_signal(signal.SIGCONT)
    poll(lambda: fetch_or_none(tunnel.public) == "here", PATIENCE, "the tunnel is up again")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tls"], r"/empty/server.crt cannot be read: No such file or directory; make one with `rtunnel pki init`"),
        (["--tls-cert=x"], "flag --tls-cert: has no effect without TLS; add --tls"),
    ],
)
def test_wrong_settings_are_one_line(arguments: list[str], message: str, twistd: Twistds, tmp_path: Path) -> None:
    process = twistd("rtunnel-server", *arguments, env={"RTUNNEL_PKI_DIR": str(tmp_path / "empty")})
    assert process.wait() == 1
    assert re.search(message, process.output.replace(f"{os.linesep}", "\n")), process.output
    assert "Traceback" not in process.output
