"""Everything that is refused, with one clear line at each end: real sockets, the server and the client as services."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from rtunnel.tls import credentials, openssl, policy
from tests.tls.parts import CLIENT, DAY, SERVER, Authority, Ends, Holder

Setup = Callable[[Authority, Authority], tuple[Any, Any]]


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own look at our own certificate is left out, so that the other end gets to see it."""
    monkeypatch.setattr(credentials, "_check_own", lambda *_: None)


def both(authority: Authority, server: Holder, client: Holder, **more: Any) -> tuple[Any, Any]:
    return authority.trusts(server, **more), authority.trusts(client, **more)


def other_ca(authority: Authority, other: Authority) -> tuple[Any, Any]:
    client = other.client()
    return authority.trusts(authority.server()), policy.TlsSettings(client.cert, client.key, authority.cert)


def other_ca_at_server(authority: Authority, other: Authority) -> tuple[Any, Any]:
    server = other.server()
    return policy.TlsSettings(server.cert, server.key, authority.cert), authority.trusts(authority.client())


def revoked(authority: Authority, _: Authority) -> tuple[Any, Any]:
    client = authority.client()
    authority.revoke(client)
    return authority.trusts(authority.server()), authority.trusts(client)


def signed_by_ecdsa(authority: Authority, _: Authority) -> tuple[Any, Any]:
    """A post-quantum key is worth nothing when a classical one vouches for it."""
    classical = Authority(authority.directory / "classical", "old CA", "ECDSA")
    authority.cert.write_bytes(authority.cert.read_bytes() + classical.cert.read_bytes())
    client = classical.client()
    return authority.trusts(authority.server()), policy.TlsSettings(client.cert, client.key, authority.cert)


def ecdsa_at_client(authority: Authority, _: Authority) -> tuple[Any, Any]:
    client = authority.client(kind="ECDSA")
    return authority.trusts(authority.server()), authority.trusts(client, allow_classical_certs=True)


def ecdsa_at_server(authority: Authority, _: Authority) -> tuple[Any, Any]:
    server = authority.server(kind="ECDSA")
    return authority.trusts(server, allow_classical_certs=True), authority.trusts(authority.client())


CASES: dict[str, tuple[Setup, str, str]] = {
    "other CA": (
        other_ca,
        "the client's certificate is refused: the certificate of 'laptop' is not from a CA of --tls-ca",
        "the server refuses our certificate: it is not from a CA of its --tls-ca",
    ),
    "other CA at the server": (
        other_ca_at_server,
        "the client refuses our certificate: it is not from a CA of its --tls-ca",
        "the server's certificate is refused: the certificate of 'server' is not from a CA of --tls-ca",
    ),
    "expired": (
        lambda ca, _: both(ca, ca.server(), ca.client(begin=-2 * DAY, end=-DAY)),
        "the client's certificate is refused: the certificate of 'laptop' expired on 20",
        "the server refuses our certificate: it has expired",
    ),
    "expired at the server": (
        lambda ca, _: both(ca, ca.server(begin=-2 * DAY, end=-DAY), ca.client()),
        "the client refuses our certificate: it has expired",
        "the server's certificate is refused: the certificate of 'server' expired on 20",
    ),
    "not yet valid": (
        lambda ca, _: both(ca, ca.server(), ca.client(begin=DAY)),
        "the certificate of 'laptop' is not valid before 20.*; are both clocks right",
        "the server refuses our certificate: it is broken, or not valid yet",
    ),
    "revoked": (
        revoked,
        "the client's certificate is refused: the certificate of 'laptop' is revoked",
        "the server refuses our certificate: it is revoked",
    ),
    "wrong name": (
        lambda ca, _: both(ca, ca.server(hosts=["other.example", "192.0.2.1"]), ca.client()),
        "the client refuses our certificate: its name",
        "the certificate of 'server' is for other.example, 192.0.2.1, not for 127.0.0.1",
    ),
    "no name at all": (
        lambda ca, _: both(ca, ca.server(hosts=[]), ca.client()),
        "the client refuses our certificate: its name",
        "the certificate of 'server' is for no host, not for 127.0.0.1",
    ),
    "wrong pin": (
        lambda ca, _: (ca.trusts(ca.server()), ca.trusts(ca.client(), pins=frozenset(["00" * 32]))),
        "the client refuses our certificate: its name, its fingerprint",
        "the certificate of 'server' has the fingerprint [0-9a-f]{64}, which is not one of --tls-pin",
    ),
    "wrong usage at the client": (
        lambda ca, _: both(ca, ca.server(), ca.issue("x", SERVER)),
        "the client's certificate is refused: the certificate of 'x' is not for this use",
        "the server refuses our certificate: it is not for a client",
    ),
    "wrong usage at the server": (
        lambda ca, _: both(ca, ca.issue("x", CLIENT, hosts=["127.0.0.1"]), ca.client()),
        "the client refuses our certificate: it is not for a server",
        "the server's certificate is refused: the certificate of 'x' is not for this use",
    ),
    "ECDSA at the client": (
        ecdsa_at_client,
        "the client has no certificate, or one of a kind that takes --tls-allow-classical-certs here",
        "the server requires a certificate, and we have none that it accepts",
    ),
    "ECDSA at the server": (
        ecdsa_at_server,
        "the client is refused: it accepts no signature of our certificate's kind .see --tls-allow-classical-certs",
        "the server has nothing in common with us",
    ),
    "signed by ECDSA": (
        signed_by_ecdsa,
        "the certificate of 'old CA' has a key of ECDSA, which a quantum computer can forge",
        "the server refuses our certificate: ",
    ),
    "no group in common": (
        lambda ca, _: (
            ca.trusts(ca.server(), groups=("X25519MLKEM768",)),
            ca.trusts(ca.client(), groups=("MLKEM1024",)),
        ),
        "the client is refused: it offers no post-quantum key exchange that is allowed here",
        "the server has nothing in common with us: no post-quantum key exchange",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest_twisted.ensureDeferred
async def test_refused(case: str, authority: Authority, ends: Ends, tmp_path: Path, careless: None) -> None:
    setup, at_server, at_client = CASES[case]
    server_tls, client_tls = setup(authority, Authority(tmp_path / "other", "other CA"))
    server = ends.start_server(server_tls)
    ends.start_client(client_tls, remote_port=20001)
    await ends.lines.wait_for(rf"connection from 127.0.0.1:\d+ closed: .*{at_server}")
    await ends.lines.wait_for(rf"server 127.0.0.1:\d+( lost)?: .*{at_client}.*; next attempt in")
    assert not server.sessions
    assert not ends.lines.text.count("Traceback")


@pytest_twisted.ensureDeferred
async def test_no_certificate(
    authority: Authority, ends: Ends, careless: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ends.start_server(authority.trusts(authority.server()))
    real_context = policy.make_context

    class WithoutCertificate:
        def __init__(self, context: Any) -> None:
            self._context = context

        def __getattr__(self, name: str) -> Any:
            return (lambda *_: None) if name in CERTIFICATE_CALLS else getattr(self._context, name)

    real_load = credentials.load

    def load(settings: Any, role: Any) -> Any:
        contexts = []

        def make(*given: Any, **more: Any) -> Any:
            contexts.append(real_context(*given, **more))
            return WithoutCertificate(contexts[0])

        monkeypatch.setattr(credentials, "make_context", make)
        loaded = real_load(settings, role)
        return replace(loaded, context=contexts[0])

    monkeypatch.setattr(credentials, "load", load)
    ends.start_client(authority.trusts(authority.client()))
    await ends.lines.wait_for(r"connection from 127.0.0.1:\d+ closed: the client has no certificate")
    await ends.lines.wait_for("lost: the server requires a certificate, and we have none that it accepts; next attempt")
    assert not server.sessions


CERTIFICATE_CALLS = {"use_certificate", "use_privatekey", "check_privatekey", "add_extra_chain_cert"}


@pytest.mark.parametrize(
    ("groups", "side", "at_server", "at_client"),
    [
        ("X25519:P-256", "client", "it offers no post-quantum key exchange", "the server has nothing in common"),
        ("X25519:P-256", "server", "it offers no post-quantum key exchange", "the server has nothing in common"),
        # The last look, should the first ever fail: both offer classical groups only.
        ("X25519", "both", "closed: TLSv1.3 with key exchange x25519 was agreed on", "x25519 was agreed on"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_classical_key_exchange(
    groups: str, side: str, at_server: str, at_client: str, authority: Authority, ends: Ends,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = openssl.set_groups

    def set_groups(context: Any, names: Any) -> None:
        real(context, groups.split(":") if names == MARKED else names)

    MARKED = ("MLKEM512",)
    monkeypatch.setattr(openssl, "set_groups", set_groups)
    marked = {"groups": MARKED}
    server = authority.trusts(authority.server(), **(marked if side != "client" else {}))
    client = authority.trusts(authority.client(), **(marked if side != "server" else {}))
    service = ends.start_server(server)
    ends.start_client(client)
    await ends.lines.wait_for(at_server)
    await ends.lines.wait_for(rf"server 127.0.0.1:\d+( lost)?: .*{at_client}.*; next attempt in")
    assert not service.sessions


@pytest_twisted.ensureDeferred
async def test_plain_tcp_to_a_tls_port(authority: Authority, ends: Ends) -> None:
    server = ends.start_server(authority.trusts(authority.server()))
    ends.start_client(None, remote_port=20001)
    await ends.lines.wait_for("closed: the client speaks no TLS; give it --tls, or start this server without")
    await ends.lines.wait_for("lost: protocol-error: the server speaks TLS; add --tls here.*; next attempt")
    assert not server.sessions


@pytest_twisted.ensureDeferred
async def test_tls_to_a_plain_port(authority: Authority, ends: Ends) -> None:
    server = ends.start_server(None)
    ends.start_client(authority.trusts(authority.client()), remote_port=20001)
    await ends.lines.wait_for("connection from .* closed: the other end speaks TLS; add --tls here")
    await ends.lines.wait_for("the server speaks no TLS there; start it with --tls.*; next attempt")
    await ends.lines.until(lambda: not server.sessions, "the session is gone")
