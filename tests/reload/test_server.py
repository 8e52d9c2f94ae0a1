"""Each setting of rtunnel-server that is declared to count without a restart really does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.address import IPv4Address

from rtunnel.access.admission import Claim
from rtunnel.access.public import Public
from rtunnel.errors import Refused
from rtunnel.options.plugins import rtunnel_server
from rtunnel.options.settings.reverse import SERVER
from rtunnel.reverse.server.interfaces import Backend
from tests.ports import free_port
from tests.reload.conftest import Run
from tests.reload.parts import PROCESS, Case, Running, check, check_complete
from tests.tls.parts import Authority


def link(running: Running) -> Any:
    """What a new link would get."""
    return running.service.build_session(None).link


def may_have(running: Running, port: int) -> bool:
    backend = Backend(running.service.build_session(None), 0, Public(port))
    try:
        running.service._check_tunnel(backend, Public(port))
    except Refused:
        return False
    return True


def has_room(running: Running) -> bool:
    """Whether a second link has a place beside another."""
    server = running.service
    first, second = server.build_session(None), server.build_session(None)
    first.address, second.address = "a", "b"
    server.sessions.add(first)
    try:
        server._make_room(second)
    except Refused:
        return False
    finally:
        server.sessions.discard(first)
    return True


def lets_in(running: Running, token: str | None, *, local: bool = True) -> bool:
    return running.service.admission.decide(Claim(None, token, local)).why_not is None


def clients_file(directory: Path) -> str:
    path = directory / "clients.yaml"
    path.write_text("laptop: {ports: 8000}\n")
    return str(path)


def listens(running: Running, protocol: str, address: str) -> bool:
    listener = running.service.named.listeners.get(protocol)
    return listener is not None and bool(listener.local_address == address)


CASES = {
    **PROCESS,
    "control-listen": Case(lambda _: f"127.0.0.1:{free_port()}", lambda r, v: r.service.control.local_address == v),
    "udp-listen": Case(lambda _: f"127.0.0.1:{free_port()}", lambda r, v: r.service.path_port.local_address == v),
    "public-listen": Case(
        lambda _: f"127.0.0.1:{free_port()}",
        lambda r, v: r.service.shared is not None and r.service.shared.local_address == v,
    ),
    "http-listen": Case(lambda _: f"127.0.0.1:{free_port()}", lambda r, v: listens(r, "http", v)),
    "https-listen": Case(lambda _: f"127.0.0.1:{free_port()}", lambda r, v: listens(r, "https", v)),
    "trusted-proxies": Case("10.0.0.0/8", lambda r, _: IPv4Address("TCP", "10.1.2.3", 1) in r.service.http.trusted),
    "allow-ports": Case("8000-8001", lambda r, _: may_have(r, 8001) and not may_have(r, 9000)),
    "route": Case("sticky", lambda r, _: type(r.service.shared_backends._backends).__name__ == "Sticky"),
    "max-links": Case(1, lambda r, _: not has_room(r)),
    "max-handshakes": Case(7, lambda r, _: r.service.tls.most == 7),
    "handshake-timeout": Case(
        "7s", lambda r, _: {r.service.handshake_timeout, r.service.tls.patience, r.service.http.head_timeout} == {7.0}
    ),
    "hold": Case("7s", lambda r, _: r.service.settings.hold == 7),
    "visitor-idle": Case("7s", lambda r, _: r.service._idle is not None and r.service._idle.repeated._every == 7),
    "drain": Case("7s", lambda r, _: r.service._drain == 7),
    "memory": Case("64M", lambda r, _: r.service.memory.total == 64 << 20),
    "max-streams": Case(7, lambda r, _: link(r).limits.max_streams == 7),
    "max-tunnels": Case(7, lambda r, _: link(r).limits.max_tunnels == 7),
    "initial-credit": Case("8K", lambda r, _: link(r).limits.initial_credit == r.service.hello.initial_credit == 8192),
    "max-window": Case("1M", lambda r, _: link(r).limits.max_window == 1 << 20),
    "link-buffer": Case("1M", lambda r, _: link(r).limits.link_buffer == 1 << 20),
    "max-frame": Case("128K", lambda r, _: (link(r).limits.max_frame, r.service.max_frame) == (128 << 10,) * 2),
    "keepalive-interval": Case("7s", lambda r, _: link(r).limits.keepalive_interval == 7),
    "dead-after": Case("77s", lambda r, _: (link(r).limits.dead_after, r.service.kept.patience) == (77, 77)),
    "pool": Case(7, lambda r, _: r.service.pool_size == 7),
    "tls-cert": Case(
        lambda d: str(d / "pki" / "other.crt"),
        lambda r, v: str(r.service.tls.credentials.settings.cert) == v,
        lambda v: {"tls": {"cert": v, "key": v.replace(".crt", ".key")}},
    ),
    "tls-key": Case(
        lambda d: str(d / "pki" / "other.key"),
        lambda r, v: str(r.service.tls.credentials.settings.key) == v,
        lambda v: {"tls": {"key": v, "cert": v.replace(".key", ".crt")}},
    ),
    "tls-ca": Case(
        lambda d: str(d / "pki" / "again.crt"), lambda r, v: str(r.service.tls.credentials.settings.ca) == v
    ),
    "tls-groups": Case("MLKEM768", lambda r, _: r.service.tls.credentials.settings.groups == ("MLKEM768",)),
    "tls-allow-classical-certs": Case(True, lambda r, _: r.service.tls.credentials.settings.allow_classical_certs),
    "token-over-plain-tcp": Case(True, lambda r, _: lets_in(r, "a-secret-word", local=False)),
    "clients": Case(clients_file, lambda r, _: r.service.admission.clients is not None),
    "valid-tokens": Case(["another-word"], lambda r, _: lets_in(r, "another-word") and not lets_in(r, "a-secret-word")),
}


@pytest.fixture
def server(run: Run, authority: Authority) -> Running:
    mine = authority.server()
    authority.server("other")
    (authority.directory / "again.crt").write_bytes(authority.cert.read_bytes())
    tls = {"enabled": True, "cert": str(mine.cert), "key": str(mine.key), "ca": str(authority.cert)}
    return run(
        rtunnel_server,
        control_listen="127.0.0.1:0",
        allow_ports="8000-9000",
        valid_tokens=["a-secret-word"],
        status_listen="127.0.0.1:0",
        tls=tls,
    )


def test_there_is_a_case_for_each() -> None:
    check_complete(SERVER, CASES)


@ensureDeferred
@pytest.mark.parametrize("name", CASES)
async def test_it_counts_at_once(server: Running, name: str, tmp_path: Path) -> None:
    await check(server, SERVER, name, CASES[name], tmp_path)
