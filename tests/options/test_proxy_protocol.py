"""The key ``proxy-protocol`` of an entry."""

from __future__ import annotations

import pytest

from tests.options.conftest import Write
from tests.options.tunnels import parse, refused

pytestmark = pytest.mark.usefixtures("nothing_from_outside")

REQUESTS = (
    "key 'proxy_protocol': is about connections, but one connection to this service carries the requests of several "
    "visitors; leave it out, and let the service read their addresses in X-Forwarded-For"
)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("local: 80, remote-port: 80", [""]),
        ("local: 80, remote-port: 80, proxy-protocol: v1", ["v1"]),
        ("local: 'unix:/run/x', proxy_protocol: v2", ["v2"]),
        ("publish: 'tcp:6000-6002=6000-6002', name: x, proxy-protocol: v1", ["v1"] * 3),
        ("publish: 'udp:53=53', proxy-protocol: v2", ["v2"]),
        ("publish: 'https:app.example.org=8443', proxy-protocol: v2", ["v2"]),
        ("publish: 'https:*.example.org=8443', proxy-protocol: v1, tls: passthrough, deny: 192.0.2.7", ["v1"]),
    ],
)
def test_forms(config: Write, entry: str, expected: list[str]) -> None:
    found = parse("--config", config(f"tunnels: [{{{entry}}}]"))
    assert [tunnel.proxy_protocol for tunnel in found] == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "local: 80, proxy-protocol: v3",
            "key 'proxy_protocol': 'v3' is not a version of the PROXY protocol; write v1",
        ),
        (
            "local: 80, proxy-protocol: 2",
            "key 'proxy_protocol': 2 is not a version of the PROXY protocol; write v1 or",
        ),
        ("local: 80, proxy-protocol: yes", "key 'proxy_protocol': true is not a version of the PROXY protocol;"),
        ("publish: 'udp:53=53', proxy-protocol: v1", "key 'proxy_protocol': version 1 is for TCP only; write v2"),
        ("publish: 'http:app=80', proxy-protocol: v2", REQUESTS),
        ("local: 80, proxy-protcol: v2", "unknown key 'proxy_protcol'; did you mean 'proxy_protocol'?"),
    ],
)
def test_mistakes(config: Write, entry: str, message: str) -> None:
    path = config(f"tunnels: [{{{entry}}}]")
    assert refused("--config", path).partition("entry 1: ")[2].startswith(message)


def test_where_tls_ends_here(config: Write) -> None:
    """By the key ``tls``, or by ``--acme-email``."""
    entry = "publish: 'https:app.example.org=8080', proxy-protocol: v2"
    message = f"https:app.example.org: {REQUESTS}; or let the service end TLS, with tls: passthrough"
    assert message in refused("--config", config(f"tunnels: [{{{entry}}}]"), "--acme-email=me@example.org")
    files = "tls: {certificate: /no/file, private-key: /no/file}"
    assert message in refused("--config", config(f"tunnels: [{{{entry}, {files}}}]"))
    passed = config(f"tunnels: [{{{entry}, tls: passthrough}}]")
    assert parse("--config", passed, "--acme-email=me@example.org")[0].proxy_protocol == "v2"
