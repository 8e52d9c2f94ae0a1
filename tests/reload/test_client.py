"""Each setting of rtunnel-client that is declared to count without a restart really does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.options.plugins import rtunnel_client
from rtunnel.options.settings.reverse import CLIENT
from tests.reload.conftest import Run
from tests.reload.parts import PROCESS, Case, Running, check, check_complete
from tests.tls.parts import Authority


def link(running: Running) -> Any:
    return running.service.link


def limits(running: Running) -> Any:
    """What a new link would have."""
    return link(running).build_session().link.limits


def wanted(running: Running) -> list[str]:
    return [str(each.settings.local) for each in link(running).wanted]


def places(running: Running) -> list[int]:
    return [each.settings.remote_port for each in link(running).wanted]


def tls(running: Running) -> Any:
    """What a new link would use."""
    return running.service.links.tls.credentials.settings


def acme(running: Running) -> Any:
    """Where certificates come from; None: nowhere."""
    found = running.service.settings.acme
    assert found in (None, link(running).tls_hosts._acme)
    return found


ACME = {"publish": ["https:a.example=80"]}

CASES = {
    **PROCESS,
    "server": Case("127.0.0.1:2", lambda r, v: str(link(r)._first_address) == v and v in link(r)._leads_to),
    "links": Case(3, lambda r, v: len(r.service.links.all) == v),
    "via": Case("http://127.0.0.1:2", lambda r, _: link(r).is_proxied and str(link(r)._first_address) == "127.0.0.1:2"),
    "token": Case("a-secret-word", lambda r, v: link(r)._hello.token == v),
    "local": Case("127.0.0.1:7", lambda r, v: v in wanted(r)),
    "remote-port": Case(8001, lambda r, v: v in places(r)),
    "tunnel": Case(["8002:127.0.0.1:7"], lambda r, _: 8002 in places(r)),
    "publish": Case(["tcp:8003=127.0.0.1:7"], lambda r, _: 8003 in places(r)),
    "reconnect-min": Case("7s", lambda r, _: link(r)._backoff._shortest == 7),
    "reconnect-max": Case("77s", lambda r, _: link(r)._backoff._longest == 77),
    "connect-timeout": Case("7s", lambda r, _: link(r).connect_timeout == r.service.links.tls._patience == 7),
    "dial-timeout": Case("7s", lambda r, _: next(iter(link(r).wanted)).endpoint._timeout == link(r).dial_timeout == 7),
    "check-services": Case(False, lambda r, _: next(iter(link(r).wanted)).watch._endpoint is None),
    "acme-email": Case("me@a.example", lambda r, v: r.service.settings.acme is not None, lambda _: ACME),
    "acme-server": Case(
        "letsencrypt-staging",
        lambda r, _: "staging" in str(getattr(acme(r), "server", "")),
        lambda _: ACME | {"acme_email": "me@a.example"},
    ),
    "acme-challenge": Case(
        "http-01",
        lambda r, v: getattr(acme(r), "challenge", "") == v,
        lambda _: ACME | {"acme_email": "me@a.example"},
    ),
    "acme-ca": Case(
        lambda d: str(d / "pki" / "ca.crt"),
        lambda r, v: str(getattr(acme(r), "ca", "")) == v,
        lambda _: ACME | {"acme_email": "me@a.example"},
    ),
    "drain": Case("7s", lambda r, _: r.service._drain == 7),
    "memory": Case("64M", lambda r, _: link(r).memory.total == 64 << 20),
    "max-streams": Case(7, lambda r, _: limits(r).max_streams == 7),
    "initial-credit": Case("8K", lambda r, _: limits(r).initial_credit == link(r)._hello.initial_credit == 8192),
    "max-window": Case("1M", lambda r, _: limits(r).max_window == 1 << 20),
    "link-buffer": Case("1M", lambda r, _: limits(r).link_buffer == 1 << 20),
    "max-frame": Case("128K", lambda r, _: limits(r).max_frame == 128 << 10),
    "keepalive-interval": Case("7s", lambda r, _: limits(r).keepalive_interval == 7),
    "dead-after": Case("77s", lambda r, _: limits(r).dead_after == link(r).kept.patience == 77),
    "pool": Case(7, lambda r, _: link(r).build_session()._pool == 7),
    "token-over-plain-tcp": Case(True, lambda r, _: r.options["token-over-plain-tcp"]),
    "tls-cert": Case(
        lambda d: str(d / "pki" / "other.crt"),
        lambda r, v: str(tls(r).cert) == v,
        lambda v: {"tls": {"cert": v, "key": v.replace(".crt", ".key")}},
    ),
    "tls-key": Case(
        lambda d: str(d / "pki" / "other.key"),
        lambda r, v: str(tls(r).key) == v,
        lambda v: {"tls": {"key": v, "cert": v.replace(".key", ".crt")}},
    ),
    "tls-ca": Case(lambda d: str(d / "pki" / "again.crt"), lambda r, v: str(tls(r).ca) == v),
    "tls-groups": Case("MLKEM768", lambda r, _: tls(r).groups == ("MLKEM768",)),
    "tls-allow-classical-certs": Case(True, lambda r, _: tls(r).allow_classical_certs),
    "tls-server-name": Case("a.example", lambda r, v: tls(r).server_name == v),
    "tls-pin": Case("ab" * 32, lambda r, v: tls(r).pins == {v}),
}


@pytest.fixture
def client(run: Run, authority: Authority) -> Running:
    mine = authority.client()
    authority.client("other")
    (authority.directory / "again.crt").write_bytes(authority.cert.read_bytes())
    tls = {"enabled": True, "cert": str(mine.cert), "key": str(mine.key), "ca": str(authority.cert)}
    return run(
        rtunnel_client,
        server="127.0.0.1:1",
        local="127.0.0.1:9",
        remote_port=8000,
        status_listen="127.0.0.1:0",
        state_dir=str(authority.directory),
        tls=tls,
    )


def test_there_is_a_case_for_each() -> None:
    check_complete(CLIENT, CASES)


@ensureDeferred
@pytest.mark.parametrize("name", CASES)
async def test_it_counts(client: Running, name: str, tmp_path: Path) -> None:
    await check(client, CLIENT, name, CASES[name], tmp_path)
